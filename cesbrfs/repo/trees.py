"""restic's trees: what a folder held when it was backed up, out of its JSON.  Pure.

This is where a walk over a backup spends most of its time, so each step that a node costs counts:
numbers are checked together, times of one node are mostly the same text.
"""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Mapping
from typing import Final

import msgspec

from cesbrfs.errors import DamagedError
from cesbrfs.repo.model import ID_BYTES, Lenient, Node, Tree, decode, parse_id
from cesbrfs.repo.times import parse_time

NAME_MAX: Final = 255
FOLDER: Final = -1
OTHER: Final = -2
_ONE_ID: Final = {2 * ID_BYTES}
_U32: Final = (1 << 32) - 1
_U64: Final = (1 << 64) - 1
_S64: Final = (1 << 63) - 1

_FORMATS: Final[Mapping[str, int]] = {
    "file": stat.S_IFREG,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "dev": stat.S_IFBLK,
    "chardev": stat.S_IFCHR,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}

# Go's os.FileMode keeps these three apart from the nine permission bits.
_GO_SETUID: Final = 1 << 23
_GO_SETGID: Final = 1 << 22
_GO_STICKY: Final = 1 << 20
_GO_SPECIAL: Final = _GO_SETUID | _GO_SETGID | _GO_STICKY
_PERMISSIONS: Final = 0o777


class _RawXattr(Lenient):
    name: str
    value: bytes | None = None


class _RawNode(Lenient):
    name: str
    type: str | None = None
    mode: int | None = None
    mtime: str | None = None
    atime: str | None = None
    ctime: str | None = None
    uid: int | None = None
    gid: int | None = None
    user: str | None = None
    group: str | None = None
    inode: int | None = None
    device_id: int | None = None
    size: int | None = None
    links: int | None = None
    linktarget: str | None = None
    linktarget_raw: bytes | None = None
    extended_attributes: list[_RawXattr] | None = None
    device: int | None = None
    content: list[str] | None = None
    subtree: str | None = None


class _RawTree(Lenient):
    nodes: list[_RawNode] | None = None


class _RawName(Lenient):
    """Of a `_RawNode` only what names are completed with."""

    name: str
    type: str | None = None
    size: int | None = None


class _RawNames(Lenient):
    nodes: list[_RawName] | None = None


_tree = msgspec.json.Decoder(_RawTree)
_names = msgspec.json.Decoder(_RawNames)


def parse_tree(data: bytes, what: str = "tree") -> Tree:
    """Read a tree blob; DamagedError when it is none.

    Names that no folder can hold (empty, ``..``, with a slash or NUL, a second of the same name)
    and types nothing can show are refused one by one, never altered.
    """
    nodes: dict[bytes, Node] = {}
    refused: list[str] = []
    raws = decode(_tree, data, what).nodes or []
    raws.reverse()
    while raws:  # each is let go once it is turned into a node: a folder can have a million
        raw = raws.pop()
        try:
            node = _node(raw)
        except (ValueError, DamagedError) as error:
            refused.append(f"{raw.name!r}: {error}")
            continue
        if node.name in nodes:
            refused.append(f"{raw.name!r}: the folder has this name twice")
            continue
        nodes[node.name] = node
    return Tree.of(nodes, refused)


def parse_names(data: bytes, what: str = "tree") -> dict[bytes, int]:
    """Read of a tree blob only what is in it: each name with a file's bytes, or FOLDER, or OTHER.

    That takes a fraction of the time of `parse_tree`.  What that refuses by its name or type, and
    ``.`` and ``/``, are left out.  DamagedError when it is no tree.
    """
    found: dict[bytes, int] = {}
    for raw in decode(_names, data, what).nodes or ():
        try:
            name = _name(raw.name)
        except ValueError:
            continue
        if raw.type in _FORMATS and name not in (b".", b"/"):
            other = FOLDER if raw.type == "dir" else OTHER
            found.setdefault(name, max(raw.size or 0, 0) if raw.type == "file" else other)
    return found


def _node(raw: _RawNode) -> Node:
    name = _name(raw.name)
    kind = raw.type or ""
    form = _FORMATS.get(kind)
    if form is None:
        raise ValueError(f"its type {kind!r} is unknown")
    size, links, inode, device = raw.size or 0, raw.links or 0, raw.inode or 0, raw.device or 0
    device_id, uid, gid, mode = raw.device_id or 0, raw.uid or 0, raw.gid or 0, raw.mode or 0
    # One that is negative or has too many bits shows in all of them together.
    if not (
        0 <= links | inode | device | device_id <= _U64
        and 0 <= uid | gid | mode <= _U32
        and 0 <= size <= _S64
    ):
        raise ValueError("one of its numbers cannot be right")
    target = b""
    if kind != "file":
        if kind == "symlink":
            target = raw.linktarget_raw or (raw.linktarget or "").encode()
        size = len(target)
    mtime_ns = parse_time(raw.mtime) if raw.mtime else 0
    atime_ns = ctime_ns = mtime_ns
    if raw.atime != raw.mtime:  # restic mostly writes the one in the other's place
        atime_ns = parse_time(raw.atime) if raw.atime else 0
    if raw.ctime != raw.mtime:
        ctime_ns = parse_time(raw.ctime) if raw.ctime else 0
    # By position, which takes half the time that names would; the order is that of `Node`.
    return Node(
        name,
        kind,  # type: ignore[arg-type]  # it is a key of _FORMATS
        form | mode & _PERMISSIONS | (_special(mode) if mode & _GO_SPECIAL else 0),
        mtime_ns,
        atime_ns,
        ctime_ns,
        uid,
        gid,
        inode,
        device_id,
        size,
        links or 1,
        target,
        _xattrs(raw.extended_attributes) if raw.extended_attributes else (),
        device,
        _ids(raw.content) if raw.content else b"",
        parse_id(raw.subtree) if kind == "dir" and raw.subtree else None,
        sys.intern(raw.user or ""),
        sys.intern(raw.group or ""),
    )


def _name(text: str) -> bytes:
    """Return the name as bytes; ValueError for one that no folder can hold."""
    name = text.encode() if "\\" not in text else unquote(text)
    if (
        not 0 < len(name) <= NAME_MAX
        or name == b".."
        or b"\0" in name
        or (b"/" in name and name != b"/")
    ):
        raise ValueError("no folder can hold this name")
    return name


def _xattrs(raw: list[_RawXattr]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((x.name.encode(), x.value or b"") for x in raw)


def _special(go_mode: int) -> int:
    mode = 0
    if go_mode & _GO_SETUID:
        mode |= stat.S_ISUID
    if go_mode & _GO_SETGID:
        mode |= stat.S_ISGID
    if go_mode & _GO_STICKY:
        mode |= stat.S_ISVTX
    return mode


def _ids(content: list[str]) -> bytes:
    joined = bytes.fromhex("".join(content))
    # The length of each, too: `fromhex` passes over white space.
    if len(joined) != ID_BYTES * len(content) or set(map(len, content)) != _ONE_ID:
        raise ValueError("its content names no blobs")
    return joined


_ESCAPE: Final = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL
)
_SIMPLE: Final[Mapping[str, bytes]] = {
    "a": b"\a", "b": b"\b", "f": b"\f", "n": b"\n", "r": b"\r", "t": b"\t", "v": b"\v",
    "\\": b"\\", '"': b'"', "'": b"'",
}  # fmt: skip


def unquote(text: str) -> bytes:
    r"""Undo Go's ``strconv.Quote`` (without its quotes); ValueError for an escape it never writes.

    ``\xNN`` is a raw byte, ``\uNNNN`` and ``\UNNNNNNNN`` are code points.
    """
    parts: list[bytes] = []
    end = 0
    for match in _ESCAPE.finditer(text):
        parts.append(text[end : match.start()].encode())
        end = match.end()
        byte, short, long, octal, simple = match.groups()
        if byte:
            parts.append(bytes((int(byte, 16),)))
        elif short or long:
            code = int(short or long, 16)
            if code > sys.maxunicode:
                raise ValueError(f"its name has the code point {code:#x}, which does not exist")
            parts.append(chr(code).encode())
        elif octal:
            parts.append(bytes((int(octal, 8),)))
        elif simple in _SIMPLE:
            parts.append(_SIMPLE[simple])
        else:
            raise ValueError(f"its name has the unknown escape \\{simple}")
    rest = text[end:]
    if "\\" in rest:
        raise ValueError("its name ends in the middle of an escape")
    parts.append(rest.encode())
    return b"".join(parts)
