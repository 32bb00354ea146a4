"""One backup of an instance at a time: a lock file that tells who holds it."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final

from cesbrfs.errors import BackupRunningError, CesbrError

LOCK_FILE: Final = "var/lib/cesbr/backup.lock"
_HOLDER_MAX: Final = 4096


@contextmanager
def backup_lock(root: Path, backup_id: str, started: str) -> Iterator[None]:
    """Hold the lock of the instance at `root` for the backup that began at `started` (RFC 3339).

    BackupRunningError says who holds it.  The kernel drops the lock with the process, however that
    ends, so the file may stay; what it says counts only while it is locked.
    """
    file = root / LOCK_FILE
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(file, flags, 0o600)
    except OSError as error:
        raise CesbrError(
            f"The lock file {file} cannot be opened: {error.strerror}; see to its "
            "folder, or back up as root."
        ) from error
    with _held(descriptor, f"Backup {backup_id}", started):
        yield


@contextmanager
def no_backup(root: Path, doing: str, started: str) -> Iterator[None]:
    """Keep backups of the instance at `root` from running meanwhile; they are told what is `doing`.

    BackupRunningError when one runs.  Where no backup was ever made, or by another user, as on an
    administrator's own machine, there is nothing to wait for.
    """
    descriptor = None
    with suppress(OSError):
        descriptor = os.open(root / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    with nullcontext() if descriptor is None else _held(descriptor, doing, started):
        yield


@contextmanager
def _held(descriptor: int, doing: str, started: str) -> Iterator[None]:
    """Hold the lock of an open file, which is closed in the end."""
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupRunningError(_who(os.pread(descriptor, _HOLDER_MAX, 0))) from None
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "user": _user(),
            "doing": doing,
            "started": started,
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)
        yield
    finally:
        os.close(descriptor)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _who(content: bytes) -> str:
    """Return the sentence about the holder; it may not have written down its name yet."""
    try:
        holder = json.loads(content)
        return (
            f"{holder['doing']} is running since {holder['started']}, as process "
            f"{holder['pid']} of {holder['user']} on {holder['host']}; wait until it has ended."
        )
    except (ValueError, TypeError, KeyError):
        return "Another backup of this instance has just begun; wait until it has ended."
