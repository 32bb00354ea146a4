"""Convert terminal output with SGR colours to plain text and SVG. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from xml.sax.saxutils import escape

_SEQUENCE: Final = re.compile(r"\x1b\[([\d;]*)m")
_WIDTH: Final = 8.4
_HEIGHT: Final = 18
_MARGIN: Final = 16
_GROUND: Final = "#1c2128"
_INK: Final = "#d0d7de"
_FAINT: Final = "#8b949e"
_LOOK: Final = (
    "text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
    "white-space:pre}.b{font-weight:bold}.u{text-decoration:underline}"
)
_COLOURS: Final = (
    "#6e7681", "#ff7b72", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#76e3ea", "#d0d7de",
    "#8b949e", "#ffa198", "#7ee787", "#f2cc60", "#a5d6ff", "#e2c5ff", "#b3f0ff", "#ffffff",
)  # fmt: skip
"""The 16 terminal colours, all readable on `_GROUND`."""

_CHANGES: Final[Mapping[int, Mapping[str, Any]]] = {
    1: {"bold": True}, 2: {"colour": _FAINT}, 4: {"underlined": True}, 7: {"reverse": True},
    27: {"reverse": False}, 39: {"colour": _INK},
}  # fmt: skip
"""What SGR codes change in a style."""


@dataclass(frozen=True, slots=True)
class Style:
    """Style of a part of a line."""

    colour: str = _INK
    bold: bool = False
    underlined: bool = False
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Characters of one style, and their first column."""

    text: str
    style: Style
    column: int


def plain(line: str) -> str:
    """Return a line without SGR sequences."""
    return _SEQUENCE.sub("", line).rstrip()


def runs(line: str) -> Iterator[Run]:
    """Parse a line with SGR sequences, as printed by ``tmux capture-pane -e``."""
    style, column = Style(), 0
    for number, piece in enumerate(_SEQUENCE.split(line)):
        if number % 2:
            style = _styled(style, piece)
        elif piece:
            yield Run(piece, style, column)
            column += width(piece)


def width(text: str) -> int:
    """Return the width of a text in cells."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _styled(style: Style, parameters: str) -> Style:
    """Return the style after an SGR sequence."""
    codes = iter([int(code or 0) for code in parameters.split(";")])
    for code in codes:
        if code == 0:
            style = Style()
        elif code in _CHANGES:
            style = replace(style, **_CHANGES[code])
        elif 30 <= code <= 37:
            style = replace(style, colour=_COLOURS[code - 30])
        elif 90 <= code <= 97:
            style = replace(style, colour=_COLOURS[code - 82])
        elif code == 38 and next(codes, 0) == 5:
            style = replace(style, colour=_COLOURS[next(codes, 7) % 16])
    return style


def picture(lines: Sequence[str], title: str) -> str:
    """Return the lines as SVG, with a background and the viewer's monospace font."""
    columns = max((width(plain(line)) for line in lines), default=0)
    across = round(columns * _WIDTH + 2 * _MARGIN)
    down = len(lines) * _HEIGHT + 2 * _MARGIN
    size = f'viewBox="0 0 {across} {down}" width="{across}" height="{down}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_LOOK}</style>",
        f'<rect width="{across}" height="{down}" rx="8" fill="{_GROUND}" stroke="#57606a"/>',
    ]
    for number, line in enumerate(lines):
        y = _MARGIN + (number + 1) * _HEIGHT - 5
        parts += [_background(run, y) for run in runs(line) if run.style.reverse]
        parts += [_text(run, y) for run in runs(line) if run.text.strip()]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _background(run: Run, y: int) -> str:
    """Return the background of a run in reverse video."""
    x = _MARGIN + run.column * _WIDTH
    return (
        f'<rect x="{x:.1f}" y="{y - _HEIGHT + 5}" width="{width(run.text) * _WIDTH:.1f}"'
        f' height="{_HEIGHT}" fill="{run.style.colour}"/>'
    )


def _text(run: Run, y: int) -> str:
    """Return a run as SVG, with textLength set so that columns align in any font."""
    text = run.text.rstrip()
    blank = len(text) - len(text.lstrip())
    text = text[blank:]
    x = _MARGIN + (run.column + blank) * _WIDTH
    classes = " ".join(["b"] * run.style.bold + ["u"] * run.style.underlined)
    marked = f' class="{classes}"' if classes else ""
    length = f' textLength="{width(text) * _WIDTH:.1f}" lengthAdjust="spacingAndGlyphs"'
    colour = _GROUND if run.style.reverse else run.style.colour
    return (
        f'<text x="{x:.1f}" y="{y}" fill="{colour}"{marked}{length}'
        f' xml:space="preserve">{escape(text)}</text>'
    )
