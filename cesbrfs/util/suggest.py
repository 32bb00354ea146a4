"""The word that was perhaps meant.  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

_COMPARED: Final = 2000
"""Words that are looked at closely; a folder may have millions of names."""
_LENGTH: Final = 3
"""How much longer or shorter a word may be and still be meant."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the word of `known` that is spelt most like `word`, if one is much alike."""
    folded = word.casefold()
    alike = (
        name
        for name in known
        if abs(len(name) - len(word)) <= _LENGTH or name.casefold().startswith(folded)
    )
    by_folded: dict[str, str] = {}
    for name in islice(alike, _COMPARED):
        by_folded.setdefault(name.casefold(), name)
    import difflib

    found = difflib.get_close_matches(folded, by_folded, n=1)
    return by_folded[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return how an error's sentence goes on: ``; did you mean 'ls'?``, else `otherwise`."""
    near = nearest(word, known)
    return f"; did you mean {near!r}?" if near else otherwise
