"""The recorded session: conversion of terminal lines to a picture that matches the text."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from tests.sample.screen import Run, Style, picture, plain, runs, width
from tests.support.project import PROJECT

_DOCS = PROJECT / "docs"
_TEXT = "{http://www.w3.org/2000/svg}text"


def test_colours_are_taken_apart() -> None:
    """Styles accumulate until they are reset; columns count cells, not characters."""
    line = "a\x1b[1mb\x1b[34m字c\x1b[39md\x1b[0m e\x1b[38;5;1mf\x1b[4;93mg"
    bold, blue = Style(bold=True), Style("#79c0ff", bold=True)
    assert list(runs(line)) == [
        Run("a", Style(), 0),
        Run("b", bold, 1),
        Run("字c", blue, 2),
        Run("d", bold, 5),
        Run(" e", Style(), 6),
        Run("f", Style("#ff7b72"), 8),
        Run("g", Style("#f2cc60", underlined=True), 9),
    ]
    assert plain(line + "  ") == "ab字cd efg"
    assert width("e\u0301字") == 3


def test_pictures_are_well_formed() -> None:
    """Any line is escaped as text; no external fonts or files are needed."""
    made = picture(["<a> & \"b\" 'c'", "", "  \x1b[1mx"], "1 < 2")
    root = ET.fromstring(made)  # noqa: S314 - our own file
    texts = list(root.iter(_TEXT))
    assert [text.text for text in texts] == ["<a> & \"b\" 'c'", "x"]
    assert texts[1].get("class") == "b"
    assert float(texts[1].get("x") or 0) > float(texts[0].get("x") or 0)
    assert "url(" not in made
    assert made.count("http") == 1  # the XML namespace


def test_reverse_video() -> None:
    """A run in reverse video has a background, also where it is blank."""
    (bar, after) = runs("\x1b[7m a \x1b[27mb")
    assert (bar.style.reverse, after.style.reverse) == (True, False)
    made = picture(["\x1b[7m a \x1b[27mb"], "bar")
    assert 'width="25.2"' in made
    assert made.count("<rect") == 2


@pytest.mark.parametrize(
    "step",
    [
        "cesbr> find ", "cesbr> versions ", "It no longer exists", "cesbr> diff ",
        "cesbr> select ", "cesbr> plan ", "cesbr> restore ", "Restoring ", "cesbr: Interrupted",
        "cesbr> restore --resume", "Already done:", "Restored before:",
    ],
)  # fmt: skip
def test_the_recorded_session_shows_each_step(step: str) -> None:
    """The recording contains every step that the documentation describes."""
    assert step in (_DOCS / "session.txt").read_text()


@pytest.mark.parametrize("name", ["session", "browse"])
def test_text_and_picture_are_of_one_session(name: str) -> None:
    """The picture has every character of the text, in the same order, except for blanks."""
    root = ET.parse(_DOCS / f"{name}.svg").getroot()  # noqa: S314 - our own file
    shown = "".join(str(text.text) for text in root.iter(_TEXT))
    assert "".join(shown.split()) == "".join((_DOCS / f"{name}.txt").read_text().split())
