"""Suggest the closest match for a mistyped word ("did you mean"). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Final

_MAX_COMPARED: Final = 2000
"""Maximum number of words to compare; a directory may have millions of names."""
_MAX_LENGTH_DIFFERENCE: Final = 3
"""Maximum difference in length between a word and its match, in characters."""


def closest_match(word: str, known: Iterable[str]) -> str | None:
    """Return the word of `known` that is most similar to `word`; None if there is none."""
    folded = word.casefold()
    similar = (
        name
        for name in known
        if abs(len(name) - len(word)) <= _MAX_LENGTH_DIFFERENCE
        or name.casefold().startswith(folded)
    )
    by_folded: dict[str, str] = {}
    for name in islice(similar, _MAX_COMPARED):
        by_folded.setdefault(name.casefold(), name)
    import difflib

    found = difflib.get_close_matches(folded, by_folded, n=1)
    return by_folded[found[0]] if found else None


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the end of an error message: ``; did you mean 'ls'?`` or `otherwise`."""
    match = closest_match(word, known)
    return f"; did you mean {match!r}?" if match else otherwise
