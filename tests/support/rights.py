"""Run as an unprivileged user, own files by that user, and find leftover processes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOBODY = 65534
# Shared servers outlive a test. The kernel truncates names to 15 characters.
_SERVERS = {"etcd", "rclone", "restic-rest-ser", "sshd", "weed"}


@contextmanager
def open_directory() -> Iterator[Path]:
    """Create a directory that all users can write to, unlike tmp_path of pytest."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o777)  # noqa: S103 - intended
        yield Path(name)


@contextmanager
def without_rights() -> Iterator[None]:
    """Switch to an unprivileged user if running as root."""
    if os.geteuid() != 0:
        yield
        return
    # Both IDs: with different real and effective users, /dev/fd of a child is not accessible.
    os.setresgid(_NOBODY, _NOBODY, 0)
    os.setresuid(_NOBODY, _NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


def give_away(top: Path) -> None:
    """Change the owner of everything below `top` to the user of `without_rights`."""
    if os.geteuid() != 0:
        return
    os.chown(top, _NOBODY, _NOBODY)
    for directory, names, files in os.walk(top):
        for name in (*names, *files):
            os.chown(Path(directory, name), _NOBODY, _NOBODY)


def for_everyone(binary: Path, directory: Path) -> Path:
    """Return `binary`, or a copy in `directory` if an unprivileged user cannot access it."""
    with without_rights():
        if os.access(binary, os.X_OK):
            return binary
    return Path(shutil.copy(binary, directory / "restic"))


def children() -> list[int]:
    """Return the child processes of this process, except shared servers."""
    tasks = Path("/proc/self/task").iterdir()
    found = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    return [pid for pid in found if _name(pid) not in _SERVERS]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # exited
        return ""
