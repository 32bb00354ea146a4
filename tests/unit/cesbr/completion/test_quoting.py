"""Quotes at the prompt."""

from __future__ import annotations

import pytest
from cesbr.completion.quoting import around_words


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("find --name='a b*'", 'find "--name=a b*"'),
        ('ls latest/"my directory"/it\'s', 'ls latest/"my directory"/it\'s'),
        ('ls latest/"my directory"/x', 'ls "latest/my directory/x"'),
        ("ls 'my directory'/x | grep 'a b'", 'ls "my directory/x" | grep "a b"'),
        ("cat a/'say \"hi\"'|cat", "cat 'a/say \"hi\"'|cat"),
        ("cat it's that's", "cat it's that's"),
        ("""cat x/"it's" 'a "b"'""", """cat "x/it's" 'a "b"'"""),
        ("""cat x/"it's"'"'""", """cat x/"it's"'"'"""),
        ("ls > x/'a b'", 'ls > "x/a b"'),
        ('cat \'open x/"a b"', 'cat \'open x/"a b"'),
        ("echo ''", 'echo ""'),
        ("", ""),
    ],
)
def test_quotes_go_around_words(typed: str, meant: str) -> None:
    """A quote can open inside a word, as in a shell; an unbalanced one is literal."""
    assert around_words(typed) == meant
