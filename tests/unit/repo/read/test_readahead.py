"""Read packs with read-ahead: right bytes, few requests, limited memory."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.errors import DamagedError, FileMissingError, StorageError
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.read.coalescing import RangeCoalescer
from cesbrfs.repo.read.readahead import SequentialReader
from cesbrfs.repo.read.throughput import Throughput
from cesbrfs.repo.storage import FileType, Storage
from cesbrfs.repo.storage.memory import MemoryStorage

PACKS = [bytes((n,)) * 32 for n in range(4)]
CONTENT = random.Random(4).randbytes(3 << 20)


def storage(size: int = len(CONTENT)) -> MemoryStorage:
    """Return a storage in which each pack holds the first `size` bytes of CONTENT."""
    found = MemoryStorage()
    for pack in PACKS:
        found.files[FileType.PACK, pack.hex()] = CONTENT[:size]
    return found


places = st.tuples(st.sampled_from(PACKS), st.integers(0, 1 << 20), st.integers(0, 300_000))


READERS = [SequentialReader, lambda storage: RangeCoalescer(storage, Throughput())]


@given(st.lists(places, max_size=12), st.booleans(), st.sampled_from(READERS))
def test_every_read_gets_its_own_bytes(
    reads: list[tuple[bytes, int, int]],
    along: bool,
    make: Callable[[Storage], SequentialReader | RangeCoalescer],
) -> None:
    """Random reads, and sequential reads in each pack."""

    async def check() -> None:
        reader = make(storage())
        ends: dict[bytes, int] = {}
        for pack, offset, length in reads:
            start = ends.get(pack, offset) if along else offset
            length = min(length, len(CONTENT) - start)  # noqa: PLW2901 - limited to the end of the pack
            assert bytes(await reader.read(pack, start, length)) == CONTENT[start : start + length]
            ends[pack] = start + length

    trio.run(check)


async def test_reads_that_run_along_take_few_requests() -> None:
    """Thousands of small adjacent blobs need few requests, with hardly any repeated bytes.

    Their lengths are not powers of two, so that some cross the end of the previous read.
    """
    held = storage()
    reader = SequentialReader(held)
    for offset in range(0, 2_900_000, 1009):
        read = bytes(await reader.read(PACKS[0], offset, 1009))
        assert read == CONTENT[offset : offset + 1009]
    assert len(held.reads) < 10
    assert sum(length or 0 for *_, length in held.reads) < len(CONTENT) + 10 * 1009 + (1 << 20)


async def test_reads_that_jump_about_take_only_what_they_ask_for() -> None:
    """A small file at each of many offsets is read without read-ahead."""
    held = storage()
    reader = SequentialReader(held)
    for offset in range(0, 2 << 20, 200_000):
        await reader.read(PACKS[0], offset, 1000)
    assert [length for *_, length in held.reads] == [1000] * 11


@pytest.mark.parametrize("last", [1, 1000, 100_000])
async def test_the_end_of_a_pack(last: int) -> None:
    """Read-ahead past the end of a pack is no error; a blob that ends there is."""
    size = 400_000
    reader = SequentialReader(storage(size))
    step = 20_000
    for offset in range(0, size - last, step):
        await reader.read(PACKS[0], offset, min(step, size - last - offset))
    assert bytes(await reader.read(PACKS[0], size - last, last)) == CONTENT[size - last : size]
    with pytest.raises(DamagedError):
        await reader.read(PACKS[0], size - last, last + 1)


async def test_a_pack_that_is_broken_further_on() -> None:
    """If read-ahead reaches a bad block, the requested range before it is still read."""

    class Broken(MemoryStorage):
        """A disk with a bad block at byte 300,000 of every pack."""

        async def read(
            self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
        ) -> bytes:
            """Read from memory, but fail across the bad block."""
            if offset <= 300_000 < offset + (length if length is not None else 1 << 40):
                raise StorageError("input/output error")
            return await super().read(kind, name, offset, length)

    broken = Broken()
    broken.files.update(storage().files)
    reader = SequentialReader(broken)
    for offset in (*range(0, 300_000, 10_000), *range(310_000, 600_000, 10_000)):
        read = bytes(await reader.read(PACKS[0], offset, 10_000))
        assert read == CONTENT[offset : offset + 10_000]
    with pytest.raises(StorageError):
        await reader.read(PACKS[0], 295_000, 10_000)


async def test_a_pack_that_is_gone() -> None:
    """A missing pack is reported without a second read."""
    held = storage()
    reader = SequentialReader(held)
    await reader.read(PACKS[0], 0, 1000)
    del held.files[FileType.PACK, PACKS[0].hex()]
    held.reads.clear()
    with pytest.raises(FileMissingError):
        await reader.read(PACKS[0], 1000, 1000)
    assert len(held.reads) == 1


async def test_what_is_remembered_has_a_bound() -> None:
    """The total size of cached ranges is limited; the least recently used are evicted."""
    reader = SequentialReader(storage(), CacheConfig(memory=4 << 20))
    for _ in range(3):
        for pack in PACKS:
            for offset in range(0, 2 << 20, 150_000):
                await reader.read(pack, offset, 150_000)
                assert reader._cached_bytes == sum(len(r.data) for r in reader._ranges.values())
                assert reader._cached_bytes <= 1 << 20 or len(reader._ranges) == 1
