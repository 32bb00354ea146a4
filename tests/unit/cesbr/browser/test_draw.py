"""What the browser draws: exact widths, escaped names, only what is visible."""

from __future__ import annotations

import pytest
from cesbr.browser import draw as drawing
from cesbr.browser.cells import fit, width, wrap
from cesbr.browser.draw import draw
from cesbr.browser.messages import (
    BackupInfo,
    Described,
    ListDirectory,
    Listed,
    Plan,
    Preview,
    Row,
    Selection,
    Text,
    TextLine,
    Warned,
)
from cesbr.browser.model import Browser
from cesbr.browser.texts import content, unified_diff

from tests.support.checked_shell import CONTROL

HERE = (b"backup \x1b[2J", b"redmine")
EVIL = "\x1b]0;owned\a\r\n\u202eFORGED\u200d".encode() + b"\xff"
NAMES = (b"plain", EVIL, "größer 🚀🚀 漢字".encode() * 20, "e\u0301".encode(), b"x" * 300)
SIZES = ((120, 40), (76, 24), (75, 24), (30, 8), (29, 8), (30, 3), (1, 1), (300, 100))


def browser_on(rows: list[Row], columns: int = 100, lines: int = 30) -> Browser:
    made = Browser(HERE)
    made.resize(columns, lines)
    made.receive(Listed(ListDirectory(HERE), rows))
    return made


def text(browser: Browser) -> list[str]:
    return ["".join(text for _, text in line) for line in draw(browser)]


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_every_line_has_the_width_of_the_terminal(columns: int, lines: int) -> None:
    """At every size, whatever names and contents hold, and nothing controls the terminal."""
    rows = [Row(name, kind) for name in NAMES for kind in ("dir", "file", "unknown", "fifo")]
    browser = browser_on(rows, columns, lines)
    texts = [TextLine(name.decode("utf-8", "replace")) for name in NAMES]
    browser.receive(Text(Preview((*HERE, NAMES[0])), texts))
    browser.receive(Selection([(*HERE, EVIL)]))

    def check() -> None:
        drawn = text(browser)
        assert len(drawn) == lines
        assert {width(line) for line in drawn} == {columns}
        assert not any(CONTROL.search(line) for line in drawn)
        assert "\u200d" not in "".join(drawn)

    check()
    for key in ("/", "x", "enter", "tab", "down", "?", "q", "r"):
        browser.press(key)
        check()
    browser.receive(Text(Plan(), texts))
    check()
    browser.press("q")
    browser.receive(Warned(EVIL.decode("utf-8", "replace")))
    check()
    root = Browser()
    root.resize(columns, lines)
    root.receive(Listed(ListDirectory(()), [Row(name, "dir", mtime_ns=10**18) for name in NAMES]))
    root.receive(Described({EVIL: BackupInfo("complete", "all", (texts[1],))}))
    browser = root
    check()


def test_what_is_shown() -> None:
    """The path, the list with sizes and marks, the pane, the number of entries, the keys."""
    browser = browser_on([Row(b"files", "dir"), Row(b"plan", "file", size=2048)])
    browser.receive(Text(Preview((*HERE, b"files")), [TextLine("the preview")]))
    browser.receive(Selection([(*HERE, b"plan")]))
    header, first, second, *_, message, keys = text(browser)
    assert header.startswith(" /backup \\x1b[2J/redmine ")
    assert header.endswith(" 1 path selected ")
    assert first.startswith("  files/ ")
    assert "│ the preview" in first
    assert second.startswith("* plan ")
    assert "2.0 KiB" in second
    assert message.startswith("2 entries")
    for hint in ("Enter open", "Space select", "? help", "q quit"):
        assert hint in keys


def test_reading_empty_and_unreadable_directories() -> None:
    """They look different."""
    browser = Browser(HERE)
    assert "reading…" in text(browser)[1]
    browser.receive(Listed(ListDirectory(HERE), []))
    assert "  empty" in text(browser)[1]
    browser.receive(Listed(ListDirectory(HERE), [], "Cannot read 1 entry: it is damaged."))
    assert "  cannot be read" in text(browser)[1]
    assert text(browser)[-2].startswith("Cannot read 1 entry: it is damaged.")


def test_only_visible_rows_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a directory of any size scrolls without delay."""
    browser = browser_on([Row(b"%d" % number, "file") for number in range(10_000)])
    shown: list[bytes] = []

    def show(name: bytes) -> str:
        shown.append(name)
        return name.decode()

    monkeypatch.setattr(drawing, "show", show)
    browser.press("end")
    draw(browser)
    assert b"9999" in shown
    assert len(shown) < 40


@pytest.mark.parametrize(
    ("given", "cells", "fitted"),
    [
        ("abc", 5, "abc  "),
        ("abcdef", 5, "abcd…"),
        ("漢字漢字", 5, "漢字…"),
        ("漢字漢字", 6, "漢字… "),
        ("a\tb\n", 8, "a\\tb\\n  "),
        ("abc", 0, ""),
    ],
)
def test_fit(given: str, cells: int, fitted: str) -> None:
    """Text is escaped, cut with an ellipsis, and padded."""
    assert fit(given, cells) == fitted


def test_wrap() -> None:
    """No character is lost; one that is wider than the pane gets a whole line."""
    assert wrap("abcdef", 4) == ["abcd", "ef"]
    assert wrap("漢字漢", 4) == ["漢字", "漢"]
    assert wrap("漢字", 1) == ["漢", "字"]
    assert wrap("", 4) == [""]


def test_content() -> None:
    """Text by lines, binary as hex, and how much more there is."""
    assert [line.text for line in content(b"a\tb\r\nc\n", 7)] == ["a       b", "c"]
    assert content(b"", 0)[0].text == "The file is empty."
    (line,) = content(b"\x00\x01ABCDEF", 8)
    assert line.text == "00000000  00 01 41 42 43 44 45 46  ..ABCDEF"
    assert content(b"begin\n", 2006)[-1].text == "(2.0 KiB more; 'cesbr less' shows all)"


def test_unified_diff() -> None:
    """Lines have the styles of their kind; carriage returns are visible."""
    lines = unified_diff("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-old\r\n+new\n")
    assert [line.style for line in lines] == ["title", "title", "hunk", "removed", "added"]
    assert lines[3].text == "-old^M"
