"""The lines of the screen, from the state of the browser.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from cesbr.browser.cells import escape, fit, width
from cesbr.browser.layout import LEAST_COLUMNS, LEAST_LINES, Area
from cesbr.browser.messages import Plan, Row
from cesbr.browser.model import Browser
from cesbr.browser.pane import Pane
from cesbr.ui import humanize
from cesbrfs.util.escape import show

Fragments = list[tuple[str, str]]
"""A line: pieces of text, each after its style."""

READING: Final = "reading…"
STYLE: Final[Mapping[str, str]] = {
    "bar": "reverse",
    "keys": "reverse",
    "cursor": "reverse",
    "behind": "underline",
    "dir": "bold ansiblue",
    "symlink": "ansicyan",
    "exec": "ansigreen",
    "other": "ansiyellow",
    "selected": "bold ansiyellow",
    "title": "bold",
    "faint": "ansibrightblack",
    "added": "ansigreen",
    "removed": "ansired",
    "hunk": "ansicyan",
    "error": "bold ansired",
    "message": "bold",
}
_MARKS: Final = {"selected": "* ", "inside": "+ ", "": "  "}
_MINUTE: Final = len("2026-11-28 07:15")
"""Characters of a time without its seconds."""
_TIME_CELLS, _SIZE_CELLS = 2 + _MINUTE, 11
_NAME_CELLS: Final = 20
"""Cells that names have before sizes and times are shown."""
_STATUS_CELLS: Final = 8
_ANY_X: Final = 0o111
_HINTS: Final = (
    "Enter open", "← up", "Space select", "v versions", "d diff", "p preview", "/ filter",
    "r restore", "? help", "q quit",
)  # fmt: skip
_LEFT_OUT: Final = (1, 5, 0, 6, 4, 3, 2, 7)
"""Which hints are left out first where there is no room."""


def draw(browser: Browser) -> list[Fragments]:
    """Return as many lines as the terminal has, each as wide as it is."""
    layout = browser.layout
    if layout.is_too_small:
        text = f"Too small: needs {LEAST_COLUMNS}x{LEAST_LINES}"
        lines = [[("", fit(text, layout.columns))]]
        return lines + [[("", fit("", layout.columns))] for _ in range(layout.lines - 1)]
    if browser.page is not None:
        body = _page(browser, browser.page)
    elif layout.is_side_by_side:
        body = [
            [*left, ("class:faint", "│"), *right]
            for left, right in zip(_list(browser), _details(browser), strict=True)
        ]
    else:
        between = [[("class:faint", "─" * layout.columns)]]
        body = [*_list(browser), *between, *_details(browser)]
    return [_header(browser), *body, _message(browser), _keys(browser)]


def _header(browser: Browser) -> Fragments:
    columns = browser.layout.columns
    count = len(browser.selected)
    right = f" {humanize.count(count, 'path')} selected " if count else " "
    room = columns - len(right)
    path = escape("/" + "/".join(map(show, browser.place)))
    if browser.page is not None:
        path = _title(browser.plan)
    while width(path) > room - 1 and "/" in path[2:]:  # the end says most
        path = "…/" + path.removeprefix("…/").lstrip("/").partition("/")[2]
    return [("class:bar", fit(f" {path}", room) + right)]


def _title(plan: Plan | None) -> str:
    """Return the title of a page."""
    if plan is None:
        return "Keys"
    where = "to their original location" if plan.in_place else "to a new directory"
    return f"Plan: restore the selected paths {where}"


def _message(browser: Browser) -> Fragments:
    columns = browser.layout.columns
    if browser.message:
        return [("class:message", fit(browser.message, columns))]
    if browser.problem:
        return [("class:error", fit(browser.problem, columns))]
    if browser.is_typing:
        return [("class:message", fit(f"Filter: {browser.list.filter}_", columns))]
    if browser.page is not None:
        return [("", fit("", columns))]
    found = len(browser.list.shown)
    text = "" if browser.list.rows is None else humanize.count(found, "entry", "entries")
    if not browser.place and browser.list.rows is not None:
        text = humanize.count(sum(map(_is_backup, browser.list.shown)), "backup")
    if browser.list.filter:
        total = len(browser.list.rows or ())
        text = f"Filter: {browser.list.filter} ({text} of {total:,}, Esc shows all)"
    return [("class:faint", fit(text, columns))]


def _keys(browser: Browser) -> Fragments:
    columns = browser.layout.columns
    hints: Sequence[str] = _HINTS
    if browser.plan is not None:
        other = "to a new directory" if browser.plan.in_place else "to the original location"
        run = ["Enter restore (asks first)"] if browser.is_planned else []
        hints = [*run, f"i {other}", "Esc back"]
    elif browser.page is not None:
        hints = ("↑ ↓ scroll", "Esc back")
    elif browser.is_typing:
        hints = ("Enter keep the filter", "Esc show all")
    elif browser.in_details:
        opens = browser.details.target is not None
        hints = ("↑ ↓ scroll", *(["Enter go there", "Space select"] if opens else []), "← list",
                 "v versions", "d diff", "p preview", "? help", "q quit")  # fmt: skip
    else:
        out: set[int] = set()
        for number in _LEFT_OUT:
            if sum(width(h) + 2 for h in hints) <= columns:
                break
            out.add(number)
            hints = [hint for at, hint in enumerate(_HINTS) if at not in out]
    return [("class:keys", fit(" " + "  ".join(hints), columns))]


# The list


def _list(browser: Browser) -> list[Fragments]:
    area = browser.layout.list
    lines: list[Fragments] = []
    if browser.list.rows is None:
        lines.append([("class:faint", fit(f"  {READING}", area.width))])
    elif not browser.list.shown:
        text = "no entry matches the filter" if browser.list.filter else "empty"
        if browser.problem:
            text = "cannot be read"
        lines.append([("class:faint", fit(f"  {text}", area.width))])
    for index in range(
        browser.list.top, min(browser.list.top + area.height, len(browser.list.shown))
    ):
        row = browser.list.shown[index]
        pieces = _row(browser, row, area.width)
        if index == browser.list.cursor:
            pieces = [(_under_cursor(browser, style), text) for style, text in pieces]
        lines.append(pieces)
    return _filled(lines, area)


def _under_cursor(browser: Browser, style: str) -> str:
    """Return the style of a piece of the row under the cursor, of one colour if it has the keys."""
    if browser.in_details:
        return f"{style} class:behind"
    return f"{style} class:cursor" if style == "class:selected" else "class:cursor"


def _row(browser: Browser, row: Row, cells: int) -> Fragments:
    mark = browser.mark(row.name)
    style = "class:selected" if mark else f"class:{_kind(row)}"
    begin = (style, _MARKS[mark])
    room = cells - len(_MARKS[mark])
    if not browser.place and _is_backup(row):
        return [begin, *_backup(browser, row, room, style)]
    name = show(row.name) + "/" * row.is_directory
    tail = ""
    if room - _TIME_CELLS - _SIZE_CELLS >= _NAME_CELLS:
        time = "" if row.mtime_ns is None else humanize.local_time(row.mtime_ns)
        tail = "  " + fit(time[:_MINUTE], _TIME_CELLS - 2)
    if room - len(tail) - _SIZE_CELLS >= _NAME_CELLS:
        size = humanize.size(row.size) if row.type == "file" else _SHORT.get(row.type, row.type)
        tail = fit(size, _SIZE_CELLS, right=True) + tail
    return [begin, (style, fit(name, room - len(tail))), ("class:faint", tail)]


_SHORT: Final = {"dir": "", "symlink": "link"}


def _is_backup(row: Row) -> bool:
    """Return whether a row of the root is a backup; the directory of snapshots has no time."""
    return row.mtime_ns is not None


def _backup(browser: Browser, row: Row, room: int, style: str) -> Fragments:
    assert row.mtime_ns is not None
    time = humanize.local_time(row.mtime_ns)[:_MINUTE] + "  "
    info = browser.backups.get(row.name)
    status, dogus = (info.status, info.dogus) if info else ("…", "")
    name = show(row.name)
    rest = room - len(time) - len(name) - 2
    if rest < _STATUS_CELLS:
        return [(style, fit(time + name, room))]
    tail = fit(f"{status}  {dogus}" if rest > width(status) + 2 else status, rest)
    return [(style, time + fit(name, len(name)) + "  "), ("class:faint", tail)]


def _kind(row: Row) -> str:
    if row.type == "file":
        return "exec" if row.mode & _ANY_X else ""
    return row.type if row.type in ("dir", "symlink") else "other"


# Panes


def _details(browser: Browser) -> list[Fragments]:
    return _pane(browser.details, browser.layout.details, has_focus=browser.in_details)


def _page(browser: Browser, page: Pane) -> list[Fragments]:
    return _pane(page, browser.layout.body, has_focus=False)


def _pane(pane: Pane, area: Area, *, has_focus: bool) -> list[Fragments]:
    if pane.lines is None:
        return _filled([[("class:faint", fit(f" {READING}", area.width))]], area)
    lines: list[Fragments] = []
    for line in pane.shown(area.width - 1, area.height):
        style = f"class:{line.style}" if line.style else ""
        if has_focus and line.number == pane.cursor:
            style += " class:cursor"
        lines.append([(style, fit(f" {line.text}", area.width))])
    return _filled(lines, area)


def _filled(lines: list[Fragments], area: Area) -> list[Fragments]:
    """Return exactly as many lines as the area has."""
    missing = area.height - len(lines)
    return lines[: area.height] + [[("", " " * area.width)] for _ in range(missing)]
