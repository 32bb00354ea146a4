"""Cache compact directory listings by tree ID, in memory and on disk.

Each directory is read once and used for every backup that contains it. An `IndexedEntry` has the
metadata that searching and comparing need. All listings are saved as one record in the cache
directory, and the roots of the backups as another, both encrypted with the repository key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final, TypeVar

import msgspec
import trio

from cesbrfs.repo.format.model import ID_BYTES, Node, Snapshot, Tree
from cesbrfs.repo.format.tree import parse_node, split_nodes
from cesbrfs.repo.read.trees import no_tree
from cesbrfs.repo.repository import Repository
from cesbrfs.util.lru import LruCache

_NS: Final = 1_000_000_000
_RECORD_NAME: Final = "names"
_ROOTS_NAME: Final = "roots"
_VERSION: Final = 3
"""Format version of the records and their entries."""
UNKNOWN: Final = "unknown"
"""Type of an entry that a newer restic or another system wrote."""
_REFUSED: Final = "/refused"
"""Type of trailing entries of a listing whose names are reasons for unshowable entries."""
_SAVE_FRACTION: Final = 100
"""The record is saved when at least 1/100 of it is new."""
_DIGEST_BYTES: Final = 16
_ROOT_PREFIX: Final = b"^"
_PARTIAL_PREFIX: Final = b"~"
_WHOLE_PREFIX: Final = b"="
_MANY_BLOBS_SUFFIX: Final = b"+"
"""Suffix of the `content` of files with several blobs; other blobs may have equal bytes."""
_MAX_COMPARED: Final = 100_000
"""Maximum number of cached comparison results."""
_ENCODED_FRACTION: Final = 4
_ENCODED_MAX: Final = 8 << 20
"""Encoded nodes take at most a quarter of the memory for listings, and 8 MiB."""
_ENCODED_BYTES: Final = 250
"""Memory of an encoded node in addition to its bytes."""
_PARSED_SINGLY: Final = 64
"""If more nodes of a tree are new, parsing all of them together is faster."""
_R = TypeVar("_R", bound=msgspec.Struct)
_CHECKPOINT_INTERVAL: Final = 64
"""Number of listings between two checkpoints, where Ctrl+C is handled."""


class IndexedEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The compact metadata of one entry.

    `content` identifies the content of a file, the target of a symlink or the number of a device:
    16 bytes, plus ``+`` for a file with several blobs; empty if there is none. `extra` identifies
    the extended attributes. `subtree` is the key of a directory in the index. `seconds` is None for
    a virtual directory, which has no recorded time.
    """

    name: bytes
    type: str
    mode: int
    uid: int
    gid: int
    size: int
    seconds: int | None
    nanoseconds: int
    content: bytes = b""
    extra: bytes = b""
    subtree: bytes | None = None

    @property
    def mtime_ns(self) -> int | None:
        """Modification time in ns since the epoch."""
        return None if self.seconds is None else self.seconds * _NS + self.nanoseconds

    @property
    def identity(self) -> tuple[str, bytes]:
        """Type and content; equal for entries of the same version. All directories are equal."""
        return self.type, self.content

    @property
    def content_id(self) -> str:
        """The content ID in hex, for JSON."""
        return self.content[:_DIGEST_BYTES].hex()

    def may_equal(self, other: IndexedEntry) -> bool:
        """Return whether two entries of different `content` may be files with the same bytes.

        The ID of a single blob is the SHA-256 of the file, so one file must have several blobs.
        """
        return (
            self.type == other.type == "file"
            and self.size == other.size
            and (
                self.content.endswith(_MANY_BLOBS_SUFFIX)
                or other.content.endswith(_MANY_BLOBS_SUFFIX)
            )
            and len(self.content + other.content) > 2 * _DIGEST_BYTES
        )


Listing = Mapping[bytes, IndexedEntry]


class _Record(msgspec.Struct, array_like=True, gc=False):
    version: int
    listings: dict[bytes, bytes]
    compared: dict[bytes, bool]


class _Roots(msgspec.Struct, array_like=True, gc=False):
    version: int
    virtual: dict[bytes, bytes]
    roots: dict[bytes, bytes]


_encoder = msgspec.msgpack.Encoder()
_rows = msgspec.msgpack.Decoder(list[IndexedEntry])
_raw_rows = msgspec.msgpack.Decoder(list[msgspec.Raw])
_row = msgspec.msgpack.Decoder(IndexedEntry)
_record = msgspec.msgpack.Decoder(_Record)
_root_record = msgspec.msgpack.Decoder(_Roots)


def row_of(node: Node, name: bytes, subtree: bytes | None) -> IndexedEntry:
    """Return the entry of a node under `name`; `subtree` is the key of a directory."""
    seconds, nanoseconds = divmod(node.mtime_ns, _NS)
    identified = node.content or node.target or (b"%d" % node.rdev if node.rdev else b"")
    xattrs = b"".join(
        b"%s\0%d\0%s" % (key, len(value), value) for key, value in sorted(node.xattrs)
    )
    return IndexedEntry(
        name=name,
        type=node.type,
        mode=node.mode,
        uid=node.uid,
        gid=node.gid,
        size=node.size,
        seconds=seconds,
        nanoseconds=nanoseconds,
        content=_digest(identified) + (_MANY_BLOBS_SUFFIX if len(node.content) > ID_BYTES else b""),
        extra=_digest(xattrs),
        subtree=subtree,
    )


def _unknown_row(name: bytes, reason: str) -> IndexedEntry:
    return IndexedEntry(name, UNKNOWN, 0, 0, 0, 0, 0, 0, content=_digest(reason.encode()))


def _rows_of(tree: Tree) -> list[IndexedEntry]:
    """Return the entries of a directory, followed by those for unshowable entries."""
    return [
        *(row_of(node, node.name, node.subtree) for node in tree.nodes.values()),
        *(_unknown_row(name, reason) for name, reason in tree.unknown.items()),
        *(
            IndexedEntry(text.encode("utf-8", "surrogateescape"), _REFUSED, 0, 0, 0, 0, None, 0)
            for text in tree.refused
        ),
    ]


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_DIGEST_BYTES] if data else b""


def _decoded(decoder: msgspec.msgpack.Decoder[_R], data: bytes | None) -> _R | None:
    """Decode a record; None if there is none, or if another version wrote it."""
    try:
        return decoder.decode(data) if data is not None else None
    except (ValueError, RecursionError):
        return None


def pair_of(one: IndexedEntry, other: IndexedEntry) -> bytes:
    """Return the cache key for the comparison of two contents."""
    return _digest(b"".join(sorted((one.content, other.content))))


class DirectoryIndex:
    """The compact listings of the directories of one repository.

    A key is a tree ID, or a result of `top` or `fold`. `loaded` counts the directories that were
    read from the repository. `long_lived`: in a mount, listings have a smaller cache and are not
    saved, because a record of them is loaded as a whole.
    """

    def __init__(self, repository: Repository, *, long_lived: bool = False) -> None:
        self.repository: Final = repository
        self.loaded = 0
        caching = repository.caching
        capacity = caching.merged_listings if long_lived else caching.history
        self._encoded_max = min(capacity // _ENCODED_FRACTION, _ENCODED_MAX)
        self._cache: LruCache[bytes, bytes] = LruCache(capacity - self._encoded_max, len)
        self._encoded: dict[bytes, tuple[bytes, bytes]] = {}
        """Name and encoded entry by the JSON of a node: most nodes occur in many trees."""
        self._encoded_bytes = 0
        self._saves_listings = not long_lived
        self._virtual: dict[bytes, bytes] = {}
        self._roots: dict[bytes, bytes] = {}
        self.compared: dict[bytes, bool] = {}
        """Cached results of comparing contents with different blobs, by `pair_of`."""
        self._loaded = False
        self._load_lock = trio.Lock()
        self._new_bytes = 0
        self._new_roots = False
        self._turns = 0

    async def load(self) -> None:
        """Load the records that an earlier run saved, once."""
        async with self._load_lock:
            if self._loaded:
                return
            self._loaded = True
            roots = _decoded(_root_record, await self.repository.load(_ROOTS_NAME))
            if roots is not None and roots.version == _VERSION:
                self._virtual, self._roots = roots.virtual, roots.roots
            if not self._saves_listings:
                return
            record = _decoded(_record, await self.repository.load(_RECORD_NAME))
            if record is not None and record.version == _VERSION:
                for key, raw in record.listings.items():
                    self._cache.put(key, raw)
                self.compared = record.compared

    async def save(self) -> None:
        """Save the roots if one is new, and the listings if enough of them are new."""
        await self._save_roots()
        if not self._saves_listings or self._new_bytes * _SAVE_FRACTION <= self._cache.used:
            return
        self._new_bytes = 0
        record = _Record(_VERSION, dict(self._cache.items()), self.compared)
        await self.repository.keep(_RECORD_NAME, _encoder.encode(record))

    async def _save_roots(self) -> None:
        if not self._new_roots:
            return
        self._new_roots = False
        record = _Roots(_VERSION, self._needed(self._roots.values()), self._roots)
        await self.repository.keep(_ROOTS_NAME, _encoder.encode(record))

    def _needed(self, roots: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the virtual directories at and below `roots`."""
        needed: dict[bytes, bytes] = {}
        waiting = list(roots)
        while waiting:
            key = waiting.pop()
            if key in self._virtual and key not in needed:
                needed[key] = self._virtual[key]
                below = _rows.decode(needed[key])
                waiting += [row.subtree for row in below if row.subtree]
        return needed

    def prune_virtual_except(self, roots: Iterable[bytes]) -> None:
        """Remove the virtual directories that are not at or below one of `roots`."""
        self._virtual = self._needed(roots)

    async def listing(self, key: bytes) -> Listing:
        """Return the entries of a directory by name.

        Raises BlobMissingError or DamagedError if its tree is missing or damaged.
        """
        self._turns += 1
        if self._turns % _CHECKPOINT_INTERVAL == 0:
            await trio.lowlevel.checkpoint()
        raw = (
            self._virtual.get(key)
            or self._cache.peek(key)
            or await self._cache.get(key, partial(self._load, key))
        )
        rows = _rows.decode(raw)
        while rows and rows[-1].type == _REFUSED:
            rows.pop()
        return {row.name: row for row in rows}

    def refused(self, key: bytes) -> list[str]:
        """Return names and reasons for entries of a listed directory that cannot be shown."""
        raw = self._cache.peek(key)
        if raw is None or _REFUSED.encode() not in raw:
            return []
        rows = (row for row in _rows.decode(raw) if row.type == _REFUSED)
        return [row.name.decode("utf-8", "surrogateescape") for row in rows]

    def holds(self, key: bytes) -> bool:
        """Return whether the directory is cached or being read."""
        cache = self._cache
        return key in self._virtual or cache.peek(key) is not None or cache.is_loading(key)

    async def fetch(self, key: bytes) -> None:
        """Read a directory into the cache."""
        await self._cache.get(key, partial(self._load, key))

    async def _load(self, key: bytes) -> bytes:
        raw = await self._from_nodes(key) if len(key) == ID_BYTES else None
        if raw is None:
            raw = _encoder.encode(_rows_of(await self.tree(key)))
        self.loaded += 1
        self._new_bytes += len(raw)
        return raw

    async def _from_nodes(self, key: bytes) -> bytes | None:
        """Return the listing of a tree, parsing only its new nodes; None if one is unusual."""
        data = await self.repository.trees.read(key)
        nodes = split_nodes(data, f"tree {key.hex()[:8]}")
        new = [node for node in nodes if node not in self._encoded]
        if len(new) <= _PARSED_SINGLY:
            parsed = [parse_node(node) for node in new]
        else:
            new = nodes
            parsed = list((await self.repository.trees.parse(key, data)).listed)
        if len(parsed) != len(new):
            return None
        entries: dict[bytes, tuple[bytes, bytes]] = {}
        for raw, node in zip(new, parsed, strict=True):
            if node is None or node.name in (b".", b"/"):
                return None
            row = row_of(node, node.name, node.subtree)
            entries[raw] = node.name, _encoder.encode(row)
        found = [entries.get(node) or self._encoded[node] for node in nodes]
        if len({name for name, _ in found}) != len(found):
            return None
        self._remember_encoded(entries)
        return _encoder.encode([msgspec.Raw(row) for _, row in found])

    def _remember_encoded(self, entries: Mapping[bytes, tuple[bytes, bytes]]) -> None:
        size = sum(len(raw) + len(row) + _ENCODED_BYTES for raw, (_, row) in entries.items())
        if self._encoded_bytes + size > self._encoded_max:
            self._encoded.clear()
            self._encoded_bytes = 0
        if size <= self._encoded_max:
            self._encoded.update(entries)
            self._encoded_bytes += size

    async def rows(self, key: bytes) -> list[bytes]:
        """Return the entries of a directory in encoded form, for `decode_row`.

        Equal entries are equal bytes. Raises as `listing`.
        """
        raw = self._virtual.get(key) or self._cache.peek(key)
        if raw is None:
            raw = await self._cache.get(key, partial(self._load, key))
        return [bytes(row) for row in _raw_rows.decode(raw)]

    @staticmethod
    def decode_row(row: bytes) -> IndexedEntry | None:
        """Return an entry of `rows`; None for one that cannot be shown."""
        found = _row.decode(row)
        return None if found.type in (UNKNOWN, _REFUSED) else found

    async def node(self, key: bytes, name: bytes) -> Node | None:
        """Return the complete node of an entry of a stored directory, None if there is none."""
        if len(key) == ID_BYTES:
            return await self.repository.trees.node(key, name)
        return (await self.tree(key)).nodes.get(name)

    async def tree(self, key: bytes) -> Tree:
        """Return the parsed tree of a stored directory, with complete metadata."""
        if key == _ROOT_PREFIX:
            raise no_tree()
        if len(key) == ID_BYTES:
            return await self.repository.trees.get(key)
        return await self.repository.trees.top(key.removeprefix(_ROOT_PREFIX))

    @staticmethod
    def top(snapshot: Snapshot) -> bytes:
        """Return the key of the root of a snapshot."""
        return _ROOT_PREFIX + (snapshot.tree or b"")

    def fold(self, rows: Iterable[IndexedEntry], *, whole: bool = False) -> bytes:
        """Add a virtual directory and return its key; equal entries have the same key.

        A `whole` directory covers everything: a name missing in it did not exist.
        """
        raw = _encoder.encode(list(rows))
        key = (_WHOLE_PREFIX if whole else _PARTIAL_PREFIX) + hashlib.sha256(raw).digest()
        self._virtual[key] = raw
        return key

    @staticmethod
    def is_open(key: bytes) -> bool:
        """Return whether a directory is virtual and does not cover everything.

        Examples are a backup, or a dogu in it: a name missing in it was not backed up.
        """
        return len(key) > ID_BYTES and key.startswith(_PARTIAL_PREFIX)

    def is_virtual(self, key: bytes) -> bool:
        """Return whether a directory is virtual, so that it has no stored tree."""
        return key in self._virtual

    def remember(self, pair: bytes, *, equal: bool) -> None:
        """Cache whether two contents are equal; evict the oldest result if there are too many."""
        self.compared[pair] = equal
        self._new_bytes += self._cache.used // _SAVE_FRACTION + 1  # save soon: both files were read
        while len(self.compared) > _MAX_COMPARED:
            del self.compared[next(iter(self.compared))]

    def root(self, label: bytes) -> bytes | None:
        """Return the key of the root saved under `label`, or None."""
        return self._roots.get(label)

    def save_root(self, label: bytes, key: bytes) -> None:
        """Save the key of a root under `label`."""
        self._roots[label] = key
        self._new_roots = True

    def prune_roots_except(self, labels: Iterable[bytes]) -> None:
        """Remove all roots except those in `labels`."""
        self._roots = {label: self._roots[label] for label in labels if label in self._roots}
