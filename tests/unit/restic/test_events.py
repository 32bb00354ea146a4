"""Parsing of restic's JSON events, of 0.14 and newer versions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.errors import ResticError
from cesbrfs.restic import OLDEST, Status, Summary, Version
from cesbrfs.restic.events import (
    Failed,
    as_restic_shows,
    bytes_of_path,
    check_errors,
    parse_event,
    plain,
    without_elapsed,
)


def test_status_has_zeros_for_what_restic_leaves_out() -> None:
    """`restic` omits zero fields, and prints null for an empty list."""
    event = parse_event(
        b'{"message_type":"status","percent_done":0,"total_files":1,"total_bytes":3,'
        b'"current_files":null}'
    )
    assert event == Status(total_files=1, total_bytes=3)


def test_summaries_of_old_and_new_versions() -> None:
    """0.14 has 8 digits of the snapshot ID, 0.18 has all, and more fields."""
    old = parse_event(
        b'{"message_type":"summary","files_new":1,"data_added":703,"total_bytes_processed":3,'
        b'"total_duration":0.2112,"snapshot_id":"49c6530a"}'
    )
    new = parse_event(
        b'{"message_type":"summary","files_new":1,"data_added":703,"data_added_packed":671,'
        b'"total_bytes_processed":3,"backup_start":"2026-11-23T01:42:26.33Z","total_duration":1,'
        b'"snapshot_id":"' + b"ab" * 32 + b'"}'
    )
    assert isinstance(old, Summary)
    assert isinstance(new, Summary)
    assert (old.files_new, old.data_added, old.snapshot_id) == (1, 703, "49c6530a")
    assert (new.data_added_packed, new.total_duration, new.snapshot_id) == (671, 1.0, "ab" * 32)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (b'{"Op":"open","Path":"S/x","Err":13}', "open: permission denied"),
        (b'{"message":"open S/x: permission denied"}', "open S/x: permission denied"),
        (b'"in words"', "in words"),
        (b"{}", ""),
        (b"null", ""),
        (b'{"Err":{"deeper":1}}', ""),
    ],
)
def test_the_reason_of_an_unreadable_item(error: bytes, reason: str) -> None:
    """0.14 prints Go error values, newer versions a message, some nothing."""
    event = parse_event(
        b'{"message_type":"error","error":' + error + b',"during":"archival","item":"/S/x"}'
    )
    assert isinstance(event, Failed)
    assert (event.item, event.reason) == ("/S/x", reason)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"unable to open cache: permission denied",
        b'{"message_type":"verbose_status","action":"new"}',
        b'{"message_type":"status","total_files":"many"}',
        b'{"files_new":1}',
        b'{"message_type":"status"',
        b"[1,2]",
        b'{"message_type":"status","current_files":["\xff"]}',
        b'{"message_type":"status","more":' + b"[" * 100_000,
    ],
)
def test_what_is_no_known_event_is_skipped(line: bytes) -> None:
    """Text, unknown events and invalid JSON are ignored."""
    assert parse_event(line) is None


def test_text_loses_what_is_for_a_terminal() -> None:
    """0.14 prints control sequences even without a terminal; a changed clock is no progress."""
    assert plain(b"\x1b[2K[0:05] 12.00%  3 / 25 packs\r") == "[0:05] 12.00%  3 / 25 packs"
    assert without_elapsed("[1:00:05] 12.00%  3 / 25 packs") == "12.00%  3 / 25 packs"


def test_a_failed_check_keeps_only_the_damage() -> None:
    """Progress and advice are removed; each error is kept once, at least one."""
    said = [
        "using temporary cache in /c/restic-check-cache-1",
        "create exclusive lock for repository",
        "load indexes",
        "check all packs",
        "pack b60921: does not exist",
        "check snapshots, trees and blobs",
        "[0:00] 100.00%  2 / 2 snapshots",
        "read all data",
        "pack 851: contains 2 errors: [blob 994: ciphertext verification failed]",
        "pack b60921: does not exist",
        'error: tree 12ab: file "x" blob 0 not found',
        "",
        "The repository is damaged and must be repaired. Please follow the troubleshooting guide",
        "restic repair packs 8516",
        "Fatal: repository contains errors",
    ]
    assert check_errors(said) == (
        "pack b60921: does not exist",
        "pack 851: contains 2 errors: [blob 994: ciphertext verification failed]",
        'tree 12ab: file "x" blob 0 not found',
    )
    assert check_errors(["Fatal: repository contains errors"]) != ()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"plain", "plain"),
        ("grün".encode(), "grün"),
        (b"b\xff\xfed", "b\ufffd\ufffdd"),
        (b"\xe2\x82", "\ufffd\ufffd"),  # "replace" of Python makes one U+FFFD of these two
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
    ],
)
def test_names_as_restic_shows_them(name: bytes, shown: str) -> None:
    """Go replaces each invalid byte by one U+FFFD."""
    assert as_restic_shows(name) == shown


def test_lost_bytes_are_found_on_disk() -> None:
    """The bytes of a printed path are restored if exactly one existing name matches."""
    directories = {b"/": [b"a\xff"], b"/a\xff": [b"x\xfe", b"y\xfe", b"y\xfd"]}

    def names_in(directory: bytes) -> list[bytes]:
        return directories.get(directory, [])

    assert bytes_of_path("/a\ufffd/x\ufffd", names_in) == b"/a\xff/x\xfe"
    assert bytes_of_path("/a\ufffd/y\ufffd", names_in) == b"/a\xff/y\xef\xbf\xbd"
    assert bytes_of_path("/a\ufffd/z/x", names_in) == b"/a\xff/z/x"
    assert bytes_of_path("/plain/x", names_in) == b"/plain/x"


@given(st.lists(st.binary(min_size=1).filter(lambda b: not set(b) & {0, 47}), min_size=1))
def test_any_path_survives_restics_json(names: list[bytes]) -> None:
    """A path whose directories have one entry each is restored byte for byte."""
    parents = {b"/" + b"/".join(names[:i]): names[i] for i in range(len(names))}
    shown = "/" + "/".join(map(as_restic_shows, names))
    assert bytes_of_path(shown, lambda directory: [parents[directory]]) == b"/" + b"/".join(names)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("restic 0.14.0 compiled with go1.19.8 on linux/amd64\n", Version(0, 14, 0)),
        ("restic 0.18.0-dev (compiled manually) compiled with go1.24", Version(0, 18, 0)),
        ("restic v1.2 compiled", Version(1, 2, 0)),
    ],
)
def test_versions_are_read_and_ordered(said: str, version: Version) -> None:
    """Released and self-built versions have the same format."""
    assert Version.parse(said) == version
    assert Version.parse(said) >= OLDEST
    assert Version(0, 9, 6) < OLDEST


def test_what_is_no_version_of_restic_is_refused() -> None:
    """The error for another program contains its output."""
    with pytest.raises(ResticError, match=r"borg 2\.0"):
        Version.parse("borg 2.0")
