"""schedule, as an administrator runs it; systemd itself does not run here."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from cesbr import units as installed_units

from tests.shell.conftest import KEY, Cesbr, Inside, Site

SERVICE, TIMER = "cesbr-backup.service", "cesbr-backup.timer"


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A directory for units."""
    directory = tmp_path / "units"
    directory.mkdir()
    return directory


def test_units_are_shown_installed_and_removed(own: Cesbr, site: Site, units: Path) -> None:
    """Showing writes nothing; installing again replaces the times; no secrets are written."""
    site.set("/config/backup/time", '{"Times":["12:30:00"]}')
    place = ("--unit-dir", str(units))
    shown = own("schedule", *place)
    assert shown.code == 0
    assert "OnCalendar=*-*-* 12:30:00\n" in shown.out
    assert f"'cesbr schedule --install --unit-dir {units}' does it" in shown.out
    assert "in the environment here (restic, root)" in shown.err
    assert list(units.iterdir()) == []
    installed = own("schedule", "--install", *place)
    assert installed.code == 0, installed.err
    assert sorted(os.listdir(units)) == [SERVICE, TIMER]
    assert "Nothing was started" in installed.out
    for unit in units.iterdir():
        assert unit.stat().st_mode & 0o777 == 0o644
        assert KEY.strip() not in unit.read_text()
    found = own("schedule", "--json", *place).json
    assert isinstance(found, dict)
    assert (found["times"], found["installed"]) == (["12:30:00"], True)
    site.set("/config/backup/time", "03:15")
    changed = own("schedule", "--json", *place).json
    assert isinstance(changed, dict)
    assert not changed["installed"]
    assert own("schedule", "--install", *place).code == 0
    assert "OnCalendar=*-*-* 03:15:00\n" in (units / TIMER).read_text()
    assert own("schedule", "--remove", *place).code == 0
    assert list(units.iterdir()) == []
    assert own("schedule", "--remove", *place).code == 0


def test_what_the_service_runs_works(cesbr: Cesbr, site: Site, units: Path) -> None:
    """With the environment of systemd only, and the options of the installation."""
    site.set("/config/backup/retention_enabled", "true")
    site.set("/config/backup/retention_strategy", "removeAllButKeepLatest")
    root = ("--root", os.path.relpath(site.root, cesbr.here), "--patience", "7")
    said = cesbr(*root, "schedule", "--install", "--at", "02:30", "--unit-dir", str(units))
    assert said.code == 0, said.err
    lines = (units / SERVICE).read_text().splitlines()
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": cesbr.environ["PYTHONPATH"]}
    environ |= {"HOME": str(cesbr.here)}
    commands = [line.removeprefix("ExecStart=") for line in lines if line.startswith("ExecStart")]
    assert commands
    for command in commands:
        assert "--patience 7" in command
        done = subprocess.run(
            shlex.split(command), env=environ, cwd="/", capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr
    listed = cesbr(*root, "backups", "--json").json
    assert isinstance(listed, list)
    assert [backup["status"] for backup in listed] == ["complete"]


def test_what_cannot_be_scheduled_is_refused(own: Cesbr, units: Path) -> None:
    """No time, an invalid time, a password in the address, and units of another program."""
    place = ("--unit-dir", str(units))
    for arguments, told in (
        (("schedule",), "/config/backup/time"),
        (("schedule", "--at", "25:00"), "02:30"),
        (("--repo", "rest:http://u:topsecret@host/", "schedule", "--at", "02:30"), "password"),
    ):
        said = own(*arguments, *place)
        assert said.code == 2
        assert told in said.err
        assert "topsecret" not in said.err + said.out
    (units / TIMER).write_text("[Timer]\n")
    for way in ("--install", "--remove"):
        said = own("schedule", way, "--at", "02:30", *place)
        assert said.code == 2
        assert "not made by" in said.err
    assert (units / TIMER).read_text() == "[Timer]\n"
    said = own("schedule", "--install", "--at", "02:30", "--unit-dir", "/proc/none")
    assert said.code == 1
    assert "Run this as root, or pass another directory" in said.err


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, units: Path, tmp_path: Path) -> Path:
    """Pretend that systemd is running: a fake systemctl that logs its arguments."""
    program, record = tmp_path / "bin/systemctl", tmp_path / "told"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {record}\n'
        f'if [ -e {tmp_path}/broken ]; then echo "Failed to $1." >&2; exit 1; fi\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(installed_units, "SYSTEMD", tmp_path)
    monkeypatch.setattr(installed_units, "UNIT_DIR", units)
    return record


def test_systemd_is_told(kept_site: Site, told: Path, tmp_path: Path) -> None:
    """`systemctl` reloads and starts the timer, stops it before removal; its errors are shown."""
    inside = Inside(kept_site.root)
    try:
        said = inside("schedule", "--install", "--at", "02:30", "--on-failure", "mail@%n.service")
        assert said.code == 0, said.err
        assert "journalctl -u cesbr-backup.service" in said.out
        assert told.read_text().splitlines() == [
            "daemon-reload",
            f"enable {TIMER}",
            f"restart {TIMER}",
        ]
        told.unlink()
        assert inside("schedule", "--remove").code == 0
        assert told.read_text().splitlines() == [f"disable --now {TIMER}", "daemon-reload"]
        (tmp_path / "broken").touch()
        said = inside("schedule", "--install", "--at", "02:30")
        assert said.code == 1
        assert "systemctl daemon-reload failed: Failed to daemon-reload." in said.err
    finally:
        inside.close()
