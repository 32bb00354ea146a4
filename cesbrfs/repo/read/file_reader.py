"""Read a file's content at any offset, with read-ahead for sequential readers."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Awaitable, Callable
from typing import Final

from cesbrfs.errors import BlobMissingError, DamagedError
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.read.blobs import Blobs, blob_name

_NEAR: Final = 1 << 20
"""A read at most this far from where the last one ended goes straight on: kernels reorder."""
_JUMP: Final = 16 << 20
"""The same for a sequential reader: the kernel reads ahead, and not in order."""
_FIRST_AHEAD: Final = 1 << 20
_ADVISED: Final = 8
"""The disk works this many times as far ahead: what it reads takes no memory of ours."""


class FileReader:
    """The content of one file. `size` is the sum of its blobs in bytes, not the recorded size.

    `missing` may raise another error instead of a BlobMissingError.
    """

    def __init__(
        self,
        store: Blobs,
        blobs: list[bytes],
        lengths: list[int],
        missing: Callable[[BlobMissingError], Awaitable[None]],
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._ends = list(itertools.accumulate(lengths))
        self._missing = missing
        self._next = 0
        self._ahead = 0
        self._fetched = 0
        self._advised = 0
        self.size: Final = self._ends[-1] if self._ends else 0

    @property
    def is_cached(self) -> bool:
        """Whether all of the content is cached in memory."""
        return all(self._store.is_cached(blob) for blob in self._blobs)

    async def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`, less only at the end of the file."""
        part = await self.view(offset, size)
        return part if isinstance(part, bytes) else bytes(part)

    async def view(self, offset: int, size: int) -> bytes | memoryview:
        """Read as `read` does, without a copy where one blob holds all of it."""
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        at = bisect.bisect_right(self._ends, offset)
        if len(self._blobs) > 1:
            self._read_ahead(offset, end, at)
        start = self._ends[at - 1] if at else 0
        parts: list[bytes | memoryview] = []
        while start < end:
            blob = await self._blob(at, self._ends[at] - start)
            first, last = max(offset - start, 0), min(end - start, len(blob))
            whole = first == 0 and last == len(blob)
            parts.append(blob if whole else memoryview(blob)[first:last])
            start = self._ends[at]
            at += 1
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_ahead(self, offset: int, end: int, at: int) -> None:
        """Prefetch the following blobs; the range doubles with each sequential read."""
        if abs(offset - self._next) > (_JUMP if self._ahead else _NEAR):
            self._ahead = self._fetched = self._advised = 0
        elif end > self._next:
            self._ahead = min(max(self._ahead * 2, _FIRST_AHEAD), self._store.max_readahead)
        self._next = max(end, self._next) if self._ahead else end
        if not self._ahead:
            return
        first = max(at, self._fetched)
        last = bisect.bisect_left(self._ends, min(end + self._ahead, self.size)) + 1
        if last > first and self._enough(first, last):
            self._store.fetch(self._blobs[first:last])
            self._fetched = last
            beyond = bisect.bisect_left(self._ends, end + _ADVISED * self._ahead) + 1
            self._store.fadvise(self._blobs[max(last, self._advised) : beyond])
            self._advised = beyond

    def _enough(self, first: int, last: int) -> bool:
        """Return whether the blobs from `first` to before `last` are worth a request now."""
        return last > len(self._blobs) or (
            self._ends[last - 1] - self._ends[first] >= self._store.min_request_bytes
        )

    async def _blob(self, at: int, length: int) -> bytes:
        """Return the blob at position `at`, which must have `length` bytes."""
        try:
            blob = await self._store.data(self._blobs[at])
        except BlobMissingError as error:
            await self._missing(error)
            raise
        if len(blob) != length:  # index files disagree
            raise DamagedError(
                "Index files disagree about the length of"
                f" {blob_name(BlobType.DATA, self._blobs[at])}. Run 'restic repair index'."
            )
        return blob
