r"""Names of files as text and back.  Pure.

A name is bytes.  Shown to people it is its UTF-8 text, with a backslash escape for what a terminal
must not get: ``\n \t \r \a \b \f \v \\``, and ``\xNN`` for other control characters and for bytes
that are not UTF-8.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Mapping
from typing import Final

_SHORT: Final[Mapping[str, str]] = {
    "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r",
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\v": "\\v",
}  # fmt: skip
_BACK: Final[Mapping[str, bytes]] = {shown[1]: raw.encode() for raw, shown in _SHORT.items()}
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_UNSHOWN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories that would move the cursor, reorder the line or show nothing at all."""


def show(name: bytes) -> str:
    """Return `name` as people see it: its text, escaped where a terminal could be misled."""
    text = name.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if unprintable(character):
        raw = character.encode("utf-8", "surrogateescape")
        return "".join(f"\\x{byte:02x}" for byte in raw)
    return character


def unprintable(character: str) -> bool:
    """Check whether a terminal must not get `character`."""
    # U+200D joins the parts of one emoji; without it they would fall apart.
    return unicodedata.category(character) in _UNSHOWN and character != "\u200d"


def printable(text: str) -> str:
    """Escape what a terminal must not get in `text`, which may be escaped already.

    Like `show`, but backslashes stay: for text that is made of names and of words, such as a
    message or a cell of a table.  The result is one line.
    """
    if text.isprintable():
        return text
    return "".join(char if char == "\\" else _shown(char) for char in text)


def printable_lines(text: str) -> str:
    """Escape what a terminal must not get in several lines, as `printable` does."""
    if text.replace("\n", "").isprintable():
        return text
    return "\n".join(map(printable, text.split("\n")))


def unshow(text: str) -> bytes | None:
    """Undo `show`; None when `text` holds a backslash that begins no escape."""
    parts: list[bytes] = []
    end = 0
    for match in _ESCAPE.finditer(text):
        parts.append(text[end : match.start()].encode("utf-8", "surrogateescape"))
        end = match.end()
        byte, simple = match.groups()
        if byte:
            parts.append(bytes((int(byte, 16),)))
        elif simple in _BACK:
            parts.append(_BACK[simple])
        else:
            return None
    rest = text[end:]
    if "\\" in rest:
        return None
    parts.append(rest.encode("utf-8", "surrogateescape"))
    return b"".join(parts)


def for_json(name: bytes, key: str = "name") -> dict[str, str]:
    """Return a name's JSON fields: its text, or its escaped form with the bytes beside."""
    try:
        return {key: name.decode()}
    except UnicodeDecodeError:
        return {key: show(name), f"{key}_b64": base64.b64encode(name).decode()}
