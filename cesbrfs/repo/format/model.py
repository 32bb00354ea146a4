"""The files of a restic repository as data: keys, config, index, snapshots, nodes.  Pure.

Names are bytes, times integer nanoseconds since 1970 (they exceed what ``datetime`` holds), modes
are ``st_mode`` values, IDs are 32 raw bytes (a snapshot's own ID is its 64 hex digits, as people
write it).  Every JSON field of restic's may be missing or null, and unknown ones are passed over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeVar

import msgspec

from cesbrfs.errors import DamagedError
from cesbrfs.repo.format.timestamps import parse_time

NodeType = Literal["file", "dir", "symlink", "dev", "chardev", "fifo", "socket", "unknown"]
"""restic's types, and `unknown` in lists for people: no tree, mount or restore has such a node."""

ID_BYTES: Final = 32
TAGS_MAX: Final = 1024
"""Tags of a snapshot at most: each may be a backup."""
PATHS_MAX: Final = 65_536
"""Paths of a snapshot at most."""
_NOTHING: Final[Mapping[bytes, str]] = {}
_HEX: Final = 2 * ID_BYTES

_T = TypeVar("_T")


class Lenient(msgspec.Struct, gc=False):
    """A JSON object of restic's: unknown fields are ignored, fields may be null."""


class KeyFile(Lenient):
    """A file below ``keys/``: how the password becomes a key, and the master key sealed with it."""

    kdf: str | None = None
    N: int | None = None
    r: int | None = None
    p: int | None = None
    salt: bytes | None = None
    data: bytes | None = None


class _MacKey(Lenient):
    k: bytes | None = None
    r: bytes | None = None


class MasterKey(Lenient):
    """What a key file's ``data`` holds once opened."""

    mac: _MacKey | None = None
    encrypt: bytes | None = None


class Config(Lenient):
    """The file ``config``: the format's version and the repository's ID (64 hex digits)."""

    version: int | None = None
    id: str | None = None


class _RawLock(Lenient):
    time: str
    exclusive: bool | None = None
    hostname: str | None = None
    username: str | None = None
    pid: int | None = None


class _IndexBlob(Lenient):
    id: str
    type: str
    offset: int
    length: int
    uncompressed_length: int | None = None


class _IndexPack(Lenient):
    id: str
    blobs: list[_IndexBlob] | None = None


class IndexFile(Lenient):
    """A file below ``index/``."""

    packs: list[_IndexPack] | None = None


class _Summary(Lenient):
    total_bytes_processed: int | None = None
    total_files_processed: int | None = None
    data_added: int | None = None


class _RawSnapshot(Lenient):
    time: str
    tree: str | None = None
    paths: list[str] | None = None
    hostname: str | None = None
    username: str | None = None
    excludes: list[str] | None = None
    tags: list[str] | None = None
    original: str | None = None
    parent: str | None = None
    program_version: str | None = None
    summary: _Summary | None = None


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """One restic snapshot.  `id` is 64 hex digits, `tree` 32 bytes, `size` bytes or None.

    `excludes` are the patterns of what was excluded from the backup.
    """

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
    excludes: tuple[str, ...] = ()


class Lock(msgspec.Struct, frozen=True, gc=False):
    """One process's hold on the repository.  `id` is 64 hex digits; `pid` is 0 if unknown."""

    id: str
    time_ns: int
    exclusive: bool = False
    hostname: str = ""
    username: str = ""
    pid: int = 0


ZERO_BLOB_BYTES: Final = 512 << 10
"""restic's chunker splits a run of zeros at each minimum size of a blob (chunker.MinSize)."""
ZERO_BLOB: Final = bytes.fromhex("07854d2fef297a06ba81685e660c332de36d5d18d546927d30daad6d7fda1541")
"""The ID of each of these blobs."""
_BLOCK: Final = 512


def allocated_blocks(size: int, zero_blobs: int) -> int:
    """Return ``st_blocks`` of a file of `size` bytes with `zero_blobs` blobs of zeros as holes."""
    return max(0, -(-size // _BLOCK) - zero_blobs * (ZERO_BLOB_BYTES // _BLOCK))


class Node(msgspec.Struct, frozen=True, gc=False):
    """One entry of a tree: a file, directory, link or special file as it was backed up.

    `mode` is a complete ``st_mode``; `content` is the file's blob IDs joined (32 bytes each);
    `subtree` the tree ID of a directory; `rdev` a device's ``st_rdev``; times are nanoseconds.
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

    @property
    def blocks(self) -> int:
        """``st_blocks``."""
        return allocated_blocks(self.size, self.content.count(ZERO_BLOB))


def link_id(*, device: int, inode: int, attributes: tuple[int, ...], data: bytes) -> int:
    """Return a number that the names of one file have in common within a snapshot.

    Device and inode alone do not identify a file: snapshots of old or other programs record no
    devices, and a file can change between the backup of its first name and that of its second.
    Names count as hard links only if `attributes` (mode, owner, group, modification time, device
    number) and `data` (link target and content) agree as well.
    """
    digest = hashlib.blake2b(repr((device, inode, attributes)).encode(), digest_size=8)
    digest.update(data)
    return (int.from_bytes(digest.digest(), "big") >> 1) or 1


def hard_link_id(node: Node) -> int:
    """Return the `link_id` of a file with several names, 0 for anything else."""
    if node.links <= 1 or not node.inode or node.type == "dir":
        return 0
    return link_id(
        device=node.device_id,
        inode=node.inode,
        attributes=(node.mode, node.uid, node.gid, node.mtime_ns, node.rdev),
        data=node.target + node.content,
    )


class Tree(msgspec.Struct, frozen=True, gc=False):
    """The entries of one directory by name, in restic's order.

    `listed` has the nodes by their position in that order.  `refused` describes each entry that
    cannot be shown; `unknown` has the reason by name for those of them that have a possible name
    of their own.  Made by `Tree.of`.
    """

    nodes: dict[bytes, Node]
    listed: tuple[Node, ...]
    refused: tuple[str, ...]
    unknown: Mapping[bytes, str]

    @classmethod
    def of(
        cls,
        nodes: dict[bytes, Node],
        refused: Iterable[str] = (),
        unknown: Mapping[bytes, str] = _NOTHING,
    ) -> Tree:
        """Return the tree of these nodes."""
        return cls(nodes, tuple(nodes.values()), tuple(refused), unknown)


_key_file = msgspec.json.Decoder(KeyFile)
_master_key = msgspec.json.Decoder(MasterKey)
_config = msgspec.json.Decoder(Config)
_index_file = msgspec.json.Decoder(IndexFile)
_snapshot = msgspec.json.Decoder(_RawSnapshot)
_lock = msgspec.json.Decoder(_RawLock)


def decode(decoder: msgspec.json.Decoder[_T], data: bytes, what: str) -> _T:
    """Read restic's JSON; DamagedError, which names `what`, when it is none."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(f"Invalid {what}: {error}. Run 'cesbr check'.") from error


def parse_key_file(data: bytes, what: str = "key file") -> KeyFile:
    """Read a key file; DamagedError when it is none."""
    return decode(_key_file, data, what)


def parse_master_key(data: bytes) -> MasterKey:
    """Read an opened master key; DamagedError when it is none."""
    return decode(_master_key, data, "master key")


def parse_config(data: bytes) -> Config:
    """Read the opened config; DamagedError when it is none."""
    return decode(_config, data, "repository's config")


def parse_index(data: bytes, what: str = "index file") -> IndexFile:
    """Read an opened index file; DamagedError when it is none."""
    if data[:1] == b"[":  # the list form of restic 0.x before indexes had names
        raise DamagedError(
            f"The {what} has an obsolete format. Rewrite it with 'restic repair index'."
        )
    return decode(_index_file, data, what)


def parse_snapshot(data: bytes, snapshot_id: str) -> Snapshot:
    """Read an opened snapshot file; DamagedError when it is none."""
    raw = decode(_snapshot, data, f"snapshot {snapshot_id[:8]}")
    if len(raw.tags or ()) > TAGS_MAX or len(raw.paths or ()) > PATHS_MAX:
        raise DamagedError(
            f"Snapshot {snapshot_id[:8]} rejected: {len(raw.tags or ()):,} tags and"
            f" {len(raw.paths or ()):,} paths. The limits are {TAGS_MAX:,} and {PATHS_MAX:,}."
        )
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
        excludes=tuple(raw.excludes or ()),
    )


def parse_lock(data: bytes, lock_id: str) -> Lock:
    """Read an opened lock file; DamagedError when it is none."""
    raw = decode(_lock, data, f"lock {lock_id[:8]}")
    return Lock(
        id=lock_id,
        time_ns=parse_time(raw.time),
        exclusive=raw.exclusive or False,
        hostname=raw.hostname or "",
        username=raw.username or "",
        pid=raw.pid or 0,
    )


def parse_id(text: str) -> bytes:
    """Turn 64 hex digits into 32 bytes; DamagedError for anything else."""
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != ID_BYTES or len(text) != _HEX:  # `fromhex` passes over white space
        raise DamagedError(f"Invalid ID {text!r}. Run 'cesbr check'.")
    return value
