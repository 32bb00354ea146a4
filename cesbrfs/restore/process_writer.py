"""Write files of a local repository with worker processes, in the order of their packs.

This process plans, looks up the locations of blobs and counts results. The workers decode blobs and
write files. What a worker cannot read is read again here, with all alternatives and messages.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from cesbrfs.errors import CesbrError
from cesbrfs.repo.format.index import Index
from cesbrfs.repo.format.pack import DATA_BLOB_MAX, BlobLocation, BlobType
from cesbrfs.restore import files
from cesbrfs.restore.content import EntryFinder, write_job
from cesbrfs.restore.directories import remove_temp_files
from cesbrfs.restore.dirfd import DirFd, lookup
from cesbrfs.restore.files import Done, FileResult, Parts, RestoreContext, WriteJob
from cesbrfs.restore.journal import Journal, PreviousRun
from cesbrfs.restore.plan import PlannedDirectory, PlannedFile
from cesbrfs.restore.result_counter import ResultCounter
from cesbrfs.restore.thread_writer import ThreadWriter, settled, warn_of_death
from cesbrfs.restore.worker_pool import WorkerDiedError, WorkerProcess
from cesbrfs.restore.worker_protocol import Reply, WireBlob, WireFile, WriteFiles, WriteRange
from cesbrfs.restore.writer import NewFile, temp_prefix
from cesbrfs.vfs.entries import Entry, VirtualFile
from cesbrfs.vfs.tree import BackupTree

_WINDOW_FILES: Final = 4096
"""Files sorted by pack at a time."""
_BATCH_FILES: Final = 64
_BATCH_BYTES: Final = 4 << 20
_SHARE_BATCHES: Final = 8
"""Adjacent batches that one worker writes, so that workers rarely use the same directory."""
_CHECKPOINT_FILES: Final = 64
LARGE_BYTES: Final = 8 << 20
"""Larger files are divided into ranges that several workers write."""
RANGE_BYTES: Final = 16 << 20
_REQUESTS: Final = 2
"""Outstanding requests of a worker: the next one is there when it replies."""


@dataclass(slots=True)
class _Located:
    """A file of a window with the locations of its blobs."""

    file: PlannedFile
    job: WriteJob
    blobs: list[tuple[bytes, BlobLocation]]
    size: int
    content: list[bytes] | None = None


@dataclass(slots=True)
class _Batch:
    """Small files of one request."""

    located: list[_Located]

    def request(self) -> WriteFiles:
        packs: dict[bytes, int] = {}
        wire = [
            WireFile(item.job, list(_wire_blobs(item.blobs, packs)), item.content)
            for item in self.located
        ]
        return WriteFiles(0, list(packs), wire)


@dataclass(slots=True)
class _LargeFile:
    """A file that is written in ranges; `outstanding` ones are not written yet."""

    file: PlannedFile
    job: WriteJob
    directories: DirFd
    new: NewFile
    outstanding: int = 0
    read_again: bool = False
    error: FileResult | None = None


@dataclass(slots=True)
class _Range:
    """Consecutive blobs of a large file, to be written at `offset`."""

    large: _LargeFile
    offset: int
    blobs: list[tuple[bytes, BlobLocation]]

    def request(self) -> WriteRange:
        packs: dict[bytes, int] = {}
        blobs = list(_wire_blobs(self.blobs, packs))
        job, new = self.large.job, self.large.new
        return WriteRange(0, list(packs), job.directory, new.name, new.identity, self.offset, blobs)


_Work = _Batch | _Range


@dataclass(slots=True)
class _Queue:
    """The work of one worker, shared by its tasks; None at the end."""

    shares: trio.MemoryReceiveChannel[list[_Work]]
    share: Iterator[_Work] = field(default_factory=lambda: iter(()))
    lock: trio.Lock = field(default_factory=trio.Lock)

    async def next(self) -> _Work | None:
        async with self.lock:
            while (work := next(self.share, None)) is None:
                try:
                    self.share = iter(await self.shares.receive())
                except trio.EndOfChannel:
                    return None
            return work


class ProcessWriter:
    """Writes files with `workers`; `threads` writes those that a worker could not read."""

    def __init__(
        self,
        view: BackupTree,
        context: RestoreContext,
        results: ResultCounter,
        threads: ThreadWriter,
        workers: Sequence[WorkerProcess],
    ) -> None:
        self._view: Final = view
        self._context: Final = context
        self._results: Final = results
        self._threads: Final = threads
        self._workers: Final = workers
        self._open: Final[dict[int, _LargeFile]] = {}

    async def write(self, planned: AsyncGenerator[PlannedFile, None]) -> None:
        """Write files."""
        index = await self._view.repository.index()
        send, receive = trio.open_memory_channel[list[_Work]](0)
        try:
            async with trio.open_nursery() as nursery:
                for worker in self._workers:
                    queue = _Queue(receive.clone())
                    for _ in range(_REQUESTS):
                        nursery.start_soon(self._serve, worker, queue)
                receive.close()
                async with send, aclosing(planned):
                    window: list[PlannedFile] = []
                    async for file in planned:
                        window.append(file)
                        if len(window) >= _WINDOW_FILES:
                            await self._dispatch(index, window, send)
                            window = []
                    await self._dispatch(index, window, send)
        finally:
            with trio.CancelScope(shield=True):
                for large in list(self._open.values()):
                    await self._close_large(large)

    # Dispatch

    async def _dispatch(
        self,
        index: Index,
        window: Sequence[PlannedFile],
        send: trio.MemorySendChannel[list[_Work]],
    ) -> None:
        """Send the files of a window to the workers in the order of their packs."""
        located: list[_Located] = []
        entries = EntryFinder(self._view)
        directory: PlannedDirectory | None = None
        parts: Parts = ()
        for number, file in enumerate(window):
            if self._results.skip_pointless(file):
                continue
            if number % _CHECKPOINT_FILES == 0:
                await trio.lowlevel.checkpoint()
            if file.directory is not directory:
                directory, parts = file.directory, file.directory.parts
            item = await self._prepare(index, entries, file, parts, send)
            if item is not None:
                located.append(item)
        order: dict[bytes, int] = {}
        located.sort(key=lambda item: _position(item, order))
        share: list[_Work] = []
        for batch in _batches(located):
            share.append(batch)
            if len(share) >= _SHARE_BATCHES:
                await send.send(share)
                share = []
        if share:
            await send.send(share)

    async def _prepare(
        self,
        index: Index,
        entries: EntryFinder,
        file: PlannedFile,
        directory: Parts,
        send: trio.MemorySendChannel[list[_Work]],
    ) -> _Located | None:
        """Return a small file with its locations; start to write any other one."""
        try:
            entry = await entries.find(file)
            job = write_job(file, entry, directory, owners=self._context.owners)
            item = _locate(index, file, entry, job)
        except CesbrError as error:
            self._results.settle(file, FileResult(error))
            return None
        if item is None:  # the index was replaced, or is damaged
            await self._threads.write_batch([file])
        elif item.size > LARGE_BYTES:
            await self._start_large(item, send)
            return None
        return item

    async def _start_large(self, item: _Located, send: trio.MemorySendChannel[list[_Work]]) -> None:
        """Create the temporary file of a large file, and send its ranges."""
        try:
            opened, new = await trio.to_thread.run_sync(files.begin, self._context, item.job)
        except (OSError, CesbrError) as error:
            self._results.settle(item.file, FileResult(error))
            return
        large = _LargeFile(item.file, item.job, opened, new)
        self._open[id(large)] = large
        ranges = list(_ranges(large, item.blobs))
        new.assume_written([location.uncompressed_length for _, location in item.blobs])
        large.outstanding = len(ranges)
        for part in ranges:
            await send.send([part])

    # Requests

    async def _serve(self, worker: WorkerProcess, queue: _Queue) -> None:
        while (work := await queue.next()) is not None:
            if isinstance(work, _Batch):
                await self._write_batch(worker, work)
            else:
                await self._write_range(worker, work)
            self._results.notify()

    async def _write_batch(self, worker: WorkerProcess, batch: _Batch) -> None:
        tried = [item for item in batch.located if not self._results.skip_pointless(item.file)]
        if not tried:
            return
        try:
            reply = await worker.request(_Batch(tried).request())
        except WorkerDiedError:
            await self._write_after_death(worker, tried)
            return
        self._add_warnings(reply)
        self._results.add_bytes(reply.written_bytes)
        unread = set(reply.unread)
        for position, item in enumerate(tried):
            if position not in unread:
                result = settled(item.file, item.job, reply.result(position))
                self._results.settle(item.file, result, item.size)
        if unread:
            await self._threads.write_batch([tried[position].file for position in reply.unread])

    async def _write_range(self, worker: WorkerProcess, part: _Range) -> None:
        large = part.large
        if large.error is None and not large.read_again:
            try:
                reply = await worker.request(part.request())
            except WorkerDiedError:
                warn_of_death(self._context, large.job)
                large.read_again = True
            else:
                self._results.add_bytes(reply.written_bytes)
                large.read_again = large.read_again or bool(reply.unread)
                if reply.failed:
                    large.error = reply.result(0)
        large.outstanding -= 1
        if not large.outstanding:
            await self._finish_large(large)

    async def _finish_large(self, large: _LargeFile) -> None:
        """Verify a large file and give it its final name, after all its ranges."""
        file, job = large.file, large.job
        try:
            if large.error is not None:
                self._results.settle(file, large.error)
            elif not large.read_again:
                finish = partial(
                    files.finish, self._context, large.directories, large.new, job, verified=True
                )
                result = await trio.to_thread.run_sync(finish)
                self._results.settle(file, settled(file, job, result), large.new.size)
        except (OSError, CesbrError) as error:
            self._results.settle(file, FileResult(error))
        finally:
            with trio.CancelScope(shield=True):
                await self._close_large(large)
        if large.read_again and large.error is None:
            await self._threads.write_batch([file])

    async def _close_large(self, large: _LargeFile) -> None:
        del self._open[id(large)]
        await trio.to_thread.run_sync(files.end, large.directories, large.new)

    def _add_warnings(self, reply: Reply) -> None:
        for warning in reply.warnings:
            self._context.warnings.add(*warning)

    # A worker that died

    async def _write_after_death(self, worker: WorkerProcess, batch: Sequence[_Located]) -> None:
        """Write what a dead worker has not completed, by the journal."""
        warn_of_death(self._context, batch[0].job)
        done = await trio.to_thread.run_sync(self._completed, worker, batch)
        for item, identity in done:
            result = settled(item.file, item.job, FileResult(Done.WRITTEN, identity))
            self._results.settle(item.file, result, item.size)
        completed = {id(item) for item, _ in done}
        await self._threads.write_batch([item.file for item in batch if id(item) not in completed])

    def _completed(
        self, worker: WorkerProcess, batch: Sequence[_Located]
    ) -> list[tuple[_Located, tuple[int, int]]]:
        """Remove temporary files of a dead worker; return the files that it had completed."""
        context = self._context
        parts = {item.job.directory for item in batch}
        remove_temp_files(context, parts, (temp_prefix(worker.tag),))
        past = context.journal.reread() if isinstance(context.journal, Journal) else PreviousRun()
        found: list[tuple[_Located, tuple[int, int]]] = []
        with context.directories() as directories:
            for item in batch:
                finished = past.files.get(item.job.path)
                with suppress(OSError):
                    status = lookup(directories.open(item.job.directory), item.job.name)
                    if status and finished and finished.is_there(status, item.job.journal_key):
                        found.append((item, (status.st_dev, status.st_ino)))
        return found


def _locate(index: Index, file: PlannedFile, entry: Entry, job: WriteJob) -> _Located | None:
    """Return the file with the locations of its blobs, None if one has none that is usable."""
    if isinstance(entry, VirtualFile):
        return _Located(file, job, [], len(entry.content), [entry.content])
    size = 0
    blobs: list[tuple[bytes, BlobLocation]] = []
    for blob in entry.node.blobs:
        locations = index.places(BlobType.DATA, blob)
        if not locations or locations[0].uncompressed_length > DATA_BLOB_MAX:
            return None
        blobs.append((blob, locations[0]))
        size += locations[0].uncompressed_length
    return _Located(file, job, blobs, size)


def _position(item: _Located, order: dict[bytes, int]) -> tuple[int, int]:
    """Return a sort key: packs in the order in which the plan needs them, then offsets."""
    if not item.blobs:
        return len(order), 0
    location = item.blobs[0][1]
    return order.setdefault(location.pack, len(order)), location.offset


def _batches(located: Sequence[_Located]) -> Iterator[_Batch]:
    batch: list[_Located] = []
    size = 0
    for item in located:
        batch.append(item)
        size += item.size
        if len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES:
            yield _Batch(batch)
            batch, size = [], 0
    if batch:
        yield _Batch(batch)


def _ranges(large: _LargeFile, blobs: Sequence[tuple[bytes, BlobLocation]]) -> Iterator[_Range]:
    part: list[tuple[bytes, BlobLocation]] = []
    offset = size = 0
    for blob, location in blobs:
        part.append((blob, location))
        size += location.uncompressed_length
        if size >= RANGE_BYTES:
            yield _Range(large, offset, part)
            offset, part, size = offset + size, [], 0
    if part:
        yield _Range(large, offset, part)


def _wire_blobs(
    blobs: Sequence[tuple[bytes, BlobLocation]], packs: dict[bytes, int]
) -> Iterator[WireBlob]:
    for blob, location in blobs:
        pack, offset, length, uncompressed_length, compressed = location
        number = packs.setdefault(pack, len(packs))
        yield WireBlob(blob, number, offset, length, uncompressed_length, compressed)
