"""Read encrypted records of a remote repository from the disk cache or from its packs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final

import trio

from cesbrfs.repo.cache.blob_store import BlobStore
from cesbrfs.repo.cache.cache_dir import CacheDir
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.format.pack import BlobLocation, BlobType
from cesbrfs.repo.read.block_reader import CachedBlockReader
from cesbrfs.repo.read.coalescing import RangeCoalescer, plan
from cesbrfs.repo.read.throughput import Throughput
from cesbrfs.repo.storage import Storage


class RemotePacks:
    """Reads records from `storage` and caches them as `caching` permits.

    `folder` is the repository's cache directory, None without one.
    """

    def __init__(self, storage: Storage, folder: Path | None, caching: CacheConfig) -> None:
        self.link: Final = Throughput()
        self._stretches = RangeCoalescer(storage, self.link)
        self.chunks: CachedBlockReader | None = None
        self._records: BlobStore | None = None
        if folder is not None:
            restic = caching.restic / folder.name if caching.restic else None
            self.chunks = CachedBlockReader(storage, self.link, CacheDir(folder / "trees"), restic)
            if caching.data:
                self._records = BlobStore(CacheDir(folder / "data"), caching.data)

    async def read(self, kind: BlobType, place: BlobLocation, blob: bytes) -> bytes | memoryview:
        """Return the record at `place`, not checked; raises what the storage raises."""
        if kind is BlobType.TREE and self.chunks is not None:
            return await self.chunks.read(place.pack, place.offset, place.length)
        records = self._records if kind is BlobType.DATA else None
        if records is not None:
            held = await trio.to_thread.run_sync(records.get, blob)
            if held is not None:
                return held
        record = await self._stretches.read(place.pack, place.offset, place.length)
        if records is not None:
            await trio.to_thread.run_sync(records.put, blob, record)
        return record

    def begin(self, nursery: trio.Nursery, wanted: Iterable[tuple[bytes, BlobLocation]]) -> None:
        """Request data blobs ahead of their readers, in tasks of `nursery`.

        The small files of the next directory are mostly next to those of this one:
        requesting as much as arrives in a round trip costs no time.
        """
        records = self._records
        places: Sequence[BlobLocation] = [
            place for blob, place in wanted if records is None or not records.has(blob)
        ]
        reach = self.link.bandwidth_delay_product
        ranges = [one._replace(end=max(one.end, one.start + reach)) for one in plan(places)]
        self._stretches.begin(nursery, ranges)

    async def forget(self, kind: BlobType, place: BlobLocation, blob: bytes) -> None:
        """Evict a record from all caches after it turned out to be damaged."""
        self._stretches.forget(place.pack)
        if kind is BlobType.TREE and self.chunks is not None:
            await self.chunks.forget(place.pack)
        if kind is BlobType.DATA and self._records is not None:
            await trio.to_thread.run_sync(self._records.forget, blob)

    def prune_except(self, packs: AbstractSet[bytes]) -> None:
        """Remove cached data of packs that the repository does not have any more."""
        if self.chunks is not None:
            self.chunks.prune_except(packs)
