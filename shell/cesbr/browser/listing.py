"""The list of the browser: rows, filter, cursor and scroll position.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

from cesbr.browser.messages import Row
from cesbrfs.util.escape import show


class Listing:
    """The entries of one directory; `rows` is None while they are being read."""

    def __init__(self, height: int) -> None:
        self.rows: Sequence[Row] | None = None
        self.shown: Sequence[Row] = ()
        """The rows that match the filter."""
        self.cursor = 0
        self.top = 0
        self.filter = ""
        self._height = max(height, 1)

    @property
    def row(self) -> Row | None:
        """The row under the cursor."""
        return self.shown[self.cursor] if self.cursor < len(self.shown) else None

    def resize(self, height: int) -> None:
        """Adapt to another number of visible rows."""
        self._height = max(height, 1)
        self._reveal()

    def set_rows(self, rows: Sequence[Row], name: bytes = b"") -> None:
        """Show other rows, with the cursor on `name`, or the first."""
        self.rows = rows
        self._choose(name)

    def set_filter(self, text: str) -> None:
        """Show only names that contain `text`; the cursor stays on its row if that is shown."""
        row = self.row
        self.filter = text
        self._choose(row.name if row else b"")

    def move(self, key: str) -> bool:
        """Move the cursor; return whether it has moved."""
        page = max(self._height - 1, 1)
        to = {
            "up": self.cursor - 1,
            "down": self.cursor + 1,
            "pageup": self.cursor - page,
            "pagedown": self.cursor + page,
            "home": 0,
            "end": len(self.shown) - 1,
        }
        return self.move_to(to[key])

    def move_to(self, index: int) -> bool:
        """Put the cursor on a row, the last one at most; return whether it has moved."""
        index = max(0, min(index, len(self.shown) - 1))
        moved = index != self.cursor
        self.cursor = index
        self._reveal()
        return moved

    def _choose(self, name: bytes) -> None:
        rows = self.rows or ()
        wanted = self.filter.casefold()
        if wanted:
            rows = [row for row in rows if wanted in show(row.name).casefold()]
        self.shown = rows
        self.cursor = next((at for at, row in enumerate(rows) if row.name == name), 0)
        self._reveal()

    def _reveal(self) -> None:
        """Scroll so that the cursor is visible, and no line is left empty."""
        self.top = max(self.top, self.cursor - self._height + 1)
        self.top = max(0, min(self.top, self.cursor, len(self.shown) - self._height))
