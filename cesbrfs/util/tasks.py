"""Run async functions concurrently with a limit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import trio

from cesbrfs.errors import CesbrError

_T = TypeVar("_T")

AT_ONCE: Final = 8


async def gather(work: Sequence[Callable[[], Awaitable[_T]]], at_once: int = AT_ONCE) -> list[_T]:
    """Run the functions of `work` and return their results in order.

    At most `at_once` run concurrently. The first CesbrError cancels the others and is raised.
    """
    results: dict[int, _T] = {}
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
        for _ in range(min(at_once, len(work))):
            nursery.start_soon(run, nursery.cancel_scope)
    if failed:
        try:
            raise failed[0]
        finally:
            failed.clear()  # the error's traceback holds this frame: no cycle
    return [results[number] for number in range(len(work))]
