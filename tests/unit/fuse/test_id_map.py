"""The ID map of a mount, and ACLs that follow it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from cesbrfs.errors import UsageError
from cesbrfs.fuse.id_map import parse_id_map, read_id_map
from cesbrfs.fuse.posix_acl import adapt


def test_ranges_kinds_and_comments() -> None:
    """`u:` maps users, `g:` groups, neither both; other IDs are not mapped."""
    made = parse_id_map(
        "# recorded:shown\n1000:2000:3  # three\n\nu:5:6\r\ng:5:7\n0:4294967294", "m"
    )
    assert [made.user(n) for n in (999, 1000, 1002, 1003, 5, 0)] == [
        None, 2000, 2002, None, 6, 4294967294,
    ]  # fmt: skip
    assert [made.group(n) for n in (1002, 5)] == [2002, 7]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ces:1000", "'ces:1000' is not a mapping of numeric IDs"),
        ("1", "'1' is not a mapping"),
        ("1:2:3:4", "'1:2:3:4' is not a mapping"),
        ("-1:2", "'-1:2' is not a mapping"),
        ("x:1:2", "'x:1:2' is not a mapping"),
        ("1:2:0", "the count is 0"),
        ("1:4294967295", "IDs end at 4294967294"),
        ("4294967295:1", "IDs end at 4294967294"),
        ("b:900:7", "ID 900 is mapped already"),
        ("g:890:0:20", "ID 900 is mapped already"),
        ("\x1b[2J:1", r"'\\x1b\[2J:1' is not a mapping"),
    ],
)
def test_invalid_lines(line: str, reason: str) -> None:
    """The error names the file, the line and the reason."""
    with pytest.raises(
        UsageError, match=rf"^/etc/ids, line 3: {reason}[^.]*\. Write recorded:shown"
    ):
        parse_id_map(f"# comment\ng:900:1\n{line}\n", "/etc/ids")


def test_unreadable_file(tmp_path: Path) -> None:
    """The error names the file and the reason."""
    with pytest.raises(UsageError, match=r"ids cannot be read: No such file or directory"):
        read_id_map(str(tmp_path / "ids"))
    (tmp_path / "ids").write_bytes(b"1:2 # \xff\n" * 200_000)
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        read_id_map(str(tmp_path / "ids"))


@pytest.mark.parametrize("acl", [b"", b"\x01\0\0\0", b"\x02\0\0\0 "])
def test_acls_in_unknown_formats_are_unchanged(acl: bytes) -> None:
    """Another version, or a truncated entry."""
    assert adapt(acl, 0o777, lambda n: n + 1, lambda n: n + 1) == acl


def test_a_mask_limits_named_entries_through_the_acl_mask() -> None:
    """Group bits are taken from the mask entry if there is one, else from the group's entry."""

    def acl(*entries: tuple[int, int, int]) -> bytes:
        return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries)

    none = 0xFFFFFFFF
    with_mask = [(1, 7, none), (2, 6, 10), (4, 5, none), (8, 7, 20), (16, 7, none), (32, 4, none)]
    expected = [(1, 6, none), (2, 6, 11), (4, 5, none), (8, 7, 22), (16, 5, none), (32, 0, none)]
    assert adapt(acl(*with_mask), 0o127, lambda n: n + 1, lambda n: n + 2) == acl(*expected)
    minimal = [(1, 7, none), (4, 7, none), (32, 7, none)]
    without = [(1, 7, none), (4, 5, none), (32, 0, none)]
    assert adapt(acl(*minimal), 0o027, lambda n: n, lambda n: n) == acl(*without)
