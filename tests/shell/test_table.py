"""Tables on terminals of different widths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cesbr.ui.table import fitted, fold, hanging, pairs

from tests.shell.conftest import Cesbr
from tests.shell.terminal import Terminal, terminal

FILES = "redmine/volumes/files"
_HEADINGS = ("Size", "Files", "Path")
_ROWS = [
    ("8.0 MiB", "1,137", "/20261122T213000Z-7f3a9c/redmine/a name with blanks in it.txt"),
    ("16 KiB", "9", "/字字字字字字字字字字字字字字字字"),
]


def _table(available: int | None) -> list[str]:
    text = fitted(_ROWS, _HEADINGS, available, right=("Size", "Files"), spare=("Files",))
    return text.splitlines()


def test_the_last_column_goes_on_below_itself() -> None:
    """It breaks after slashes and blanks, without losing characters."""
    assert _table(50) == [
        "   Size  Files  Path",
        "8.0 MiB  1,137  /20261122T213000Z-7f3a9c/redmine/a",
        "                name with blanks in it.txt",
        " 16 KiB      9  /字字字字字字字字字字字字字字字字",
    ]


def test_it_stands_below_the_others_where_there_is_no_room() -> None:
    """One line for the short columns, the path indented below."""
    assert _table(30) == [
        "   Size  Files",
        "    Path",
        "8.0 MiB  1,137",
        "    /20261122T213000Z-7f3a9c/",
        "    redmine/a name with blanks",
        "    in it.txt",
        " 16 KiB      9",
        "    /字字字字字字字字字字字字",
        "    字字字字",
    ]
    assert _table(12)[:2] == ["   Size", "    Path"]


@pytest.mark.parametrize("width", [8, 9, 13, 20, 27, 28, 36, 37, 50, 79])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """Every character of every path is printed, whatever the width."""
    lines = _table(width)
    assert max(len(line) + sum(c == "字" for c in line) for line in lines) <= width
    for _, _, path in _ROWS:
        assert re.sub(r"\s", "", path) in re.sub(r"\s", "", "".join(lines)).replace("16KiB", "")


def test_off_a_terminal_lines_are_as_long_as_they_are() -> None:
    """In files and pipes each row is one line."""
    assert len(_table(None)) == 3


def test_columns_are_left_out_in_their_order() -> None:
    """With `keep`, optional columns are dropped before the last column moves."""
    rows = [("12345", "abcdefgh", "123456", "newest, live"), ("12345", "abcdefgh", "123456", "")]

    def lines(available: int) -> list[str]:
        return fitted(
            rows, ("A", "B", "C", ""), available, spare=("C", "A"), last="keep"
        ).splitlines()

    assert lines(40)[1] == "12345  abcdefgh  123456  newest, live"
    assert lines(30)[1] == "12345  abcdefgh  newest, live"
    assert lines(25)[1] == "abcdefgh  newest, live"
    assert lines(20) == [
        "A      B",
        "12345  abcdefgh",
        "    newest, live",
        "12345  abcdefgh",
    ]


def test_folding() -> None:
    """Long words are broken at the line end; trailing blanks are removed."""
    assert fold("one two three", 7) == ["one two", "three"]
    assert fold("a/bcdefghij", 4) == ["a/", "bcde", "fghi", "j"]
    assert fold("", 4) == [""]
    assert hanging("M  ", "redmine/volumes/files/x", 24) == "M  redmine/volumes/\n   files/x\n"
    assert hanging("M  ", "redmine/volumes", None) == "M  redmine/volumes\n"
    assert pairs([("To:", "one two three four five six"), ("", "7")], 26) == (
        "To:  one two three four\n     five six\n     7\n"
    )
    assert pairs([], 26) == ""


@pytest.fixture
def prompt(kept: Cesbr, tmp_path: Path) -> Iterator[Terminal]:
    """The prompt on the backups that are shared by read-only tests."""
    with terminal(kept, tmp_path) as made:
        made.wait_for_prompt()
        made.line(f"select /latest/{FILES}/hello.txt")
        made.wait_for(r"^Selected 1 path\.")
        yield made


_LISTINGS = {
    f"du /latest/{FILES}": ("Adds", "sub"),
    f"versions {FILES}/hello.txt": ("newest",),
    f"log {FILES}": ("appeared", "M  "),
    "find --name binary": ("#", "binary"),
    "backups": ("complete",),
    "selected": ("hello.txt",),
    "plan": ("Replaced", "hello.txt"),
    "diff latest live redmine/volumes": (),
    "policies": ("keepLastSevenDays",),
    "forget --keep-last 1 -n": ("keep", "newest complete"),
    "status": ("patience", "(default)"),
    f"stat /latest/{FILES}/hello.txt": ("Modified:",),
    f"ls -l /latest/{FILES}/sub": ("60000", "binary"),
    "help": ("versions", "run_script"),
}


@pytest.mark.parametrize("width", [40, 60])
def test_narrow_terminals_wrap_nothing(prompt: Terminal, width: int) -> None:
    """Every listing fits on a narrow terminal, with all options."""
    prompt.resize(width, 160)
    for command, shown in _LISTINGS.items():
        prompt.keys("C-l")
        prompt.wait_for(r"\Acesbr>\Z")
        prompt.line(command)
        prompt.wait_for(r"\Acesbr> (.*\n)+cesbr>\Z")
        said = prompt.lines()[1:]
        text = "".join(line.strip() for line in said)
        assert not [word for word in shown if word not in text], (command, said)
        assert max(map(len, said)) <= width, (command, said)
