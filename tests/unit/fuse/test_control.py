"""Only the process of a mount is signalled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cesbrfs.errors import MountError
from cesbrfs.fuse import control
from cesbrfs.util.mountinfo import Mounted
from tests.support.rights import open_directory, without_rights

_FUSE_USER = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.open("/dev/fuse", os.O_RDWR)
print(flush=True)
sys.stdin.read()
"""
_needs_fuse = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse")


@pytest.fixture
def fuse_user() -> Iterator[int]:
    """Run a process that has /dev/fuse open and ignores signals; yield its ID."""
    with subprocess.Popen(
        [sys.executable, "-c", _FUSE_USER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.communicate()


@_needs_fuse
def test_the_process_must_serve_fuse_for_the_user_who_mounted(fuse_user: int) -> None:
    """A file system that claims another PID cannot have that process signalled."""
    user = os.geteuid()
    with control._process(fuse_user, Mounted("/m", "fuse.cesbrfs", "r", 1, user)):
        pass
    for pid, owner in ((fuse_user, user + 1), (os.getpid(), user), (0, user), (1 << 40, user)):
        with (
            pytest.raises(MountError, match="was not found"),
            control._process(pid, Mounted("/m", "fuse.cesbrfs", "r", 1, owner)),
        ):
            pass


def served(directory: Path, status: str, user: int) -> Mounted:
    """Return a mount whose status is a file."""
    (directory / ".cesbrfs").mkdir(exist_ok=True)
    (directory / ".cesbrfs/status.json").write_text(status)
    return Mounted(str(directory), "fuse.cesbrfs", "r", 1, user)


def status_of(pid: int) -> str:
    """Return the status of a mount that has never listed its backups."""
    return json.dumps({
        "pid": pid,
        "backups": 0,
        "reloads": {"started": 1, "finished": 1, "error": None},
    })  # fmt: skip


@_needs_fuse
async def test_a_mount_that_does_not_reload(
    fuse_user: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait is bounded."""
    monkeypatch.setattr(control, "_RELOAD_SECONDS", 0.1)
    with pytest.raises(MountError, match="did not list the backups within 0 s"):
        await control.reload(served(tmp_path, status_of(fuse_user), os.geteuid()))


async def test_a_mount_that_cannot_be_reloaded() -> None:
    """One of another user, one of another version, and one that does not answer."""
    with open_directory() as directory:
        with without_rights(), pytest.raises(MountError, match=r"another user \(UID 0\)"):
            await control.reload(served(directory, status_of(1), 0))
        for status in ("[]", "no JSON", "[" * 100_000):
            with pytest.raises(MountError, match="another version of cesbrfs"):
                await control.reload(served(directory, status, 0))
        mounted = served(directory, "{}", 0)
        (directory / ".cesbrfs/status.json").chmod(0)
        with without_rights(), pytest.raises(MountError, match="the user who mounted it"):
            await control.reload(mounted)
        (directory / ".cesbrfs/status.json").unlink()
        with pytest.raises(MountError, match="does not answer: No such file or directory"):
            await control.reload(mounted)
