"""Headers of a tar archive in the POSIX.1-2001 (pax) format. Pure.

Names, link targets and extended attributes are bytes. What a ustar header cannot contain is in a
pax extended header before it: long names and names that are not ASCII, times to the nanosecond,
large numbers, and extended attributes as ``SCHILY.xattr.NAME``, as GNU tar and libarchive write
them. POSIX ACLs are extended attributes, too. Owners are numbers, as in a restore.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from cesbrfs.repo.format.model import Node

BLOCK: Final = tarfile.BLOCKSIZE
END: Final = bytes(2 * BLOCK)
"""The end of an archive."""
_NS: Final = 10**9
_MAX_ID: Final = 0o7777777
_MAX_SIZE: Final = 0o77777777777
_NAME_BYTES: Final = 100
_NOTHING: Final[Mapping[bytes, bytes]] = {}
_TYPES: Final = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "chardev": tarfile.CHRTYPE,
    "dev": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


class Segment(NamedTuple):
    """A part of a sparse file between its holes: `size` bytes at `offset`."""

    offset: int
    size: int


def is_storable(node: Node) -> bool:
    """Return whether tar has a type for the node; sockets have none."""
    return node.type in _TYPES


def padding(size: int) -> bytes:
    """Return what follows `size` bytes of content."""
    return bytes(-size % BLOCK)


def header(name: bytes, node: Node, size: int = 0, link: bytes | None = None) -> bytes:
    """Return the headers of a member; `size` bytes of content and its padding follow.

    With `link` the member is a hard link to the member of that name.
    """
    kind = _TYPES[node.type] if link is None else tarfile.LNKTYPE
    if kind == tarfile.DIRTYPE:
        name += b"/"
    target = b"" if kind not in (tarfile.SYMTYPE, tarfile.LNKTYPE) else link or node.target
    return _headers(name, node, kind, size, target=target)


def sparse_header(name: bytes, node: Node, size: int, segments: Sequence[Segment]) -> bytes:
    """Return the headers of a sparse file of `size` bytes, in GNU's format 1.0 for pax.

    The content of the segments follows, and its padding.
    """
    listed = [*segments, Segment(size, 0)]
    numbers = [len(listed), *(number for segment in listed for number in segment)]
    table = b"".join(b"%d\n" % number for number in numbers)
    table += padding(len(table))
    records = {
        b"GNU.sparse.major": b"1",
        b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": name,
        b"GNU.sparse.realsize": b"%d" % size,
    }
    stored = len(table) + sum(segment.size for segment in segments)
    short = b"GNUSparseFile.0/" + name.rpartition(b"/")[2]
    return _headers(short, node, tarfile.REGTYPE, stored, records=records) + table


def _headers(
    name: bytes,
    node: Node,
    kind: bytes,
    size: int,
    *,
    target: bytes = b"",
    records: Mapping[bytes, bytes] = _NOTHING,
) -> bytes:
    linked = kind == tarfile.LNKTYPE
    texts = {b"path": name, b"linkpath": target}
    too_long = {k: v for k, v in texts.items() if len(v) > _NAME_BYTES or not v.isascii()}
    records = {**records, **too_long}
    for key, number, largest in (
        (b"uid", node.uid, _MAX_ID),
        (b"gid", node.gid, _MAX_ID),
        (b"size", size, _MAX_SIZE),
    ):
        if number > largest:
            records[key] = b"%d" % number
    seconds, nanoseconds = divmod(node.mtime_ns, _NS)
    if nanoseconds or not 0 <= seconds <= _MAX_SIZE:
        records[b"mtime"] = _time(node.mtime_ns)
    if not linked:
        records[b"atime"] = _time(node.atime_ns)
        for attribute, value in node.xattrs:
            escaped = attribute.replace(b"%", b"%25").replace(b"=", b"%3D")
            records[b"SCHILY.xattr." + escaped] = value
    info = tarfile.TarInfo(_ascii(name))
    info.type, info.size, info.linkname = kind, size, _ascii(target)
    info.mode = stat.S_IMODE(node.mode)
    info.uid, info.gid = min(node.uid, _MAX_ID), min(node.gid, _MAX_ID)
    info.size = size if size <= _MAX_SIZE else 0
    info.mtime = seconds if 0 <= seconds <= _MAX_SIZE else 0
    if node.type in ("dev", "chardev"):
        info.devmajor, info.devminor = os.major(node.rdev), os.minor(node.rdev)
    return _pax_header(records) + info.tobuf(tarfile.USTAR_FORMAT, "ascii", "replace")


def _ascii(name: bytes) -> str:
    """Return a name as a ustar header can contain it, for programs that do not know pax."""
    return name[:_NAME_BYTES].decode("ascii", "replace").replace("\ufffd", "_")


def _pax_header(records: Mapping[bytes, bytes]) -> bytes:
    if not records:
        return b""
    data = b"".join(_record(key, value) for key, value in records.items())
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, len(data)
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict") + data + padding(len(data))


def _record(key: bytes, value: bytes) -> bytes:
    """Return ``LENGTH KEY=VALUE``, where the length includes itself."""
    rest = b" %b=%b\n" % (key, value)
    length = len(rest) + 1
    while len(rest) + len(str(length)) != length:
        length = len(rest) + len(str(length))
    return b"%d%b" % (length, rest)


def _time(time_ns: int) -> bytes:
    seconds, nanoseconds = divmod(abs(time_ns), _NS)
    text = b"%s%d.%09d" % (b"-" * (time_ns < 0), seconds, nanoseconds)
    return text.rstrip(b"0").rstrip(b".")
