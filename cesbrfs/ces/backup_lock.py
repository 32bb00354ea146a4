"""One backup of an instance at a time: a lock file that tells who holds it."""

from __future__ import annotations

import json
import os
import pwd
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from cesbrfs.errors import BackupRunningError
from cesbrfs.util.filelock import LockFile, state_file

LOCK_FILE: Final = "var/lib/cesbr/backup.lock"


@contextmanager
def backup_lock(root: Path, backup_id: str, started: str) -> Iterator[None]:
    """Hold the lock of the instance at `root` for the backup that began at `started` (RFC 3339).

    BackupRunningError says who holds it.  What the file says counts only while it is locked.
    """
    with state_file(root / LOCK_FILE, create=True) as lock:
        _hold(lock, f"Backup {backup_id}", started)
        yield


@contextmanager
def no_backup(root: Path, doing: str, started: str) -> Iterator[None]:
    """Keep backups of the instance at `root` from running meanwhile; they are told what is `doing`.

    BackupRunningError when one runs.  Where no backup was ever made, or by another user, as on an
    administrator's own machine, there is nothing to wait for.
    """
    with state_file(root / LOCK_FILE, create=False) as lock:
        _hold(lock, doing, started)
        yield


def _hold(lock: LockFile | None, doing: str, started: str) -> None:
    """Write down who holds the lock; BackupRunningError when another process does."""
    if lock is None:
        return
    if not lock.held:
        raise BackupRunningError(_who(lock.read()))
    lock.write(
        {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "user": _user(),
            "doing": doing,
            "started": started,
        }
    )


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _local(started: str) -> str:
    """Return an RFC 3339 time in UTC as people read it; anything else as it is."""
    seconds, _, _ = started.removesuffix("Z").partition(".")
    try:
        then = datetime.fromisoformat(f"{seconds}+00:00")
    except ValueError:
        return started
    return f"{then.astimezone():%Y-%m-%d %H:%M:%S}"


def _who(content: bytes) -> str:
    """Return the sentence about the holder; it may not have written down its name yet."""
    try:
        holder = json.loads(content)
        return (
            f"{holder['doing']} is running since {_local(holder['started'])}, as process "
            f"{holder['pid']} of {holder['user']} on {holder['host']}; wait until it has ended."
        )
    except (ValueError, TypeError, KeyError):
        return "Another backup of this instance has just begun; wait until it has ended."
