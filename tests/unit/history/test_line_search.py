"""Searching lines in content that arrives in parts, compared with a search line by line."""

from __future__ import annotations

import random
import re

import pytest

from cesbrfs.errors import UsageError
from cesbrfs.history.line_search import LINE_BYTES, Hit, LineSearch, SearchOptions, SearchResult
from cesbrfs.history.required_literals import required_literals

_ATOMS = (
    b"a", b"b", b"ab", b".", b"a*", b"b+", b"[ab]", b"[^a]", rb"\s", rb"\w", b"(a|b)", b"(?:ab)+",
    b"^", b"$", rb"\b", b"|", b"c?", b"(?!a)", rb"\.", b"a{2}", b"b??", b"(?i:a)",
)  # fmt: skip
_TEXTS = (b"a", b"b", b"c", b" ", b"\n", b"AB", b".")


def _search(text: bytes, options: SearchOptions, step: int = 1 << 30) -> SearchResult:
    scan = LineSearch(options).scan()
    for at in range(0, len(text), step):
        scan.feed(text[at : at + step])
    scan.finish()
    return scan.take()


def _naive(text: bytes, options: SearchOptions) -> list[Hit]:
    match = LineSearch(options).match
    lines = text.split(b"\n")[: None if text[-1:] not in (b"\n", b"") else -1]
    chosen = [at for at, line in enumerate(lines) if (match(line) is None) == options.invert]
    shown: dict[int, bool] = {}
    for at in chosen[: options.max_count]:
        around = range(max(0, at - options.context), at + options.context + 1)
        for near in around:
            shown.setdefault(near, False)
        shown[at] = True
    return [
        Hit(at + 1, lines[at], selected)
        for at, selected in sorted(shown.items())
        if at < len(lines)
    ]


def test_results_are_those_of_a_search_line_by_line() -> None:
    """Neither the parts of the content nor the literals of a pattern change the result."""
    chance = random.Random(3)
    searched = 0
    for _ in range(3000):
        options = SearchOptions(
            b"".join(chance.choices(_ATOMS, k=chance.randint(0, 4))),
            fixed=chance.random() < 0.2,
            ignore_case=chance.random() < 0.3,
            words=chance.random() < 0.2,
            invert=chance.random() < 0.2,
            context=chance.choice([0, 0, 1, 2]),
            max_count=chance.choice([None, None, 1, 2]),
            numbers=True,
        )
        text = b"".join(chance.choices(_TEXTS, k=chance.randint(0, 40)))
        try:
            found = _search(text, options, chance.randint(1, 15)).hits
        except UsageError:  # such as "^*"
            continue
        assert found == _naive(text, options), (options, text)
        searched += 1
    assert searched > 2000


@pytest.mark.parametrize(
    ("pattern", "literals"),
    [
        (b"needle", [b"needle"]),
        (b"^fo.*bars$", [b"bars"]),
        (rb"\d+err\.log", [b"err.log"]),
        (b"foo|bars+", [b"foo", b"bars"]),
        (b"foo|b*", []),
        (b"(foo)", []),
        (b"(?i)foo", []),
        (b"abc*", [b"ab"]),
        (b"[abc]de(?=x|y)", [b"de"]),
    ],
)
def test_literals_of_a_pattern(pattern: bytes, literals: list[bytes]) -> None:
    """Each alternative has the longest literal without which it cannot match."""
    assert required_literals(pattern) == literals


def test_binary_content_has_no_lines() -> None:
    """A null byte at the beginning, or in a line that matches, makes content binary."""
    text = b"x" * 40_000 + b"\none\n\0two\n"
    assert _search(b"\0\none\n", SearchOptions(b"one")) == SearchResult(1, binary=True)
    found = _search(text, SearchOptions(b"one|two"))
    assert found == SearchResult(2, binary=True, hits=[Hit(0, b"one")])
    assert len(_search(text, SearchOptions(b"one|two", text=True)).hits) == 2
    assert _search(text, SearchOptions(b"one|two", output="count")).count == 2
    assert _search(text, SearchOptions(b"o", output="files")).count == 1


def test_long_lines_are_searched_in_pieces() -> None:
    """The pieces do not depend on the parts of the content, and share a line number."""
    text = b"a\n" + b"x" * (2 * LINE_BYTES) + b"end\nend\n"
    options = SearchOptions(b"^x|end", numbers=True)
    whole = _search(text, options)
    assert [hit.number for hit in whole.hits] == [2, 2, 2, 3]
    assert _search(text, options, 300_001) == whole
    assert re.fullmatch(b"x{1024}end|end|x{4096}", whole.hits[2].text)
