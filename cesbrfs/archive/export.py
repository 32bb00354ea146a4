"""Write members with their content to an archive, whatever cannot be read.

A file that cannot be read is left out. If a large file turns out to be damaged after its header
was written, zeros replace the damaged parts, so that the archive stays valid. Both are failures.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import trio

from cesbrfs.archive.members import Failed, Member, members
from cesbrfs.archive.tar_headers import Segment
from cesbrfs.archive.tar_writer import TarWriter
from cesbrfs.archive.zip_writer import ZipWriter
from cesbrfs.errors import CesbrError, DamagedError, RepositoryUnreachableError
from cesbrfs.repo.format.pack import DATA_BLOB_MAX
from cesbrfs.vfs.content_reader import BATCH_BYTES, BATCH_FILES, Content, ContentReader, Loaded
from cesbrfs.vfs.entries import ResolvedPath
from cesbrfs.vfs.tree import BackupTree

_ZEROS_BYTES: Final = 512 << 10
"""Length of the blobs of a hole: restic's chunker ends a run of zeros at its minimum."""
_ZEROS: Final = hashlib.sha256(bytes(_ZEROS_BYTES)).digest()


ArchiveWriter = TarWriter | ZipWriter


@dataclass(slots=True)
class Counts:
    """Number of entries that were written, bytes of their content, and sockets, left out."""

    entries: int = 0
    bytes: int = 0
    sockets: int = 0


class Export:
    """Writes chosen paths to an archive. `sparse` stores holes of files as such, if tar does."""

    def __init__(
        self,
        view: BackupTree,
        writer: ArchiveWriter,
        failed: Failed,
        progress: Callable[[Counts], object],
        *,
        sparse: bool = False,
    ) -> None:
        self._view: Final = view
        self._writer: Final = writer
        self._failed: Final = failed
        self._progress: Final = progress
        self._sparse: Final = sparse
        self._first_names: dict[tuple[str, int], bytes] = {}
        self.counts: Final = Counts()

    async def run(self, places: Sequence[ResolvedPath]) -> None:
        """Write everything at and below `places`. Raises RepositoryUnreachableError."""
        send, receive = trio.open_memory_channel[list[tuple[Member, Loaded | None]]](1)
        async with (
            ContentReader.open(self._view.repository) as reader,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._produce, places, reader, send)
            async with receive:
                async for group in receive:
                    for member, loaded in group:
                        await self._write(reader, member, loaded)
        await self._writer.finish()

    # Reading ahead

    async def _produce(
        self,
        places: Sequence[ResolvedPath],
        reader: ContentReader,
        send: trio.MemorySendChannel[list[tuple[Member, Loaded | None]]],
    ) -> None:
        """Send members in groups, small files with their content."""
        group: list[Member] = []
        size = 0
        found = members(self._view, places, self._failed)
        async with send, aclosing(found):
            async for member in found:
                group.append(member)
                size += member.node.size
                if len(group) >= BATCH_FILES or size >= BATCH_BYTES:
                    await send.send(await self._loaded(reader, group))
                    group, size = [], 0
            await send.send(await self._loaded(reader, group))

    async def _loaded(
        self, reader: ContentReader, group: Sequence[Member]
    ) -> list[tuple[Member, Loaded | None]]:
        contents: dict[int, Content] = {}
        for number, member in enumerate(group):
            is_known = member.link is not None and member.link in self._first_names
            if member.node.content and member.node.size <= BATCH_BYTES and not is_known:
                contents[number] = Content(number.to_bytes(4, "big"), member.node.blobs)
        loaded: dict[int, Loaded] = {}
        for batch in await reader.batches(contents.values()):
            if batch.is_small:
                for content, blobs in zip(batch.contents, await reader.load(batch), strict=True):
                    loaded[int.from_bytes(content.id, "big")] = blobs
        return [(member, loaded.get(number)) for number, member in enumerate(group)]

    # Writing

    async def _write(self, reader: ContentReader, member: Member, loaded: Loaded | None) -> None:
        if member.node.type == "socket":  # no archive can contain one
            self.counts.sockets += 1
            return
        refusal = self._writer.refusal(member)
        if refusal is not None:
            self._failed(member.shown, refusal)
            return
        first = self._first_names.get(member.link) if member.link else None
        if first is not None and isinstance(self._writer, TarWriter):
            await self._writer.add_link(member, first)
        else:
            try:
                await self._write_content(reader, member, loaded)
            except RepositoryUnreachableError:
                raise
            except CesbrError as error:
                self._failed(member.shown, error)
                return
            if member.link:
                self._first_names[member.link] = member.name
        self.counts.entries += 1
        self._progress(self.counts)

    async def _write_content(
        self, reader: ContentReader, member: Member, loaded: Loaded | None
    ) -> None:
        """Write a member; CesbrError if it cannot be read, before anything was written."""
        if isinstance(loaded, CesbrError):
            raise loaded
        if member.content is not None:
            loaded = [member.content]
        if loaded is not None:
            await self._writer.add_file(member, sum(map(len, loaded)), self._iterate(loaded))
        elif member.node.content:
            await self._write_large(reader, member)
        elif member.node.type == "file":
            await self._writer.add_file(member, 0, self._iterate([]))
        else:
            await self._writer.add(member)

    async def _write_large(self, reader: ContentReader, member: Member) -> None:
        blobs = member.node.blobs
        lengths = await self._view.repository.blobs.lengths(blobs)
        if max(lengths) > DATA_BLOB_MAX:  # otherwise zeros of this length would replace it
            raise DamagedError(
                f"A blob is too large: {max(lengths):,} bytes according to the index, at most"
                f" {DATA_BLOB_MAX:,} are supported. Run 'cesbr check'."
            )
        size = sum(lengths)
        segments = list(_segments(blobs, lengths)) if self._sparse else []
        if self._sparse and sum(segment.size for segment in segments) < size:
            writer = self._writer
            if isinstance(writer, TarWriter):
                stored = [blob for blob in blobs if blob != _ZEROS]
                data = self._read(reader, member, stored)
                await writer.add_sparse(member, size, segments, data)
                return
        await self._writer.add_file(member, size, self._read(reader, member, blobs))

    async def _iterate(self, parts: Sequence[bytes]) -> AsyncGenerator[bytes, None]:
        for part in parts:
            self.counts.bytes += len(part)
            yield part

    async def _read(
        self, reader: ContentReader, member: Member, blobs: Sequence[bytes]
    ) -> AsyncGenerator[bytes, None]:
        damaged = False

        def zeros(error: CesbrError, length: int) -> bytes:
            nonlocal damaged
            if not damaged:
                damaged = True
                reason = f"{error.message} Zeros replace what cannot be read."
                self._failed(member.shown, type(error)(reason))
            return bytes(length)

        async with aclosing(reader.parts(Content(b"", blobs), replace=zeros)) as parts:
            async for group in parts:
                for part in group:
                    self.counts.bytes += len(part)
                    yield part
                self._progress(self.counts)


def _segments(blobs: Sequence[bytes], lengths: Sequence[int]) -> Iterator[Segment]:
    """Yield the parts of a file between its holes."""
    start = offset = 0
    for blob, length in zip(blobs, lengths, strict=True):
        if blob == _ZEROS:
            if offset > start:
                yield Segment(start, offset - start)
            start = offset + length
        offset += length
    if offset > start:
        yield Segment(start, offset - start)
