"""How requests leave /dev/fuse.

pyfuse3 waits until the descriptor is readable and then reads it, holding the interpreter's lock: if
the client is killed between the two, the request is gone, and the read blocks the whole process.
So the descriptor is polled once more, without waiting, in the same step in which it is read.
"""

from __future__ import annotations

import logging
import os
import select
from collections.abc import Awaitable, Callable
from typing import Final

import pyfuse3

_log = logging.getLogger(__name__)

_NAME: Final = "_wait_fuse_readable"
_DEVICE: Final = "/dev/fuse"


def install() -> bool:
    """Put our wait in place of pyfuse3's, after `pyfuse3.init`; False where it does not fit."""
    stock = getattr(pyfuse3, _NAME, None)
    descriptor = session_descriptor()
    if stock is None or descriptor is None:
        _log.warning("This pyfuse3 waits for requests in another way; its own is used.")
        return False
    setattr(pyfuse3, _NAME, _guarded(stock, descriptor))
    return True


def session_descriptor() -> int | None:
    """Find the one descriptor of this process that is open on /dev/fuse."""
    found: list[int] = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}") == _DEVICE:
                found.append(int(name))
        except OSError:  # the listing's own descriptor is gone by now
            continue
    return found[0] if len(found) == 1 else None


def _guarded(
    stock: Callable[[], Awaitable[bool]], descriptor: int
) -> Callable[[], Awaitable[bool]]:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)

    async def wait() -> bool:
        # No checkpoint lies between this poll and the read that follows.
        while await stock():
            if poll.poll(0):
                return True
        return False

    return wait
