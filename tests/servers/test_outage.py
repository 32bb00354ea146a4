"""A mount whose server is down: requests can be interrupted, and the mount can be ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cesbrfs.util.secret import Secret
from tests.support.far import Far, far_rest
from tests.support.mounting import Mount, fuse_missing, mounting
from tests.support.restic_repo import create

pytestmark = pytest.mark.skipif(fuse_missing() is not None, reason=str(fuse_missing()))

_AT_ONCE = 3.0


@pytest.fixture
def far(rclone: Path, restic_new: Path, tmp_path: Path) -> Iterator[Far]:
    """A server with two backups. Only the newest one is read ahead by a mount, never b1."""
    volume = tmp_path / "var/lib/ces/redmine/volumes/files"
    volume.mkdir(parents=True)
    (volume / "note.txt").write_text("hello\n")
    repo = create(restic_new, tmp_path / "repo")
    repo.backup(volume, tags=["b1"])
    (volume / "note.txt").write_text("hello again\n")  # other trees, or b1 would be cached with b2
    repo.backup(volume, tags=["b2"])
    with far_rest(rclone, tmp_path / "far") as made:
        made.put(repo.directory)
        yield made


@pytest.fixture
def away(far: Far, tmp_path: Path) -> Iterator[Mount]:
    """A mount that has cached the backup's name but not its content when the server goes down."""
    with mounting(tmp_path) as mount:
        made = mount(far.access(Secret(b"a throw-away key"), 60))
        assert "b1" in os.listdir(made.path)
        far.kill()
        yield made


def _waiting(mount: Mount, *command: str) -> subprocess.Popen[bytes]:
    """Start a command that lists the backup, and return when it blocks in the mount."""
    reader = subprocess.Popen([*command, mount.path / "b1"], stdout=subprocess.DEVNULL)
    try:
        while "State:\tD" not in _status(reader) and "request_wait" not in _wchan(reader):
            assert reader.poll() is None, "the listing did not need the server"
            time.sleep(0.01)
    except BaseException:
        reader.kill()
        reader.wait()
        raise
    return reader


def _status(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/status").read_text()


def _wchan(process: subprocess.Popen[bytes]) -> str:
    return Path(f"/proc/{process.pid}/wchan").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_reader_can_be_stopped(away: Mount, far: Far, number: signal.Signals) -> None:
    """A signal ends it during the outage; afterwards the directory can be read."""
    reader = _waiting(away, "ls")
    reader.send_signal(number)
    assert reader.wait(_AT_ONCE) == -number
    far.start()
    assert "redmine" in os.listdir(away.path / "b1")


def test_the_mount_can_be_ended(away: Mount) -> None:
    """Pending requests get an error, and no process or mount remains."""
    reader = _waiting(away, "ls")
    began = time.monotonic()
    assert away.stop() == 0
    assert time.monotonic() - began < _AT_ONCE
    assert reader.wait(_AT_ONCE) != 0
    assert not away.mounted


def test_a_refresh_while_the_server_is_away(away: Mount, far: Far) -> None:
    """SIGHUP does not end the mount, and does not prevent ending it."""
    away.process.send_signal(signal.SIGHUP)
    assert "b1" in os.listdir(away.path)
    began = time.monotonic()
    assert away.stop() == 0
    assert time.monotonic() - began < _AT_ONCE
