r"""Escape and unescape file names for terminals and JSON. Pure.

A name is bytes. It is displayed as UTF-8 text. Control characters are escaped as
``\n \t \r \a \b \f \v \\``, all others and bytes that are not UTF-8 as ``\xNN``.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Mapping
from typing import Final

_SHORT_ESCAPES: Final[Mapping[str, str]] = {
    "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r",
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v",
}  # fmt: skip
_UNESCAPED: Final[Mapping[str, bytes]] = {
    escaped[1]: raw.encode() for raw, escaped in _SHORT_ESCAPES.items()
}
_ESCAPE_SEQUENCE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories that move the cursor, reorder the line or are invisible."""


def show(name: bytes) -> str:
    """Escape `name` for display on a terminal."""
    text = name.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_escape(character) for character in text)


def _escape(character: str) -> str:
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    if unprintable(character):
        raw = character.encode("utf-8", "surrogateescape")
        return "".join(f"\\x{byte:02x}" for byte in raw)
    return character


def unprintable(character: str) -> bool:
    """Check whether a terminal must not get `character`."""
    # U+200D joins the parts of one emoji; without it they would fall apart.
    return unicodedata.category(character) in _UNPRINTABLE and character != "\u200d"


def printable(text: str) -> str:
    """Escape what a terminal must not get in `text`, which may be escaped already.

    Like `show`, but backslashes stay: for text that is made of names and of words, such as a
    message or a cell of a table.  The result is one line.
    """
    if text.isprintable():
        return text
    return "".join(char if char == "\\" else _escape(char) for char in text)


def printable_lines(text: str) -> str:
    """Escape what a terminal must not get in several lines, as `printable` does."""
    if text.replace("\n", "").isprintable():
        return text
    return "\n".join(map(printable, text.split("\n")))


def unshow(text: str) -> bytes | None:
    """Undo `show`; return None if `text` contains an invalid escape sequence."""
    parts: list[bytes] = []
    end = 0
    for match in _ESCAPE_SEQUENCE.finditer(text):
        parts.append(text[end : match.start()].encode("utf-8", "surrogateescape"))
        end = match.end()
        byte, simple = match.groups()
        if byte:
            parts.append(bytes((int(byte, 16),)))
        elif simple in _UNESCAPED:
            parts.append(_UNESCAPED[simple])
        else:
            return None
    rest = text[end:]
    if "\\" in rest:
        return None
    parts.append(rest.encode("utf-8", "surrogateescape"))
    return b"".join(parts)


def for_json(name: bytes, key: str = "name") -> dict[str, str]:
    """Return a name as JSON fields: its text or, if not UTF-8, escaped text and base64."""
    try:
        return {key: name.decode()}
    except UnicodeDecodeError:
        return {key: show(name), f"{key}_b64": base64.b64encode(name).decode()}
