"""How things look: tables, columns, sizes, times, modes.  Pure."""

from __future__ import annotations

import stat
import time
import unicodedata
from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from cesbrfs.util import dates
from cesbrfs.util.escape import printable

if TYPE_CHECKING:
    from cesbrfs.repo.format.model import Node

_NS: Final = 1_000_000_000
_UNIT: Final = 1024
_GAP: Final = "  "


def size(count: int | None) -> str:
    """Return a number of bytes as people read it; restic's units, powers of 1024."""
    if count is None:
        return "-"
    if count < _UNIT:
        return f"{count} B"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        amount /= _UNIT
        if amount < 1000:  # noqa: PLR2004 - "1000.0 KiB" would not fit the column
            return f"{amount:.1f} {unit}"
    return f"{amount / _UNIT:.1f} PiB"


def count(number: int, one: str, many: str | None = None) -> str:
    """Return ``1 file`` or ``2,000 files``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def lines(texts: Iterable[str]) -> str:
    """Return `texts` as lines, each one line whatever it holds."""
    return "".join(f"{printable(text)}\n" for text in texts)


def local_time(time_ns: int) -> str:
    """Return a time in the local zone, to the second."""
    return dates.local_time(time_ns)


def full_time(time_ns: int) -> str:
    """Return a time in the local zone to the nanosecond, as ``stat`` of GNU shows it."""
    zone = time.strftime("%z", time.localtime(time_ns // _NS))
    return f"{local_time(time_ns)}.{time_ns % _NS:09} {zone}"


def permissions(node: Node) -> str:
    """Return a node's permission bits as an octal string, ``0644``."""
    return f"{stat.S_IMODE(node.mode):04o}"


def owner(node: Node, *, numeric: bool = False) -> tuple[str, str]:
    """Return a node's owner and group by the names that were recorded, root's always by name."""
    if numeric:
        return str(node.uid), str(node.gid)
    user = node.user or ("" if node.uid else "root")
    group = node.group or ("" if node.gid else "root")
    return printable(user) or str(node.uid), printable(group) or str(node.gid)


def width(text: str) -> int:
    """Return how many cells of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.combining(character)
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )


def table(
    rows: Sequence[Sequence[str]],
    headings: Sequence[str] | None = None,
    right: Container[int] = (),
    limit: int | None = None,
) -> str:
    """Return rows as lines with aligned columns; those numbered in `right` align to the right.

    Lines are cut to at most `limit` cells.
    """
    given = [headings, *rows] if headings else rows
    shown = [[printable(cell) for cell in row] for row in given]
    if not shown:
        return ""
    widths = [max(width(cell) for cell in column) for column in zip(*shown, strict=True)]
    text: list[str] = []
    for line in shown:
        cells = []
        for number, cell in enumerate(line):
            padding = " " * (widths[number] - width(cell))
            cells.append(padding + cell if number in right else cell + padding)
        text.append(_cut(_GAP.join(cells).rstrip(), limit) + "\n")
    return "".join(text)


def _cut(line: str, limit: int | None) -> str:
    """Return `line`, or as many of its words as fit and an ellipsis."""
    if limit is None or width(line) <= limit:
        return line
    while line and width(line) > limit - 2:
        line = line[:-1]
    return line.rpartition(" ")[0].rstrip() + " …"


def columns(names: Sequence[str], available: int, painted: Sequence[str] | None = None) -> str:
    """Return names in as many columns as fit into `available` cells, read downwards.

    `painted` are the same names in colour, whose escapes take no cells.
    """
    if not names:
        return ""
    widths = [width(name) for name in names]
    rows = _rows(widths, available)
    wide = [max(widths[at : at + rows]) for at in range(0, len(names), rows)]
    shown = painted or names
    lines = []
    for row in range(rows):
        cells = [
            shown[at] + " " * (wide[number] - widths[at])
            for number, at in enumerate(range(row, len(names), rows))
        ]
        lines.append(_GAP.join(cells).rstrip() + "\n")
    return "".join(lines)


def _rows(widths: Sequence[int], available: int) -> int:
    """Return the fewest rows in which columns of these widths fit."""
    for across in range(min(len(widths), available // (min(widths) + 1) + 1), 1, -1):
        rows = -(-len(widths) // across)
        wide = [max(widths[at : at + rows]) for at in range(0, len(widths), rows)]
        if sum(wide) + len(_GAP) * (len(wide) - 1) <= available:
            return rows
    return len(widths)


_BLOCKS: Final = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[int], available: int) -> str:
    """Return the last `available` of `values` as a row of blocks, the largest the highest."""
    shown = values[-available:] if available > 0 else []
    low, high = min(shown, default=0), max(shown, default=0)
    top = len(_BLOCKS) - 1
    return "".join(
        _BLOCKS[(value - low) * top // (high - low) if high > low else 0] for value in shown
    )


_AGES: Final = ((60, "s"), (60, "min"), (24, "h"), (7, "d"), (9, "w"))


def age(seconds: float) -> str:
    """Return how long ago something was, in one unit: ``5 min``, ``3 d``, ``14 mo``."""
    left = max(0, int(seconds))
    days = left // 86_400
    for size, unit in _AGES:
        if left < size:
            return f"{left} {unit}"
        left //= size
    months = days * 12 // 365
    return f"{months} mo" if months < 24 else f"{days // 365} y"  # noqa: PLR2004 - two years
