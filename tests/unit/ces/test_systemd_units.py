"""The units that back up every day: what they say, and that systemd understands it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from datetime import time
from pathlib import Path

import pytest

from cesbrfs.ces.systemd_units import MARK, SERVICE, TIMER, units
from cesbrfs.errors import UsageError

TIMES = [time(2, 30), time(12, 30, 15)]


def settings(text: str, key: str) -> list[str]:
    """Return what a unit sets `key` to, once or more often."""
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def test_the_timer_has_every_time_once() -> None:
    """Each a line of its own, made up for when the machine was off."""
    timer = units([*TIMES, TIMES[0]], ["/usr/bin/cesbr"], home="/root")[TIMER]
    assert settings(timer, "OnCalendar") == ["*-*-* 02:30:00", "*-*-* 12:30:15"]
    assert settings(timer, "Persistent") == ["true"]
    assert timer.startswith(MARK)


def test_the_service_backs_up_and_then_forgets() -> None:
    """In this order, as one job, whose failures count; restic is left to cesbr to end."""
    service = units(TIMES, ["/usr/bin/cesbr", "--root", "/a b"], home="/root")[SERVICE]
    assert [shlex.split(line) for line in settings(service, "ExecStart")] == [
        ["/usr/bin/cesbr", "--root", "/a b", "backup"],
        [
            *("/usr/bin/cesbr", "--root", "/a b", "forget"),
            *("--policy", "configured", "--yes", "--prune"),
        ],
    ]
    assert settings(service, "Type") == ["oneshot"]
    assert settings(service, "KillMode") == ["mixed"]
    assert settings(service, "SuccessExitStatus") == []
    assert settings(service, "OnFailure") == []
    told = units(TIMES, ["/usr/bin/cesbr"], home="/root", on_failure="mail@%n.service")
    assert settings(told[SERVICE], "OnFailure") == ["mail@%n.service"]


def test_no_time_is_an_error() -> None:
    """It says which key to set."""
    with pytest.raises(UsageError, match="/config/backup/time"):
        units([], ["/usr/bin/cesbr"], home="/root")


def test_a_line_break_cannot_smuggle_in_a_setting() -> None:
    """No unit can hold it, so it is refused."""
    with pytest.raises(UsageError, match="cannot stand"):
        units(TIMES, ["/usr/bin/cesbr", "--root", "/a\nExecStart=/bin/x"], home="/root")


def test_systemd_understands_them(tmp_path: Path) -> None:
    """`systemd-analyze verify` finds nothing to say, whatever characters a path has."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    odd = tmp_path / "a %n $HOME \"b\" 'c' \\d;"
    odd.mkdir()
    program = tmp_path / "cesbr"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name, text in units(TIMES, [str(program), "--root", str(odd)], home=str(odd)).items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / SERVICE, tmp_path / TIMER],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "cesbr-backup" in line]
    assert (done.returncode, said) == (0, []), done.stderr


def test_the_disk_of_a_local_repository_is_required() -> None:
    """Systemd mounts it first, or does not start the backup."""
    found = units(TIMES, ["/usr/bin/cesbr"], home="/root", folder="/mnt/back up/100%")[SERVICE]
    assert settings(found, "RequiresMountsFor") == ['"/mnt/back up/100%%"']
    assert found.index("RequiresMountsFor") < found.index("[Service]")
    far = units(TIMES, ["/usr/bin/cesbr"], home="/root")[SERVICE]
    assert settings(far, "RequiresMountsFor") == []
