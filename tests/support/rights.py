"""A user without rights, what belongs to that user, and which processes are left."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534
# What tests share, and so outlives a test; the kernel keeps 15 characters of a name.
_SERVERS = {"etcd", "rclone", "restic-rest-ser", "sshd", "weed"}


@contextmanager
def open_folder() -> Iterator[Path]:
    """Make a folder that every user can write to, unlike pytest's own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o777)  # noqa: S103 - what it is for
        yield Path(name)


@contextmanager
def without_rights() -> Iterator[None]:
    """Be a user that file permissions hold for, where this one is root."""
    if os.geteuid() != 0:
        yield
        return
    # Both, not only the effective one: /dev/fd of a child with two users belongs to neither.
    os.setresgid(_NOBODY, _NOBODY, 0)
    os.setresuid(_NOBODY, _NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


def give_away(top: Path) -> None:
    """Give everything below `top` to the user of `without_rights`."""
    if os.geteuid() != 0:
        return
    os.chown(top, _NOBODY, _NOBODY)
    for folder, names, files in os.walk(top):
        for name in (*names, *files):
            os.chown(Path(folder, name), _NOBODY, _NOBODY)


def for_everyone(binary: Path, folder: Path) -> Path:
    """Return `binary`, or a copy of it in `folder` where a user without rights cannot reach it."""
    with without_rights():
        if os.access(binary, os.X_OK):
            return binary
    return Path(shutil.copy(binary, folder / "restic"))


def children() -> list[int]:
    """Return the processes that this one has started and that are still there, but for servers."""
    tasks = Path("/proc/self/task").iterdir()
    found = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    return [pid for pid in found if _name(pid) not in _SERVERS]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # it has ended
        return ""
