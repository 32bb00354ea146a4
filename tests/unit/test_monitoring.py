"""The alert rules and the dashboard are valid and name only metrics that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import yaml
from cesbr.commands import find_command

from cesbrfs.catalog.metrics import FAMILIES as OF_BACKUPS
from cesbrfs.catalog.metrics import LAST_DRILL
from cesbrfs.fuse.metrics import FAMILIES
from tests.support.project import PROJECT

_ALERTS = PROJECT / "docs/monitoring/alerts.yml"
_DASHBOARD = PROJECT / "docs/monitoring/dashboard.json"
_REFERENCE = PROJECT / "docs/reference.md"
_NAMES = {name for family in FAMILIES for name in family.sample_names}
_NAME = re.compile(r"\bcesbrfs_\w+")


def _expressions(found: object) -> Iterator[str]:
    """Yield all values of ``expr`` and ``query`` in a document."""
    if isinstance(found, dict):
        for key, value in found.items():
            if key in ("expr", "query") and isinstance(value, str):
                yield value
            else:
                yield from _expressions(value)
    elif isinstance(found, list):
        for value in found:
            yield from _expressions(value)


def _alerts() -> list[dict[str, object]]:
    """Return all alert rules."""
    groups = yaml.safe_load(_ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_expressions_name_metrics_that_exist() -> None:
    """Each expression names at least one metric, and no unknown one."""
    dashboard = list(_expressions(json.loads(_DASHBOARD.read_text())))
    alerts = [str(alert["expr"]) for alert in _alerts()]
    assert len(alerts) > 3
    for expression in (*alerts, *(text for text in dashboard if text != "prometheus")):
        named = set(_NAME.findall(expression))
        assert named, expression
        assert named <= _NAMES, expression


def test_the_panels_are_complete() -> None:
    """Each panel has its own ID, a title and a data source that can be chosen."""
    panels = json.loads(_DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 5
    for panel in panels:
        assert panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"


def test_commands_in_alerts_exist() -> None:
    """A description names existing commands."""
    named = re.findall(r'"cesbr ([a-z-]+)', _ALERTS.read_text())
    assert named
    for name in named:
        find_command(name)


def test_promtool_accepts_the_rules() -> None:
    """Prometheus' own check of the alert rules."""
    fetched = PROJECT / ".tools/promtool/usr/bin/promtool"
    promtool = fetched if fetched.exists() else shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool was not fetched")
    subprocess.run([promtool, "check", "rules", _ALERTS], check=True)


def test_the_reference_lists_all_metrics() -> None:
    """The tables have the name, type, labels and meaning of each metric, and no other."""
    rows = re.findall(r"^\| `(cesbrfs_\w+)(?:\{(.*?)\})?` \| (\w+) \| (.*?) \|$",
                      _REFERENCE.read_text(), re.MULTILINE)  # fmt: skip
    of_backups = {family.name for family in OF_BACKUPS}
    wanted = [
        (
            family.name + ("_total" if family.kind == "counter" else ""),
            ",".join(family.labels),
            family.kind.value,
            family.help.rstrip("."),
        )
        for family in (
            *OF_BACKUPS,
            LAST_DRILL,
            *(family for family in FAMILIES if family.name not in of_backups),
        )
    ]
    assert rows == wanted
