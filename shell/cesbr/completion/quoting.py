"""Quotes that open within a word, which cmd2 takes for letters.  Pure."""

from __future__ import annotations

import re
from typing import Final

_QUOTED: Final = r"""(?:"[^"]*"|'[^']*')"""
_TOKEN: Final = re.compile(
    rf"""(?P<quoted>(?:[^\s"'|>]*[=/])?{_QUOTED}(?:{_QUOTED}|[^\s"'|>])*)(?=[\s|>]|\Z)
    | [^\s"'|>][^\s|>]* | [\s|>]+""",
    re.VERBOSE,
)
_PIECE: Final = re.compile(r""""([^"]*)"|'([^']*)'|([^"']+)""")


def around_words(line: str) -> str:
    """Return `line` with quotes around whole words: ``--name='a b'`` becomes ``"--name=a b"``.

    That goes for a quote that opens at a word's begin, or after ``=`` or ``/``; in ``it's`` it is a
    letter.  A line with a quote left open is returned as it is.
    """
    words, place = [], 0
    while place < len(line):
        token = _TOKEN.match(line, place)
        if token is None:
            return line
        words.append(_whole(token[0]) if token["quoted"] else token[0])
        place = token.end()
    return "".join(words)


def _whole(word: str) -> str:
    """Return the quoted word with one pair of quotes, if any is left for that."""
    text = "".join("".join(pieces) for pieces in _PIECE.findall(word))
    quote = next((quote for quote in "\"'" if quote not in text), None)
    return word if quote is None else f"{quote}{text}{quote}"
