"""Compact directory entries equal the full nodes, with both parsers and after packing."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.repo.format.direntry import DirEntries, DirEntry, entries_of, pack, unpack
from cesbrfs.repo.format.model import ZERO_BLOB_BYTES, Node
from cesbrfs.repo.format.tree import _entries, parse_entries, parse_tree
from cesbrfs.repo.format.tree_decoder import decode_entries, decode_nodes, entry_of, node_of

TIME = "2026-11-22T21:30:00.123456789+01:00"
ORDINARY: dict[str, Any] = {
    "name": "plan.odt", "type": "file", "mode": 0o640, "mtime": TIME, "atime": TIME, "ctime": TIME,
    "uid": 1000, "gid": 1000, "user": "redmine", "group": "redmine", "inode": 4711,
    "device_id": 64769, "size": 7, "links": 1, "content": ["ab" * 32],
}  # fmt: skip

times = st.sampled_from([TIME, "2024-02-29T12:00:00Z", "9999-12-31T23:59:59.5-12:00", "", "now"])
numbers = st.sampled_from([0, 1, 2, 1000, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 64, -1, None])
texts = st.sampled_from(["a", "b", "ä" * 64, "", ".", "..", "/", "a/b", r"a\nb", r"\xff", "n\0"])
entries = st.fixed_dictionaries(
    {"name": texts | st.text(max_size=5)},
    optional={
        "type": st.sampled_from(["file", "dir", "symlink", "fifo", "irregular", None]),
        "mode": st.sampled_from([0o644, 1 << 31 | 0o755, 1 << 27 | 0o777, 1 << 23 | 0o755, None]),
        "mtime": times,
        "atime": times,
        "ctime": times,
        "uid": numbers,
        "links": numbers,
        "inode": numbers,
        "device_id": numbers,
        "size": numbers,
        "device": numbers,
        "linktarget": st.text(max_size=5),
        "linktarget_raw": st.sampled_from(["/w==", "", None]),
        "extended_attributes": st.sampled_from([None, [], [{"name": "user.a", "value": "Z3I="}]]),
        "content": st.sampled_from([None, [], ["ab" * 32], ["ab"], ["zz" * 32]]),
        "subtree": st.sampled_from([None, "cd" * 32, "cd", "zz" * 32]),
        "user": st.sampled_from(["root", None]),
    },
)


def blob(*nodes: dict[str, Any]) -> bytes:
    return json.dumps({"nodes": nodes}).encode()


@given(st.lists(entries, max_size=4))
def test_the_quick_way_reads_what_the_careful_one_does(nodes: list[dict[str, Any]]) -> None:
    """The fast parser returns the same entries in the same order, or declines the tree."""
    data = blob(*nodes)
    careful_rows, refused_rows, _ = _entries(data, "tree", entry_of)
    careful_nodes, refused_nodes, _ = _entries(data, "tree", node_of)
    rows, quick = decode_entries(data), decode_nodes(data)
    assert rows is None or (rows == list(careful_rows.values()) and not refused_rows)
    assert quick is None or (list(quick.items()) == list(careful_nodes.items()))
    assert quick is None or not refused_nodes


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"type": "dir", "subtree": "cd" * 32, "content": None},
        {"type": "symlink", "linktarget": "x", "linktarget_raw": "/w=="},
        {"links": 2},
        {"extended_attributes": [{"name": "user.a", "value": None}]},
        {"type": "dev", "device": 2049},
    ],
)
def test_what_restic_writes_goes_the_quick_way(fields: dict[str, Any]) -> None:
    """The fast parser supports all trees that restic writes."""
    data = blob(ORDINARY | fields, ORDINARY | {"name": "other"})
    assert decode_entries(data) is not None
    assert decode_nodes(data) is not None


def test_an_empty_directory_goes_the_quick_way() -> None:
    """The fast parser supports an empty tree."""
    assert decode_entries(blob()) == []
    assert decode_nodes(blob()) == {}


@given(st.lists(entries, max_size=4, unique_by=lambda entry: str(entry["name"])))
def test_rows_say_what_nodes_do(nodes: list[dict[str, Any]]) -> None:
    """Compact entries equal full ones, except for files with invalid blob lists."""
    data = blob(*nodes)
    rows, _ = parse_entries(data)
    tree = parse_tree(data)
    in_full = entries_of(n for n in tree.listed if n.name not in (b".", b"/")).listed
    with_content = {row.name: row for row in rows.listed if row.name in tree.nodes}
    assert with_content == {row.name: row for row in in_full}
    found, *_ = _entries(data, "tree", entry_of)
    assert rows.special == bool({b".", b"/"} & found.keys())
    assert rows.special or not {b".", b"/"} & tree.nodes.keys()


u64 = st.integers(0, (1 << 64) - 1)
u32 = st.integers(0, (1 << 32) - 1)
s64 = st.integers(-(1 << 63), (1 << 63) - 1)
names = st.binary(min_size=1, max_size=20)
rows = st.builds(
    DirEntry, names, u32, s64, s64, s64, u32, u32, u64, u64, u64, names, st.none() | names,
    st.booleans(), u64, u64,
)  # fmt: skip


@given(st.lists(rows))
def test_packed_and_unpacked_rows_are_the_same(listed: list[DirEntry]) -> None:
    """Bytes, 64-bit numbers and missing values are preserved."""
    packed = pack(DirEntries(listed))
    assert packed is not None
    assert unpack(packed).listed == listed


def test_times_that_do_not_fit_are_not_packed() -> None:
    """A file of the year 9999 is listed, but not cached."""
    listed, _ = parse_entries(blob(ORDINARY | {"mtime": "9999-12-31T23:59:59Z"}))
    assert len(listed.listed) == 1
    assert pack(listed) is None


def test_names_are_found_by_their_position() -> None:
    """In any order."""
    listed = entries_of(Node(name, "file", 0o100644) for name in (b"b", b"a", b"c"))
    assert [listed.position(name) for name in (b"a", b"b", b"c", b"d")] == [1, 0, 2, None]


def test_zero_blobs_take_no_blocks() -> None:
    """Rows and nodes count them alike, and never less than none."""
    zeros = hashlib.sha256(bytes(ZERO_BLOB_BYTES)).hexdigest()
    fields = ORDINARY | {"type": "file", "size": 5 * ZERO_BLOB_BYTES + 1, "links": 1}
    for content, blocks in (
        ([zeros] * 4 + ["ab" * 32], 1025),
        (["ab" * 32], 5121),
        ([zeros] * 9, 0),
        (None, 5121),
    ):
        data = blob(fields | {"content": content})
        rows, nodes = decode_entries(data), decode_nodes(data)
        assert rows is not None
        assert nodes is not None
        (careful,) = _entries(data, "tree", entry_of)[0].values()
        (row,), (node,) = rows, nodes.values()
        assert (row.blocks, node.blocks, careful.blocks) == (blocks, blocks, blocks)
