"""Blobs by ID: look up in the index, load from packs, cache."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

import trio

from cesbrfs.errors import (
    BlobMissingError,
    CesbrError,
    DamagedError,
    FileMissingError,
    StorageError,
)
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.cache.metadata import MetadataCache
from cesbrfs.repo.format.crypto import Keys
from cesbrfs.repo.format.index import Index
from cesbrfs.repo.format.pack import BlobLocation, BlobType, raise_if_too_large
from cesbrfs.repo.read.index_loader import IndexLoader
from cesbrfs.repo.read.packs import THREAD_BYTES, Packs
from cesbrfs.repo.read.unpacked import UnpackedFiles
from cesbrfs.util.lru import LruCache

_log = logging.getLogger(__name__)


class Blobs:
    """All blobs of a repository, loaded from `packs`; `disk` caches the index."""

    def __init__(
        self,
        files: UnpackedFiles,
        keys: Keys,
        caching: CacheConfig,
        packs: Packs,
        disk: MetadataCache | None = None,
    ) -> None:
        self._storage = files.storage
        self._packs = packs
        self._loader = IndexLoader(files, keys, disk, self._index_changed)
        self._trees: LruCache[bytes, bytes] = LruCache(caching.tree_blobs, len)
        self._cache: LruCache[bytes, bytes] = LruCache(caching.memory, len)
        self._ahead: trio.Nursery | None = None
        self.on_pruned: Callable[[Index], Awaitable[None]] | None = None
        """Called with the new index when index files are gone, as after a prune."""
        self.capacity: Final = caching.memory
        """Maximum size of the data blobs cached in memory, in bytes."""
        self.fetching = 0
        """Number of blobs that are being read ahead of their readers."""

    def start_over(self, keys: Keys, packs: Packs, disk: MetadataCache | None) -> None:
        """Read another repository of the same storage from now on.

        Blobs cached in memory stay: their IDs are hashes of their content.
        """
        self._packs = packs
        self._loader.start_over(keys, disk)

    @property
    def caches(self) -> Mapping[str, LruCache[bytes, bytes]]:
        """The caches in memory, by what they contain."""
        return {"data": self._cache, "tree_blobs": self._trees}

    # Looking up

    async def index(self) -> Index:
        """Return the index, loading it the first time."""
        return await self._loader.load()

    async def reload_index(self) -> Index:
        """List the index files again, and return the index."""
        return await self._loader.reload()

    async def _index_changed(self, index: Index, pruned: bool) -> None:
        await self._packs.prune_except(index)
        if pruned and self.on_pruned is not None:
            await self.on_pruned(index)

    async def not_indexed(self, kind: BlobType, blobs: Collection[bytes]) -> set[bytes]:
        """Return those of `blobs` (IDs of 32 bytes) that no index file contains."""
        index = await self._loader.load()
        for attempt in itertools.count():
            seen = self._loader.listings
            missing = index.lacking(kind, blobs)
            newer = await self._loader.newer(index, seen, attempt) if missing else None
            if newer is None:
                break
            index = newer
        return missing

    async def lengths(self, blobs: Sequence[bytes]) -> list[int]:
        """Return the length in bytes of each data blob; BlobMissingError for one not indexed."""
        index = await self._loader.load()
        for attempt in itertools.count():
            seen = self._loader.listings
            lengths = [index.plain_length(blob) for blob in blobs]
            known = [length for length in lengths if length is not None]
            if len(known) == len(blobs):
                return known
            newer = await self._loader.newer(index, seen, attempt)
            if newer is None:
                break
            index = newer
        raise self._not_indexed_error(BlobType.DATA, blobs[lengths.index(None)])

    def _not_indexed_error(self, kind: BlobType, blob: bytes) -> BlobMissingError:
        complete = self._loader.is_complete
        hint = "Run 'cesbr check'." if complete else "Its files are being replaced."
        return BlobMissingError(
            f"The index of {self._storage.display_url} does not contain {blob_name(kind, blob)}."
            f" {hint}"
        )

    # Reading

    async def data(self, blob: bytes) -> bytes:
        """Return the content of a data blob (ID of 32 bytes), verified."""
        cached = self._cache.peek(blob)
        if cached is not None:
            return cached
        return await self._cache.get(blob, partial(self.load, BlobType.DATA, blob))

    def is_cached(self, blob: bytes) -> bool:
        """Return whether a data blob is cached in memory."""
        return self._cache.peek(blob) is not None

    async def load(self, kind: BlobType, blob: bytes) -> bytes:
        """Load a blob from a pack, whether or not it is cached.

        Raises BlobMissingError or DamagedError if no location has the whole blob.
        """
        index = self._loader.index or await self._loader.load()
        for attempt in itertools.count():
            seen = self._loader.listings
            try:
                return await self._load_from(index.places(kind, blob), kind, blob)
            except BlobMissingError:  # packs may have been replaced since the index was listed
                newer = await self._loader.newer(index, seen, attempt)
                if newer is None:
                    raise
                index = newer
        raise AssertionError("unreachable")

    async def _load_from(
        self, locations: Sequence[BlobLocation], kind: BlobType, blob: bytes
    ) -> bytes:
        """Return the blob from the first location that has it.

        Raises BlobMissingError if there is no location or one of the packs is gone, else the last
        location's error.
        """
        if not locations:
            raise self._not_indexed_error(kind, blob)
        failed: list[CesbrError] = []
        for location in locations:
            try:
                return await self.load_at(kind, blob, location)
            except (DamagedError, StorageError) as error:
                failed.append(error)
                if len(failed) < len(locations):
                    _log.warning("%s Trying the next location.", error)
        try:
            if any(isinstance(error, FileMissingError) for error in failed):
                raise BlobMissingError(
                    f"The pack of {blob_name(kind, blob)} is missing in"
                    f" {self._storage.display_url}. Run 'cesbr check'."
                ) from failed[-1]
            raise failed[-1]
        finally:
            # The errors' tracebacks hold this frame, and through it what was read: no cycle.
            del failed

    async def load_at(self, kind: BlobType, blob: bytes, location: BlobLocation) -> bytes:
        """Load a blob from one of its locations; raises DamagedError or StorageError."""
        raise_if_too_large(kind, blob, location)
        return await self._packs.load(kind, blob, location)

    def tree_nowait(self, blob: bytes) -> bytes | None:
        """Return a small tree blob if its record is in memory, without blocking.

        None means "not cached", not "missing" or "damaged".
        """
        cached = self._trees.peek(blob)
        if cached is not None:
            return cached
        index = self._loader.index
        locations = index.places(BlobType.TREE, blob) if index is not None else ()
        if not locations:
            return None
        location = locations[0]
        if max(location.uncompressed_length, location.length) > THREAD_BYTES:
            return None
        data = self._packs.load_tree_nowait(blob, location)
        if data is not None:
            self._trees.put(blob, data)
        return data

    # Reading ahead

    def read_ahead_in(self, nursery: trio.Nursery | None) -> None:
        """Read blobs ahead of their readers in tasks of `nursery`; None ends it."""
        self._ahead = nursery

    def fetch(self, blobs: Iterable[bytes]) -> None:
        """Start to read data blobs that will be requested soon, without waiting for them."""
        if self._ahead is None:
            return
        wanted = [
            blob
            for blob in dict.fromkeys(blobs)
            if self._cache.peek(blob) is None and not self._cache.is_loading(blob)
        ]
        self._packs.prefetch(self._ahead, self._located(wanted))
        for blob in wanted:
            self.fetching += 1
            self._ahead.start_soon(self._fetch, blob)

    def fadvise(self, blobs: Sequence[bytes]) -> None:
        """Announce data blobs that will be fetched to the kernel, without waiting for it."""
        if self._ahead is not None:
            self._packs.fadvise(self._ahead, (location for _, location in self._located(blobs)))

    def _located(self, blobs: Iterable[bytes]) -> Iterable[tuple[bytes, BlobLocation]]:
        """Yield each indexed data blob with its first location; looks up when it is iterated."""
        index = self._loader.index
        if index is not None:
            for blob in blobs:
                if locations := index.places(BlobType.DATA, blob):
                    yield blob, locations[0]

    @property
    def max_readahead(self) -> int:
        """Maximum number of bytes to read ahead of one sequential reader."""
        return self._packs.max_readahead(self.capacity)

    @property
    def min_request_bytes(self) -> int:
        """Minimum number of bytes to read ahead at a time; 0 if single blobs are as fast."""
        return self._packs.min_request_bytes(self.capacity)

    async def _fetch(self, blob: bytes) -> None:
        try:
            await self.data(blob)
        except CesbrError as error:  # raised again for the reader
            _log.debug("Read-ahead failed: %s", error)
        finally:
            self.fetching -= 1


def blob_name(kind: BlobType, blob: bytes) -> str:
    """Return how a blob is named in messages."""
    return f"{kind.name.lower()} blob {blob.hex()[:8]}"
