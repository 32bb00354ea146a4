"""Folders in short, by tree ID: read once, kept on disk, used for every backup that has them.

A row says of an entry what searching and comparing need.  The rows of all folders seen are kept as
one record below the cache folder, sealed with the repository's keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final

import msgspec
import trio

from cesbrfs.repo.format.model import ID_BYTES, Node, Snapshot, Tree
from cesbrfs.repo.repository import Repository, no_tree
from cesbrfs.util.lru import LruCache

_NS: Final = 1_000_000_000
_CAPACITY: Final = 128 << 20
"""Bytes of rows held, in memory and on disk: about 1.5 million names."""
_NAME: Final = "names"
_VERSION: Final = 2
"""Of rows and of the record."""
UNKNOWN: Final = "unknown"
"""The type in the row of an entry that a newer restic or another system wrote."""
_REFUSED: Final = "/refused"
"""The type of the last rows of a folder: their names describe entries that cannot be shown."""
_WORTH_KEEPING: Final = 100
"""The record is written anew when a hundredth of it is new."""
_DIGEST: Final = 16
_TOP: Final = b"^"
_OPEN: Final = b"~"
_WHOLE: Final = b"="
_SEVERAL: Final = b"+"
"""Ends the `content` of a file with several blobs: other blobs may contain the same bytes."""
_COMPARED: Final = 100_000
"""Pairs of contents of which is remembered whether they are equal."""
_BREATHE: Final = 64
"""Folders looked at between two points where ^C is seen."""


class IndexedEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of a folder.

    `content` tells apart what a file, link or device says (16 bytes, and a ``+`` for a file with
    several blobs; empty for what says nothing), `extra` its extended attributes; `subtree` is a
    folder's key in the memo.  A folder of ours has no time of its own: `seconds` is None.
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
        """When it was modified, in nanoseconds since 1970."""
        return None if self.seconds is None else self.seconds * _NS + self.nanoseconds

    @property
    def identity(self) -> tuple[str, bytes]:
        """What two versions that are the same have in common; folders are all alike."""
        return self.type, self.content

    @property
    def content_id(self) -> str:
        """The content's ID for programs, in hex."""
        return self.content[:_DIGEST].hex()

    def may_equal(self, other: IndexedEntry) -> bool:
        """Check whether two rows of different `content` may be files with the same bytes.

        A single blob's ID is the SHA-256 of the file, so that one of them must have several.
        """
        return (
            self.type == other.type == "file"
            and self.size == other.size
            and (self.content.endswith(_SEVERAL) or other.content.endswith(_SEVERAL))
            and len(self.content + other.content) > 2 * _DIGEST
        )


Listing = Mapping[bytes, IndexedEntry]


class _Kept(msgspec.Struct, array_like=True, gc=False):
    version: int
    listings: dict[bytes, bytes]
    ours: dict[bytes, bytes]
    roots: dict[bytes, bytes]
    compared: dict[bytes, bool]


_encoder = msgspec.msgpack.Encoder()
_rows = msgspec.msgpack.Decoder(list[IndexedEntry])
_kept = msgspec.msgpack.Decoder(_Kept)


def row_of(node: Node, name: bytes, subtree: bytes | None) -> IndexedEntry:
    """Return a node's row under `name`; a folder's key is `subtree`."""
    seconds, nanoseconds = divmod(node.mtime_ns, _NS)
    says = node.content or node.target or (b"%d" % node.rdev if node.rdev else b"")
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
        content=_digest(says) + (_SEVERAL if len(node.content) > ID_BYTES else b""),
        extra=_digest(xattrs),
        subtree=subtree,
    )


def _unknown_row(name: bytes, reason: str) -> IndexedEntry:
    return IndexedEntry(name, UNKNOWN, 0, 0, 0, 0, 0, 0, content=_digest(reason.encode()))


def _rows_of(tree: Tree) -> list[IndexedEntry]:
    """Return a folder's rows, and last those that describe what cannot be shown."""
    return [
        *(row_of(node, node.name, node.subtree) for node in tree.nodes.values()),
        *(_unknown_row(name, reason) for name, reason in tree.unknown.items()),
        *(
            IndexedEntry(text.encode("utf-8", "surrogateescape"), _REFUSED, 0, 0, 0, 0, None, 0)
            for text in tree.refused
        ),
    ]


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_DIGEST] if data else b""


def pair_of(one: IndexedEntry, other: IndexedEntry) -> bytes:
    """Return by what to remember whether two contents are equal."""
    return _digest(b"".join(sorted((one.content, other.content))))


class FolderIndex:
    """The folders of one repository in short.

    A key is a tree ID, or what `top` and `fold` return.  `loaded` counts the folders that had to be
    read.
    """

    def __init__(self, repository: Repository) -> None:
        self.repository: Final = repository
        self.loaded = 0
        self._cache: LruCache[bytes, bytes] = LruCache(_CAPACITY, len)
        self._ours: dict[bytes, bytes] = {}
        self._roots: dict[bytes, bytes] = {}
        self.compared: dict[bytes, bool] = {}
        """Whether two contents of different blobs are equal, by `pair_of` both."""
        self._recalled = False
        self._recalling = trio.Lock()
        self._new_bytes = 0
        self._turns = 0

    async def load(self) -> None:
        """Take up what an earlier run kept."""
        async with self._recalling:
            if self._recalled:
                return
            self._recalled = True
            data = await self.repository.load(_NAME)
            if data is None:
                return
            try:
                kept = _kept.decode(data)
            except msgspec.MsgspecError:
                return  # of another version
            if kept.version == _VERSION:
                for key, raw in kept.listings.items():
                    self._cache.put(key, raw)
                self._ours, self._roots = kept.ours, kept.roots
                self.compared = kept.compared

    async def keep(self) -> None:
        """Keep what was read for the next run, where there is enough of it."""
        if self._new_bytes * _WORTH_KEEPING <= self._cache.used:
            return
        self._new_bytes = 0
        needed: dict[bytes, bytes] = {}
        waiting = list(self._roots.values())
        while waiting:
            key = waiting.pop()
            if key in self._ours and key not in needed:
                needed[key] = self._ours[key]
                below = _rows.decode(needed[key])
                waiting += [row.subtree for row in below if row.subtree]
        kept = _Kept(_VERSION, dict(self._cache.items()), needed, self._roots, self.compared)
        await self.repository.keep(_NAME, _encoder.encode(kept))

    async def listing(self, key: bytes) -> Listing:
        """Return what the folder of this key holds, by name.

        Raises BlobMissingError or DamagedError when the repository does not hold it whole.
        """
        self._turns += 1
        if self._turns % _BREATHE == 0:
            await trio.lowlevel.checkpoint()
        raw = (
            self._ours.get(key)
            or self._cache.peek(key)
            or await self._cache.get(key, partial(self._load, key))
        )
        rows = _rows.decode(raw)
        while rows and rows[-1].type == _REFUSED:
            rows.pop()
        return {row.name: row for row in rows}

    def refused(self, key: bytes) -> list[str]:
        """Return why entries of a folder that was just listed cannot be shown, by their names."""
        raw = self._cache.peek(key)
        if raw is None or _REFUSED.encode() not in raw:
            return []
        rows = (row for row in _rows.decode(raw) if row.type == _REFUSED)
        return [row.name.decode("utf-8", "surrogateescape") for row in rows]

    def holds(self, key: bytes) -> bool:
        """Tell whether the folder's rows are here, or on their way."""
        cache = self._cache
        return key in self._ours or cache.peek(key) is not None or cache.is_loading(key)

    async def fetch(self, key: bytes) -> None:
        """Read a folder that will be asked for soon."""
        await self._cache.get(key, partial(self._load, key))

    async def _load(self, key: bytes) -> bytes:
        tree = await self.tree(key)
        raw = _encoder.encode(_rows_of(tree))
        self.loaded += 1
        self._new_bytes += len(raw)
        return raw

    async def tree(self, key: bytes) -> Tree:
        """Return a stored folder with all that is known of it."""
        if key == _TOP:
            raise no_tree()
        if len(key) == ID_BYTES:
            return await self.repository.tree(key)
        return await self.repository.top(key.removeprefix(_TOP))

    @staticmethod
    def top(snapshot: Snapshot) -> bytes:
        """Return the key of a snapshot's root."""
        return _TOP + (snapshot.tree or b"")

    def fold(self, rows: Iterable[IndexedEntry], *, whole: bool = False) -> bytes:
        """Return the key of a folder of ours; those that hold the same have the same key.

        A `whole` one covers all there was: a name that it lacks did not exist.
        """
        raw = _encoder.encode(list(rows))
        key = (_WHOLE if whole else _OPEN) + hashlib.sha256(raw).digest()
        self._ours[key] = raw
        return key

    @staticmethod
    def is_open(key: bytes) -> bool:
        """Check whether a folder is one of ours that need not cover all there was.

        Such as that of a backup, or of a dogu in it: a name that it lacks was not backed up.
        """
        return len(key) > ID_BYTES and key.startswith(_OPEN)

    def is_ours(self, key: bytes) -> bool:
        """Check whether a folder is one of ours, of which no tree is stored."""
        return key in self._ours

    def remember(self, pair: bytes, *, equal: bool) -> None:
        """Remember whether two contents are equal; the oldest of too many are forgotten."""
        self.compared[pair] = equal
        self._new_bytes += self._cache.used // _WORTH_KEEPING + 1  # both were read for it
        while len(self.compared) > _COMPARED:
            del self.compared[next(iter(self.compared))]

    def root(self, label: bytes) -> bytes | None:
        """Return the key of the root that was kept under `label`."""
        return self._roots.get(label)

    def keep_root(self, label: bytes, key: bytes) -> None:
        """Keep the key of a root under `label`."""
        self._roots[label] = key
        self._new_bytes += len(label)

    def retain_roots(self, labels: Iterable[bytes]) -> None:
        """Let go of all roots but these."""
        self._roots = {label: self._roots[label] for label in labels if label in self._roots}
