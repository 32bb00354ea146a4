"""Coalesce reads of adjacent pack ranges from a remote storage into single requests.

A task that needs a record in a range that was requested already waits for that response and takes
its part of it, so that blobs can be requested one by one. `plan` combines records into ranges;
`begin` requests ranges ahead of their readers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import trio

from cesbrfs.errors import (
    CesbrError,
    DamagedError,
    FileMissingError,
    RepositoryUnreachableError,
    StorageError,
    fresh_copy,
)
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.format.pack import BlobLocation
from cesbrfs.repo.read.throughput import Throughput
from cesbrfs.repo.storage import FileType, Storage

_MAX_GAP_BYTES: Final = 64 << 10
"""Gap between records that is read, too, because that takes less time than another request."""
_MAX_RANGE_BYTES: Final = 4 << 20


class Range(NamedTuple):
    """The bytes from `start` to `end` of the pack with this ID (32 bytes)."""

    pack: bytes
    start: int
    end: int


def plan(places: Iterable[BlobLocation], largest: int = _MAX_RANGE_BYTES) -> list[Range]:
    """Combine the records at `places` into ranges of at most about `largest` bytes."""
    found: list[Range] = []
    for place in sorted(places):
        last = found[-1] if found else None
        end = place.offset + place.length
        if (
            last is not None
            and last.pack == place.pack
            and place.offset <= last.end + _MAX_GAP_BYTES
            and end - last.start <= largest
        ):
            found[-1] = last._replace(end=max(last.end, end))
        else:
            found.append(Range(place.pack, place.offset, end))
    return found


class _Request:
    """A requested range: `data` once it has arrived; neither data nor error if the request failed.

    `error` is set if the same request would fail again.
    """

    __slots__ = ("data", "done", "end", "error", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.data: bytes | None = None
        self.error: CesbrError | None = None
        self.done = trio.Event()

    def part(self, offset: int, length: int) -> memoryview | None:
        """Return the bytes that begin at `offset` of the pack, None if they have not arrived."""
        if self.data is None or offset + length > self.start + len(self.data):
            return None
        return memoryview(self.data)[offset - self.start :][:length]


class RangeCoalescer:
    """Reads records from packs of a remote storage."""

    def __init__(
        self,
        storage: Storage,
        link: Throughput,
        caching: CacheConfig = CacheConfig(),  # noqa: B008 - frozen
    ) -> None:
        self._storage = storage
        self._max_cached = caching.ranges
        self._link = link
        self._packs: dict[bytes, list[_Request]] = {}
        self._recent: OrderedDict[_Request, bytes] = OrderedDict()
        self._cached_bytes = 0

    async def read(self, pack: bytes, offset: int, length: int) -> bytes | memoryview:
        """Return `length` bytes at `offset` of the pack with this ID (32 bytes).

        Raises what the storage raises.
        """
        end = offset + length
        while (request := self._covering(pack, offset, end)) is not None:
            await request.done.wait()
            if request.error is not None:
                raise fresh_copy(request.error) from request.error
            if (part := request.part(offset, length)) is not None:
                if request in self._recent:
                    self._recent.move_to_end(request)
                return part
            self._drop(pack, request)  # it failed, was cancelled, or its pack ends before that
        reach = self._link.bandwidth_delay_product if self._runs_along(pack, offset) else length
        if reach > length and (found := await self._far(pack, offset, length, reach)) is not None:
            return found
        part = await self._ask(pack, offset, end)
        if len(part) < length:
            raise DamagedError(
                f"Pack {pack.hex()[:8]} is truncated at byte {offset + len(part)}."
                " Run 'cesbr check'."
            )
        return part

    async def _far(self, pack: bytes, offset: int, length: int, reach: int) -> memoryview | None:
        """Read `length` bytes with a larger request; None if the response did not contain them."""
        try:
            part = (await self._ask(pack, offset, offset + reach))[:length]
        except FileMissingError:
            raise
        except StorageError:  # perhaps only the additional bytes cannot be read
            return None
        return part if len(part) == length else None

    def begin(self, nursery: trio.Nursery, ranges: Sequence[Range]) -> None:
        """Request ranges ahead of their readers, in tasks of `nursery`."""
        for pack, start, end in ranges:
            if self._covering(pack, start, end) is None:
                request = self._enter(pack, start, end)
                nursery.start_soon(self._fetch, pack, request)

    def forget(self, pack: bytes) -> None:
        """Evict the ranges of a pack after its content turned out to be damaged."""
        for request in list(self._packs.get(pack, ())):
            self._drop(pack, request)

    async def _fetch(self, pack: bytes, request: _Request) -> None:
        try:
            await self._fill(pack, request)
        except CesbrError:  # a reader that needs it requests it again, and gets the error
            self._drop(pack, request)

    async def _ask(self, pack: bytes, start: int, end: int) -> memoryview:
        request = self._enter(pack, start, end)
        try:
            return memoryview(await self._fill(pack, request))
        except BaseException:
            self._drop(pack, request)
            raise

    async def _fill(self, pack: bytes, request: _Request) -> bytes:
        began = trio.current_time()
        try:
            length = request.end - request.start
            data = await self._storage.read(FileType.PACK, pack.hex(), request.start, length)
        except RepositoryUnreachableError as error:
            # The storage has retried for as long as readers wait. If each task that waits for this
            # range retried in turn, the last one would wait many times as long.
            request.error = type(error)(*error.args)  # without a traceback: no cycle
            raise
        else:
            self._link.add_sample(len(data), trio.current_time() - began)
            if request in self._packs.get(pack, ()):
                request.data = data
                self._cache(pack, request)
            return data
        finally:
            request.done.set()

    def _enter(self, pack: bytes, start: int, end: int) -> _Request:
        request = _Request(start, end)
        self._packs.setdefault(pack, []).append(request)
        return request

    def _covering(self, pack: bytes, start: int, end: int) -> _Request | None:
        for request in self._packs.get(pack, ()):
            if request.start <= start and end <= request.end:
                return request
        return None

    def _runs_along(self, pack: bytes, offset: int) -> bool:
        """Return whether bytes just before `offset` were read, as by a sequential reader."""
        return any(
            request.start < offset <= request.end + _MAX_GAP_BYTES
            for request in self._packs.get(pack, ())
        )

    def _cache(self, pack: bytes, request: _Request) -> None:
        self._recent[request] = pack
        self._cached_bytes += request.end - request.start
        while self._cached_bytes > self._max_cached and len(self._recent) > 1:
            oldest, its_pack = next(iter(self._recent.items()))
            self._drop(its_pack, oldest)

    def _drop(self, pack: bytes, request: _Request) -> None:
        requests = self._packs.get(pack, [])
        if request in requests:
            requests.remove(request)
            if not requests:
                del self._packs[pack]
        if self._recent.pop(request, None) is not None:
            self._cached_bytes -= request.end - request.start
