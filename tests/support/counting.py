"""Counts what a storage must not leave behind: descriptors, tasks, threads' work."""

from __future__ import annotations

import os
import random
from collections.abc import Awaitable, Callable

import trio


def descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def tasks() -> int:
    """Return how many tasks the event loop has."""
    return trio.lowlevel.current_statistics().tasks_living


async def cancel_many(
    read: Callable[[], Awaitable[object]], *, times: int, at_once: int, longest: float
) -> int:
    """Begin `times` reads and cancel each at a random moment; return how many were too quick."""
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
