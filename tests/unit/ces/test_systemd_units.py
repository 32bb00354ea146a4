"""Generated systemd units: their content, and that systemd accepts them."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from datetime import time
from pathlib import Path

import pytest

from cesbrfs.ces.systemd_units import MARK, SERVICE, TIMER, render_units
from cesbrfs.errors import UsageError

TIMES = [time(2, 30), time(12, 30, 15)]


def settings(text: str, key: str) -> list[str]:
    """Return all values of `key` in a unit."""
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def test_timer() -> None:
    """Each time is a separate line, without duplicates; missed runs are caught up."""
    timer = render_units([*TIMES, TIMES[0]], ["/usr/bin/cesbr"], home="/root")[TIMER]
    assert settings(timer, "OnCalendar") == ["*-*-* 02:30:00", "*-*-* 12:30:15"]
    assert settings(timer, "Persistent") == ["true"]
    assert timer.startswith(MARK)


def test_service() -> None:
    """It runs backup, then forget, as one job; SIGTERM is sent to cesbr only."""
    service = render_units(TIMES, ["/usr/bin/cesbr", "--root", "/a b"], home="/root")[SERVICE]
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
    with_hook = render_units(TIMES, ["/usr/bin/cesbr"], home="/root", on_failure="mail@%n.service")
    assert settings(with_hook[SERVICE], "OnFailure") == ["mail@%n.service"]


def test_times_are_required() -> None:
    """The error names the registry key to set."""
    with pytest.raises(UsageError, match="/config/backup/time"):
        render_units([], ["/usr/bin/cesbr"], home="/root")


def test_line_breaks_are_rejected() -> None:
    """A line break could inject a setting."""
    with pytest.raises(UsageError, match="control characters"):
        render_units(TIMES, ["/usr/bin/cesbr", "--root", "/a\nExecStart=/bin/x"], home="/root")


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """`systemd-analyze verify` reports nothing, even for paths with special characters."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    odd = tmp_path / "a %n $HOME \"b\" 'c' \\d;"
    odd.mkdir()
    program = tmp_path / "cesbr"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name, text in render_units(
        TIMES, [str(program), "--root", str(odd)], home=str(odd), metrics=f"{odd}/cesbr.prom"
    ).items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / SERVICE, tmp_path / TIMER],
        capture_output=True,
        text=True,
        check=False,
    )
    reported = [line for line in done.stderr.splitlines() if "cesbr-backup" in line]
    assert (done.returncode, reported) == (0, []), done.stderr


def test_metrics_are_written_after_each_run() -> None:
    """The path is quoted; a failure to write them is ignored."""
    file = "/var/lib/node exporter/cesbr.prom"
    service = render_units(TIMES, ["/usr/bin/cesbr"], home="/root", metrics=file)[SERVICE]
    (command,) = settings(service, "ExecStopPost")
    assert command.startswith("-/usr/bin/cesbr ")
    assert shlex.split(command)[1:] == ["metrics", "--quiet", "--output", file]


def test_the_disk_of_a_local_repository_is_required() -> None:
    """Systemd mounts it before the backup; if that fails, no backup is made."""
    found = render_units(TIMES, ["/usr/bin/cesbr"], home="/root", directory="/mnt/back up/100%")[
        SERVICE
    ]
    assert settings(found, "RequiresMountsFor") == ['"/mnt/back up/100%%"']
    assert found.index("RequiresMountsFor") < found.index("[Service]")
    remote = render_units(TIMES, ["/usr/bin/cesbr"], home="/root")[SERVICE]
    assert settings(remote, "RequiresMountsFor") == []
