"""Backup IDs and dogu names as directory names."""

from __future__ import annotations

import hashlib
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.catalog import directory_names
from cesbrfs.catalog.directory_names import directory_name, version_name

short = st.text(max_size=20) | st.text("./%_~latesbckup.jon\0", max_size=12)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("20261122T213000Z-7f3a9c", b"20261122T213000Z-7f3a9c"),
        ("a b=ü", "a b=ü".encode()),
        ("a/b", b"a%2Fb"),
        ("100%", b"100%25"),
        ("nul\0", b"nul%00"),
        (".", b"%2E"),
        ("..", b"%2E."),
        (".hidden", b"%2Ehidden"),
        ("a.b_c", b"a.b_c"),
        ("_instance", b"%5Finstance"),
        ("_snapshots", b"%5Fsnapshots"),
        ("latest", b"%6Catest"),
        ("latest2", b"latest2"),
        ("backup.json", b"%62ackup.json"),
    ],
)
def test_what_is_escaped(text: str, name: bytes) -> None:
    """Only invalid names and names that are reserved for virtual entries."""
    assert directory_name(text) == name


@given(short.filter(bool))
def test_every_text_becomes_a_name_that_is_nobody_elses(text: str) -> None:
    """The result is a valid file name, and never a reserved one."""
    name = directory_name(text)
    assert 0 < len(name) <= 255
    assert b"/" not in name
    assert b"\0" not in name
    assert not name.startswith((b".", b"_"))
    assert name not in {
        directory_names.LATEST,
        directory_names.BACKUP_JSON,
        directory_names.INSTANCE,
        directory_names.STATUS_DIRECTORY,
    }


@given(short, short)
def test_short_texts_have_names_of_their_own(one: str, other: str) -> None:
    """Two backups never share a directory."""
    assert (directory_name(one) == directory_name(other)) == (one == other)


def test_texts_that_differ_only_where_they_are_escaped() -> None:
    """A literal escape sequence differs from an escaped character."""
    alike = ["latest", "%6Catest", "%256Catest", "a/b", "a%2Fb", ".a", "%2Ea"]
    assert len({directory_name(text) for text in alike}) == len(alike)


@given(st.text(min_size=120, max_size=400), st.text(min_size=120, max_size=400))
def test_long_texts_are_cut_and_stay_apart(one: str, other: str) -> None:
    """A truncated name ends with a hash of the full text."""
    name = directory_name(one)
    assert len(name) <= 255
    if len(name) >= 250 and re.search(rb"~[0-9a-f]{32}\Z", name):
        assert name[-32:].decode() == hashlib.sha256(one.encode()).hexdigest()[:32]
        name.decode()  # no character is split
    assert (name == directory_name(other)) == (one == other)


def test_the_longest_text_that_is_not_cut() -> None:
    """255 bytes are a valid name, 256 are not."""
    assert directory_name("x" * 255) == b"x" * 255
    assert directory_name("x" * 256)[:223] == b"x" * 222 + b"~"
    assert directory_name("/" * 200)[:223] == b"%2F" * 74 + b"~"
    assert directory_name("xx" + "/" * 200)[:-32] == b"xx" + b"%2F" * 73 + b"~"


def test_nobody_can_choose_the_name_of_a_cut_text() -> None:
    """An ID that looks like the truncated name of another ID gets a different name."""
    texts = ["x" * 300, "ü" * 200, "/" * 200, "x/" * 150, "\udc80" * 300]
    for _ in range(3):
        texts += [os.fsdecode(directory_name(text)) for text in texts]
    texts = list(dict.fromkeys(texts))
    assert len({directory_name(text) for text in texts}) == len(texts)
    assert all(len(directory_name(text)) <= 255 for text in texts)


def test_hashes_do_not_collide_at_will() -> None:
    """With eight digits, tens of thousands of IDs would be enough for a collision."""
    start = "x" * 300
    assert len({directory_name(f"{start}{number}")[-32:] for number in range(1000)}) == 1000
    assert directory_names._HASH_DIGITS * 4 >= 128


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        (b"plan.odt", b".odt"),
        (b"archive.tar.gz", b".gz"),
        (b".bashrc", b""),
        (b"README", b""),
        (b"odd.\xff\n", b".\xff\n"),
        (b"notes.of-a-very-long-day", b""),
    ],
)
def test_names_of_versions_keep_the_extension(name: bytes, extension: bytes) -> None:
    """The time comes first, so that versions are sorted by it."""
    stamp = b"2026-11-22T21-30-00"
    assert version_name(stamp, b"b1", name) == stamp + b"--b1" + extension


@given(st.lists(st.text("ab", min_size=200, max_size=255), min_size=2, max_size=2, unique=True))
def test_names_of_versions_fit(backups: list[str]) -> None:
    """A name that would be too long is cut, and differs for each backup."""
    names = {version_name(b"2026-11-22T21-30-00", b.encode(), b"plan.odt") for b in backups}
    assert len(names) == 2
    assert all(len(name) <= 255 and name.endswith(b".odt") for name in names)
