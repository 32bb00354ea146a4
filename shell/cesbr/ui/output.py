"""Where a command's words go: results to stdout, all else to stderr.

stdout is the command's own, as the prompt redirects it with ``>`` and ``|``.  Everything is written
by the front thread (see `portal`), so that a slow reader never blocks the loop.  That thread also
shows how far the command is (`tick`), from the first second on: on a terminal as a line that is
replaced, with ``--json`` as an event a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, TextIO

from cesbr.portal import in_front, post_in_front
from cesbr.ui.progress import Progress
from cesbrfs.errors import UsageError
from cesbrfs.util.escape import printable, printable_lines, unprintable

if TYPE_CHECKING:
    from collections.abc import Callable

_SILENT_SECONDS: Final = 1.0
"""What ends sooner shows no progress."""
_EVENT_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.2
CLEAR_LINE: Final = "\r\x1b[K"


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
        self._under_way: list[Progress] = []
        self._progress_shown = False
        self._next_event = 0.0
        self._mid_line = False
        self._lent = False

    @property
    def terminal(self) -> bool:
        """Whether a person reads the results as they come."""
        return self._stdout.isatty()

    @property
    def columns(self) -> int:
        """How many cells a line of the terminal has."""
        return shutil.get_terminal_size().columns

    @property
    def room(self) -> int | None:
        """How many cells a line of the results may have; None where nobody looks."""
        return self.columns if self.terminal else None

    async def text(self, text: str, *, painted: bool = False) -> None:
        """Write lines of a result, escaped for a terminal.

        `painted` text is written as it is: it holds our own colours, or is raw on purpose.
        """
        if text:
            shown = text if painted else printable_lines(text)
            await in_front(lambda: self._write(shown))

    async def data(self, data: bytes) -> None:
        """Write bytes of a result as they are."""
        await in_front(lambda: self._write_bytes(data))

    async def result(self, value: object, text: str | Callable[[], str]) -> None:
        """Write a result: `value` as JSON where that was asked for, else `text`."""
        if self.as_json:
            await self.text(self.json(value) + "\n")
        else:
            await self.text(text if isinstance(text, str) else text())

    def json(self, value: object) -> str:
        """Return `value` as one line of JSON that stdout can hold."""
        return to_json(value, self._stdout.encoding)

    def note(self, text: str, *, always: bool = False, lines: bool = False) -> None:
        """Print something that is no result, one line on stderr; `always` even if quiet.

        With `lines`, `text` may be several lines, such as a table.
        """
        if text and (always or not self.quiet):
            stripped = text.rstrip("\n")
            self.event("note", {"text": stripped}, stripped if lines else printable(stripped))

    def event(self, name: str, fields: Mapping[str, object], text: str) -> None:
        """Print `text` on stderr even if quiet; with --json, an event with `fields` instead."""
        shown = printable_lines(text.rstrip("\n"))

        def write() -> None:
            if self.as_json:
                self._write_aside(to_json({"event": name, **fields}, sys.stderr.encoding) + "\n")
            else:
                self._write_aside(f"{shown}\n")

        post_in_front(write)

    @contextlib.contextmanager
    def progress(
        self, what: str, *, events: bool = True, results: bool = False
    ) -> Iterator[Progress]:
        """Show how far the block is; of blocks within blocks the innermost is shown.

        Without `events`, no JSON events are written. With `results`, nothing is shown if stdout is
        a pipe, because the pager there has the terminal.
        """
        progress = Progress(what)
        if events if self.as_json else not (results and self._piped):
            self._under_way.append(progress)
        try:
            yield progress
        finally:
            with contextlib.suppress(ValueError):
                self._under_way.remove(progress)

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Leave the terminal to another program for the block: no progress is shown."""
        self._lent = True
        try:
            yield
        finally:
            self._lent = False

    @property
    def _piped(self) -> bool:
        try:
            return stat.S_ISFIFO(os.fstat(self._stdout.fileno()).st_mode)
        except (OSError, ValueError):  # no file at all
            return False

    def tick(self) -> None:
        """Show how far the command is, if that is to be shown; for the front thread."""
        under_way = self._under_way[-1:]
        if self.quiet or self._lent or not under_way or under_way[0].seconds < _SILENT_SECONDS:
            return
        (progress,) = under_way
        if self.as_json:
            now = time.monotonic()
            if now >= self._next_event:
                self._next_event = now + _EVENT_SECONDS
                sys.stderr.write(to_json(progress.event(), sys.stderr.encoding) + "\n")
                sys.stderr.flush()
        elif not self._mid_line and os.environ.get("TERM") != "dumb" and sys.stderr.isatty():
            self._progress_shown = True
            sys.stderr.write(CLEAR_LINE + progress.line(self.columns - 1))
            sys.stderr.flush()

    async def ask(self, question: str, *, default: bool = False) -> bool:
        """Ask a person for a yes; UsageError where nobody is there to ask.

        Enter alone means `default`.  For commands that have --yes and --dry-run.
        """
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(
                "This command asks before it changes anything, but there is no terminal. Pass"
                " --yes to confirm, or --dry-run to see what it would do."
            )
        choices = "[Y/n]" if default else "[y/N]"
        answer = await in_front(lambda: self._ask(f"{printable(question)} {choices} "))
        word = answer.strip().lower()
        # The end of the input is no answer.
        return word in ("y", "yes") or (default and not word and answer != "")

    def _ask(self, prompt: str) -> str:
        self._write_aside(prompt)
        # A ^C between Python's last look for signals and a blocking read would only be seen after
        # the read; a wait with a timeout bounds that.
        while not select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
            pass
        return sys.stdin.readline()

    def _write(self, text: str) -> None:
        self.clear_progress()
        # A name that this stream's encoding lacks is escaped rather than an error.
        encoding = self._stdout.encoding or "utf-8"
        self._mid_line = self.terminal and not text.endswith("\n")
        self._stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        self._stdout.flush()

    def _write_bytes(self, data: bytes) -> None:
        self.clear_progress()
        self._mid_line = self.terminal and not data.endswith(b"\n")
        self._stdout.flush()
        buffer = self._stdout.buffer
        buffer.write(data)
        buffer.flush()

    def _write_aside(self, text: str) -> None:
        self.clear_progress()
        sys.stderr.write(text)
        sys.stderr.flush()

    def clear_progress(self) -> None:
        """Take the progress off the terminal; for the front thread."""
        if self._progress_shown:
            self._progress_shown = False
            sys.stderr.write(CLEAR_LINE)
            sys.stderr.flush()


def to_json(value: object, encoding: str | None = "utf-8") -> str:
    """Write `value` as one line of JSON, in ASCII where the stream holds no more.

    What a terminal must not get is escaped, which changes nothing for programs.
    """
    readable = (encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(value, ensure_ascii=not readable)
    return text if text.isprintable() else "".join(map(_json_character, text))


def _json_character(character: str) -> str:
    return json.dumps(character)[1:-1] if unprintable(character) else character
