"""Sealed records of a repository behind a network: kept on disk, or read from its packs."""

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
    """Reads records from `storage`, by way of what `caching` lets be kept.

    `folder` is the repository's own folder for it, None where nothing can be kept.
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
        """Ask ahead for data blobs at their places, in tasks of `nursery`.

        Small files of the next folder mostly lie behind those of this one: it costs no time to ask
        for as much as comes in a round trip.
        """
        records = self._records
        places: Sequence[BlobLocation] = [
            place for blob, place in wanted if records is None or not records.has(blob)
        ]
        reach = self.link.bandwidth_delay_product
        ranges = [one._replace(end=max(one.end, one.start + reach)) for one in plan(places)]
        self._stretches.begin(nursery, ranges)

    async def forget(self, kind: BlobType, place: BlobLocation, blob: bytes) -> None:
        """Let go of everything that is held of a record: it proved to be damaged."""
        self._stretches.forget(place.pack)
        if kind is BlobType.TREE and self.chunks is not None:
            await self.chunks.forget(place.pack)
        if kind is BlobType.DATA and self._records is not None:
            await trio.to_thread.run_sync(self._records.forget, blob)

    def prune_except(self, packs: AbstractSet[bytes]) -> None:
        """Remove what is kept on disk of packs that the repository has no more."""
        if self.chunks is not None:
            self.chunks.prune_except(packs)
