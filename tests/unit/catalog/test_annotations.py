"""Test the tags that contain the protection and the note of a backup."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.catalog.annotations import NOTE_MAX, PROTECTED_TAG, note_of, note_tag
from cesbrfs.catalog.backups import group
from cesbrfs.errors import UsageError
from tests.unit.catalog.test_runs import DATA, ETC, shape, snapshot


@given(st.text(st.characters(codec="utf-8"), max_size=NOTE_MAX))
def test_a_note_survives_as_a_tag(text: str) -> None:
    """Any text does, with white space reduced; restic splits tags at commas and trims them."""
    expected = " ".join(text.split())
    if not expected:
        with pytest.raises(UsageError, match="empty"):
            note_tag(text)
        return
    tag = note_tag(text)
    assert "," not in tag
    assert tag == tag.strip()
    assert all(character.isprintable() or ord(character) > 0x9F for character in tag)
    assert note_of(snapshot(1, tags=("A", tag))) == expected


def test_a_note_stays_readable() -> None:
    """`restic snapshots` shows it; only what a tag cannot contain is encoded."""
    assert note_tag("vor 100 % Umzug, größer") == "note=vor 100 %25 Umzug%2C größer"


def test_impossible_notes() -> None:
    """A note is bounded, and is text."""
    assert note_tag("x" * NOTE_MAX)
    with pytest.raises(UsageError, match="201 characters"):
        note_tag("x" * (NOTE_MAX + 1))
    with pytest.raises(UsageError, match="UTF-8"):
        note_tag("a\udcff")


def test_annotations_do_not_change_which_snapshots_form_a_backup() -> None:
    """Neither with a pattern that matches every tag, nor for one tag every night."""
    nights = [
        snapshot(1, ETC, tags=("nightly", PROTECTED_TAG, note_tag("a"))),
        snapshot(2, DATA),
        snapshot(25, ETC),
        snapshot(26, DATA, tags=("nightly", note_tag("b"))),
    ]
    plain = [snapshot(at, path) for at, path in ((1, ETC), (2, DATA), (25, ETC), (26, DATA))]
    for pattern in ("(?P<id>[^=]+)", "(?P<id>.*)"):
        found = group(nights, re.compile(pattern))
        assert shape(found) == shape(group(plain))
        first, second = found.by_name.values()
        assert (first.protected, first.note) == (True, "a")
        assert (second.protected, second.note) == (False, "b")
