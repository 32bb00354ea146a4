"""Monitoring: `metrics`, `status --max-age`, and the state of mounts and of the timer."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cesbr import timer
from cesbr.ui.status import age_problem

from cesbrfs.ces.systemd_units import SERVICE, TIMER
from tests.shell.conftest import Cesbr, Site
from tests.support.metrics import parse_prometheus, values
from tests.support.mounting import fuse_missing, is_mounted

LAST = ("cesbrfs_last_complete_backup_timestamp_seconds", "")


def test_metrics_are_written_atomically(own: Cesbr, site: Site, tmp_path: Path) -> None:
    """The same figures on stdout, in JSON and in the file; a partial backup does not count."""
    said = own("metrics")
    assert said.code == 0, said.err
    found = values(said.out)
    assert found["cesbrfs_backups", "complete"] == 2
    assert found["cesbrfs_storage_up", ""] == 1
    assert time.time() - 3600 < found[LAST] <= time.time()
    assert own("--quiet", "backup", "redmine").code == 0
    after = values(own("metrics").out)
    assert (after["cesbrfs_backups", "complete"], after[LAST]) == (3, found[LAST])
    file = tmp_path / "cesbr.prom"
    file.write_text("old\n")
    old = file.stat().st_ino
    told = own("metrics", "--json", "--output", str(file)).json
    assert isinstance(told, dict)
    assert (told["backups"]["complete"], told["output"]) == (3, str(file))
    assert values(file.read_text()) == after
    assert (file.stat().st_mode & 0o777, os.listdir(tmp_path).count("cesbr.prom")) == (0o644, 1)
    assert file.stat().st_ino != old
    # Without counters, both formats have the same types and help texts.
    assert all(f.type == "gauge" and f.documentation for f in parse_prometheus(file.read_text()))


def test_metrics_of_a_repository_that_is_gone(own: Cesbr, site: Site, tmp_path: Path) -> None:
    """The file reports it, the command fails, and nothing is initialised."""
    site.repository.rename(tmp_path / "away")
    file = tmp_path / "cesbr.prom"
    said = own("metrics", "--output", str(file))
    assert said.code == 10
    assert values(file.read_text()) == {("cesbrfs_storage_up", ""): 0}
    assert not site.repository.exists()
    said = own("metrics", "--output", "/proc/none/cesbr.prom")
    assert (said.code, "cannot be written" in said.err) == (1, True)


def test_the_service_writes_them(own: Cesbr, tmp_path: Path) -> None:
    """`schedule --metrics` adds the command to the service, with an absolute path, and it works."""
    said = own(
        "schedule", "--install", "--at", "02:30", "--unit-dir", str(tmp_path), "--metrics", "m.prom"
    )
    assert said.code == 0, said.err
    lines = (tmp_path / SERVICE).read_text().splitlines()
    (after,) = [line for line in lines if line.startswith("ExecStopPost=-")]
    words = shlex.split(after.removeprefix("ExecStopPost=-"))
    done = subprocess.run(words, env=own.environ, cwd="/", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert values((own.here / "m.prom").read_text())["cesbrfs_backups", "complete"] == 2


def test_max_age(kept: Cesbr, cesbr: Cesbr, empty_site: Site) -> None:
    """A young backup of the whole instance passes; a partial, a missing or an old one does not."""
    said = kept("status", "--max-age", "26h", "--json")
    assert (said.code, said.err) == (0, "")
    assert isinstance(said.json, dict)
    assert said.json["max_age"] == {"seconds": 26 * 3600, "ok": True, "message": None}
    assert said.json["last_complete"]["id"] == said.json["latest"]["id"]
    empty = cesbr.having(CESBR_ROOT=str(empty_site.root))
    assert empty("--quiet", "backup", "redmine").code == 0
    said = empty("status", "--max-age", "26h")
    assert said.code == 1
    assert said.err == (
        "cesbr: There is no complete backup of the whole instance. Run 'cesbr backup'.\n"
    )
    empty_site.repository.rename(empty_site.root / "away")
    said = empty("status", "--max-age", "26h", "--json")
    assert said.code == 1
    assert "is not known: There is no repository" in str(said.error["error"])
    assert kept("status", "--max-age", "26m").code == 2


def test_the_sentence_for_an_old_backup() -> None:
    """It has the ID, the age in hours and the limit; an unverified backup is not complete."""
    last = {"id": "b1", "age": 27 * 3600.0, "status": "complete"}
    status = {"repository": {"state": "ready"}, "latest": last, "last_complete": last}
    assert age_problem(status, "2d", 2 * 86_400) is None
    told = str(age_problem(status, "26h", 26 * 3600))
    assert told is not None
    assert "instance, b1, is 27 h old, more than 26h." in told
    unverified = status | {"last_complete": None, "latest": last | {"status": "unverified"}}
    told = str(age_problem(unverified, "2d", 2 * 86_400))
    assert told is not None
    assert told.endswith("The newest one, b1, is unverified.")


@pytest.fixture
def mounted(kept: Cesbr, tmp_path: Path) -> Iterator[Path]:
    """The backups, mounted."""
    if fuse_missing():
        pytest.skip(str(fuse_missing()))
    path = tmp_path / "mounted"
    path.mkdir()
    said = kept("mount", str(path))
    assert said.code == 0, said.err
    yield path
    if is_mounted(path):
        subprocess.run(["fusermount3", "-u", "-z", path], check=True)


def test_status_of_a_mount(kept: Cesbr, mounted: Path, cesbr: Cesbr, new_site: Site) -> None:
    """`status` shows the state of mounts of this repository, and only the path of others."""
    found = kept("status", "--json").json
    assert isinstance(found, dict)
    (one,) = [mount for mount in found["mounts"] if mount["mountpoint"] == str(mounted)]
    assert one["status"]["repository"]["state"] == "ready"
    assert one["message"] is None
    other = cesbr.having(CESBR_ROOT=str(new_site.root))("status", "--json").json
    assert isinstance(other, dict)
    (one,) = [mount for mount in other["mounts"] if mount["mountpoint"] == str(mounted)]
    assert one["status"] is None
    assert ", ready, for " in kept("status").out
    assert kept("umount", str(mounted)).code == 0


@pytest.fixture
def systemctl(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Pretend that systemd runs: a systemctl with this output."""
    program = tmp_path / "systemctl"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(timer, "SYSTEMD", tmp_path)

    def prints(text: str) -> None:
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n")
        program.chmod(0o755)

    return prints


async def test_systemd_is_asked(systemctl: Callable[[str], None]) -> None:
    """The next run is the timer's, the last one the service's; a stopped timer has no next run."""
    service = f"Id={SERVICE}\nExecMainExitTimestamp=@1795825267\nResult=exit-code\n"
    active = f"Id={TIMER}\nActiveState=active\nNextElapseUSecRealtime=@1795832400\n"
    systemctl(f"{active}\n{service}")
    state = await timer.timer_state()
    assert str(state["next"]).startswith("2026-11-28T02:20:00")
    assert (state["message"], state["result"]) == (None, "exit-code")
    assert str(state["last_run"]).startswith("2026-11-28T00:21:07")
    systemctl(f"Id={TIMER}\nActiveState=inactive\nNextElapseUSecRealtime=\n\nId={SERVICE}\n")
    state = await timer.timer_state()
    assert (state["next"], state["last_run"], state["result"]) == (None, None, None)
    assert state["message"]
