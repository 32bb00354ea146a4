"""Tables that fit the terminal they are shown on.  Pure.

Without a terminal (`available` is None) columns are as wide as their content. On a terminal nothing
is cut off without a sign: the last column continues on further lines, and optional columns are
left out with their headings.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Final, Literal, NamedTuple

from cesbr.ui import humanize
from cesbrfs.util.escape import printable

_GAP: Final = 2
"""Cells between two columns, as `render.table` has them."""
_LEAST: Final = 20
"""Minimum width of a last column next to the others, if its content needs it."""
_LEAST_CUT: Final = 5
"""Cells that are left of it where it is cut."""
_BELOW: Final = "    "
"""What the last column begins with where it stands below the others."""
_PIECES: Final = re.compile(r"/*[^ /]+/?| +|/+")
"""A line is broken after blanks and slashes, and within a word only where that is too long."""


class Column(NamedTuple):
    """A column; of those with a `spare`, the one with the highest is left out first."""

    heading: str
    cells: Sequence[str]
    right: bool = False
    spare: int = 0


def fitted(
    rows: Sequence[Sequence[str]],
    headings: Sequence[str],
    available: int | None,
    *,
    right: Container[str] = (),
    spare: Sequence[str] = (),
    last: Literal["fold", "cut", "keep"] = "fold",
    headed: bool = True,
) -> str:
    """Return rows as lines of at most `available` cells, if that can be done.

    The columns with the headings in `right` are right-aligned; those in `spare` are optional and
    left out in this order. A `last` column that does not fit continues on further lines, or is
    printed below; with `cut`, an ellipsis marks the missing part, and with `keep`, other columns
    are left out first. The headings are shown if `headed`.
    """
    shown = [[printable(cell) for cell in row] for row in rows]
    cells = list(zip(*shown, strict=True)) or [()] * len(headings)
    order = {heading: len(spare) - number for number, heading in enumerate(spare)}
    columns = [
        Column(heading, column, heading in right, order.get(heading, 0))
        for heading, column in zip(headings, cells, strict=True)
    ]
    headed = headed and any(headings)
    if available is None or _wide(columns) <= available:
        return plain(columns, headed=headed)
    if last == "keep" and _wide(fewer := spared(columns, available)) <= available:
        return plain(fewer, headed=headed)
    if last == "cut":
        return plain(spared(columns, available, _LEAST_CUT), available, headed=headed)
    *others, end = columns
    room = available - _wide(others) - _GAP
    if room >= min(_cells(end), _LEAST):
        return _beside(others, end, room, headed=headed)
    return _below(spared(others, available), end, available, headed=headed)


def spared(columns: Iterable[Column], available: int, least: int | None = None) -> list[Column]:
    """Return the columns without those that have to be left out to fit into `available` cells.

    The last one may be cut to its `least` cells.
    """
    shown = list(columns)
    end = shown[-1]
    cuttable = 0 if least is None else max(0, _cells(end) - least)
    while _wide(shown) - cuttable * (shown[-1] is end) > available:
        sparest = max(shown, key=lambda column: column.spare)
        if not sparest.spare:
            break
        shown.remove(sparest)
    return shown


def pairs(rows: Iterable[tuple[str, str]], available: int | None) -> str:
    """Return names and their meanings, one or more lines each."""
    listed = list(rows)
    return fitted(listed, ("", ""), available) if listed else ""


def fold(text: str, cells: int) -> list[str]:
    """Return `text` in lines of at most `cells`, broken where a path or a sentence may be."""
    lines = [""]
    for piece in _PIECES.findall(text):
        rest = piece
        if lines[-1] and humanize.width(lines[-1] + rest.rstrip()) > cells:
            lines.append("")
        while humanize.width(rest.rstrip()) > cells:
            head = rest[:1]
            while humanize.width(head + rest[len(head)]) <= cells:
                head += rest[len(head)]
            lines[-1] = head
            lines.append("")
            rest = rest[len(head) :]
        lines[-1] += rest
    return [line.rstrip() for line in lines]


def hanging(before: str, text: str, available: int | None) -> str:
    """Return `before` and `text` as lines, those that follow the first one indented like `text`."""
    before, text = printable(before), printable(text)
    indent = humanize.width(before)
    if available is None or available - indent < _LEAST:
        return f"{before}{text}\n"
    folded = fold(text, available - indent)
    return f"{before}" + f"\n{' ' * indent}".join(folded) + "\n"


def _cells(column: Column) -> int:
    return max(map(humanize.width, (column.heading, *column.cells)))


def _wide(columns: Sequence[Column]) -> int:
    return sum(map(_cells, columns)) + _GAP * (len(columns) - 1)


def plain(columns: Sequence[Column], limit: int | None = None, *, headed: bool = False) -> str:
    """Return columns as lines, at most `limit` cells wide, with their headings if `headed`."""
    return humanize.table(
        list(zip(*(column.cells for column in columns), strict=True)),
        [column.heading for column in columns] if headed else None,
        {number for number, column in enumerate(columns) if column.right},
        limit,
    )


def _apart(others: Sequence[Column], last: Column, *, headed: bool) -> Iterator[tuple[str, str]]:
    """Yield the lines of all columns but the last one, each with what the last one holds there."""
    lines = plain(others, headed=headed).splitlines()
    return zip(lines, [last.heading, *last.cells] if headed else last.cells, strict=True)


def _beside(others: Sequence[Column], last: Column, room: int, *, headed: bool) -> str:
    indent = _wide(others) + _GAP
    text = ""
    for line, cell in _apart(others, last, headed=headed):
        first, *more = fold(cell, room)
        text += f"{line + ' ' * (indent - humanize.width(line))}{first}".rstrip() + "\n"
        text += "".join(f"{' ' * indent}{folded}\n" for folded in more)
    return text


def _below(others: Sequence[Column], last: Column, available: int, *, headed: bool) -> str:
    text = ""
    for line, cell in _apart(others, last, headed=headed):
        text += f"{line}\n"
        if cell:
            text += "".join(f"{_BELOW}{f}\n" for f in fold(cell, available - len(_BELOW)))
    return text
