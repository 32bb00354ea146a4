"""Read data blobs from the packs of a local repository in one thread, without trio.

Made for callers that read blobs in the order of their packs: each pack is read in blocks.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cesbrfs.errors import DamagedError, StorageError
from cesbrfs.repo.format.crypto import Keys
from cesbrfs.repo.format.pack import BlobLocation, BlobType, decode_blob, raise_if_too_large

_BLOCK_BYTES: Final = 512 << 10
_OPEN_PACKS: Final = 8
_CACHE_BYTES: Final = 8 << 20


@dataclass(slots=True)
class _Pack:
    descriptor: int
    start: int = 0
    block: bytes = b""


class BlobReader:
    """Reads and verifies data blobs; caches the last ones, up to 8 MiB."""

    def __init__(self, directory: str, keys: Keys) -> None:
        self._directory: Final = directory
        self._keys: Final = keys
        self._packs: OrderedDict[bytes, _Pack] = OrderedDict()
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()
        self._cached_bytes = 0

    def read(self, blob: bytes, location: BlobLocation) -> bytes:
        """Return the content of a data blob; raises DamagedError, StorageError or OSError."""
        data = self._cache.get(blob)
        if data is not None:
            return data
        raise_if_too_large(BlobType.DATA, blob, location)
        data = decode_blob(self._keys, blob, self._record(location), location)
        if len(data) <= _CACHE_BYTES // 8:
            self._cache[blob] = data
            self._cached_bytes += len(data)
            while self._cached_bytes > _CACHE_BYTES:
                self._cached_bytes -= len(self._cache.popitem(last=False)[1])
        return data

    def will_read(self, locations: Iterable[BlobLocation]) -> None:
        """Let the kernel start to read blobs, where those of a pack are adjacent, or nearly so."""
        ranges: dict[bytes, tuple[int, int, int]] = {}
        for pack, offset, length, *_ in locations:
            start, end, wanted = ranges.get(pack, (offset, offset, 0))
            ranges[pack] = min(start, offset), max(end, offset + length), wanted + length
        for pack, (start, end, wanted) in ranges.items():
            if end - start <= 2 * wanted:
                with contextlib.suppress(OSError, StorageError):  # reported when they are read
                    descriptor = self._pack(pack).descriptor
                    os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the packs."""
        while self._packs:
            os.close(self._packs.popitem()[1].descriptor)

    def _pack(self, name: bytes) -> _Pack:
        pack = self._packs.get(name)
        if pack is None:
            pack = self._packs[name] = _Pack(self._open(name.hex()))
            if len(self._packs) > _OPEN_PACKS:
                os.close(self._packs.popitem(last=False)[1].descriptor)
        return pack

    def _record(self, location: BlobLocation) -> bytes | memoryview:
        pack = self._pack(location.pack)
        start = location.offset - pack.start
        if not 0 <= start <= len(pack.block) - location.length:
            if location.length >= _BLOCK_BYTES:
                return self._read(pack.descriptor, location, location.length)
            pack.block = self._read(pack.descriptor, location, _BLOCK_BYTES)
            pack.start, start = location.offset, 0
        return memoryview(pack.block)[start : start + location.length]

    @staticmethod
    def _read(descriptor: int, location: BlobLocation, length: int) -> bytes:
        data = os.pread(descriptor, length, location.offset)
        while len(data) < location.length:
            more = os.pread(descriptor, length - len(data), location.offset + len(data))
            if not more:
                raise DamagedError(f"Pack {location.pack.hex()[:8]} is truncated.")
            data += more
        return data

    def _open(self, name: str) -> int:
        path = os.path.join(self._directory, "data", name[:2], name)
        # O_NONBLOCK: opening a named pipe would block until it has a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise StorageError(f"{path} is not a regular file.")
        return descriptor
