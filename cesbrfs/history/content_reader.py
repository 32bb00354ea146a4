"""Read the content of many files in the order of their packs.

Small files of a local repository are read in batches in worker threads, each pack in large blocks.
Everything else, and what fails there, is read through `Blobs`, with all its alternatives.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from cesbrfs.errors import CesbrError
from cesbrfs.repo.format.index import Index
from cesbrfs.repo.format.pack import BlobLocation, BlobType
from cesbrfs.repo.read.blob_reader import BlobReader
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage.local import LocalStorage
from cesbrfs.util.tasks import gather

BATCH_FILES: Final = 256
BATCH_BYTES: Final = 2 << 20
_GROUP_BYTES: Final = 4 << 20
"""Part of a large file that is read at once."""
_REMOTE_TASKS: Final = 8


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a file: its ID (16 bytes), and the IDs of its blobs (32 bytes)."""

    id: bytes
    blobs: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class _Located:
    content: Content
    places: Sequence[BlobLocation]
    """The first location of each blob; empty if one is not indexed."""
    size: int


Batch = Sequence[Content]
"""Contents that are read together: several small ones, or a single one of any size."""
Loaded = Sequence[bytes] | CesbrError
"""The blobs of a content, or why it cannot be read."""


class ContentReader:
    """Reads contents of one repository. Created by `open`."""

    def __init__(self, repository: Repository) -> None:
        storage = repository.storage
        self._repository: Final = repository
        self._blobs: Final = repository.blobs
        self._directory: Final = storage.directory if isinstance(storage, LocalStorage) else None
        threads = max(2, os.cpu_count() or 1)
        self.tasks: Final = _REMOTE_TASKS if self._directory is None else threads + 1
        """Number of batches that should be read concurrently."""
        self._threads: Final = trio.CapacityLimiter(threads)
        self._idle: list[BlobReader] = []
        self._places: dict[bytes, Sequence[BlobLocation]] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, repository: Repository) -> AsyncGenerator[ContentReader, None]:
        """Return a reader that reads ahead until the end of the block."""
        reader = cls(repository)
        async with trio.open_nursery() as nursery:
            repository.blobs.read_ahead_in(nursery)
            try:
                yield reader
            finally:
                repository.blobs.read_ahead_in(None)
                nursery.cancel_scope.cancel()
                for idle in reader._idle:
                    idle.close()

    async def batches(self, contents: Iterable[Content]) -> list[Batch]:
        """Return the contents in the order of their packs, small ones in batches."""
        index = await self._repository.index()
        located = [_locate(index, content) for content in contents]
        packs: dict[bytes, int] = {}

        def position(one: _Located) -> tuple[int, int]:
            first = one.places[0] if one.places else None
            return (packs.setdefault(first.pack, len(packs)), first.offset) if first else (-1, 0)

        self._places.clear()
        located.sort(key=position)
        return list(self._batched(located))

    def _batched(self, located: Iterable[_Located]) -> Iterator[Batch]:
        batch: list[Content] = []
        size = 0
        for one in located:
            if one.size > BATCH_BYTES:
                yield [one.content]
                continue
            self._places[one.content.id] = one.places
            batch.append(one.content)
            size += one.size
            if len(batch) >= BATCH_FILES or size >= BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def is_small(self, batch: Batch) -> bool:
        """Return whether `load` reads the batch; `parts` reads all others."""
        return batch[0].id in self._places

    async def load(self, batch: Batch) -> list[Loaded]:
        """Return the blobs of small contents."""
        loaded: list[Loaded | None] = [None] * len(batch)
        if self._directory is not None:
            loaded = await trio.to_thread.run_sync(
                self._load_local, self._directory, batch, limiter=self._threads
            )
        else:
            self._blobs.fetch(blob for content in batch for blob in content.blobs)
        return [
            await self._load(content) if blobs is None else blobs
            for content, blobs in zip(batch, loaded, strict=True)
        ]

    async def _load(self, content: Content) -> Loaded:
        try:
            return [await self._blobs.data(blob) for blob in content.blobs]
        except CesbrError as error:
            return error

    def _load_local(self, directory: str, batch: Batch) -> list[Loaded | None]:
        """Return the blobs of each content, None for one that cannot be read. Blocking."""
        try:
            reader = self._idle.pop()
        except IndexError:
            reader = BlobReader(directory, self._repository.keys)
        loaded: list[Loaded | None] = []
        for content in batch:
            places = self._places[content.id]
            try:
                loaded.append(
                    [reader.read(*pair) for pair in zip(content.blobs, places, strict=True)]
                )
            except (CesbrError, OSError, ValueError):  # `Blobs` reads it again, or reports why not
                loaded.append(None)
        self._idle.append(reader)
        return loaded

    async def parts(self, content: Content, start: int = 0) -> AsyncGenerator[list[bytes], None]:
        """Yield the blobs of a content in groups, from the blob number `start`.

        The next group is read ahead. Raises BlobMissingError, DamagedError and storage errors.
        """
        blobs = content.blobs
        lengths = await self._blobs.lengths(blobs)
        groups: list[Sequence[bytes]] = []
        size = _GROUP_BYTES
        for number in range(start, len(blobs)):
            if size >= _GROUP_BYTES:
                groups.append([])
                size = 0
            groups[-1] = [*groups[-1], blobs[number]]
            size += lengths[number]
        for number, group in enumerate(groups):
            data = await gather([partial(self._blobs.data, blob) for blob in group])
            if number + 1 < len(groups):
                self._blobs.fetch(groups[number + 1])
            yield data


def _locate(index: Index, content: Content) -> _Located:
    places: list[BlobLocation] = []
    for blob in content.blobs:
        found = index.places(BlobType.DATA, blob)
        if not found:
            return _Located(content, (), 0)
        places.append(found[0])
    return _Located(content, places, sum(place.uncompressed_length for place in places))
