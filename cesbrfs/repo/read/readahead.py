"""Read pack records with read-ahead: single records for random reads, ranges for sequential ones.

The blobs of a directory's small files, and those of one large file, are adjacent in a pack. A read
that begins where another one of the same pack ended reads further than requested, and the following
records are served from memory: one request for many blobs.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from cesbrfs.errors import FileMissingError, StorageError
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.storage import FileType, Storage, read_exactly

_FIRST_BYTES: Final = 128 << 10
_MAX_BYTES: Final = 2 << 20
_MAX_GAP_BYTES: Final = 64 << 10
"""Gap between two reads that still counts as sequential."""


class _Range:
    """Bytes of a pack from `start`; `grown` is the size of the next read."""

    __slots__ = ("data", "grown", "start")

    def __init__(self, start: int, data: bytes, grown: int) -> None:
        self.start = start
        self.data = data
        self.grown = grown

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class SequentialReader:
    """Reads records from packs; caches the last range of each within a bound."""

    def __init__(
        self,
        storage: Storage,
        caching: CacheConfig = CacheConfig(),  # noqa: B008 - frozen
    ) -> None:
        self._storage = storage
        self._max_cached = caching.ranges // 2
        self._ranges: OrderedDict[bytes, _Range] = OrderedDict()
        self._cached_bytes = 0

    async def read(self, pack: bytes, offset: int, length: int) -> bytes | memoryview:
        """Return `length` bytes at `offset` of the pack with this ID (32 bytes).

        Raises what the storage raises.
        """
        cached = self._ranges.get(pack)
        if cached is not None and cached.start <= offset and offset + length <= cached.end:
            return memoryview(cached.data)[offset - cached.start :][:length]
        name = pack.hex()
        if length >= _MAX_BYTES:
            return await read_exactly(self._storage, FileType.PACK, name, offset, length)
        # A record that begins in the range and ends after it is sequential, too.
        sequential = cached is not None and cached.start < offset <= cached.end + _MAX_GAP_BYTES
        reach = min(cached.grown * 2, _MAX_BYTES) if cached is not None and sequential else 0
        if reach <= length:
            data = await read_exactly(self._storage, FileType.PACK, name, offset, length)
            self._cache(pack, _Range(offset, data, _FIRST_BYTES // 2 if reach == 0 else reach))
            return data
        try:
            data = await self._storage.read(FileType.PACK, name, offset, reach)
        except FileMissingError:
            raise
        except StorageError:  # perhaps only the additional bytes cannot be read
            return await read_exactly(self._storage, FileType.PACK, name, offset, length)
        if len(data) < length:
            return await read_exactly(self._storage, FileType.PACK, name, offset, length)
        self._cache(pack, _Range(offset, data, reach))
        return memoryview(data)[:length]

    def _cache(self, pack: bytes, cached: _Range) -> None:
        old = self._ranges.pop(pack, None)
        if old is not None:
            self._cached_bytes -= len(old.data)
        self._ranges[pack] = cached
        self._cached_bytes += len(cached.data)
        while self._cached_bytes > self._max_cached and len(self._ranges) > 1:
            _, oldest = self._ranges.popitem(last=False)
            self._cached_bytes -= len(oldest.data)
