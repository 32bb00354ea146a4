"""The parser for unusual trees, nodes that are parsed alone, and names and numbers at limits."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cesbrfs.errors import DamagedError
from cesbrfs.repo.format.direntry import entries_of
from cesbrfs.repo.format.model import ZERO_BLOB, ZERO_BLOB_BYTES, Node
from cesbrfs.repo.format.tree import (
    DIRECTORY,
    find_node,
    parse_entries,
    parse_names,
    parse_node,
    parse_tree,
    split_nodes,
)
from cesbrfs.repo.format.tree_decoder import TARGET_MAX, decode_entries, decode_nodes

ID = "ab" * 32
U32 = (1 << 32) - 1
U64 = (1 << 64) - 1
S64 = (1 << 63) - 1
FILE: dict[str, Any] = {
    "name": "plan.odt", "type": "file", "mode": 1 << 23 | 1 << 20 | 0o640,
    "mtime": "2026-11-22T21:30:00.123456789+01:00", "atime": "2026-11-22T21:30:01Z",
    "ctime": "2026-11-22T21:30:02Z", "uid": 1000, "gid": 1001, "user": "u", "group": "g",
    "inode": 4711, "device_id": 64769, "size": 7, "links": 2, "content": [ID, "cd" * 32],
    "extended_attributes": [{"name": "user.a", "value": "Z3I="}],
}  # fmt: skip
LINK = FILE | {
    "name": "l",
    "type": "symlink",
    "linktarget": "?",
    "linktarget_raw": "/w==",
    "content": None,
}
DEVICE = {"name": "null", "type": "chardev", "device": 259}
DIRECTORY_NODE = {"name": "d", "type": "dir", "subtree": ID, "mtime": FILE["mtime"]}
BARE = {"name": "bare", "type": "fifo"}
NODES = [FILE, LINK, DEVICE, DIRECTORY_NODE, BARE]
UNUSUAL = {"name": "..", "type": "file"}
"""An entry that is refused, so that the others are parsed one by one."""


def tree(*nodes: Any) -> bytes:
    return json.dumps({"nodes": nodes}).encode()


@pytest.mark.parametrize("node", NODES, ids=lambda node: str(node["type"]))
def test_all_parsers_return_the_same_node(node: dict[str, Any]) -> None:
    """With the others of a tree, one by one, or alone."""
    usual, unusual = tree(node), tree(UNUSUAL, node)
    quick = decode_nodes(usual)
    assert quick is not None
    (expected,) = quick.values()
    assert list(parse_tree(unusual).nodes.values()) == [expected]
    assert parse_node(json.dumps(node).encode()) == expected
    assert find_node(unusual, node["name"].encode()) == expected
    rows, refused = parse_entries(usual)
    assert (rows.listed, refused) == (entries_of([expected]).listed, [])
    rows, refused = parse_entries(unusual)
    assert (rows.listed, len(refused)) == (entries_of([expected]).listed, 1)


def test_the_subtree_of_a_directory() -> None:
    """An entry in short has it, as a node does."""
    for data in (tree(DIRECTORY_NODE), tree(UNUSUAL, DIRECTORY_NODE)):
        assert [row.subtree for row in parse_entries(data)[0].listed] == [bytes.fromhex(ID)]
        assert parse_tree(data).nodes[b"d"].subtree == bytes.fromhex(ID)


def test_the_last_code_point() -> None:
    """A name may have it in escaped form; the next one does not exist."""
    data = tree({"name": r"\U0010ffff", "type": "fifo"}, {"name": r"\U00110000", "type": "fifo"})
    parsed = parse_tree(data)
    assert list(parsed.nodes) == ["\U0010ffff".encode()]
    assert len(parsed.refused) == 1


def test_a_mode_of_go_with_special_bits() -> None:
    """Only those that are set become bits of st_mode."""
    assert parse_tree(tree(FILE)).nodes[b"plan.odt"].mode == 0o105640


def test_missing_fields_are_zero() -> None:
    """With both parsers, also those that are null."""
    fields = dict.fromkeys(
        ("mode", "uid", "gid", "inode", "device_id", "size", "links", "device", "mtime", "atime",
         "ctime", "user", "group", "linktarget", "linktarget_raw", "subtree", "content"),
    )  # fmt: skip
    expected = Node(b"n", "file", 0o100000)
    assert (expected.links, expected.size, expected.uid, expected.inode) == (1, 0, 0, 0)
    for node in ({"name": "n", "type": "file"}, {"name": "n", "type": "file"} | fields):
        for data in (tree(node), tree(UNUSUAL, node)):
            assert parse_tree(data).nodes == {b"n": expected}


@pytest.mark.parametrize(
    ("field", "limit"),
    [("links", U64), ("inode", U64), ("device", U64), ("device_id", U64), ("size", S64),
     ("uid", U32), ("gid", U32), ("mode", U32)],
)  # fmt: skip
def test_numbers_have_limits(field: str, limit: int) -> None:
    """The largest number is accepted; the next one and negative ones refuse the entry."""
    other = {"links": 3, "inode": 5, "uid": 7, "gid": 9} | {"name": "n", "type": "file"}
    data = tree(UNUSUAL, other | {field: limit})
    (node,) = parse_tree(data).nodes.values()
    found = {"mode": node.mode & 0o777, "device": node.rdev}.get(field)
    assert (getattr(node, field) if found is None else found) == (
        0o777 if field == "mode" else limit
    )
    for number in (limit + 1, -1, -limit):
        data = tree({"name": "good", "type": "file"}, other | {field: number})
        parsed = parse_tree(data)
        assert list(parsed.nodes) == [b"good"]
        assert parsed.refused == ("'n': number out of range",)
        assert parsed.unknown == {b"n": "number out of range"}
        assert parse_entries(data)[1] == ["'n': number out of range"]
        assert parse_node(json.dumps(other | {field: number}).encode()) is None


@pytest.mark.parametrize(
    "names",
    [[""], ["a", ""], [r"\x61"], ["a\0"], ["a/b"], ["/"], ["a", "b/"], ["/", "/"], ["."], [".."],
     ["a", "b", "a"], ["x" * 64]],
)  # fmt: skip
def test_unusual_names_are_parsed_one_by_one(names: list[str]) -> None:
    """Every name that must be examined alone; the fast parser declines the whole tree."""
    data = tree(*({"name": name, "type": "file"} for name in names))
    assert decode_nodes(data) is None
    assert decode_entries(data) is None


@pytest.mark.parametrize("names", [[], ["x" * 63], ["a"], ["...", ".a", "a."], ["a", "b", "c"]])
def test_usual_names_are_parsed_together(names: list[str]) -> None:
    """In their order."""
    data = tree(*({"name": name, "type": "file"} for name in names))
    expected = [name.encode() for name in names]
    nodes, entries = decode_nodes(data), decode_entries(data)
    assert nodes is not None
    assert entries is not None
    assert list(nodes) == expected
    assert [entry.name for entry in entries] == expected


@pytest.mark.parametrize("large", [False, True])
def test_large_trees_are_parsed_one_by_one(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly as many bytes as allowed are parsed together."""
    data = tree(FILE)
    monkeypatch.setattr(
        "cesbrfs.repo.format.tree_decoder._QUICKLY", len(data) - 1 if large else len(data)
    )
    assert (decode_nodes(data) is None) is large
    assert (decode_entries(data) is None) is large
    assert list(parse_tree(data).nodes) == [b"plan.odt"]
    assert len(parse_entries(data)[0].listed) == 1


def test_what_is_refused() -> None:
    """Each with the name as it is recorded, and the reason; a good entry of that name is known."""
    data = tree(
        {"name": "a/b", "type": "file"},
        {"name": r"t\q", "type": "file"},
        {"name": "door", "type": "portal"},
        {"name": "none"},
        {"name": r"\x7a", "type": "portal"},
        {"name": "z", "type": "file"},
        {"name": r"\x7a", "type": "file"},
        {"name": ".", "type": "portal"},
        {"name": "/", "type": "portal"},
        {"type": "file"},
        5,
    )
    parsed = parse_tree(data)
    assert list(parsed.nodes) == [b"z"]
    *named, no_name, no_object = parsed.refused
    assert named == [
        "'a/b': invalid file name",
        r"'t\\q': unknown escape \q in its name",
        "'door': unknown type 'portal'",
        "'none': unknown type ''",
        r"'\\x7a': unknown type 'portal'",
        r"'\\x7a': duplicate name",
        "'.': unknown type 'portal'",
        "'/': unknown type 'portal'",
    ]
    assert no_name.startswith("'': ")
    assert no_object.startswith("'': ")
    assert parsed.unknown == {b"door": "unknown type 'portal'", b"none": "unknown type ''"}
    assert parse_entries(data)[1] == list(parsed.refused)
    assert parse_names(data) == {b"z": 0}


def test_names_of_a_tree_with_an_invalid_entry() -> None:
    """The others are returned, with the size of files."""
    data = tree({"name": "f", "type": "file", "size": "7"}, DIRECTORY_NODE, 5, FILE)
    assert parse_names(data) == {b"d": DIRECTORY, b"plan.odt": 7}
    assert parse_names(tree(FILE | {"size": -7})) == {b"plan.odt": 0}
    assert parse_names(b'{"nodes": null}') == {}


def test_special_names() -> None:
    """``.`` and ``/`` are parsed as nodes, and left out of rows."""
    for name in (".", "/"):
        data = tree(FILE, DIRECTORY_NODE | {"name": name})
        assert list(parse_tree(data).nodes) == [b"plan.odt", name.encode()]
        rows, refused = parse_entries(data)
        assert ([row.name for row in rows.listed], refused) == ([b"plan.odt"], [])
        assert rows.special
        assert list(parse_names(data)) == [b"plan.odt"]
    assert not parse_entries(tree(FILE))[0].special
    assert not parse_entries(tree(FILE, UNUSUAL))[0].special


def test_the_nodes_of_a_tree_as_json() -> None:
    """Equal nodes are equal bytes, and each can be parsed alone."""
    raw = [json.dumps(node).encode() for node in (FILE, UNUSUAL, FILE)]
    assert split_nodes(b'{"nodes":[' + b",".join(raw) + b"]}") == raw
    assert split_nodes(b"{}") == []
    assert parse_node(raw[1]) is None
    assert parse_node(b"5") is None
    assert parse_node(b"") is None


def test_a_node_is_found_by_its_name() -> None:
    """The first one that can be shown, in any spelling."""
    data = tree(
        5, UNUSUAL, {"name": "a", "type": "portal"}, {"name": r"\x61", "type": "fifo"},
        {"name": "a", "type": "file"}, FILE,
    )  # fmt: skip
    found = find_node(data, b"a")
    assert found is not None
    assert found.type == "fifo"
    assert find_node(data, b"plan.odt") == parse_tree(data).nodes[b"plan.odt"]
    assert find_node(data, b"missing") is None
    assert find_node(data, b"..") is None
    assert find_node(b"{}", b"a") is None


def test_what_is_no_tree_is_named() -> None:
    """Errors contain the description that the caller passes."""
    for parse in (parse_tree, parse_entries, parse_names, split_nodes):
        with pytest.raises(DamagedError, match=r"^Invalid tree: "):
            parse(b"[")
        with pytest.raises(DamagedError, match=r"^Invalid tree abc: "):
            parse(b"[", "tree abc")
        with pytest.raises(DamagedError, match=r"^Invalid tree abc: "):
            parse(b'{"nodes": {}}', "tree abc")
    with pytest.raises(DamagedError, match=r"^Invalid tree: "):
        find_node(b"[", b"a")
    with pytest.raises(DamagedError, match=r"^Invalid tree abc: "):
        find_node(b"[", b"a", "tree abc")


@pytest.mark.parametrize(
    ("target", "valid"),
    [("x" * TARGET_MAX, True), ("x" * (TARGET_MAX + 1), False), ("a\0b", False), ("a", True)],
)
def test_targets_of_links_have_a_limit(target: str, valid: bool) -> None:
    """The longest target that Linux allows is accepted; none has a null byte."""
    data = tree({"name": "l", "type": "symlink", "linktarget": target})
    assert (b"l" in parse_tree(data).nodes) is valid
    assert (decode_nodes(data) is not None) is valid


def test_times_that_are_missing() -> None:
    """They are 1970, whatever the others are."""
    times = {"mtime": "1970-01-01T00:00:01Z", "atime": "1970-01-01T00:00:02Z"}
    times["ctime"] = "1970-01-01T00:00:03Z"
    for missing, expected in (
        ("mtime", (0, 2, 3)), ("atime", (1, 0, 3)), ("ctime", (1, 2, 0)), ("", (1, 2, 3))
    ):  # fmt: skip
        fields = {key: value for key, value in times.items() if key != missing}
        for data in (tree(fields | BARE), tree(UNUSUAL, fields | BARE)):
            (node,) = parse_tree(data).nodes.values()
            found = (node.mtime_ns, node.atime_ns, node.ctime_ns)
            assert found == tuple(second * 1_000_000_000 for second in expected)


def test_blocks_of_files() -> None:
    """512 bytes each, rounded up; those of other types depend on the target only."""
    for size, blocks in ((0, 0), (1, 1), (512, 1), (513, 2)):
        rows = decode_entries(tree({"name": "f", "type": "file", "size": size}))
        assert rows is not None
        assert [(row.size, row.blocks) for row in rows] == [(size, blocks)]
    for zeros, blocks in ((1, 0), (0, ZERO_BLOB_BYTES // 512)):
        content = [ZERO_BLOB.hex() if zeros else ID]
        data = tree({"name": "f", "type": "file", "size": ZERO_BLOB_BYTES, "content": content})
        rows = decode_entries(data)
        assert rows is not None
        assert rows[0].blocks == blocks
    rows = decode_entries(
        tree(
            {"name": "l", "type": "symlink", "linktarget": "target", "size": 4096},
            {"name": "d", "type": "dir", "size": 4096},
        )
    )
    assert rows is not None
    assert [(row.size, row.blocks) for row in rows] == [(6, 1), (0, 0)]


def test_only_files_of_several_names_have_a_link() -> None:
    """Equal in device, inode, metadata and content; a directory never has one."""
    twin = FILE | {"name": "twin"}
    others = [
        FILE | {"name": "other device", "device_id": 1},
        FILE | {"name": "other inode", "inode": 1},
        FILE | {"name": "other content", "content": [ID]},
        FILE | {"name": "other mode", "mode": 0o600},
        FILE | {"name": "other owner", "uid": 1},
        FILE | {"name": "other group", "gid": 1},
        FILE | {"name": "other time", "mtime": FILE["atime"]},
        LINK,
    ]
    alone = [
        FILE | {"name": "one name", "links": 1},
        FILE | {"name": "no inode", "inode": 0},
        DIRECTORY_NODE | {"links": 2, "inode": 4711},
    ]
    nodes = [FILE, twin, *others, *alone]
    for data in (tree(*nodes), tree(UNUSUAL, *nodes)):
        links = [row.link_id for row in parse_entries(data)[0].listed]
        assert len(links) == len(nodes)
        assert links[0] == links[1]
        assert 0 not in links[: -len(alone)]
        assert len(set(links[1 : -len(alone)])) == 1 + len(others)
        assert links[-len(alone) :] == [0] * len(alone)
