"""Carry out a plan: create directories, write files, make hard links, set metadata."""

from __future__ import annotations

import stat
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Final

import trio

from cesbrfs.repo.format.model import Node
from cesbrfs.repo.storage.local import LocalStorage
from cesbrfs.restore import directories as restore_directories
from cesbrfs.restore import files, prepare_undo
from cesbrfs.restore.dirfd import open_target
from cesbrfs.restore.files import Done, LinkJob, RestoreContext, WriteJob
from cesbrfs.restore.journal import Journal
from cesbrfs.restore.keeper import Keeper
from cesbrfs.restore.metadata import Warnings
from cesbrfs.restore.mirror import delete_extras
from cesbrfs.restore.plan import PlannedDirectory, PlannedFile, RestorePlan
from cesbrfs.restore.process_writer import ProcessWriter
from cesbrfs.restore.report import Progress, RestoreReport
from cesbrfs.restore.result_counter import ResultCounter
from cesbrfs.restore.salvage import Salvager
from cesbrfs.restore.survey import survey_closed
from cesbrfs.restore.thread_writer import ThreadWriter
from cesbrfs.restore.undo_log import NewUndo, UndoLog
from cesbrfs.restore.worker_pool import open_workers, worker_count
from cesbrfs.vfs.tree import BackupTree

_DIRECTORIES: Final = 64
"""Directories created in one thread hop, just before their files are written."""
_LINKS: Final = 256


async def execute(
    view: BackupTree,
    plan: RestorePlan,
    on_progress: Callable[[Progress], None] | None = None,
    journal: Journal | None = None,
    *,
    from_disk: bool = False,
    workers: int | None = None,
    salvage: bool = False,
    undo: NewUndo | None = None,
) -> RestoreReport:
    """Carry out `plan` once. A file that fails is in the report and does not end the restore.

    Content is read back and compared before a file gets its final name, `from_disk` from the disk
    instead of the page cache. Large restores write with up to `workers` processes (default: one
    per core; 0: none). With `salvage`, the intact parts of damaged files are written under another
    name, as described in `restore.salvage`. If the plan keeps replaced files, what is needed to
    undo the restore is logged as `undo` says.

    When cancelled, complete files stay and no temporary files do. With a `journal`, on which
    `begin` was called, a later plan continues from there; it is removed when nothing failed. Raises
    RestoreError if the target cannot be opened.
    """
    target = await trio.to_thread.run_sync(partial(open_target, plan.target, create=True))
    context = RestoreContext(
        target,
        plan.overwrite,
        Warnings(),
        journal,
        from_disk,
        plan.followed,
        journal.tag if journal else b"",
        trio.from_thread.check_cancelled,
        owners=plan.owners,
    )
    if plan.keep is not None and undo is not None:
        keeper = Keeper(UndoLog.open(undo.file), {}, context.warnings)
        context = replace(context, keeper=keeper)
    run = _Run(view, plan, on_progress, context, workers=workers, undo=undo)
    report = await run.run(salvage=salvage)
    if journal and not report.failed:
        journal.complete()
    return report


class _Run:
    """One restore."""

    def __init__(
        self,
        view: BackupTree,
        plan: RestorePlan,
        on_progress: Callable[[Progress], None] | None,
        context: RestoreContext,
        *,
        workers: int | None,
        undo: NewUndo | None,
    ) -> None:
        self._undo: Final = undo
        self._view: Final = view
        self._plan: Final = plan
        self._context: Final = context
        self._workers: Final = worker_count(plan.files, plan.bytes, workers)
        self._results: Final = ResultCounter(plan, on_progress)
        self._threads: Final = ThreadWriter(view, context, self._results)

    async def run(self, *, salvage: bool) -> RestoreReport:
        """Carry out the plan, and close the target."""
        plan, context, report = self._plan, self._context, self._results.report
        try:
            if plan.closed:
                await trio.to_thread.run_sync(survey_closed, plan, context.target, context.journal)
            if context.keeper and self._undo:
                await trio.to_thread.run_sync(
                    prepare_undo.begin, context.keeper, plan, context.target, self._undo
                )
            self._results.begin()
            await trio.to_thread.run_sync(
                restore_directories.remove_stale_temp_files, context, plan.past
            )
            async with self._prefetching():
                await self._write_all()
                postponed = self._results.take_postponed()
                # One at a time, so that files that do not fit take no space from those that do.
                await self._threads.write(_iterate(postponed), tasks=1)
                await self._link()
                if plan.extras:
                    await self._delete()
                if salvage:
                    salvager = Salvager(self._view, context)
                    for file in self._results.damaged:
                        await salvager.salvage(file, report)
        finally:  # also when interrupted: no directory keeps the mode it had during the restore
            with trio.CancelScope(shield=True):
                await self._finish_directories()
                if context.keeper and self._undo:
                    await trio.to_thread.run_sync(prepare_undo.end, context.keeper, self._undo)
                await trio.to_thread.run_sync(files.close, context)
        report.warnings += context.warnings.sentences()
        if plan.sockets:
            report.warnings.append(
                f"{plan.sockets} sockets are not restored; the programs that listen on them create"
                " them again."
            )
        return report

    @asynccontextmanager
    async def _prefetching(self) -> AsyncGenerator[None, None]:
        """Let blobs of a remote repository be fetched while others are written."""
        blobs = self._view.repository.blobs
        if not blobs.min_request_bytes:
            yield
            return
        async with trio.open_nursery() as nursery:
            blobs.read_ahead_in(nursery)
            try:
                yield
            finally:
                blobs.read_ahead_in(None)
                nursery.cancel_scope.cancel()

    async def _write_all(self) -> None:
        async with AsyncExitStack() as stack:
            writer: ThreadWriter | ProcessWriter = self._threads
            if self._workers:
                repository = self._view.repository
                storage = repository.storage
                local = isinstance(storage, LocalStorage)
                directory = storage.directory if isinstance(storage, LocalStorage) else ""
                processes = await stack.enter_async_context(
                    open_workers(self._workers, self._context, repository.keys, directory)
                )
                if local and processes:
                    writer = ProcessWriter(
                        self._view, self._context, self._results, self._threads, processes
                    )
                else:
                    self._threads.processes = processes
            await writer.write(self._to_write())

    async def _to_write(self) -> AsyncGenerator[PlannedFile, None]:
        """Create the directories; yield the files to write in each, without further hard links."""
        order = iter(self._plan.order)
        created = list(islice(order, 1))  # the target itself exists
        while created:
            for directory in created:
                for file in directory.files:
                    if file.writes and not file.follows and not directory.lost:
                        yield file
            created = list(islice(order, _DIRECTORIES))
            if created:
                await self._make(created)

    async def _make(self, directories: Sequence[PlannedDirectory]) -> None:
        made, failed = await trio.to_thread.run_sync(
            restore_directories.make_directories, self._context, directories
        )
        self._results.report.directories += made
        for directory, error in failed:
            self._results.fail_directory(directory, error)

    async def _finish_directories(self) -> None:
        failed = await trio.to_thread.run_sync(
            restore_directories.finish_directories, self._context, self._plan.order[:0:-1]
        )
        for directory, error in failed:
            self._results.fail_attributes(directory, error)

    async def _delete(self) -> None:
        """Delete what the backup does not have, unless something could not be restored."""
        report = self._results.report
        if report.failed:
            report.warnings.append(
                "Nothing was deleted, because some files could not be restored. Correct this, and"
                " restore again."
            )
            return
        await trio.to_thread.run_sync(delete_extras, self._context, self._plan, report)

    async def _link(self) -> None:
        """Make hard links; write a separate file where that fails."""
        followers = (
            f for directory in self._plan.order if not directory.lost for f in directory.files
        )
        pending = [file for file in followers if file.writes and file.follows]
        while pending:
            unlinked: list[PlannedFile] = []
            for at in range(0, len(pending), _LINKS):
                unlinked += await self._link_some(pending[at : at + _LINKS])
                self._results.notify()
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
            await self._threads.write(_iterate(leaders.values()))

    async def _link_some(self, followers: Sequence[PlannedFile]) -> list[PlannedFile]:
        """Make the hard links that are possible; return the other files."""
        linked: list[PlannedFile] = []
        unlinked: list[PlannedFile] = []
        jobs: list[LinkJob] = []
        for file in followers:
            job = _link_job(file)
            if job:
                linked.append(file)
                jobs.append(job)
            else:
                unlinked.append(file)
        results = await trio.to_thread.run_sync(files.link_files, self._context, jobs)
        for file, result in zip(linked, results, strict=True):
            if isinstance(result.outcome, Done):
                self._results.settle(file, result)
                self._results.report.linked += result.outcome is Done.WRITTEN
            else:
                unlinked.append(file)
        return unlinked


def _link_job(file: PlannedFile) -> LinkJob | None:
    """Return the hard link to make, None if the file to link to was not restored."""
    links = file.links
    if links is None or links.leader is None or links.written is None:
        return None
    node = Node(file.name, "file", stat.S_IFREG, mtime_ns=file.mtime_ns)
    job = WriteJob(file.directory.parts, file.name, node, file.action, key=links.key)
    return LinkJob(job, (*links.leader.directory.parts, links.leader.name), links.written)


async def _iterate(planned: Iterable[PlannedFile]) -> AsyncGenerator[PlannedFile, None]:
    for file in planned:
        yield file
