"""Text that scrolls in a part of the screen.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cesbr.browser.cells import wrap
from cesbr.browser.messages import LineStyle, Parts, TextLine


class ShownLine(NamedTuple):
    """A line as wide as the pane at most; `number` is that of the line that it is a part of."""

    text: str
    style: LineStyle
    number: int


class Pane:
    """Lines that are longer than the pane are wrapped; those that lead somewhere have a cursor."""

    def __init__(self, lines: Sequence[TextLine] | None = None) -> None:
        self.lines = lines
        """None while they are being read."""
        self.top = 0
        self.cursor = self._next_target(0, 1)
        """The number of the line under the cursor; None where no line leads anywhere."""
        self._height = 1
        self._wrapped: tuple[int, list[ShownLine]] | None = None

    @property
    def target(self) -> Parts | None:
        """The path that the line under the cursor leads to."""
        if self.cursor is None or self.lines is None:
            return None
        return self.lines[self.cursor].target

    def shown(self, columns: int, height: int) -> list[ShownLine]:
        """Return the visible lines, and remember the height."""
        self._height = max(height, 1)
        wrapped = self._all(columns)
        self.top = max(0, min(self.top, len(wrapped) - self._height))
        return wrapped[self.top : self.top + self._height]

    def scroll(self, lines: int) -> None:
        """Scroll by lines; `shown` limits it to what there is."""
        self.top = max(0, self.top + lines)

    def move(self, key: str) -> None:
        """Move the cursor to another line that leads somewhere, or scroll."""
        steps = {"up": -1, "down": 1, "pageup": -self._height, "pagedown": self._height}
        if self.cursor is not None and key in ("up", "down"):
            found = self._next_target(self.cursor + steps[key], steps[key])
            if found is not None:
                self.cursor = found
                self._reveal()
                return
        if key in steps:
            self.scroll(steps[key])
        else:
            self.top = 0 if key == "home" else len(self._wrapped[1]) if self._wrapped else 0

    def point(self, line: int) -> bool:
        """Put the cursor on a visible line, counted from the top; False if it leads nowhere."""
        wrapped = self._wrapped[1] if self._wrapped else []
        at = self.top + line
        if self.lines is None or not 0 <= at < len(wrapped):
            return False
        number = wrapped[at].number
        if self.lines[number].target is None:
            return False
        self.cursor = number
        return True

    def _next_target(self, start: int, step: int) -> int | None:
        lines = self.lines or ()
        numbers = range(start, len(lines) if step > 0 else -1, step)
        return next((at for at in numbers if at >= 0 and lines[at].target is not None), None)

    def _reveal(self) -> None:
        """Scroll so that the cursor is visible."""
        if self._wrapped is None:
            return
        numbers = [line.number for line in self._wrapped[1]]
        at = numbers.index(self.cursor) if self.cursor in numbers else 0
        self.top = min(max(self.top, at - self._height + 1), at)

    def _all(self, columns: int) -> list[ShownLine]:
        if self._wrapped is None or self._wrapped[0] != columns:
            shown = [
                ShownLine(part, line.style, number)
                for number, line in enumerate(self.lines or ())
                for part in wrap(line.text, max(columns, 1))
            ]
            self._wrapped = (columns, shown)
        return self._wrapped[1]
