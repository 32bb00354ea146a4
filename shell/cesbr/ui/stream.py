"""Lines of a result on their way out as they come, many at a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from cesbrfs.util.escape import printable_lines

if TYPE_CHECKING:
    from cesbr.ui.output import Output

_SECONDS: Final = 0.1
_CHARACTERS: Final = 64 << 10


class LineStream:
    """Gathers lines so that writing each costs nothing, and holds none back for long."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._pending: list[str] = []
        self._characters = 0
        self._written_at = time.monotonic()

    async def add(self, line: str, *, painted: bool = False) -> None:
        """Write `line`, now or together with those that follow at once; see `Output.text`."""
        self._pending.append(line if painted else printable_lines(line))
        self._characters += len(line)
        waited = time.monotonic() - self._written_at
        if waited >= _SECONDS or self._characters >= _CHARACTERS:
            await self.flush()

    async def flush(self) -> None:
        """Write what is held back."""
        lines, self._pending, self._characters = self._pending, [], 0
        await self._out.text("".join(lines), painted=True)
        self._written_at = time.monotonic()


class JsonArray:
    """Writes the elements of a JSON array as they come, one a line.

    What was cut short is never closed, so that nobody takes a part for all.
    """

    def __init__(self, out: Output) -> None:
        self._out = out
        self._lines = LineStream(out)
        self._before = "["

    async def add(self, element: object) -> None:
        """Write `element`, now or together with those that follow at once."""
        await self._lines.add(self._before + self._out.json(element))
        self._before = ",\n"

    async def close(self) -> None:
        """Write the end of the array, and what is held back."""
        await self._lines.add("[]\n" if self._before == "[" else "]\n")
        await self._lines.flush()
