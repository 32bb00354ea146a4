"""Write files in threads: for few files, remote repositories, and everything that needs a retry."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Final

import trio

from cesbrfs.errors import CesbrError
from cesbrfs.restore import files
from cesbrfs.restore.content import find_entry, load_blobs, run_concurrently, write_job
from cesbrfs.restore.directories import remove_temp_files
from cesbrfs.restore.files import Done, FileResult, RestoreContext, WriteJob
from cesbrfs.restore.plan import PlannedFile
from cesbrfs.restore.result_counter import ResultCounter
from cesbrfs.restore.worker_pool import WorkerDiedError, WorkerProcess
from cesbrfs.restore.worker_protocol import WireFile, WriteFiles
from cesbrfs.restore.writer import NewFile, temp_prefix
from cesbrfs.vfs.entries import Entry, VirtualFile
from cesbrfs.vfs.tree import BackupTree

SMALL_BYTES: Final = 256 << 10
"""Files up to this size are loaded as a whole, and many of them written in one thread hop."""
BATCH_FILES: Final = 64
BATCH_BYTES: Final = 2 << 20
_TASKS: Final = 8
_SMALL_BLOBS: Final = 4
_GROUP: Final = 4
"""Blobs of a large file loaded concurrently while the previous ones are written."""

Loaded = tuple[PlannedFile, WriteJob, list[bytes]]


class ThreadWriter:
    """Loads content in this process, and writes it in threads or in worker `processes`."""

    def __init__(self, view: BackupTree, context: RestoreContext, results: ResultCounter) -> None:
        self.processes: Sequence[WorkerProcess] = ()
        self._view: Final = view
        self._blobs: Final = view.repository.blobs
        self._context: Final = context
        self._results: Final = results
        self._turn = 0

    async def write(self, planned: AsyncGenerator[PlannedFile, None], tasks: int = _TASKS) -> None:
        """Write files with several concurrent tasks, small files in batches."""
        send, receive = trio.open_memory_channel[list[PlannedFile]](0)
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(self._work, receive.clone())
            receive.close()
            async with send, aclosing(planned):
                batch: list[PlannedFile] = []
                size = 0
                async for file in planned:
                    if file.size > SMALL_BYTES:
                        await send.send([file])
                        continue
                    batch.append(file)
                    size += file.size
                    if len(batch) >= BATCH_FILES or size >= BATCH_BYTES:
                        await send.send(batch)
                        batch, size = [], 0
                if batch:
                    await send.send(batch)

    async def _work(self, receive: trio.MemoryReceiveChannel[list[PlannedFile]]) -> None:
        async with receive:
            async for batch in receive:
                await self._fetch(batch)
                await self.write_batch(batch)

    async def write_batch(self, batch: Sequence[PlannedFile]) -> None:
        """Load the content of small files and write them; write large ones."""
        loaded: list[Loaded] = []
        for file in batch:
            if not self._results.skip_pointless(file):
                small = await self._load(file)
                if small is not None:
                    loaded.append(small)
        if loaded:
            results = await self._write_loaded(loaded)
            for (file, job, content), result in zip(loaded, results, strict=True):
                size = sum(map(len, content))
                self._results.settle(file, settled(file, job, result), size)
                self._results.add_bytes(size)
        self._results.notify()

    async def _write_loaded(self, loaded: Sequence[Loaded]) -> list[FileResult]:
        alive = [process for process in self.processes if not process.is_dead]
        if alive:
            self._turn += 1
            worker = alive[self._turn % len(alive)]
            request = WriteFiles(0, [], [WireFile(job, [], content) for _, job, content in loaded])
            try:
                reply = await worker.request(request)
            except WorkerDiedError:  # the threads write the files again
                warn_of_death(self._context, loaded[0][1])
                parts = {job.directory for _, job, _ in loaded}
                prefixes = (temp_prefix(worker.tag),)
                await trio.to_thread.run_sync(remove_temp_files, self._context, parts, prefixes)
            else:
                for warning in reply.warnings:
                    self._context.warnings.add(*warning)
                return [reply.result(position) for position in range(len(loaded))]
        return await trio.to_thread.run_sync(
            files.write_batch, self._context, [(job, content) for _, job, content in loaded]
        )

    async def _load(self, file: PlannedFile) -> Loaded | None:
        """Return a small file with its content; write a large one."""
        try:
            entry = await find_entry(self._view, file)
            job = write_job(file, entry, owners=self._context.owners)
            if isinstance(entry, VirtualFile):
                return file, job, [entry.content]
            blobs = entry.node.blobs
            if entry.node.size <= SMALL_BYTES and len(blobs) <= _SMALL_BLOBS:
                content = await load_blobs(self._blobs.data, blobs)
                if sum(map(len, content)) <= SMALL_BYTES:
                    return file, job, content
                del content  # larger than recorded: do not keep many of these in memory
            await self.write_large(file, job, entry)
        except (OSError, CesbrError) as error:
            self._results.settle(file, FileResult(error))
        except Exception as error:  # noqa: BLE001 - an unforeseen error concerns this file alone
            self._results.settle(file, FileResult(files.unforeseen(error)))
        return None

    async def write_large(self, file: PlannedFile, job: WriteJob, entry: Entry) -> None:
        """Write one file in steps: load the next blobs while some are written."""
        blobs, size = entry.node.blobs, entry.node.size
        self._fetch_from(blobs, 0, size)
        loaded = await load_blobs(self._blobs.data, blobs[:_GROUP])
        opened, new = await trio.to_thread.run_sync(files.begin, self._context, job)
        try:
            for at in range(_GROUP, len(blobs) + _GROUP, _GROUP):
                self._fetch_from(blobs, at, size)
                load = partial(load_blobs, self._blobs.data, blobs[at : at + _GROUP])
                _, loaded = await run_concurrently([partial(self._append, new, loaded), load])
            result = await trio.to_thread.run_sync(files.finish, self._context, opened, new, job)
            self._results.settle(file, settled(file, job, result), new.size)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(files.end, opened, new)

    async def _append(self, new: NewFile, blobs: list[bytes]) -> list[bytes]:
        await trio.to_thread.run_sync(files.write_blobs, new, blobs)
        self._results.add_bytes(sum(map(len, blobs)))
        self._results.notify()
        return blobs

    # Prefetching from remote repositories

    async def _fetch(self, batch: Sequence[PlannedFile]) -> None:
        """Start to load the content of small files, most of which is adjacent in few packs."""
        if self._results.attempts_are_pointless or not self._blobs.min_request_bytes:
            return
        blobs: list[bytes] = []
        for file in batch:
            with suppress(CesbrError):  # raised again when the file is written
                entry = await find_entry(self._view, file)
                if file.size <= SMALL_BYTES and not isinstance(entry, VirtualFile):
                    blobs += entry.node.blobs
        self._blobs.fetch(blobs)

    def _fetch_from(self, blobs: Sequence[bytes], at: int, size: int) -> None:
        """Start to load the blobs of a file of `size` bytes, from number `at`."""
        if self._blobs.min_request_bytes:
            count = max(_GROUP, self._blobs.max_readahead * len(blobs) // max(size, 1))
            self._blobs.fetch(blobs[at : at + count])


def warn_of_death(context: RestoreContext, job: WriteJob) -> None:
    """Report that a worker died with a request that begins with `job`."""
    context.warnings.add(
        "A worker process of the restore was killed, and its last files were written without it",
        job.path,
    )


def settled(file: PlannedFile, job: WriteJob, result: FileResult) -> FileResult:
    """Record the identity of a file that other names are linked to; return the result."""
    links = file.links
    if result.outcome is Done.WRITTEN and links is not None and links.leader is file:
        links.written, links.key = result.identity, job.journal_key
    return result
