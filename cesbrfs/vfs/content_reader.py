"""Read the content of many files, in the order of their packs if the caller has none.

Small files of a local repository are read in batches in worker threads, each pack in large blocks.
Everything else, and what fails there, is read through `Blobs`, with all its alternatives.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import trio

from cesbrfs.errors import CesbrError, RepositoryUnreachableError
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


class Batch(NamedTuple):
    """Contents that are read together: several small ones, or a single one of any size.

    `places` are the first locations of the blobs of each.
    """

    contents: Sequence[Content]
    places: Sequence[Sequence[BlobLocation]]
    is_small: bool


Loaded = Sequence[bytes] | CesbrError
"""The blobs of a content, or why it cannot be read."""
Replace = Callable[[CesbrError, int], bytes]
"""Returns what takes the place of a blob of this length in bytes."""


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

    async def batches(
        self, contents: Iterable[Content], *, in_pack_order: bool = True
    ) -> list[Batch]:
        """Return the contents, small ones in batches."""
        index = await self._repository.index()
        located = [_locate(index, content) for content in contents]
        if in_pack_order:
            packs: dict[bytes, int] = {}

            def position(one: _Located) -> tuple[int, int]:
                first = one.places[0] if one.places else None
                return (
                    (packs.setdefault(first.pack, len(packs)), first.offset) if first else (-1, 0)
                )

            located.sort(key=position)
        return list(_batched(located))

    async def load(self, batch: Batch) -> list[Loaded]:
        """Return the blobs of the contents of a small batch."""
        loaded: list[Loaded | None] = [None] * len(batch.contents)
        if self._directory is not None:
            loaded = await trio.to_thread.run_sync(
                self._load_local, self._directory, batch, limiter=self._threads
            )
        else:
            self._blobs.fetch(blob for content in batch.contents for blob in content.blobs)
        return [
            await self._load(content) if blobs is None else blobs
            for content, blobs in zip(batch.contents, loaded, strict=True)
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
        for content, places in zip(batch.contents, batch.places, strict=True):
            try:
                loaded.append(
                    [reader.read(*pair) for pair in zip(content.blobs, places, strict=True)]
                )
            except (CesbrError, OSError, ValueError):  # `Blobs` reads it again, or reports why not
                loaded.append(None)
        self._idle.append(reader)
        return loaded

    async def parts(
        self, content: Content, start: int = 0, replace: Replace | None = None
    ) -> AsyncGenerator[list[bytes], None]:
        """Yield the blobs of a content in groups, from the blob number `start`.

        The next group is read ahead. Raises BlobMissingError, DamagedError and storage errors. With
        `replace`, its result takes the place of a blob that cannot be read.
        """
        blobs = content.blobs[start:]
        lengths = await self._blobs.lengths(blobs)
        groups = list(_groups(list(zip(blobs, lengths, strict=True))))
        for number, group in enumerate(groups):
            data = await gather([partial(self._blob, *blob, replace) for blob in group])
            if number + 1 < len(groups):
                self._blobs.fetch(blob for blob, _ in groups[number + 1])
            yield data

    async def _blob(self, blob: bytes, length: int, replace: Replace | None) -> bytes:
        try:
            data = await self._blobs.data(blob)
        except RepositoryUnreachableError:
            raise
        except CesbrError as error:
            if replace is None:
                raise
            return replace(error, length)
        return data


def _groups(blobs: Sequence[tuple[bytes, int]]) -> Iterator[list[tuple[bytes, int]]]:
    group: list[tuple[bytes, int]] = []
    size = 0
    for blob in blobs:
        group.append(blob)
        size += blob[1]
        if size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _locate(index: Index, content: Content) -> _Located:
    places: list[BlobLocation] = []
    for blob in content.blobs:
        found = index.places(BlobType.DATA, blob)
        if not found:
            return _Located(content, (), 0)
        places.append(found[0])
    return _Located(content, places, sum(place.uncompressed_length for place in places))


def _batched(located: Iterable[_Located]) -> Iterator[Batch]:
    batch: list[_Located] = []
    size = 0

    def made() -> Batch:
        return Batch([one.content for one in batch], [one.places for one in batch], is_small=True)

    for one in located:
        is_small = one.size <= BATCH_BYTES
        if batch and (len(batch) >= BATCH_FILES or size + one.size > BATCH_BYTES):
            yield made()
            batch, size = [], 0
        if is_small:
            batch.append(one)
            size += one.size
        else:
            yield Batch([one.content], [one.places], is_small=False)
    if batch:
        yield made()
