"""Read tree records from packs in cached blocks.

restic writes tree blobs to separate packs, those of one directory walk next to each other, but
mostly in reverse order. Such packs are therefore read in blocks, and the last blocks are cached in
memory. For remote repositories, blocks are larger and also cached on disk as they are, encrypted,
for the next mount. If restic's own cache contains the whole pack, it is read there. Content from a
disk may be damaged: every blob is verified after it was read here, and after `forget` it is read
from the storage.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path
from typing import Final

import trio

from cesbrfs.repo.cache.cache_dir import CacheDir
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.read.throughput import Throughput
from cesbrfs.repo.storage import FileType, Storage
from cesbrfs.util.lru import LruCache

_BLOCK_BYTES: Final = 256 << 10
"""The local storage reads up to this many bytes without a thread."""
_REMOTE_BLOCK_BYTES: Final = 1 << 20


class BlockReader:
    """Reads tree records from packs of `storage` in blocks of `size` bytes."""

    def __init__(
        self,
        storage: Storage,
        caching: CacheConfig = CacheConfig(),  # noqa: B008 - frozen
        size: int = _BLOCK_BYTES,
    ) -> None:
        self._storage = storage
        self._size = size
        self._blocks: LruCache[tuple[bytes, int], bytes] = LruCache(caching.blocks, len)

    def read_nowait(self, pack: bytes, offset: int, length: int) -> bytes | None:
        """Like `read`, but never blocks. None unless the record is in one cached block."""
        number, begins = divmod(offset, self._size)
        block = self._blocks.peek((pack, number))
        if block is None or begins + length > len(block):
            return None
        return block[begins : begins + length]

    async def read(self, pack: bytes, offset: int, length: int) -> bytes:
        """Return `length` bytes at `offset` of the pack with this ID (32 bytes).

        Returns fewer bytes at the end of the pack. Raises the storage's errors.
        """
        first, last = offset // self._size, (offset + length - 1) // self._size
        parts = [await self._block(pack, number) for number in range(first, last + 1)]
        whole = parts[0] if len(parts) == 1 else b"".join(parts)
        begins = offset - first * self._size
        return whole[begins : begins + length]

    async def _block(self, pack: bytes, number: int) -> bytes:
        block = self._blocks.peek((pack, number))
        if block is not None:
            return block
        return await self._blocks.get((pack, number), partial(self._load, pack, number))

    async def _load(self, pack: bytes, number: int) -> bytes:
        start = number * self._size
        return await self._storage.read(FileType.PACK, pack.hex(), start, self._size)

    async def forget(self, pack: bytes) -> None:
        """Evict a pack after its content turned out to be damaged."""
        self._blocks.drop(lambda key: key[0] == pack)


class CachedBlockReader(BlockReader):
    """A block reader for remote packs that caches blocks in the directory `disk`.

    `restic` is restic's own cache directory of this repository, if any.
    """

    def __init__(
        self,
        storage: Storage,
        link: Throughput,
        disk: CacheDir,
        restic: Path | None = None,
        caching: CacheConfig = CacheConfig(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(storage, caching, _REMOTE_BLOCK_BYTES)
        self._link = link
        self._disk = disk
        self._restic = restic
        self._distrusted: set[bytes] = set()

    async def _load(self, pack: bytes, number: int) -> bytes:
        name = f"{pack.hex()}-{number}"
        cached = await trio.to_thread.run_sync(self._from_disk, pack, number, name)
        if cached:
            return cached
        began = trio.current_time()
        data = await super()._load(pack, number)
        self._link.add_sample(len(data), trio.current_time() - began)
        if data:
            await trio.to_thread.run_sync(self._disk.write, name, (data,))
        return data

    def _from_disk(self, pack: bytes, number: int, name: str) -> bytes | None:
        """Return a block from restic's cache or from ours, None if neither has it."""
        if self._restic is not None and pack not in self._distrusted:
            whole = self._restic / "data" / pack.hex()[:2] / pack.hex()
            found = _read_part(whole, number * self._size, self._size)
            if found:
                return found
        return self._disk.read(name)

    async def forget(self, pack: bytes) -> None:
        """Evict a pack after its content turned out to be damaged."""
        if self._restic is not None:
            self._distrusted.add(pack)
        # Not in the worker thread: readers use the LRU cache in this one.
        await super().forget(pack)
        await trio.to_thread.run_sync(self._remove, lambda name: name == pack.hex())

    def prune_except(self, packs: AbstractSet[bytes]) -> None:
        """Remove the blocks of all other packs, which the repository does not have any more."""
        names = {pack.hex() for pack in packs}
        self._remove(lambda name: name not in names)

    def _remove(self, unwanted: Callable[[str], bool]) -> None:
        """Remove the blocks of packs whose names match."""
        for file in self._disk.files():
            if unwanted(file.name.partition("-")[0]):
                self._disk.remove(file.name)


def _read_part(path: Path, offset: int, length: int) -> bytes | None:
    """Return a part of a file, shorter at its end; None if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return os.pread(descriptor, length, offset)
    except OSError:
        return None
    finally:
        os.close(descriptor)
