"""Load blobs from the packs of a storage without network access."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import trio

from cesbrfs.errors import DamagedError, FileMissingError, StorageError
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.format.crypto import Keys
from cesbrfs.repo.format.index import Index
from cesbrfs.repo.format.pack import BlobLocation, BlobType, decode_blob
from cesbrfs.repo.read.block_reader import BlockReader
from cesbrfs.repo.read.packs import THREAD_BYTES, RecordDecoder
from cesbrfs.repo.read.readahead import SequentialReader
from cesbrfs.repo.storage import FileType, Storage, SyncReadable

_MAX_READAHEAD_BYTES: Final = 4 << 20


class SyncStorage(Storage, SyncReadable, Protocol):
    """A storage that can also be read from worker threads."""


class LocalPacks:
    """Reads large records in worker threads, small trees in cached blocks, others directly."""

    def __init__(
        self,
        storage: SyncStorage,
        keys: Keys,
        caching: CacheConfig = CacheConfig(),  # noqa: B008 - frozen
    ) -> None:
        self._storage = storage
        self._decoder = RecordDecoder(keys)
        self._records = SequentialReader(storage, caching)
        self._blocks = BlockReader(storage, caching)
        self._buffers: list[bytearray] = []
        """Idle buffers for large records: as many as threads have read at the same time."""

    async def load(self, kind: BlobType, blob: bytes, location: BlobLocation) -> bytes:
        """Read, decode and verify the blob with this ID (32 bytes) at `location`."""
        if location.length > THREAD_BYTES:
            return await trio.to_thread.run_sync(
                self._read_and_decode, location, blob, limiter=self._decoder.threads
            )
        if kind is BlobType.TREE:
            try:
                record = await self._blocks.read(location.pack, location.offset, location.length)
                return await self._decoder.decode(blob, record, location)
            except FileMissingError:
                raise
            except (DamagedError, StorageError):  # perhaps an outdated block
                await self._blocks.forget(location.pack)
        raw = await self._records.read(location.pack, location.offset, location.length)
        return await self._decoder.decode(blob, raw, location)

    def _read_and_decode(self, location: BlobLocation, blob: bytes) -> bytes:
        """Read and decode in one thread, in a buffer that is used again."""
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = bytearray()
        if len(buffer) < location.length:
            buffer = bytearray(location.length)
        try:
            with memoryview(buffer) as whole, whole[: location.length] as raw:
                self._storage.read_into(FileType.PACK, location.pack.hex(), location.offset, raw)
                return decode_blob(self._decoder.keys, blob, raw, location)
        finally:
            self._buffers.append(buffer)

    def load_tree_nowait(self, blob: bytes, location: BlobLocation) -> bytes | None:
        """Return a tree blob if its record is in a cached block, without blocking."""
        record = self._blocks.read_nowait(location.pack, location.offset, location.length)
        return self._decoder.decode_nowait(blob, record, location) if record is not None else None

    def prefetch(self, nursery: trio.Nursery, blobs: Iterable[tuple[bytes, BlobLocation]]) -> None:
        """Do nothing: local blobs are read one by one."""

    def fadvise(self, nursery: trio.Nursery, locations: Iterable[BlobLocation]) -> None:
        """Announce reads to the kernel in a task of `nursery`."""
        if announced := list(locations):
            nursery.start_soon(self._fadvise, announced)

    async def _fadvise(self, locations: Sequence[BlobLocation]) -> None:
        def work() -> None:
            for pack, offset, length, *_ in locations:
                self._storage.will_read(FileType.PACK, pack.hex(), offset, length)

        await trio.to_thread.run_sync(work, abandon_on_cancel=True)

    def max_readahead(self, capacity: int) -> int:
        """Maximum number of bytes to read ahead: at most an eighth of the cache."""
        return min(_MAX_READAHEAD_BYTES, capacity // 8)

    def min_request_bytes(self, capacity: int) -> int:  # noqa: ARG002 - of the protocol
        """Return 0: local blobs are read one by one."""
        return 0

    async def prune_except(self, index: Index) -> None:
        """Do nothing: nothing is cached on disk."""
