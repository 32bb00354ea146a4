"""Requests for a restore: defaults, and the record from which one is resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cesbrfs.restore import Overwrite
from cesbrfs.restore.request import RestoreRequest

_TARGET = Path("/srv/back")


@pytest.mark.parametrize(
    ("request_", "rule"),
    [
        (RestoreRequest(), Overwrite.NEVER),
        (RestoreRequest(in_place=True), Overwrite.IF_CHANGED),
        (RestoreRequest(in_place=True, suffix=".old"), Overwrite.NEVER),
        (RestoreRequest(in_place=True, overwrite=Overwrite.ALWAYS), Overwrite.ALWAYS),
    ],
)
def test_the_rule_about_existing_files_depends_on_the_target(
    request_: RestoreRequest, rule: Overwrite
) -> None:
    """In place, changed files are replaced; next to existing files and elsewhere, none."""
    assert request_.effective_overwrite is rule


@pytest.mark.parametrize(
    ("request_", "selection"),
    [
        (RestoreRequest(), True),
        (RestoreRequest(paths=("a",)), False),
        (RestoreRequest(backup="latest"), False),
    ],
)
def test_without_paths_the_selection_is_restored(request_: RestoreRequest, selection: bool) -> None:
    """A whole backup is named with `backup`."""
    assert request_.is_of_selection is selection


def test_a_record_restores_the_request() -> None:
    """All that decides what is written survives JSON. Confirmations do not."""
    asked = RestoreRequest(
        paths=("a\\x0a",), suffix=".\udcff", overwrite=Overwrite.ALWAYS, verify=True, yes=True
    )
    recorded = json.loads(json.dumps(asked.as_json("id", ["/B1/a"], _TARGET)))
    resumed = RestoreRequest(resume=True, maintenance=True).resumed(recorded)
    assert resumed == RestoreRequest(
        paths=("/B1/a",),
        target="/srv/back",
        suffix=".\udcff",
        overwrite=Overwrite.ALWAYS,
        verify=True,
        resume=True,
        maintenance=True,
        resumes_selection=False,
    )


def test_a_record_of_an_older_version_is_resumed() -> None:
    """Version 0.1 recorded neither `verify` nor `other_host`."""
    recorded = {
        "repository": "id",
        "paths": ["/B1/redmine"],
        "basket": True,
        "in_place": True,
        "target": "/",
        "overwrite": "if-changed",
        "suffix": None,
    }
    resumed = RestoreRequest(resume=True, other_host=True).resumed(recorded)
    assert (resumed.target, resumed.in_place, resumed.is_of_selection) == (None, True, True)
    assert (resumed.verify, resumed.other_host) == (False, True)
