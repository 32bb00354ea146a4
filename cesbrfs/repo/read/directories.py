"""Cache of directory entries: in memory, on disk, or parsed from tree blobs.

Entries are cached as objects while in use, then packed for some time, and on disk for the next
mount, all within bounds. Only if none of these has a directory is its tree blob read.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final

import trio

from cesbrfs.errors import DamagedError
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.cache.directory_store import SEGMENT_BYTES, DirectoryStore
from cesbrfs.repo.format.direntry import DirEntries, entries_of, pack, unpack
from cesbrfs.repo.format.model import ID_BYTES, Tree
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.format.tree import parse_entries
from cesbrfs.repo.read.blobs import Blobs
from cesbrfs.repo.read.packs import THREAD_BYTES
from cesbrfs.util.lru import LruCache

_log = logging.getLogger(__name__)

_LARGE: Final = 2
"""Directories of any size that are cached in addition: parsing them per request is too slow."""
_ROW_BYTES: Final = 350
"""About what a row takes in memory."""
_TOP: Final = b"^"
_PATIENCE: Final = 30.0
"""Seconds after which what is less than a segment is written, too."""


class DirectoryCache:
    """The rows of stored directories by tree ID (32 bytes); `segments` keeps them on disk."""

    def __init__(
        self,
        blobs: Blobs,
        segments: DirectoryStore | None,
        caching: CacheConfig = CacheConfig(),  # noqa: B008 - frozen
    ) -> None:
        self._blobs = blobs
        self._segments = segments
        self._cached: LruCache[bytes, DirEntries] = LruCache(caching.directories, _size, _LARGE)
        self._packed: LruCache[bytes, bytes] = LruCache(caching.packed_directories, len)
        self._new: dict[bytes, bytes] = {}
        """What is not on disk yet."""
        self._new_bytes = 0
        self._some = trio.Event()
        self._full = trio.Event()
        self._turn = trio.Lock()

    @property
    def caches(self) -> Mapping[str, LruCache[bytes, DirEntries] | LruCache[bytes, bytes]]:
        """The caches in memory, by what they contain."""
        return {"directories": self._cached, "packed_directories": self._packed}

    def start_over(self, segments: DirectoryStore | None) -> None:
        """Cache in `segments` from now on, which belongs to another repository."""
        self._segments = segments
        self._new, self._new_bytes = {}, 0

    def get_nowait(self, tree: bytes) -> DirEntries | None:
        """Like `get`, but never blocks. None means "not cached", not "missing"."""
        rows = self._cached.peek(tree)
        if rows is None:
            rows = self._unpacked(tree)
            if rows is None:
                data = self._blobs.tree_nowait(tree)
                if data is None:
                    return None
                try:
                    rows = _parsed(data, tree)
                except DamagedError:  # `get` says so
                    return None
                self._keep(tree, rows)
            self._cached.put(tree, rows)
        return rows

    async def get(self, tree: bytes) -> DirEntries:
        """Return the entries of a directory.

        Raises BlobMissingError or DamagedError if the repository does not have its whole
        tree.
        """
        return self.get_nowait(tree) or await self._cached.get(tree, partial(self._load, tree))

    def get_top_nowait(self, tree: bytes) -> DirEntries | None:
        """Like `get_top`, but never blocks."""
        rows = self.get_nowait(tree)
        return self._cached.peek(_TOP + tree) if rows is not None and rows.special else rows

    async def get_top(self, tree: bytes, load: Callable[[bytes], Awaitable[Tree]]) -> DirEntries:
        """Return the entries of a snapshot's root; `load` reads one with ``.`` or ``/``."""
        rows = await self.get(tree)
        if not rows.special:
            return rows

        async def special() -> DirEntries:
            return entries_of((await load(tree)).listed)

        return await self._cached.get(_TOP + tree, special)

    async def _load(self, tree: bytes) -> DirEntries:
        data = await self._blobs.load(BlobType.TREE, tree)
        if len(data) > THREAD_BYTES:
            rows = await trio.to_thread.run_sync(_parsed, data, tree)
        else:
            rows = _parsed(data, tree)
        self._keep(tree, rows)
        return rows

    def _unpacked(self, tree: bytes) -> DirEntries | None:
        packed: bytes | memoryview | None = self._packed.peek(tree)
        if packed is None and self._segments is not None:
            packed = self._segments.find(tree)
        try:
            return unpack(packed) if packed is not None else None
        except (ValueError, RecursionError):  # written by a version with another row format
            return None

    def _keep(self, tree: bytes, rows: DirEntries) -> None:
        packed = None if rows.special else pack(rows)
        if packed is None or len(packed) > SEGMENT_BYTES:
            return
        self._packed.put(tree, packed)
        if self._segments is None:
            return
        self._new[tree] = packed
        self._new_bytes += len(packed)
        self._some.set()
        if self._new_bytes >= SEGMENT_BYTES:
            self._full.set()

    def trees(self) -> set[bytes]:
        """Return the IDs of all trees of which rows are cached in memory."""
        cached = (key[-ID_BYTES:] for key, _ in self._cached.items())
        return {*cached, *(tree for tree, _ in self._packed.items()), *self._new}

    def drop(self, trees: AbstractSet[bytes]) -> None:
        """Evict the rows of these trees."""
        self._cached.drop(lambda key: key[-ID_BYTES:] in trees)
        self._packed.drop(trees.__contains__)
        for tree in trees & self._new.keys():
            self._new_bytes -= len(self._new.pop(tree))

    # On disk

    async def load(self) -> None:
        """Load what earlier mounts have cached on disk."""
        if self._segments is not None:
            self._segments.take(await trio.to_thread.run_sync(self._segments.directories))

    async def flush_periodically(self) -> None:
        """Write new entries when there are enough of them or no more arrive; never returns."""
        while True:
            await self._some.wait()
            with trio.move_on_after(_PATIENCE):
                await self._full.wait()
            try:
                await self.keep()
            except Exception:  # noqa: BLE001 - a failing cache must not end the mount
                _log.exception("Writing the directory cache failed with an unforeseen error")

    async def keep(self) -> None:
        """Write new entries to disk."""
        segments = self._segments
        async with self._turn:
            if segments is None or not self._new:
                return
            new, self._new, self._new_bytes = self._new, {}, 0
            self._some, self._full = trio.Event(), trio.Event()
            used = await trio.to_thread.run_sync(segments.write, new, segments.used)
            segments.take(used)


def _parsed(data: bytes, tree: bytes) -> DirEntries:
    """Parse a tree blob; log the entries that cannot be shown."""
    what = f"tree {tree.hex()[:8]}"
    rows, refused = parse_entries(data, what)
    for name in refused:
        _log.warning("%s has an entry that cannot be shown: %s", what, name)
    return rows


def _size(rows: DirEntries) -> int:
    return 200 + _ROW_BYTES * len(rows.listed)
