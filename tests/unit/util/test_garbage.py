"""Errors create no reference cycles, which would keep data alive between rare collections."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from cesbrfs.errors import CesbrError, DamagedError, RepositoryUnreachableError
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.read.coalescing import RangeCoalescer
from cesbrfs.repo.read.throughput import Throughput
from cesbrfs.repo.storage import FileType
from cesbrfs.repo.storage.retry import RetryingStorage
from cesbrfs.util.lru import LruCache
from cesbrfs.util.tasks import gather
from tests.support.memory_repo import MemoryRepo


def unreachable(_kind: FileType, _name: str) -> None:
    raise RepositoryUnreachableError("it does not answer")


async def a_pack_that_is_gone() -> None:
    """The index is listed again without success."""
    repo = MemoryRepo()
    blob = bytes.fromhex(repo.save(BlobType.DATA, b"content"))
    repo.flush()
    repository = await repo.open()
    for file in [file for file in repo.storage.files if file[0] is FileType.PACK]:
        del repo.storage.files[file]
    await repository.data(blob)


async def damaged_index_files() -> None:
    """The first error cancels the other loads."""

    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise DamagedError("damaged")

    await gather([fail, fail])


async def readers_that_share_a_load() -> None:
    """One reader loads, the other waits."""
    cache: LruCache[str, bytes] = LruCache(100, len)

    async def load() -> bytes:
        await trio.testing.wait_all_tasks_blocked()
        raise DamagedError("damaged")

    async def ask() -> None:
        with contextlib.suppress(DamagedError):
            await cache.get("key", load)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)


async def a_stretch_whose_server_is_away() -> None:
    """The error is stored for other readers of the same range."""
    repo = MemoryRepo()
    repo.storage.before_read = unreachable
    await RangeCoalescer(repo.storage, Throughput()).read(bytes(32), 0, 10)


async def a_server_that_is_away() -> None:
    """The error is stored for other waiting readers."""
    repo = MemoryRepo()
    repo.storage.before_read = unreachable
    await RetryingStorage(repo.storage, 0).read(FileType.CONFIG)


@pytest.mark.parametrize(
    "fail",
    [
        a_pack_that_is_gone,
        damaged_index_files,
        readers_that_share_a_load,
        a_stretch_whose_server_is_away,
        a_server_that_is_away,
    ],
)
async def test_errors_leave_no_cycles(fail: Callable[[], Awaitable[None]]) -> None:
    """All errors are freed immediately, with their tracebacks."""
    gc.collect()
    gc.disable()
    try:
        with contextlib.suppress(CesbrError):
            await fail()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [repr(found) for found in gc.garbage if isinstance(found, CesbrError)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left
