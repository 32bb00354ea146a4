"""Doing many small reads a few at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import trio

from cesbrfs.errors import CesbrError

T = TypeVar("T")

_AT_ONCE: Final = 8


async def gather(work: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Run all of `work` and return the results in its order; the first error ends the rest."""
    results: dict[int, T] = {}
    pending = iter(enumerate(work))
    failed: list[CesbrError] = []

    async def run(scope: trio.CancelScope) -> None:
        for number, function in pending:
            try:
                results[number] = await function()
            except CesbrError as error:
                failed.append(error)
                scope.cancel()
                return

    async with trio.open_nursery() as nursery:
        for _ in range(min(_AT_ONCE, len(work))):
            nursery.start_soon(run, nursery.cancel_scope)
    if failed:
        raise failed[0]
    return [results[number] for number in range(len(work))]
