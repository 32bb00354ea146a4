"""Parsing of restic's JSON: names, times, modes, trees, snapshots, and invalid values."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import stat
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.errors import DamagedError
from cesbrfs.repo.format.model import (
    parse_config,
    parse_id,
    parse_index,
    parse_key_file,
    parse_snapshot,
)
from cesbrfs.repo.format.timestamps import format_time, parse_time
from cesbrfs.repo.format.tree import DIRECTORY, OTHER, parse_names, parse_tree, unquote

NS = 10**9
ID = "ab" * 32
FIRST_NS = -62_167_219_200 * NS
"""The beginning of the year 0000."""
LAST_NS = 253_402_300_800 * NS - 1
"""The end of the year 9999."""


def one(**fields: Any) -> Any:
    """Return the only node of a tree, created with these fields."""
    tree = parse_tree(json.dumps({"nodes": [{"name": "n", "type": "file"} | fields]}).encode())
    assert not tree.refused
    (node,) = tree.nodes.values()
    return node


def refusal(**fields: Any) -> str:
    """Return the reason why a tree rejects a node with these fields."""
    tree = parse_tree(json.dumps({"nodes": [{"name": "n", "type": "file"} | fields]}).encode())
    assert not tree.nodes
    (reason,) = tree.refused
    return reason


# Names


def go_quote(raw: bytes) -> str:
    """Quote like Go's strconv.Quote, without the surrounding quotes."""
    simple = {
        '"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f",
        "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
    }  # fmt: skip
    out = []
    while raw:
        for width in (1, 2, 3, 4):
            try:
                rune = raw[:width].decode()
            except UnicodeDecodeError:
                continue
            break
        else:
            out.append(f"\\x{raw[0]:02x}")
            raw = raw[1:]
            continue
        raw = raw[width:]
        if rune in simple:
            out.append(simple[rune])
        elif rune == " " or unicodedata.category(rune)[0] in "LMNPS":
            out.append(rune)
        elif rune < " " or rune == "\x7f":
            out.append(f"\\x{ord(rune):02x}")
        else:
            out.append(f"\\u{ord(rune):04x}" if ord(rune) < 1 << 16 else f"\\U{ord(rune):08x}")
    return "".join(out)


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_names_survive_go_quoting(raw: bytes) -> None:
    """Unquoting returns the original bytes."""
    assert unquote(go_quote(raw)) == raw


@pytest.mark.parametrize(
    ("quoted", "raw"),
    [
        (r"\xff\x00", b"\xff\0"),
        (r"\a\b\f\n\r\t\v\\\"", b'\a\b\f\n\r\t\v\\"'),
        (r"\u00e4\U0001f600", "ä😀".encode()),
        (r"\xc3\xa4", "ä".encode()),
        (r"\101\377", b"A\xff"),
        ("ä", "ä".encode()),
        (r"\\x41", rb"\x41"),
    ],
)
def test_unquote_tells_bytes_from_code_points(quoted: str, raw: bytes) -> None:
    r"""``\\x`` is a byte, ``\\u`` a code point, and a backslash escapes itself."""
    assert unquote(quoted) == raw


@pytest.mark.parametrize(
    "quoted",
    ["\\", r"\x4", r"\u12", r"\U0000004", r"\q", r"\ud800", r"\U00110000", r"\Uffffffff", r"\777"],
)
def test_unquote_refuses_what_go_never_writes(quoted: str) -> None:
    """An invalid escape raises one specific error, and never returns a wrong name."""
    with pytest.raises(ValueError, match=r"\S"):
        unquote(quoted)
    assert refusal(name=quoted)


@given(st.text(alphabet=st.sampled_from("\\xuU0123456789abcdefqn'\"ä\ud800"), max_size=12))
def test_unquote_either_answers_or_refuses(quoted: str) -> None:
    """No input raises any other exception."""
    with contextlib.suppress(ValueError):
        assert isinstance(unquote(quoted), bytes)


@pytest.mark.parametrize(
    "name",
    ["", "..", "a/b", "/etc/passwd", r"nul\x00", r"\x2fa", r"a\u002fb", "x" * 256, "ä" * 128],
)
def test_names_no_directory_can_hold_are_refused(name: str) -> None:
    """Invalid names are rejected, not changed; the other entries are kept."""
    nodes = [{"name": "good", "type": "file"}, {"name": name, "type": "file"}]
    tree = parse_tree(json.dumps({"nodes": nodes}).encode())
    assert list(tree.nodes) == [b"good"]
    assert len(tree.refused) == 1


@pytest.mark.parametrize(
    "name",
    [b"...", b".a", b"x" * 255, b"\xff", b"a\\b", b"-rf", b"*", b" ", b"\n", "ä".encode() * 127],
)
def test_odd_names_are_kept_as_they_are(name: bytes) -> None:
    """Any name that a file system allows is accepted."""
    assert one(name=go_quote(name)).name == name


def test_the_second_of_one_name_is_refused() -> None:
    """Of two entries with the same name the first is kept."""
    nodes = [
        {"name": "a", "type": "file", "size": 1},
        {"name": r"\x61", "type": "file", "size": 2},
    ]
    tree = parse_tree(json.dumps({"nodes": nodes}).encode())
    assert tree.nodes[b"a"].size == 1
    assert len(tree.refused) == 1


def test_names_alone_are_those_of_the_tree() -> None:
    """Names read for completion equal those of the tree, except for invalid ones."""
    nodes = [
        {"name": "a", "type": "file", "size": 3, "content": [ID]},
        {"name": "a", "type": "dir"},
        {"name": "empty", "type": "file", "size": None},
        {"name": "d", "type": "dir", "subtree": ID},
        {"name": r"caf\xe9", "type": "symlink", "linktarget": "a"},
        {"name": "..", "type": "dir"},
        {"name": ".", "type": "dir"},
        {"name": "a/b", "type": "file"},
        {"name": r"\q", "type": "file"},
        {"name": "unknown", "type": "portal"},
    ]
    data = json.dumps({"nodes": nodes}).encode()
    found = parse_names(data)
    assert found == {b"a": 3, b"empty": 0, b"d": DIRECTORY, b"caf\xe9": OTHER}
    assert found.keys() == parse_tree(data).nodes.keys() - {b"."}
    assert parse_names(b"{}") == {}
    with pytest.raises(DamagedError, match="tree abc"):
        parse_names(b"[", "tree abc")


# Times

at_any_time = st.integers(FIRST_NS, LAST_NS)
zones = st.integers(-23 * 60 - 59, 23 * 60 + 59)


@given(at_any_time)
def test_formatted_times_parse_to_what_they_were(time_ns: int) -> None:
    """Nanoseconds are preserved, from the year 0000 to 9999."""
    assert parse_time(format_time(time_ns)) == time_ns


@given(st.datetimes(), st.integers(0, 9), st.integers(0, NS - 1), zones)
def test_times_mean_what_datetime_says(
    day: dt.datetime, digits: int, fraction: int, zone: int
) -> None:
    """Zones and fractions of 0 to 9 digits, compared with the standard library."""
    shown = f".{fraction:09d}"[: digits + 1] if digits else ""
    sign = "-" if zone < 0 else "+"
    text = f"{day:%Y-%m-%dT%H:%M:%S}".rjust(19, "0")
    text += f"{shown}{sign}{abs(zone) // 60:02d}:{abs(zone) % 60:02d}"
    elapsed = day.replace(microsecond=0) - dt.datetime(1970, 1, 1)  # noqa: DTZ001 - both are naive
    seconds = elapsed.days * 86_400 + elapsed.seconds - zone * 60
    expected_fraction = int((shown[1:] or "0").ljust(9, "0"))
    assert parse_time(text) == seconds * NS + expected_fraction


@given(st.dates(dt.date(2000, 1, 1), dt.date(2000, 12, 31)))
def test_the_year_0000_is_the_year_2000_five_cycles_before(day: dt.date) -> None:
    """The Gregorian calendar repeats every 400 years; datetime does not know the year 0."""
    text = f"{day:-%m-%d}T12:34:56.5Z"
    assert parse_time("0000" + text) == parse_time("2000" + text) - 5 * 146_097 * 86_400 * NS


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("0000-01-01T00:00:00Z", FIRST_NS),
        ("9999-12-31T23:59:59.999999999Z", LAST_NS),
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999999999Z", -1),
        ("2024-02-29T00:00:00.1+00:00", 1_709_164_800 * NS + NS // 10),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1969-12-31T18:15:00-05:45", 0),
    ],
)
def test_known_times(text: str, time_ns: int) -> None:
    """The limits, a leap day, and positive and negative zone offsets."""
    assert parse_time(text) == time_ns


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2024-01-01", "2024-01-01T00:00:00", "2024-13-01T00:00:00Z",
        "2024-00-01T00:00:00Z", "2024-01-00T00:00:00Z", "2024-01-32T00:00:00Z",
        "2024-01-01T24:00:00Z", "2024-01-01T00:60:00Z", "2024-01-01T00:00:60Z",
        "12024-01-01T00:00:00Z", "2024-01-01T00:00:00Z\n", "2024-01-01T00:00:00.Z",
        "٢٠٢٤-01-01T00:00:00Z", "-001-01-01T00:00:00Z",
    ],
)  # fmt: skip
def test_other_texts_are_no_times(text: str) -> None:
    """Text that restic does not write raises an error."""
    with pytest.raises(DamagedError):
        parse_time(text)


# Modes, numbers and the other fields of a node


@pytest.mark.parametrize(
    ("kind", "go_mode", "mode"),
    [
        ("file", 0o644, stat.S_IFREG | 0o644),
        ("file", 1 << 23 | 0o755, stat.S_IFREG | stat.S_ISUID | 0o755),
        ("file", 1 << 22 | 0o2755 & 0o777, stat.S_IFREG | stat.S_ISGID | 0o755),
        ("dir", 1 << 31 | 1 << 20 | 0o777, stat.S_IFDIR | stat.S_ISVTX | 0o777),
        ("dir", 1 << 31 | 0o700, stat.S_IFDIR | 0o700),
        ("symlink", 1 << 27 | 0o777, stat.S_IFLNK | 0o777),
        ("dev", 1 << 26 | 0o660, stat.S_IFBLK | 0o660),
        ("chardev", 1 << 26 | 1 << 21 | 0o666, stat.S_IFCHR | 0o666),
        ("fifo", 1 << 25 | 0o600, stat.S_IFIFO | 0o600),
        ("socket", 1 << 24 | 0o755, stat.S_IFSOCK | 0o755),
        ("file", (1 << 23 | 1 << 22 | 1 << 20) | 0o777, stat.S_IFREG | 0o7777),
        ("file", 0o4755, stat.S_IFREG | 0o755),  # Go stores 04000 of st_mode in another bit
    ],
)
def test_go_modes_become_st_modes(kind: str, go_mode: int, mode: int) -> None:
    """Go's FileMode has other bits for types, setuid, setgid and sticky."""
    assert one(type=kind, mode=go_mode).mode == mode


@pytest.mark.parametrize("kind", ["irregular", "", "door", None])
def test_types_nothing_can_show_are_refused(kind: str | None) -> None:
    """An unknown type is rejected, and the error contains its name."""
    assert "type" in refusal(type=kind)


def test_every_field_may_be_null_or_missing() -> None:
    """Null is equivalent to a missing field, and unknown fields are ignored."""
    fields = (
        "mode mtime atime ctime uid gid user group inode device_id size links linktarget"
        " linktarget_raw extended_attributes generic_attributes device content subtree error future"
    )
    for kind in ("file", "dir", "symlink", "fifo"):
        empty = one(type=kind, **dict.fromkeys(fields.split()))
        assert empty == one(type=kind)
        assert (empty.links, empty.blobs, empty.subtree, empty.xattrs) == (1, [], None, ())
    assert parse_tree(b'{"nodes": null}').nodes == {}
    assert parse_tree(b"{}").nodes == {}


def test_a_whole_node() -> None:
    """Every relevant field is parsed: times as nanoseconds, IDs as bytes."""
    node = one(
        mode=0o640,
        mtime="2024-01-01T00:00:00.000000001Z",
        atime="2024-01-01T01:00:00+01:00",
        ctime="1969-12-31T23:59:59Z",
        uid=(1 << 32) - 1,
        gid=1000,
        user="u",
        group="g",
        inode=(1 << 64) - 1,
        device_id=(1 << 64) - 2,
        size=3,
        links=2,
        content=[ID, "cd" * 32],
        extended_attributes=[
            {"name": "user.a", "value": base64.b64encode(b"\0\xff").decode()},
            {"name": "user.null", "value": None},
        ],
    )
    assert (node.mtime_ns, node.atime_ns, node.ctime_ns) == (
        1_704_067_200 * NS + 1,
        1_704_067_200 * NS,
        -NS,
    )
    assert (node.uid, node.gid, node.user, node.group) == ((1 << 32) - 1, 1000, "u", "g")
    assert (node.inode, node.device_id, node.links) == ((1 << 64) - 1, (1 << 64) - 2, 2)
    assert node.blobs == [b"\xab" * 32, b"\xcd" * 32]
    assert node.xattrs == ((b"user.a", b"\0\xff"), (b"user.null", b""))


def test_links_and_devices() -> None:
    """A raw target has precedence, a link's size is that of its target, a device has a number."""
    assert one(type="symlink", linktarget="ä").target == "ä".encode()
    raw = base64.b64encode(b"\xff/x").decode()
    node = one(type="symlink", linktarget="\ufffd/x", linktarget_raw=raw, size=99)
    assert (node.target, node.size) == (b"\xff/x", 3)
    assert one(type="chardev", device=(5 << 8) + 1).rdev == (5 << 8) + 1
    assert one(type="file", linktarget="x").target == b""


@pytest.mark.parametrize(
    "fields",
    [
        {"uid": -1}, {"gid": 1 << 32}, {"inode": -1}, {"inode": 1 << 64}, {"size": -1},
        {"device": 1 << 64}, {"links": -1}, {"mode": -1}, {"mode": 1 << 32},
        {"content": ["ab"]}, {"content": [ID, "zz" * 32]}, {"content": ["ab" * 31, "ab" * 33]},
        {"content": ["ab " * 21 + "a"]},
        {"mtime": "yesterday"}, {"size": 1 << 63}, {"type": "dir", "subtree": "ab"},
    ],
)  # fmt: skip
def test_impossible_fields_refuse_their_node(fields: dict[str, Any]) -> None:
    """Numbers out of range and invalid IDs reject the node."""
    assert refusal(**fields)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"nodes": 1}', b"\xff"])
def test_what_is_no_tree_is_damage(data: bytes) -> None:
    """Not JSON, or JSON with another structure."""
    with pytest.raises(DamagedError):
        parse_tree(data)


# Snapshots, configs, key and index files


def test_a_snapshot_with_everything() -> None:
    """All used fields of a snapshot, in a form written by restic 0.18."""
    snapshot = parse_snapshot(
        json.dumps(
            {
                "time": "2026-11-22T22:30:00.000000001+01:00",
                "parent": ID,
                "tree": ID,
                "paths": ["/a", "/b"],
                "hostname": "ces",
                "username": "root",
                "uid": 0,
                "excludes": ["*.tmp"],
                "tags": ["20261122", "kind=volumes"],
                "original": "cd" * 32,
                "program_version": "restic 0.18.0",
                "summary": {"total_bytes_processed": 7, "backup_start": "x"},
            }
        ).encode(),
        "ef" * 32,
    )
    assert snapshot.id == "ef" * 32
    assert format_time(snapshot.time_ns) == "2026-11-22T21:30:00.000000001Z"
    assert snapshot.tree == b"\xab" * 32
    assert snapshot.paths == ("/a", "/b")
    assert snapshot.tags == ("20261122", "kind=volumes")
    assert (snapshot.hostname, snapshot.username) == ("ces", "root")
    assert snapshot.original == "cd" * 32
    assert snapshot.size == 7


def test_a_snapshot_with_hardly_anything() -> None:
    """Missing fields and nulls are empty."""
    names = ("tree", "paths", "hostname", "username", "tags", "original", "summary", "parent")
    for fields in ({}, dict.fromkeys(names)):
        data = json.dumps({"time": "2026-11-22T22:30:00Z"} | fields).encode()
        snapshot = parse_snapshot(data, ID)
        assert (snapshot.tree, snapshot.paths, snapshot.tags) == (None, (), ())
        assert (snapshot.original, snapshot.size, snapshot.hostname) == (None, None, "")


@pytest.mark.parametrize(
    "fields",
    [{"time": "x"}, {"time": None}, {"tree": "short"}, {"tags": "bare"}, {"paths": [1]}],
)
def test_a_broken_snapshot_is_damage(fields: dict[str, Any]) -> None:
    """The message names the snapshot."""
    data = json.dumps({"time": "2026-11-22T22:30:00Z", "tree": ID} | fields).encode()
    with pytest.raises(DamagedError):
        parse_snapshot(data, ID)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"version": "2"}', b'"x"'])
def test_a_broken_config_is_damage(data: bytes) -> None:
    """Config and key file raise the same error."""
    with pytest.raises(DamagedError):
        parse_config(data)
    with pytest.raises(DamagedError):
        parse_key_file(data.replace(b"version", b"N"))


def test_an_index_as_a_list_is_of_2015() -> None:
    """Even restic cannot read it any more; the message suggests what to do."""
    with pytest.raises(DamagedError, match="repair index"):
        parse_index(b"[]")


@pytest.mark.parametrize("text", ["", "ab", "zz" * 32, "ab" * 33, "ab " * 32, "ab" * 31 + "a "])
def test_what_is_no_id_is_damage(text: str) -> None:
    """Only 64 hexadecimal digits are an ID."""
    with pytest.raises(DamagedError):
        parse_id(text)
