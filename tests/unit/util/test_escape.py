"""Escaping and unescaping of file names."""

from __future__ import annotations

import base64
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.util.escape import for_json, show, unshow

names = st.one_of(st.binary(), st.text().map(str.encode), st.text("\\x0nä\u202e\n").map(str.encode))


@given(names)
def test_round_trip(name: bytes) -> None:
    """Unescaping returns the original bytes for any name."""
    assert unshow(show(name)) == name


@given(names)
def test_escaped_names_are_safe_for_a_terminal(name: bytes) -> None:
    """No control characters, no bidirectional overrides, no invalid UTF-8."""
    shown = show(name)
    categories = {unicodedata.category(character) for character in shown.replace("\u200d", "")}
    assert not categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    shown.encode()


@given(names, names)
def test_escaping_is_injective(one: bytes, other: bytes) -> None:
    """Different names never have the same escaped form."""
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
def test_escaped_forms(name: bytes, shown: str) -> None:
    """Printable text is unchanged; everything else is escaped byte by byte."""
    assert show(name) == shown


@pytest.mark.parametrize("text", ["\\", "a\\", "\\x", "\\x1", "\\xg0", "\\q", "\\x1\\n", "\\0"])
def test_invalid_escape_sequences(text: str) -> None:
    """An invalid escape sequence returns None."""
    assert unshow(text) is None


def test_surrogates_from_the_command_line() -> None:
    """Python passes arguments that are not UTF-8 with surrogate escapes."""
    assert unshow("\udcff\\n") == b"\xff\n"


def test_json_fields() -> None:
    """A name that is not UTF-8 is escaped, and added in base64."""
    assert for_json("ä\n".encode()) == {"name": "ä\n"}
    assert for_json(b"\xff", "path") == {
        "path": "\\xff",
        "path_b64": base64.b64encode(b"\xff").decode(),
    }
