"""Fit text into cells of a terminal.  Pure.

Everything that the browser shows goes through here, so control characters never reach the terminal.
"""

from __future__ import annotations

from typing import Final

from prompt_toolkit.utils import get_cwidth

from cesbrfs.util.escape import printable

_JOINER: Final = "\u200d"
"""Joins emoji, so that a terminal may need fewer cells for them than the browser counts."""


def escape(text: str) -> str:
    """Return `text` as a terminal may get it, in one line."""
    return printable(text).replace(_JOINER, "\\xe2\\x80\\x8d")


def width(text: str) -> int:
    """Return the number of cells of escaped text."""
    return len(text) if text.isascii() else sum(map(get_cwidth, text))


def fit(text: str, cells: int, *, right: bool = False) -> str:
    """Return `text` escaped and with exactly this number of cells, cut or padded."""
    if cells <= 0:
        return ""
    shown = escape(text[: cells * 4])
    used = width(shown)
    if used > cells or len(text) > cells * 4:
        shown = _head(shown, cells - 1) + "…"
        used = width(shown)
    padding = " " * (cells - used)
    return padding + shown if right else shown + padding


def wrap(text: str, cells: int) -> list[str]:
    """Return `text` escaped, in lines of at most this number of cells."""
    shown = escape(text)
    if width(shown) <= cells:
        return [shown]
    lines = []
    while shown:
        head = _head(shown, cells) or shown[:1]
        lines.append(head)
        shown = shown[len(head) :]
    return lines


def _head(text: str, cells: int) -> str:
    """Return as much of the beginning of `text` as has room."""
    if text.isascii():
        return text[: max(cells, 0)]
    used = 0
    for at, character in enumerate(text):
        used += get_cwidth(character)
        if used > cells:
            return text[:at]
    return text
