"""Carrying out a plan: content read here, many files at a time, and written by threads."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from itertools import islice
from typing import Final, TypeVar

import trio

from cesbrfs.errors import (
    CesbrError,
    RepositoryDeniedError,
    RepositoryUnreachableError,
    RestoreError,
)
from cesbrfs.restore import workers as steps
from cesbrfs.restore.dirfd import open_target, tell
from cesbrfs.restore.journal import Journal
from cesbrfs.restore.metadata import Warnings
from cesbrfs.restore.plan import PlannedFile, PlannedFolder, RestorePlan
from cesbrfs.restore.report import Failure, Progress, RestoreReport
from cesbrfs.restore.survey import survey_closed
from cesbrfs.restore.workers import Done, Outcome, RestoreContext, WriteJob
from cesbrfs.restore.writer import NewFile
from cesbrfs.vfs.entries import Entry, VirtualFile
from cesbrfs.vfs.tree import BackupTree

_WORKERS: Final = 8
_SMALL_BYTES: Final = 256 << 10
"""Files up to this size are held in memory and written many in one thread hop."""
_SMALL_BLOBS: Final = 4
_BATCH_FILES: Final = 64
_BATCH_BYTES: Final = 2 << 20
_FOLDERS: Final = 64
"""Folders made in one thread hop, just before what is in them."""
_LINKS: Final = 256
_GROUP: Final = 4
"""Blobs of a large file read at the same time, while those before are written."""
_HOPELESS_AFTER: Final = 16
"""Failures in a row that would befall every further file, until no more are tried."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_HOPELESS: Final = _FULL | {errno.EROFS}

_T = TypeVar("_T")


async def execute(
    view: BackupTree,
    plan: RestorePlan,
    on_progress: Callable[[Progress], None] | None = None,
    journal: Journal | None = None,
    *,
    from_disk: bool = False,
) -> RestoreReport:
    """Carry out `plan`, once; a file that fails is told in the report and does not end it.

    What was written is read back before it takes its place, and compared with the hashes in the
    snapshot: from the kernel's memory, or, which takes longer, `from_disk`.

    Cancelled, it leaves what is finished, and no temporary files.  With a `journal`, which was
    begun, a later plan takes up from there; it is completed when nothing failed.  Raises
    RestoreError when the target cannot be opened.
    """
    run = _Run(view, plan, on_progress)
    target = await trio.to_thread.run_sync(partial(open_target, plan.target, create=True))
    site = RestoreContext(target, plan.overwrite, run.notes, journal, from_disk, plan.followed)
    report = await run.run(site)
    if journal and not report.failed:
        journal.complete()
    return report


class _Run:
    """One restore."""

    def __init__(
        self, view: BackupTree, plan: RestorePlan, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self.notes: Final = Warnings()
        self._view = view
        self._blobs = view.repository.blobs
        self._plan = plan
        self._on_progress = on_progress
        self._report = RestoreReport(plan.target, left_out=plan.left_out)
        self._files = 0
        self._bytes = 0
        self._hopeless = 0
        self._given_up: str | None = None
        self._waiting: list[PlannedFile] | None = []
        """What found no room, until it is tried a last time."""

    async def run(self, site: RestoreContext) -> RestoreReport:
        """Do it all; closes the target."""
        try:
            if self._plan.closed:
                await trio.to_thread.run_sync(survey_closed, self._plan, site.target, site.journal)
            self._begin()
            await trio.to_thread.run_sync(steps.remove_stale_temp_files, site, self._plan.past)
            async with self._reading_ahead():
                await self._write(site, self._fresh(site))
                await self._write_waiting(site)
                await self._link(site)
        finally:  # interrupted, too: no folder stays closed to those who may use it
            with trio.CancelScope(shield=True):
                folders = self._plan.order[:0:-1]
                await trio.to_thread.run_sync(steps.dress_folders, site, folders)
                await trio.to_thread.run_sync(steps.close, site)
        self._report.warnings = self.notes.sentences()
        if self._plan.sockets:
            self._report.warnings.append(
                f"{self._plan.sockets} sockets are not restored; the programs that listen on them"
                " make them anew."
            )
        return self._report

    def _begin(self) -> None:
        report, plan = self._report, self._plan
        report.skipped, report.unchanged, report.done = plan.will_skip, plan.unchanged, plan.done
        report.failed = [Failure(r.path, r.reason) for r in plan.refused]

    # Behind a network, what comes next is on its way while what came is written

    @asynccontextmanager
    async def _reading_ahead(self) -> AsyncGenerator[None, None]:
        if not self._blobs.min_request_bytes:
            yield
            return
        async with trio.open_nursery() as nursery:
            self._blobs.read_ahead_in(nursery)
            try:
                yield
            finally:
                self._blobs.read_ahead_in(None)
                nursery.cancel_scope.cancel()

    async def _fetch(self, batch: Sequence[PlannedFile]) -> None:
        """Begin to read the content of small files: they lie side by side in few packs."""
        in_vain = self._given_up is not None or self._hopeless >= _HOPELESS_AFTER
        if in_vain or not self._blobs.min_request_bytes:
            return
        found: list[bytes] = []
        for file in batch:
            with suppress(CesbrError):  # whoever writes it gets the error
                entry = await self._entry(file)
                if file.size <= _SMALL_BYTES and not isinstance(entry, VirtualFile):
                    found += entry.node.blobs
        self._blobs.fetch(found)

    def _fetch_from(self, blobs: Sequence[bytes], at: int, size: int) -> None:
        """Begin to read the blobs of a file of `size` bytes, from number `at` on."""
        if self._blobs.min_request_bytes:
            count = max(_GROUP, self._blobs.max_readahead * len(blobs) // max(size, 1))
            self._blobs.fetch(blobs[at : at + count])

    # What is to be written

    async def _fresh(self, site: RestoreContext) -> AsyncGenerator[PlannedFile, None]:
        """Make the folders, and yield what is to be written in each, but for further links."""
        order = iter(self._plan.order)
        yielding = list(islice(order, 1))  # the target itself is there
        while yielding:
            for folder in yielding:
                for file in folder.files:
                    if file.writes and not file.follows and not folder.lost:
                        yield file
            yielding = list(islice(order, _FOLDERS))
            if yielding:
                await self._make(site, yielding)

    async def _make(self, site: RestoreContext, folders: Sequence[PlannedFolder]) -> None:
        made, failed = await trio.to_thread.run_sync(steps.make_folders, site, folders)
        self._report.folders += made
        for folder, error in failed:
            self._fail(folder.path, f"{_said(error)} Nothing in this folder was restored.")

    async def _write_waiting(self, site: RestoreContext) -> None:
        """Try once more what found no room: beside it a file was written that did not fit either.

        One at a time, so that what does not fit takes nothing away from what does.
        """
        waiting, self._waiting = self._waiting, None
        self._hopeless = 0
        if waiting:
            await self._write(site, _iterate(waiting), workers=1)

    async def _write(
        self,
        site: RestoreContext,
        files: AsyncGenerator[PlannedFile, None],
        workers: int = _WORKERS,
    ) -> None:
        """Write files, small ones in batches, several of them at the same time."""
        send, receive = trio.open_memory_channel[list[PlannedFile]](0)
        async with trio.open_nursery() as nursery:
            for _ in range(workers):
                nursery.start_soon(self._work, site, receive.clone())
            receive.close()
            async with send, aclosing(files):
                batch: list[PlannedFile] = []
                held = 0
                async for file in files:
                    if file.size > _SMALL_BYTES:
                        await send.send([file])
                        continue
                    batch.append(file)
                    held += file.size
                    if len(batch) >= _BATCH_FILES or held >= _BATCH_BYTES:
                        await send.send(batch)
                        batch, held = [], 0
                if batch:
                    await send.send(batch)

    async def _work(
        self, site: RestoreContext, receive: trio.MemoryReceiveChannel[list[PlannedFile]]
    ) -> None:
        async with receive:
            async for batch in receive:
                jobs: list[WriteJob] = []
                await self._fetch(batch)
                for file in batch:
                    job = await self._read(site, file)
                    if job is not None:
                        jobs.append(job)
                if jobs:
                    done = await trio.to_thread.run_sync(steps.write_files, site, jobs)
                    for job, outcome in zip(jobs, done, strict=True):
                        size = sum(map(len, job.content))
                        self._settle(job.file, outcome, size)
                        self._bytes += size
                self._tell()

    async def _read(self, site: RestoreContext, file: PlannedFile) -> WriteJob | None:
        """Return a small file with its content; a large one is written at once."""
        if self._given_up is not None:
            self._settle(file, RestoreError(self._given_up))
            return None
        if self._waiting is not None and self._hopeless >= _HOPELESS_AFTER:
            self._waiting.append(file)
            return None
        try:
            entry = await self._entry(file)
            if isinstance(entry, VirtualFile):
                return WriteJob(file, entry, [entry.content])
            blobs = entry.node.blobs
            if entry.node.size <= _SMALL_BYTES and len(blobs) <= _SMALL_BLOBS:
                contents = await self._contents(blobs)
                if sum(map(len, contents)) <= _SMALL_BYTES:
                    return WriteJob(file, entry, contents)
                del contents  # it has more than is recorded: not one of many to hold in memory
            await self._write_large(site, file, entry, blobs)
        except (OSError, CesbrError) as error:
            self._settle(file, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this file's alone
            self._settle(file, steps.unforeseen(error))
        return None

    async def _entry(self, file: PlannedFile) -> Entry:
        if file.entry is not None:
            return file.entry
        folder = file.folder.entry
        entry = await self._view.child(folder, file.name) if folder else None
        if entry is None:
            raise RestoreError("It is gone from the repository since it was planned; choose again.")
        return entry

    async def _contents(self, blobs: Sequence[bytes]) -> list[bytes]:
        data = self._blobs.data
        if len(blobs) == 1:
            return [await data(blobs[0])]
        return await _together([partial(data, blob) for blob in blobs])

    async def _write_large(
        self, site: RestoreContext, file: PlannedFile, entry: Entry, blobs: Sequence[bytes]
    ) -> None:
        """Write one file in steps: while some blobs are written, the next ones are read."""
        self._fetch_from(blobs, 0, entry.node.size)
        loaded = await self._contents(blobs[:_GROUP])
        descent, new = await trio.to_thread.run_sync(steps.begin, site, file)
        try:
            for at in range(_GROUP, len(blobs) + _GROUP, _GROUP):
                self._fetch_from(blobs, at, entry.node.size)
                read = partial(self._contents, blobs[at : at + _GROUP])
                _, loaded = await _together([partial(self._put, new, loaded), read])
            outcome = await trio.to_thread.run_sync(steps.finish, site, new, file, entry)
            self._settle(file, outcome, new.size)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(steps.end, descent, new)

    async def _put(self, new: NewFile, loaded: list[bytes]) -> list[bytes]:
        """Write blobs; return them."""
        await trio.to_thread.run_sync(steps.write_blobs, new, loaded)
        self._bytes += sum(map(len, loaded))
        self._tell()
        return loaded

    # Hard links

    async def _link(self, site: RestoreContext) -> None:
        """Make further names of one file, and a file of its own where that fails."""
        followers = (f for folder in self._plan.order if not folder.lost for f in folder.files)
        pending = [file for file in followers if file.writes and file.follows]
        while pending:
            unlinked: list[PlannedFile] = []
            for at in range(0, len(pending), _LINKS):
                files = pending[at : at + _LINKS]
                outcomes = await trio.to_thread.run_sync(steps.link_files, site, files)
                for file, outcome in zip(files, outcomes, strict=True):
                    if isinstance(outcome, Done):
                        self._settle(file, outcome)
                        self._report.linked += outcome is Done.WRITTEN
                    else:
                        unlinked.append(file)
                self._tell()
            # The first of each group is written, and the next round links the others to it.
            leaders: dict[int, PlannedFile] = {}
            pending = []
            for file in unlinked:
                assert file.links is not None
                if id(file.links) in leaders:
                    pending.append(file)
                else:
                    leaders[id(file.links)] = file
                    file.links.leader, file.links.written = file, None
            await self._write(site, _iterate(leaders.values()))

    # Keeping count

    def _settle(self, file: PlannedFile, outcome: Outcome, size: int = 0) -> None:
        """Count a file that is done, one way or the other, or have it wait for room."""
        if self._waiting is not None and _found_no_room(outcome):
            self._hopeless += 1
            self._waiting.append(file)
            return
        self._files += 1
        if outcome is Done.WRITTEN:
            self._hopeless = 0
            self._report.files += 1
            self._report.bytes += size
        elif outcome is Done.SKIPPED:
            self._report.skipped += 1
        else:
            assert not isinstance(outcome, Done)
            self._fail(file.path, _said(outcome))
            if _is_hopeless(outcome) and self._given_up is None:
                self._hopeless += 1
                if self._hopeless >= _HOPELESS_AFTER:
                    self._given_up = f"Not tried any more after others failed. {_said(outcome)}"

    def _fail(self, path: bytes, error: str) -> None:
        self._report.failed.append(Failure(path, error))

    def _tell(self) -> None:
        if self._on_progress:
            plan = self._plan
            done = min(self._bytes, plan.bytes)  # what is tried twice counts twice
            self._on_progress(Progress(self._files, done, plan.files, plan.bytes))


def _said(error: OSError | CesbrError) -> str:
    return tell(error) if isinstance(error, OSError) else error.message


def _found_no_room(outcome: Outcome) -> bool:
    return isinstance(outcome, OSError) and outcome.errno in _FULL


def _is_hopeless(error: OSError | CesbrError) -> bool:
    if isinstance(error, OSError):
        return error.errno in _HOPELESS
    return isinstance(error, (RepositoryUnreachableError, RepositoryDeniedError))


async def _iterate(files: Iterable[PlannedFile]) -> AsyncGenerator[PlannedFile, None]:
    for file in files:
        yield file


async def _together(calls: Sequence[Callable[[], Awaitable[_T]]]) -> list[_T]:
    """Return what the calls return, made at the same time; raise the first error as itself."""
    results: dict[int, _T] = {}
    failed: list[OSError | CesbrError] = []

    async def run(at: int, call: Callable[[], Awaitable[_T]]) -> None:
        try:
            results[at] = await call()
        except (OSError, CesbrError) as error:
            failed.append(error)

    async with trio.open_nursery() as nursery:
        for at, call in enumerate(calls):
            nursery.start_soon(run, at, call)
    if failed:
        raise failed[0]
    return [results[at] for at in range(len(calls))]
