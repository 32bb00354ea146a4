"""Entries of restic's trees become nodes and rows, once their fields are known to be right.  Pure.

This is where a walk over a backup spends most of its time, so each step that an entry costs counts:
the decoder checks types and ranges, names are looked at all together, and times of one entry are
mostly the same text.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

import msgspec

from cesbrfs.errors import DamagedError
from cesbrfs.repo.format.direntry import DirEntry
from cesbrfs.repo.format.model import (
    ID_BYTES,
    ZERO_BLOB,
    ZERO_BLOB_BYTES,
    Lenient,
    Node,
    allocated_blocks,
    link_id,
    parse_id,
)
from cesbrfs.repo.format.timestamps import parse_time

_U32 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
_S63 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Kind = Literal["file", "dir", "symlink", "dev", "chardev", "fifo", "socket"]

FORMATS: Final[Mapping[str, int]] = {
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
_ZERO_BLOB_HEX: Final = ZERO_BLOB.hex()
_ZERO_BLOB_JSON: Final = f'"{_ZERO_BLOB_HEX}"'.encode()
_ONE_ID: Final = {2 * ID_BYTES}
_SURELY_FITS: Final = 63
"""Characters that take no more than 255 bytes, whatever they are."""
TARGET_MAX: Final = 4095
"""Bytes of a link's target at most, as Linux has it."""
_UNUSUAL: Final = (ValueError, DamagedError, RecursionError)
_QUICKLY: Final = 1 << 20
"""Larger trees are parsed entry by entry, and parsed entries are freed in between."""


class RawXattr(Lenient):
    """An extended attribute; `value` is in base64."""

    name: str
    value: bytes | None = None


class RawNode(Lenient):
    """An entry as restic writes it, all of whose fields are possible.  `mode` is Go's FileMode."""

    name: str
    type: _Kind
    mode: _U32 = 0
    mtime: str = ""
    atime: str = ""
    ctime: str = ""
    uid: _U32 = 0
    gid: _U32 = 0
    inode: _S63 = 0
    device_id: _S63 = 0
    size: _S63 = 0
    links: _S63 = 0
    linktarget: str = ""
    linktarget_raw: bytes = b""
    extended_attributes: list[RawXattr] | None = None
    device: _S63 = 0
    subtree: str | None = None


class ShortEntry(RawNode):
    """The same with its content, decoded only for files with several names."""

    content: msgspec.Raw = msgspec.Raw(b"null")


class FullRawNode(RawNode):
    """The same with what a listing does not tell."""

    user: str = ""
    group: str = ""
    content: list[str] | None = None


class _RawNodes(Lenient):
    nodes: list[ShortEntry]


class _FullRawNodes(Lenient):
    nodes: list[FullRawNode]


_content = msgspec.json.Decoder(list[str] | None)
_entries = msgspec.json.Decoder(_RawNodes)
_full_entries = msgspec.json.Decoder(_FullRawNodes)


def decode_entries(data: bytes) -> list[DirEntry] | None:
    """Return the rows of a tree blob in which all is as usual; None where something is not."""
    if len(data) > _QUICKLY:
        return None
    try:
        entries = _entries.decode(data).nodes
        names = _plain_names(entries)
        return [
            _row(name, entry, entry.content) for name, entry in zip(names, entries, strict=True)
        ]
    except _UNUSUAL:  # what the decoder raises is a ValueError, too
        return None


def decode_nodes(data: bytes) -> dict[bytes, Node] | None:
    """Return the nodes of such a tree blob by name; None where something is not as usual."""
    if len(data) > _QUICKLY:
        return None
    try:
        entries = _full_entries.decode(data).nodes
        names = _plain_names(entries)
        return {name: node_of(name, entry) for name, entry in zip(names, entries, strict=True)}
    except _UNUSUAL:
        return None


def _plain_names(entries: Sequence[RawNode]) -> list[bytes]:
    """Return names as bytes; ValueError unless each is another, and one that needs no care."""
    names = [entry.name for entry in entries]
    text = "/".join(names)
    if (
        not all(names)
        or "\\" in text
        or "\0" in text
        or text.count("/") >= max(len(names), 1)
        or len(max(names, key=len, default="")) > _SURELY_FITS
        or len(unique := set(names)) < len(names)
        or "." in unique
        or ".." in unique
    ):
        raise ValueError("a name is not as usual")
    return text.encode().split(b"/") if names else []


def entry_of(name: bytes, entry: FullRawNode) -> DirEntry:
    """Return an entry's row; ValueError or DamagedError where a time or an ID is none."""
    return _row(name, entry, entry.content)


def _row(name: bytes, entry: RawNode, content: list[str] | msgspec.Raw | None) -> DirEntry:
    kind, mode, mtime, links, size = entry.type, entry.mode, entry.mtime, entry.links, entry.size
    mtime_ns = parse_time(mtime) if mtime else 0
    atime_ns = ctime_ns = mtime_ns
    if entry.atime != mtime:  # restic mostly writes the one in the other's place
        atime_ns = parse_time(entry.atime) if entry.atime else 0
    if entry.ctime != mtime:
        ctime_ns = parse_time(entry.ctime) if entry.ctime else 0
    target = b""
    subtree = None
    if kind != "file":
        if kind == "symlink":
            target = entry.linktarget_raw or entry.linktarget.encode()
            if b"\0" in target or len(target) > TARGET_MAX:
                raise ValueError("invalid target of a symbolic link")
        elif kind == "dir" and entry.subtree:
            subtree = parse_id(entry.subtree)
        size = len(target)
    blocks = (size + 511) >> 9
    if size >= ZERO_BLOB_BYTES and content is not None:
        if isinstance(content, msgspec.Raw):
            blocks = allocated_blocks(size, bytes(content).count(_ZERO_BLOB_JSON))
        else:
            blocks = allocated_blocks(size, content.count(_ZERO_BLOB_HEX))
    st_mode = FORMATS[kind] | mode & _PERMISSIONS | (_special(mode) if mode & _GO_SPECIAL else 0)
    link = 0
    if links > 1 and kind != "dir" and entry.inode:
        found = _content.decode(content) if isinstance(content, msgspec.Raw) else content
        link = link_id(
            device=entry.device_id,
            inode=entry.inode,
            attributes=(st_mode, entry.uid, entry.gid, mtime_ns, entry.device),
            data=target + (_ids(found) if found else b""),
        )
    # By position, which takes half the time that names would; the order is that of `DirEntry`.
    return DirEntry(
        name,
        st_mode,
        mtime_ns,
        atime_ns,
        ctime_ns,
        entry.uid,
        entry.gid,
        size,
        links or 1,
        entry.device,
        target,
        subtree,
        bool(entry.extended_attributes),
        link,
        blocks,
    )


def node_of(name: bytes, entry: FullRawNode) -> Node:
    """Return an entry's node; ValueError or DamagedError where a time or an ID is none."""
    row = entry_of(name, entry)
    # By position, as above; the order is that of `Node`.
    return Node(
        name,
        entry.type,
        row.mode,
        row.mtime_ns,
        row.atime_ns,
        row.ctime_ns,
        row.uid,
        row.gid,
        entry.inode,
        entry.device_id,
        row.size,
        row.links,
        row.target,
        _xattrs(entry.extended_attributes) if entry.extended_attributes else (),
        row.rdev,
        _ids(entry.content) if entry.content else b"",
        row.subtree,
        sys.intern(entry.user),
        sys.intern(entry.group),
    )


def _xattrs(raw: list[RawXattr]) -> tuple[tuple[bytes, bytes], ...]:
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
        raise ValueError("invalid blob IDs")
    return joined
