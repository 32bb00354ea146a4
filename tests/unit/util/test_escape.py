"""Names as people see them, and back."""

from __future__ import annotations

import base64
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.util.escape import for_json, show, unshow

names = st.one_of(st.binary(), st.text().map(str.encode), st.text("\\x0nä\u202e\n").map(str.encode))


@given(names)
def test_what_is_shown_can_be_typed_back(name: bytes) -> None:
    """Whatever the bytes, the shown form means exactly them."""
    assert unshow(show(name)) == name


@given(names)
def test_nothing_shown_can_mislead_a_terminal(name: bytes) -> None:
    """No control character, no change of direction, no broken UTF-8."""
    shown = show(name)
    categories = {unicodedata.category(character) for character in shown.replace("\u200d", "")}
    assert not categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    shown.encode()


@given(names, names)
def test_different_names_are_shown_differently(one: bytes, other: bytes) -> None:
    """Two files of a folder never look alike by their escapes."""
    assert (show(one) == show(other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain name.txt", "plain name.txt"),
        ("Größe".encode(), "Größe"),
        (b"a\\b", "a\\\\b"),
        (b"\n\t\r\a\b\f\v", "\\n\\t\\r\\a\\b\\f\\v"),
        (b"\x1b[31m", "\\x1b[31m"),
        (b"\xff\xc3", "\\xff\\xc3"),
        (b"\x7f\0", "\\x7f\\x00"),
        ("\u202etxt.exe".encode(), "\\xe2\\x80\\xaetxt.exe"),
        ("👩\u200d🚒".encode(), "👩\u200d🚒"),
        ("\u2028".encode(), "\\xe2\\x80\\xa8"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
    ],
)
def test_what_names_look_like(name: bytes, shown: str) -> None:
    """Text stays text; the rest is escaped byte by byte."""
    assert show(name) == shown


@pytest.mark.parametrize("text", ["\\", "a\\", "\\x", "\\x1", "\\xg0", "\\q", "\\x1\\n", "\\0"])
def test_a_backslash_that_begins_no_escape(text: str) -> None:
    """It is for the caller to say what is meant then."""
    assert unshow(text) is None


def test_bytes_that_came_through_the_command_line() -> None:
    """Python hands over arguments that are not UTF-8 with surrogates for the bytes."""
    assert unshow("\udcff\\n") == b"\xff\n"


def test_json_tells_the_bytes_of_what_is_not_utf8() -> None:
    """The escaped form is for people, the base64 for programs."""
    assert for_json("ä\n".encode()) == {"name": "ä\n"}
    assert for_json(b"\xff", "path") == {
        "path": "\\xff",
        "path_b64": base64.b64encode(b"\xff").decode(),
    }
