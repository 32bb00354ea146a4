"""Detect leaks of storages: open file descriptors, tasks, threads."""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable

import trio


def descriptors() -> int:
    """Return the number of open file descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def tasks() -> int:
    """Return the number of tasks in the event loop."""
    return trio.lowlevel.current_statistics().tasks_living


async def cancel_many(
    read: Callable[[], Awaitable[object]], *, times: int, at_once: int, longest: float
) -> int:
    """Start `times` reads and cancel each at random; return how many finished before."""
    chance = random.Random(3)
    done = 0
    limit = trio.CapacityLimiter(at_once)

    async def one(seconds: float) -> None:
        nonlocal done
        async with limit:
            with trio.move_on_after(seconds):
                await read()
                done += 1

    async with trio.open_nursery() as nursery:
        for _ in range(times):
            nursery.start_soon(one, chance.uniform(0, longest))
    return done
