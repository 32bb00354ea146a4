"""The backups in `status` and `backups`: the latest, the next run, and the dogus."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cesbr.ui import humanize
from cesbr.ui.status import scheduled

from cesbrfs.ces.systemd_units import TIMER, next_run, render_units
from tests.shell.conftest import Cesbr, Site
from tests.shell.terminal import terminal


def test_status_shows_the_latest_backup(own: Cesbr) -> None:
    """Its ID, time, age and size, in readable units."""
    latest = own("use", "latest", "--json").json
    assert isinstance(latest, dict)
    text = own("status").out
    row = rf"^Latest: +{latest['id']} of 20\S+ \S+, \d+ (s|min|h|d) ago, [\d.]+ KiB$"
    assert re.search(row, text, re.MULTILINE)
    assert re.search(r"^  cache_size +\d+\.\d MiB ", text, re.MULTILINE)
    assert re.search(r"^  patience +1 min ", text, re.MULTILINE)
    status = own("status", "--json").json
    assert isinstance(status, dict)
    assert status["latest"]["id"] == latest["id"]
    assert status["settings"]["patience"]["value"] == 60.0


def test_status_without_a_backup(cesbr: Cesbr, empty_site: Site) -> None:
    """The repository is empty."""
    empty = cesbr.having(CESBR_ROOT=str(empty_site.root))
    assert "Latest:      no complete backup of the whole instance\n" in empty("status").out


def test_status_without_a_repository(cesbr: Cesbr, new_site: Site) -> None:
    """`status` shows no backups and creates nothing."""
    missing = cesbr.having(CESBR_ROOT=str(new_site.root))("status")
    assert "Latest:" not in missing.out
    assert not new_site.repository.exists()


def test_the_next_run(tmp_path: Path) -> None:
    """The next run of the installed timer, or the reason why there is none."""
    assert "schedule --install" in str(scheduled(tmp_path)["message"])
    timer = render_units([datetime(2026, 1, 1, 2, 30, tzinfo=UTC).time()], ["cesbr"], home="/root")[
        TIMER
    ]
    (tmp_path / TIMER).write_text(timer)
    assert "systemctl enable --now" in str(scheduled(tmp_path)["message"])
    (tmp_path / "timers.target.wants").mkdir()
    (tmp_path / "timers.target.wants" / TIMER).symlink_to(tmp_path / TIMER)
    found = scheduled(tmp_path)
    assert found["message"] is None
    following = datetime.fromisoformat(str(found["next"]).partition(".")[0] + "+00:00")
    assert timedelta(0) < following - datetime.now(UTC) <= timedelta(days=1)


def test_of_several_times_the_next_one() -> None:
    """Today's, or the first of tomorrow; None for formats that schedule does not write."""
    now = datetime(2026, 11, 22, 12, 0).astimezone()
    timer = "OnCalendar=*-*-* 02:30:00\nOnCalendar=*-*-* 14:00:00\n"
    assert next_run(timer, now) == datetime(2026, 11, 22, 14, 0).astimezone()
    late = now.replace(hour=15)
    assert next_run(timer, late) == datetime(2026, 11, 23, 2, 30).astimezone()
    assert next_run("OnCalendar=hourly\n", now) is None
    assert next_run("", now) is None


@pytest.mark.parametrize("columns", [60, 72, 77, 80, 100, 120])
def test_backups_say_of_which_dogus_they_are(own: Cesbr, tmp_path: Path, columns: int) -> None:
    """A full backup shows "all", others the names, whatever the terminal width."""
    assert own("--quiet", "backup", "redmine").code == 0
    with terminal(own, tmp_path) as prompt:
        prompt.wait_for_prompt()
        prompt.resize(columns, 40)
        prompt.keys("C-l")
        prompt.wait_for(r"\Acesbr>\Z")
        prompt.line("backups")
        lines = prompt.wait_for(r"redmine\n(.*\n)?cesbr>\Z").splitlines()
    rows = [line.split() for line in lines if line.startswith("20")]
    assert [row[-1] for row in rows] == ["all", "all", "redmine"]
    assert max(map(len, lines)) <= columns


def test_owners_by_name_and_by_number(own: Cesbr, site: Site) -> None:
    """`ls -l` shows the recorded names, root if there is none; `-n` shows numbers."""
    path = "/latest/redmine/volumes/files"
    named = [line.split()[1:3] for line in own("ls", "-l", path, "/latest").out.splitlines()[1:]]
    numbers = [line.split()[1:3] for line in own("ls", "-n", path).out.splitlines()]
    status = site.files.stat()
    assert numbers == [[str(status.st_uid), str(status.st_gid)]] * len(numbers)
    if os.getuid() == 0:
        assert all(owner in ([], ["root", "root"]) for owner in named)


def test_spans_and_sizes() -> None:
    """Sizes in powers of 1024."""
    assert humanize.size(33_554_432) == "32.0 MiB"
