"""Allow one backup of an instance at a time, with a lock file that names its holder."""

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
from cesbrfs.util.filelock import LockFile, lock_file

LOCK_FILE: Final = "var/lib/cesbr/backup.lock"


@contextmanager
def backup_lock(root: Path, backup_id: str, started: str) -> Iterator[None]:
    """Lock the instance at `root` for a backup that began at `started` (RFC 3339).

    Raises BackupRunningError, which names the holder, if the lock is taken. The content of the file
    is valid only while it is locked.
    """
    with lock_file(root / LOCK_FILE, create=True) as lock:
        _acquire(lock, f"Backup {backup_id}", started)
        yield


@contextmanager
def block_backups(root: Path, activity: str, started: str) -> Iterator[None]:
    """Prevent backups of the instance at `root`; their error message names the `activity`.

    Raises BackupRunningError if a backup is running. Does nothing if the lock file is missing or
    not accessible, as on an administrator's workstation.
    """
    with lock_file(root / LOCK_FILE, create=False) as lock:
        _acquire(lock, activity, started)
        yield


def _acquire(lock: LockFile | None, activity: str, started: str) -> None:
    """Record the holder in the lock file; BackupRunningError if another process holds it."""
    if lock is None:
        return
    if not lock.held:
        raise BackupRunningError(_locked_message(lock.read()))
    lock.write(
        {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "user": _user(),
            "doing": activity,
            "started": started,
        }
    )


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _local(started: str) -> str:
    """Convert an RFC 3339 time in UTC to local time for messages; return other text unchanged."""
    seconds, _, _ = started.removesuffix("Z").partition(".")
    try:
        then = datetime.fromisoformat(f"{seconds}+00:00")
    except ValueError:
        return started
    return f"{then.astimezone():%Y-%m-%d %H:%M:%S}"


def _locked_message(content: bytes) -> str:
    """Return the error message; `content` is empty until the holder has written it."""
    try:
        holder = json.loads(content)
        return (
            f"{holder['doing']} has been running since {_local(holder['started'])} (PID"
            f" {holder['pid']},"
            f" {holder['user']}@{holder['host']}). Try again when it has finished."
        )
    except (ValueError, TypeError, KeyError):
        return "Another backup of this instance has just started. Try again when it has finished."
