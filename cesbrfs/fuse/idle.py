"""Unmount a mount that no other process uses."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio

from cesbrfs.errors import MountError

_log = logging.getLogger(__name__)


class Activity(Protocol):
    """What the requests of other processes tell about their use of the mount."""

    last_request: float
    """Monotonic time in seconds of the last request."""

    def is_in_use(self) -> bool:
        """Return whether a request is running, or a file or directory is open."""


async def unmount_when_idle(
    unmount: Callable[[], Awaitable[None]],
    seconds: float,
    activity: Activity,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Call `unmount` after `seconds` without use, and return.

    A working directory in the mount sends no requests. It makes `unmount` raise MountError, which
    counts as use: the next attempt follows after another `seconds`.
    """
    used = clock()
    busy = ""
    while True:
        used = clock() if activity.is_in_use() else max(used, activity.last_request)
        remaining = used + seconds - clock()
        if remaining > 0:
            await trio.sleep(remaining)
            continue
        try:
            await unmount()
        except MountError as error:
            if error.message != busy:
                _log.info("Idle, but not unmounted: %s", error)
            busy = error.message
            used = clock()
        else:
            _log.info("Unmounted: no requests for %g s.", seconds)
            return
