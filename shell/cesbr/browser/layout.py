"""Where on the screen things are.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

Target = Literal["list", "details", ""]

LEAST_COLUMNS: Final = 30
LEAST_LINES: Final = 8
_SIDE_BY_SIDE: Final = 76
"""Columns from which on the pane with details is to the right of the list, not below it."""
_CHROME: Final = 3
"""Lines of the path, of messages, and of the keys."""


class Area(NamedTuple):
    """A part of the screen, in cells."""

    column: int
    line: int
    width: int
    height: int

    def holds(self, column: int, line: int) -> bool:
        """Return whether a cell belongs to it."""
        return 0 <= column - self.column < self.width and 0 <= line - self.line < self.height


@dataclass(frozen=True, slots=True)
class Layout:
    """The areas of a terminal of this size; the list of backups needs more room."""

    columns: int
    lines: int
    at_root: bool = False

    @property
    def is_too_small(self) -> bool:
        """Whether there is no room for the browser."""
        return self.columns < LEAST_COLUMNS or self.lines < LEAST_LINES

    @property
    def is_side_by_side(self) -> bool:
        """Whether the details are to the right of the list."""
        return self.columns >= _SIDE_BY_SIDE

    @property
    def body(self) -> Area:
        """Everything between the path and the messages."""
        return Area(0, 1, self.columns, max(self.lines - _CHROME, 0))

    @property
    def list(self) -> Area:
        """The list."""
        _, line, columns, height = self.body
        if self.is_side_by_side:
            return Area(0, line, columns * (60 if self.at_root else 50) // 100, height)
        return Area(0, line, columns, height - height // 2)

    @property
    def details(self) -> Area:
        """The pane with details, without the line between it and the list."""
        _, line, columns, height = self.body
        if self.is_side_by_side:
            left = self.list.width + 1
            return Area(left, line, columns - left, height)
        top = self.list.height + 1
        return Area(0, line + top, columns, height - top)

    def at(self, column: int, line: int) -> tuple[Target, int]:
        """Return what is at a cell, and its line there."""
        if self.list.holds(column, line):
            return "list", line - self.list.line
        if self.details.holds(column, line):
            return "details", line - self.details.line
        return "", 0
