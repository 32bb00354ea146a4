"""The pager: a program of the user's choice that shows text page by page."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio

from cesbr.portal import in_front
from cesbrfs.errors import UsageError
from cesbrfs.util.environment import public_environment

if TYPE_CHECKING:
    from types import FrameType


def find_pager(environ: Mapping[str, str]) -> list[str]:
    """Return the pager's command: $PAGER, else less, else more."""
    command = shlex.split(environ.get("PAGER", ""))
    if command:
        if shutil.which(command[0], path=environ.get("PATH")) is None:
            raise UsageError(f"The pager {command[0]!r} in $PAGER does not exist.")
        return command
    for name in ("less", "more"):
        if shutil.which(name, path=environ.get("PATH")):
            return [name]
    raise UsageError("No pager is installed. Install less, or set $PAGER.")


class Pager:
    """A running pager; while it runs the terminal and ^C are its own.

    With one exception: while its input is being read (inside `reading`), ^C ends the reading, as it
    ends a program that writes into a pager; `interrupted` is then set.
    """

    def __init__(self, process: subprocess.Popen[bytes], reading: trio.CancelScope) -> None:
        self._process = process
        self._given = False
        self._writing = False
        self.left = False
        self.reading: Final = reading
        self.interrupted = False

    @classmethod
    @asynccontextmanager
    async def open(cls, environ: Mapping[str, str]) -> AsyncIterator[Pager]:
        """Start it, and wait in the end until the user leaves it."""
        command = find_pager(environ)
        token = trio.lowlevel.current_trio_token()
        before: list[Any] = []
        started: list[Pager] = []

        def on_ctrl_c(number: int, frame: FrameType | None) -> None:
            for pager in started:
                if not pager.left:
                    pager.interrupt(token)
                elif callable(before[0]):
                    before[0](number, frame)

        def start() -> Pager:
            # A handler of Python's, unlike SIG_IGN, is not handed down to the pager.
            before.append(signal.signal(signal.SIGINT, on_ctrl_c))
            own = public_environment(environ)
            process = subprocess.Popen(command, stdin=subprocess.PIPE, env=own)
            started.append(cls(process, trio.CancelScope()))
            return started[0]

        def end() -> None:
            pager.close()
            signal.signal(signal.SIGINT, before[0])

        pager = await in_front(start)
        try:
            yield pager
        finally:
            with trio.CancelScope(shield=True):
                await in_front(end)

    def interrupt(self, token: trio.lowlevel.TrioToken) -> None:
        """Give the pager nothing more, if that is what it waits for; for the thread in front."""
        if not (self._given or self._writing):
            self.interrupted = True
            self._end_input()
            token.run_sync_soon(self.reading.cancel)

    async def ended(self) -> None:
        """Wait until the user leaves it."""
        await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)
        self.left = True

    async def write(self, data: bytes) -> bool:
        """Show more; returns false once the user has left the pager."""
        return await in_front(lambda: self._write(data))

    def _write(self, data: bytes) -> bool:
        assert self._process.stdin is not None
        if self._given:
            return False
        self._writing = True
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:
            return False
        finally:
            self._writing = False
        return True

    def close(self) -> None:
        """Let the user read to the end."""
        self._end_input()
        self._process.wait()

    def _end_input(self) -> None:
        self._given = True
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
