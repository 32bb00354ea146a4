"""The files of a restic repository as data: keys, config, index, snapshots, trees.  Pure.

Names are bytes, times integer nanoseconds since 1970 (they exceed what ``datetime`` holds), modes
are ``st_mode`` values, IDs are 32 raw bytes (a snapshot's own ID is its 64 hex digits, as people
write it).  Every JSON field of restic's may be missing or null, and unknown ones are passed over.
"""

from __future__ import annotations

import functools
import re
import stat
import sys
from collections.abc import Mapping
from typing import Final, Literal, TypeVar

import msgspec

from cesbrfs.errors import DamagedError

NodeType = Literal["file", "dir", "symlink", "dev", "chardev", "fifo", "socket"]

ID_BYTES: Final = 32
NAME_MAX: Final = 255
_HEX: Final = 2 * ID_BYTES
_NS: Final = 1_000_000_000
_U32: Final = (1 << 32) - 1
_U64: Final = (1 << 64) - 1

_T = TypeVar("_T")

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


class _Lenient(msgspec.Struct, gc=False):
    """A JSON object of restic's: unknown fields are ignored, fields may be null."""


class KeyFile(_Lenient):
    """A file below ``keys/``: how the password becomes a key, and the master key sealed with it."""

    kdf: str | None = None
    N: int | None = None
    r: int | None = None
    p: int | None = None
    salt: bytes | None = None
    data: bytes | None = None


class _MacKey(_Lenient):
    k: bytes | None = None
    r: bytes | None = None


class MasterKey(_Lenient):
    """What a key file's ``data`` holds once opened."""

    mac: _MacKey | None = None
    encrypt: bytes | None = None


class Config(_Lenient):
    """The file ``config``: the format's version and the repository's ID (64 hex digits)."""

    version: int | None = None
    id: str | None = None


class _RawLock(_Lenient):
    time: str
    exclusive: bool | None = None
    hostname: str | None = None
    username: str | None = None
    pid: int | None = None


class _IndexBlob(_Lenient):
    id: str
    type: str
    offset: int
    length: int
    uncompressed_length: int | None = None


class _IndexPack(_Lenient):
    id: str
    blobs: list[_IndexBlob] | None = None


class IndexFile(_Lenient):
    """A file below ``index/``."""

    packs: list[_IndexPack] | None = None


class _Summary(_Lenient):
    total_bytes_processed: int | None = None
    total_files_processed: int | None = None
    data_added: int | None = None


class _RawSnapshot(_Lenient):
    time: str
    tree: str | None = None
    paths: list[str] | None = None
    hostname: str | None = None
    username: str | None = None
    tags: list[str] | None = None
    original: str | None = None
    parent: str | None = None
    program_version: str | None = None
    summary: _Summary | None = None


class _RawXattr(_Lenient):
    name: str
    value: bytes | None = None


class _RawNode(_Lenient):
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


class _RawTree(_Lenient):
    nodes: list[_RawNode] | None = None


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """One restic snapshot.  `id` is 64 hex digits, `tree` 32 bytes, `size` bytes or None."""

    id: str
    time_ns: int
    tree: bytes | None
    paths: tuple[str, ...] = ()
    hostname: str = ""
    username: str = ""
    tags: tuple[str, ...] = ()
    original: str | None = None
    program_version: str = ""
    size: int | None = None


class Lock(msgspec.Struct, frozen=True, gc=False):
    """One process's hold on the repository.  `id` is 64 hex digits; `pid` 0: not told."""

    id: str
    time_ns: int
    exclusive: bool = False
    hostname: str = ""
    username: str = ""
    pid: int = 0


class Node(msgspec.Struct, frozen=True, gc=False):
    """One entry of a tree: a file, folder, link or special file as it was backed up.

    `mode` is a complete ``st_mode``; `content` is the file's blob IDs joined (32 bytes each);
    `subtree` the tree ID of a folder; `rdev` a device's ``st_rdev``; times are nanoseconds.
    """

    name: bytes
    type: NodeType
    mode: int
    mtime_ns: int = 0
    atime_ns: int = 0
    ctime_ns: int = 0
    uid: int = 0
    gid: int = 0
    inode: int = 0
    device_id: int = 0
    size: int = 0
    links: int = 1
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    rdev: int = 0
    content: bytes = b""
    subtree: bytes | None = None
    user: str = ""
    group: str = ""

    @property
    def blobs(self) -> list[bytes]:
        """The IDs of the data blobs that make up the file, in order."""
        return [self.content[at : at + ID_BYTES] for at in range(0, len(self.content), ID_BYTES)]


class Tree(msgspec.Struct, frozen=True, gc=False):
    """The entries of one folder by name, in restic's order; `refused` names no entry can have."""

    nodes: dict[bytes, Node]
    refused: tuple[str, ...] = ()


_key_file = msgspec.json.Decoder(KeyFile)
_master_key = msgspec.json.Decoder(MasterKey)
_config = msgspec.json.Decoder(Config)
_index_file = msgspec.json.Decoder(IndexFile)
_snapshot = msgspec.json.Decoder(_RawSnapshot)
_lock = msgspec.json.Decoder(_RawLock)
_tree = msgspec.json.Decoder(_RawTree)


def _decode(decoder: msgspec.json.Decoder[_T], data: bytes, what: str) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedError(
            f"The {what} is not what restic writes ({error}); run 'cesbr check'."
        ) from error


def parse_key_file(data: bytes, what: str = "key file") -> KeyFile:
    """Read a key file; DamagedError when it is none."""
    return _decode(_key_file, data, what)


def parse_master_key(data: bytes) -> MasterKey:
    """Read an opened master key; DamagedError when it is none."""
    return _decode(_master_key, data, "master key")


def parse_config(data: bytes) -> Config:
    """Read the opened config; DamagedError when it is none."""
    return _decode(_config, data, "repository's config")


def parse_index(data: bytes, what: str = "index file") -> IndexFile:
    """Read an opened index file; DamagedError when it is none."""
    if data[:1] == b"[":  # the list form of restic 0.x before indexes had names
        raise DamagedError(
            f"The {what} has the form of 2015; rewrite it with 'restic repair index'."
        )
    return _decode(_index_file, data, what)


def parse_snapshot(data: bytes, snapshot_id: str) -> Snapshot:
    """Read an opened snapshot file; DamagedError when it is none."""
    raw = _decode(_snapshot, data, f"snapshot {snapshot_id[:8]}")
    return Snapshot(
        id=snapshot_id,
        time_ns=parse_time(raw.time),
        tree=parse_id(raw.tree) if raw.tree else None,
        paths=tuple(raw.paths or ()),
        hostname=raw.hostname or "",
        username=raw.username or "",
        tags=tuple(raw.tags or ()),
        original=raw.original or None,
        program_version=raw.program_version or "",
        size=raw.summary.total_bytes_processed if raw.summary else None,
    )


def parse_lock(data: bytes, lock_id: str) -> Lock:
    """Read an opened lock file; DamagedError when it is none."""
    raw = _decode(_lock, data, f"lock {lock_id[:8]}")
    return Lock(
        id=lock_id,
        time_ns=parse_time(raw.time),
        exclusive=raw.exclusive or False,
        hostname=raw.hostname or "",
        username=raw.username or "",
        pid=raw.pid or 0,
    )


def parse_tree(data: bytes, what: str = "tree") -> Tree:
    """Read a tree blob; DamagedError when it is none.

    Names that no folder can hold (empty, ``..``, with a slash or NUL, a second of the same name)
    and types nothing can show are refused one by one, never altered.
    """
    nodes: dict[bytes, Node] = {}
    refused: list[str] = []
    for raw in _decode(_tree, data, what).nodes or ():
        try:
            node = _node(raw)
        except (ValueError, DamagedError) as error:
            refused.append(f"{raw.name!r}: {error}")
            continue
        if node.name in nodes:
            refused.append(f"{raw.name!r}: the folder has this name twice")
            continue
        nodes[node.name] = node
    return Tree(nodes, tuple(refused))


def _node(raw: _RawNode) -> Node:
    name = raw.name.encode() if "\\" not in raw.name else unquote(raw.name)
    if (
        not 0 < len(name) <= NAME_MAX
        or name == b".."
        or b"\0" in name
        or (b"/" in name and name != b"/")
    ):
        raise ValueError("no folder can hold this name")
    kind = raw.type or ""
    form = _FORMATS.get(kind)
    if form is None:
        raise ValueError(f"its type {kind!r} is unknown")
    target = b""
    if kind == "symlink":
        target = raw.linktarget_raw or (raw.linktarget or "").encode()
    numbers = (raw.size, raw.links, raw.inode, raw.device_id, raw.device)
    if not all(0 <= number <= _U64 for number in numbers if number) or not all(
        0 <= number <= _U32 for number in (raw.uid, raw.gid, raw.mode) if number
    ):
        raise ValueError("one of its numbers cannot be right")
    return Node(
        name=name,
        type=kind,  # type: ignore[arg-type]  # it is a key of _FORMATS
        mode=form | _permissions(raw.mode or 0),
        mtime_ns=parse_time(raw.mtime) if raw.mtime else 0,
        atime_ns=parse_time(raw.atime) if raw.atime else 0,
        ctime_ns=parse_time(raw.ctime) if raw.ctime else 0,
        uid=raw.uid or 0,
        gid=raw.gid or 0,
        inode=raw.inode or 0,
        device_id=raw.device_id or 0,
        size=(raw.size or 0) if kind == "file" else len(target),
        links=raw.links or 1,
        target=target,
        xattrs=_xattrs(raw.extended_attributes) if raw.extended_attributes else (),
        rdev=raw.device or 0,
        content=_ids(raw.content) if raw.content else b"",
        subtree=parse_id(raw.subtree) if kind == "dir" and raw.subtree else None,
        user=raw.user or "",
        group=raw.group or "",
    )


def _xattrs(raw: list[_RawXattr]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((x.name.encode(), x.value or b"") for x in raw)


def _permissions(go_mode: int) -> int:
    mode = go_mode & 0o777
    if go_mode >> 20:
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
    if {len(blob) for blob in content} != {_HEX} or len(joined) != ID_BYTES * len(content):
        raise ValueError("its content names no blobs")
    return joined


def parse_id(text: str) -> bytes:
    """Turn 64 hex digits into 32 bytes; DamagedError for anything else."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != ID_BYTES or len(text) != _HEX:  # `fromhex` passes over white space
        raise DamagedError(f"{text!r} is no ID of a repository's file or blob; run 'cesbr check'.")
    return value


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


_TIME: Final = re.compile(
    r"(\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d)"
    r"(?:\.(\d{1,9}))?(?:Z|([+-](?:[01]\d|2[0-3]):[0-5]\d))",
    re.ASCII,
)
_SCALE: Final = tuple(10 ** (9 - digits) for digits in range(10))


@functools.lru_cache(maxsize=4096)
def _day(text: str) -> int:
    """Return the day of ``YYYY-MM-DD`` counted from 1970 (years 0000 to 9999, Gregorian)."""
    year, month, day = int(text[:4]), int(text[5:7]), int(text[8:10])
    # Howard Hinnant's days_from_civil: years begin in March, so the leap day is the last.
    year -= month <= 2  # noqa: PLR2004 - January and February belong to the year before
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1  # noqa: PLR2004 - as above
    return (
        era * 146_097
        + year_of_era * 365
        + year_of_era // 4
        - year_of_era // 100
        + day_of_year
        - 719_468
    )


@functools.lru_cache(maxsize=4096)
def _second(text: str) -> int:
    """Return the second of ``YYYY-MM-DDTHH:MM:SS`` counted from 1970, before its zone."""
    return (
        _day(text[:10]) * 86_400 + int(text[11:13]) * 3_600 + int(text[14:16]) * 60 + int(text[17:])
    )


def parse_time(text: str) -> int:
    """Turn an RFC 3339 time into nanoseconds since 1970; DamagedError when it is none."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise DamagedError(f"{text!r} is no time as restic writes it; run 'cesbr check'.")
    second, fraction, zone = match.groups()
    time_ns = _second(second) * _NS
    if fraction:
        time_ns += int(fraction) * _SCALE[len(fraction)]
    if zone is None:
        return time_ns
    offset = (int(zone[1:3]) * 3_600 + int(zone[4:]) * 60) * _NS
    return time_ns - offset if zone[0] == "+" else time_ns + offset


def format_time(time_ns: int) -> str:
    """Write nanoseconds since 1970 as RFC 3339 in UTC with nine digits (years 0000 to 9999)."""
    seconds, fraction = divmod(time_ns, _NS)
    days, second = divmod(seconds, 86_400)
    # civil_from_days, the inverse of what `_day` does.
    days += 719_468
    era, day_of_era = divmod(days, 146_097)
    year_of_era = (
        day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9  # noqa: PLR2004 - March is month 0
    year = era * 400 + year_of_era + (month <= 2)  # noqa: PLR2004 - as in `_day`
    return (
        f"{year:04d}-{month:02d}-{day:02d}T"
        f"{second // 3_600:02d}:{second // 60 % 60:02d}:{second % 60:02d}.{fraction:09d}Z"
    )
