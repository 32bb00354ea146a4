"""Load blobs of a remote repository: records from the disk cache or from its packs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import trio

from cesbrfs.errors import DamagedError
from cesbrfs.repo.cache.blob_store import BlobStore
from cesbrfs.repo.cache.cache_dir import CacheDir
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.format.crypto import Keys
from cesbrfs.repo.format.index import Index
from cesbrfs.repo.format.pack import DATA_BLOB_MAX, BlobLocation, BlobType
from cesbrfs.repo.read.block_reader import CachedBlockReader
from cesbrfs.repo.read.coalescing import RangeCoalescer, plan
from cesbrfs.repo.read.packs import RecordDecoder
from cesbrfs.repo.read.throughput import Throughput
from cesbrfs.repo.storage import Storage

_log = logging.getLogger(__name__)


class RemotePacks:
    """Reads records from `storage` and caches them as `caching` permits.

    `directory` is the repository's cache directory, None without one.
    """

    def __init__(
        self, storage: Storage, keys: Keys, directory: Path | None, caching: CacheConfig
    ) -> None:
        self._decoder = RecordDecoder(keys)
        self._link: Final = Throughput()
        self._ranges = RangeCoalescer(storage, self._link, caching)
        self._blocks: CachedBlockReader | None = None
        self._store: BlobStore | None = None
        if directory is not None:
            restic = caching.restic / directory.name if caching.restic else None
            cache = CacheDir(directory / "trees")
            self._blocks = CachedBlockReader(storage, self._link, cache, restic, caching)
            if caching.data:
                self._store = BlobStore(CacheDir(directory / "data"), caching.data)

    async def load(self, kind: BlobType, blob: bytes, location: BlobLocation) -> bytes:
        """Read, decode and verify the blob with this ID (32 bytes) at `location`.

        A damaged record is read again: the network or a cache may have damaged it, not the pack.
        """
        try:
            record = await self._read(kind, blob, location)
            return await self._decoder.decode(blob, record, location)
        except DamagedError as error:
            _log.warning("%s Reading it again.", error)
            await self._forget(kind, blob, location)
        record = await self._read(kind, blob, location)
        return await self._decoder.decode(blob, record, location)

    async def _read(
        self, kind: BlobType, blob: bytes, location: BlobLocation
    ) -> bytes | memoryview:
        """Return the record at `location`, not verified; raises what the storage raises."""
        if kind is BlobType.TREE and self._blocks is not None:
            return await self._blocks.read(location.pack, location.offset, location.length)
        store = self._store if kind is BlobType.DATA else None
        if store is not None:
            cached = await trio.to_thread.run_sync(store.get, blob)
            if cached is not None:
                return cached
        record = await self._ranges.read(location.pack, location.offset, location.length)
        if store is not None:
            await trio.to_thread.run_sync(store.put, blob, record)
        return record

    async def _forget(self, kind: BlobType, blob: bytes, location: BlobLocation) -> None:
        """Evict a record from all caches after it turned out to be damaged."""
        self._ranges.forget(location.pack)
        if kind is BlobType.TREE and self._blocks is not None:
            await self._blocks.forget(location.pack)
        if kind is BlobType.DATA and self._store is not None:
            await trio.to_thread.run_sync(self._store.forget, blob)

    def load_tree_nowait(self, blob: bytes, location: BlobLocation) -> bytes | None:
        """Return a tree blob if its record is in a cached block, without blocking."""
        if self._blocks is None:
            return None
        record = self._blocks.read_nowait(location.pack, location.offset, location.length)
        return self._decoder.decode_nowait(blob, record, location) if record is not None else None

    def prefetch(self, nursery: trio.Nursery, blobs: Iterable[tuple[bytes, BlobLocation]]) -> None:
        """Request data blobs ahead of their readers, in tasks of `nursery`.

        The small files of the next directory are mostly next to those of this one:
        requesting as much as arrives in a round trip costs no time.
        """
        store = self._store
        wanted = [
            location
            for blob, location in blobs
            if location.length <= DATA_BLOB_MAX and (store is None or not store.has(blob))
        ]
        length = self._link.bandwidth_delay_product
        ranges = [one._replace(end=max(one.end, one.start + length)) for one in plan(wanted)]
        self._ranges.begin(nursery, ranges)

    def fadvise(self, nursery: trio.Nursery, locations: Iterable[BlobLocation]) -> None:
        """Do nothing: no kernel reads ahead for a remote storage."""

    def max_readahead(self, capacity: int) -> int:
        """Maximum number of bytes to read ahead: several round trips, at most half the cache."""
        return min(self._link.ahead, capacity // 2)

    def min_request_bytes(self, capacity: int) -> int:
        """Minimum number of bytes to read ahead at a time: a few large responses are faster."""
        return min(self._link.bandwidth_delay_product, capacity // 8)

    async def prune_except(self, index: Index) -> None:
        """Remove cached blocks of packs that `index` does not contain."""
        if self._blocks is not None:
            await trio.to_thread.run_sync(self._blocks.prune_except, index.packs())
