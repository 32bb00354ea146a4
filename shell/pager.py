"""The pager: a program of the user's choice that shows text page by page."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from cesbrfs.errors import UsageError
from shell.portal import in_front

if TYPE_CHECKING:
    from types import FrameType


def find_pager(environ: Mapping[str, str]) -> list[str]:
    """Return the pager's command: $PAGER, else less, else more."""
    said = shlex.split(environ.get("PAGER", ""))
    if said:
        if shutil.which(said[0], path=environ.get("PATH")) is None:
            raise UsageError(f"There is no program {said[0]!r}, which $PAGER names.")
        return said
    for name in ("less", "more"):
        if shutil.which(name, path=environ.get("PATH")):
            return [name]
    raise UsageError("There is no pager; install less, or set $PAGER.")


class Pager:
    """A running pager; while it runs the terminal and ^C are its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def open(cls, environ: Mapping[str, str]) -> AsyncIterator[Pager]:
        """Start it, and wait in the end until the user leaves it."""
        command = find_pager(environ)
        before: list[Any] = []

        def start() -> Pager:
            # A handler of Python's, unlike SIG_IGN, is not handed down to the pager.
            before.append(signal.signal(signal.SIGINT, _nothing))
            return cls(subprocess.Popen(command, stdin=subprocess.PIPE, env=dict(environ)))

        def end() -> None:
            pager.close()
            signal.signal(signal.SIGINT, before[0])

        pager = await in_front(start)
        try:
            yield pager
        finally:
            with trio.CancelScope(shield=True):
                await in_front(end)

    async def write(self, data: bytes) -> bool:
        """Show more; returns false once the user has left the pager."""
        return await in_front(lambda: self._write(data))

    def _write(self, data: bytes) -> bool:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def close(self) -> None:
        """Let the user read to the end."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """Leave ^C to the pager."""
