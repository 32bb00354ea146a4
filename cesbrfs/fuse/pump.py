"""How requests leave /dev/fuse: our wait in place of pyfuse3's, with that one as its fallback.

Two things are better here.  pyfuse3 waits until the descriptor is readable and then reads it,
holding the interpreter's lock: if the client is killed between the two, the request is gone, and
the read blocks the whole process; so the descriptor is polled once more, without waiting, in the
same step in which it is read.  And most requests are answered from memory faster than trio's
scheduler can be asked for the next: as long as nothing else has work to do, the next request is
taken from the descriptor directly, after a short spin, which is about when a client that walks a
tree has sent it.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Awaitable, Callable
from typing import Final

import pyfuse3

_log = logging.getLogger(__name__)

_NAME: Final = "_wait_fuse_readable"
_DEVICE: Final = "/dev/fuse"
_SPIN_SECONDS: Final = 50e-6
_TURN_SECONDS: Final = 0.01
"""After this long, trio gets a turn: signals and timers must not starve."""


def install(busy: Callable[[], bool], go_ahead: Callable[[], bool]) -> bool:
    """Put our wait in place of pyfuse3's, after `pyfuse3.init`; False where it does not fit.

    `busy` tells whether other tasks have work: then every request is waited for through trio.
    `go_ahead` does a little of what will be asked for, while a client takes its time, and returns
    False where there is nothing to do.
    """
    stock = getattr(pyfuse3, _NAME, None)
    descriptor = session_descriptor()
    if stock is None or descriptor is None:
        _log.warning("This pyfuse3 waits for requests in another way; its own is used.")
        return False
    setattr(pyfuse3, _NAME, _wait(stock, descriptor, busy, go_ahead))
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


def _wait(
    stock: Callable[[], Awaitable[bool]],
    descriptor: int,
    busy: Callable[[], bool],
    go_ahead: Callable[[], bool],
) -> Callable[[], Awaitable[bool]]:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    poll, now = poller.poll, time.perf_counter
    turn_ends = 0.0

    async def wait() -> bool:
        nonlocal turn_ends
        # No checkpoint lies between a poll that finds a request and the read that follows.
        spins_from = now()
        if spins_from < turn_ends and not busy():
            while True:
                if poll(0):
                    return True
                if go_ahead():
                    spins_from = now()
                    if spins_from > turn_ends:
                        break
                elif now() - spins_from > _SPIN_SECONDS:
                    break
        while await stock():
            turn_ends = now() + _TURN_SECONDS
            if poll(0):
                return True
        return False

    return wait
