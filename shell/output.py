"""Where a command's words go: results to stdout, all else to stderr.

stdout is the command's own, as the prompt redirects it with ``>`` and ``|``.  Everything is written
by the front thread (see `portal`), so that a slow reader never blocks the loop.
"""

from __future__ import annotations

import json
import select
import shutil
import sys
import time
from collections.abc import Callable
from typing import Final, TextIO

from cesbrfs.errors import UsageError
from shell.portal import in_front, post_in_front

_PROGRESS_SECONDS: Final = 0.1
_LOOK_SECONDS: Final = 0.2
_CLEAR_LINE: Final = "\r\x1b[K"


class Output:
    """The streams of one command; `as_json` asks for results that programs read."""

    def __init__(
        self,
        stdout: TextIO | None = None,
        *,
        as_json: bool = False,
        quiet: bool = False,
    ) -> None:
        self.as_json: Final = as_json
        self.quiet: Final = quiet
        self._stdout = sys.stdout if stdout is None else stdout
        self._progress_shown = False
        self._progress_at = 0.0

    @property
    def terminal(self) -> bool:
        """Whether a person reads the results as they come."""
        return self._stdout.isatty()

    @property
    def columns(self) -> int:
        """How many cells a line of the terminal has."""
        return shutil.get_terminal_size().columns

    async def text(self, text: str) -> None:
        """Write lines of a result."""
        if text:
            await in_front(lambda: self._write(text))

    async def data(self, data: bytes) -> None:
        """Write bytes of a result as they are."""
        await in_front(lambda: self._write_bytes(data))

    async def result(self, value: object, text: str | Callable[[], str]) -> None:
        """Write a result: `value` as JSON where that was asked for, else `text`."""
        if self.as_json:
            await self.text(to_json(value, self._stdout.encoding) + "\n")
        else:
            await self.text(text if isinstance(text, str) else text())

    def note(self, text: str, *, always: bool = False) -> None:
        """Tell people something that is no result; `always` even those who want it quiet."""
        if always or not self.quiet:
            post_in_front(lambda: self._write_aside(text.rstrip("\n") + "\n"))

    def progress(self, text: Callable[[], str]) -> None:
        """Show on a terminal how far the command is; replaces what was shown before."""
        now = time.monotonic()
        if self.quiet or self.as_json or now - self._progress_at < _PROGRESS_SECONDS:
            return
        if not sys.stderr.isatty():
            return
        self._progress_at = now
        line = text()
        post_in_front(lambda: self._show_progress(line))

    async def ask(self, question: str, otherwise: str) -> bool:
        """Ask a person for a yes; UsageError, `otherwise`, where nobody is there to ask."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(otherwise)
        answer = await in_front(lambda: self._ask(f"{question} [y/N] "))
        return answer.strip().lower() in ("y", "yes")

    def _ask(self, prompt: str) -> str:
        self._write_aside(prompt)
        # A ^C between Python's last look for signals and a blocking read would only be seen after
        # the read; a wait that ends by itself bounds that.
        while not select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
            pass
        return sys.stdin.readline()

    def _write(self, text: str) -> None:
        self.clear_progress()
        # A name that this stream's encoding lacks is escaped rather than an error.
        encoding = self._stdout.encoding or "utf-8"
        self._stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        self._stdout.flush()

    def _write_bytes(self, data: bytes) -> None:
        self.clear_progress()
        self._stdout.flush()
        buffer = self._stdout.buffer
        buffer.write(data)
        buffer.flush()

    def _write_aside(self, text: str) -> None:
        self.clear_progress()
        sys.stderr.write(text)
        sys.stderr.flush()

    def _show_progress(self, line: str) -> None:
        self._progress_shown = True
        sys.stderr.write(_CLEAR_LINE + line[: self.columns - 1])
        sys.stderr.flush()

    def clear_progress(self) -> None:
        """Take the progress off the terminal; for the front thread."""
        if self._progress_shown:
            self._progress_shown = False
            sys.stderr.write(_CLEAR_LINE)
            sys.stderr.flush()


def to_json(value: object, encoding: str | None = "utf-8") -> str:
    """Write `value` as one line of JSON, in ASCII where the stream holds no more."""
    readable = (encoding or "").lower().replace("-", "") == "utf8"
    return json.dumps(value, ensure_ascii=not readable)
