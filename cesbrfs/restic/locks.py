"""Remove the locks that an interrupted restic of ours left behind, and no others.

``restic unlock`` removes a lock if its host name is ours and no local process has its PID. A backup
in a container may have the same host name, but its PIDs have no meaning on the host.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from cesbrfs.repo.format.model import Lock
from cesbrfs.repo.location import Access, local_directory
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import FileType, open_storage

_FRESH_NS: Final = 20 * 60 * 10**9
"""Maximum age in nanoseconds of a lock that is certainly not stale.

restic treats a lock as stale after 30 minutes; a running process refreshes it every 5 minutes.
"""
_SKEW_NS: Final = 10**9


async def remove_own(
    access: Access, pid: int, started_ns: int, unlock: Callable[[], Awaitable[object]]
) -> None:
    """Remove the locks of our process `pid`, which was started at `started_ns` and has ended.

    In a local repository the lock files are deleted. For other repositories `unlock`, which runs
    ``restic unlock``, is called, unless it could remove a lock of another process. Our lock remains
    in this case.
    """
    storage = open_storage(access)
    try:
        listed = {file.name for file in await storage.list(FileType.LOCK)}
        if not listed:
            return
        repository = await Repository.open(storage, access.key)
        locks = await repository.locks()
    finally:
        await storage.aclose()
    own = {lock.id for lock in locks if _is_own(lock, pid, started_ns)}
    directory = local_directory(access.url)
    if directory is not None:
        for name in own:
            await trio.to_thread.run_sync(_unlink, Path(directory, "locks", name))
    elif own and own | {lock.id for lock in locks if _is_safe(lock)} == listed:
        await unlock()


def _is_own(lock: Lock, pid: int, started_ns: int) -> bool:
    here = lock.pid == pid and lock.hostname == socket.gethostname()
    return here and lock.time_ns >= started_ns - _SKEW_NS


def _is_safe(lock: Lock) -> bool:
    """Return whether ``restic unlock`` is certain not to remove a lock of another process."""
    if time.time_ns() - lock.time_ns > _FRESH_NS:
        return False
    return lock.hostname != socket.gethostname() or os.path.exists(f"/proc/{lock.pid}")


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
