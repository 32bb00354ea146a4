"""Read pack records with read-ahead: single records for random reads, ranges for sequential ones.

The blobs of a directory's small files, and those of one large file, are adjacent in a pack. A read
that begins where another one of the same pack ended reads further than requested, and the following
records are served from memory: one request for many blobs.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from cesbrfs.errors import FileMissingError, StorageError
from cesbrfs.repo.storage import FileType, Storage, read_up_to

_FIRST: Final = 128 << 10
_LARGEST: Final = 2 << 20
_NEAR: Final = 64 << 10
"""A gap of this many bytes still counts as running along."""
_KEPT: Final = 8 << 20


class _Window:
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

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._windows: OrderedDict[bytes, _Window] = OrderedDict()
        self._held = 0

    async def read(self, pack: bytes, offset: int, length: int) -> bytes | memoryview:
        """Return `length` bytes at `offset` of the pack with this ID (32 bytes).

        Raises what the storage raises.
        """
        window = self._windows.get(pack)
        if window is not None and window.start <= offset and offset + length <= window.end:
            return memoryview(window.data)[offset - window.start :][:length]
        name = pack.hex()
        if length >= _LARGEST:
            return await self._storage.read(FileType.PACK, name, offset, length)
        # A record that begins in the window and ends behind it runs along, too.
        along = window is not None and window.start < offset <= window.end + _NEAR
        reach = min(window.grown * 2, _LARGEST) if window is not None and along else 0
        if reach <= length:
            data = await self._storage.read(FileType.PACK, name, offset, length)
            self._keep(pack, _Window(offset, data, _FIRST // 2 if reach == 0 else reach))
            return data
        try:
            data = await read_up_to(self._storage, FileType.PACK, name, offset, reach)
        except FileMissingError:
            raise
        except StorageError:  # perhaps only what nobody asked for cannot be read
            return await self._storage.read(FileType.PACK, name, offset, length)
        if len(data) < length:  # the pack ends before that: what says so is the storage's error
            return await self._storage.read(FileType.PACK, name, offset, length)
        self._keep(pack, _Window(offset, data, reach))
        return memoryview(data)[:length]

    def _keep(self, pack: bytes, window: _Window) -> None:
        old = self._windows.pop(pack, None)
        if old is not None:
            self._held -= len(old.data)
        self._windows[pack] = window
        self._held += len(window.data)
        while self._held > _KEPT and len(self._windows) > 1:
            _, oldest = self._windows.popitem(last=False)
            self._held -= len(oldest.data)
