"""Parse a line that is still being typed, and find what its last word is a value of."""

from __future__ import annotations

import argparse
import shlex

import pytest
from cesbr.completion.parse import asked, split
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)))
def test_quoted_words_are_read_back(words: list[str]) -> None:
    """Words are parsed as in a shell; a trailing blank starts a new word."""
    assert split(shlex.join([*words, ""])) == [*words, ""]
    assert split(shlex.join(["x", *words]) + " ") == ["x", *words, ""]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("cesbr ls 'a b", ["cesbr", "ls", "a b"]),
        ('cesbr ls "a \\"b\\$c\\d', ["cesbr", "ls", 'a "b$c\\d']),
        ("cesbr ls a\\ b\\", ["cesbr", "ls", "a b"]),
        ("cesbr  ls\t", ["cesbr", "ls", ""]),
        ("ls a'b c'\"d e\"f", ["ls", "ab cd ef"]),
        ("ls $HOME `x", ["ls", "$HOME", "`x"]),
        ("ls >fi", ["ls", ">fi"]),
        ("ls x> fi", ["ls", "x", ">fi"]),
        ("ls > fi x", ["ls", ">fi", "x"]),
        ("", [""]),
    ],
)
def test_unfinished_lines(line: str, words: list[str]) -> None:
    """Open quotes, escapes, redirections, and expansions that only the shell can do."""
    assert split(line) == words


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-L", "--level", metavar="N")
    parser.add_argument("-l", "--long", action="store_true")
    parser.add_argument("--backup", metavar="ID")
    parser.add_argument("first", metavar="ONE")
    parser.add_argument("rest", metavar="MORE", nargs="*")
    return parser


@pytest.mark.parametrize(
    ("words", "metavar", "typed", "given_before"),
    [
        ([""], "ONE", "", {}),
        (["a", ""], "MORE", "", {}),
        (["a", "b", "c", "d"], "MORE", "d", {}),
        (["--backup", "x"], "ID", "x", {}),
        (["--backup=x"], "ID", "x", {}),
        (["--backup", "x", ""], "ONE", "", {"backup": "x"}),
        (["--backup=x", "a", "b"], "MORE", "b", {"backup": "x"}),
        (["-L", "2"], "N", "2", {}),
        (["-lL", "2"], "N", "2", {}),
        (["-lL2", "a"], "ONE", "a", {"level": "2"}),
        (["--long", "--nonsense", "-", "b"], "MORE", "b", {}),
        (["--", "--backup", "x"], "MORE", "x", {}),
        (["--backup", "--", ""], "ONE", "", {"backup": "--"}),
    ],
)
def test_what_the_last_word_is_about(
    words: list[str], metavar: str, typed: str, given_before: dict[str, str]
) -> None:
    """The option or argument it is a value of, and the preceding option values."""
    found = asked(_parser(), words)
    assert found.action is not None
    assert (found.action.metavar, found.typed, found.given) == (metavar, typed, given_before)
    assert words[-1] == found.before + typed


def test_nothing_is_left() -> None:
    """After all arguments are given, and for an unknown option."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("only")
    assert asked(parser, ["x", ""]).action is None
    assert asked(parser, ["--what=x"]).action is None
