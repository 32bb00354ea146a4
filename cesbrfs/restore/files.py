"""Write planned files: content, metadata, journal line, final name. Blocking, without trio.

Runs in threads of the main process and in worker processes alike.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec

from cesbrfs.errors import CesbrError, RestoreError
from cesbrfs.repo.format.model import Node
from cesbrfs.restore.dirfd import DirFd, Followed, explain_flags, lookup, one_file, spelled
from cesbrfs.restore.journal import JournalWriter, node_key
from cesbrfs.restore.keeper import Keeper
from cesbrfs.restore.metadata import FileMetadata, Warnings
from cesbrfs.restore.overwrite import Action, Overwrite
from cesbrfs.restore.owners import OwnerNames
from cesbrfs.restore.writer import (
    AppearedError,
    NewEntry,
    NewFile,
    NewLink,
    NewSpecial,
)

Parts = tuple[bytes, ...]
"""Names below a target."""


class Done(IntEnum):
    """How a file ended that did not fail."""

    WRITTEN = 0
    SKIPPED = 1


Outcome = Done | OSError | CesbrError


class FileResult(NamedTuple):
    """The outcome for a file, and its device and inode if other names are linked to it."""

    outcome: Outcome
    identity: tuple[int, int] | None = None


class WriteJob(msgspec.Struct, frozen=True, gc=False):
    """One file to write, as `directory/name` below the target.

    `node` has the metadata to apply; the owner only if `owned`. `key` identifies the content in
    the journal; None means the key of `node`. `hard_linked`: return the file's identity.
    """

    directory: Parts
    name: bytes
    node: Node
    action: Action
    owned: bool = True
    key: str | None = None
    hard_linked: bool = False

    @property
    def path(self) -> bytes:
        """The path below the target."""
        return b"/".join((*self.directory, self.name))

    @property
    def journal_key(self) -> str:
        """The key of the content in the journal."""
        return self.key if self.key is not None else node_key(self.node)

    @property
    def metadata(self) -> FileMetadata:
        """The metadata to apply."""
        return FileMetadata(self.node, self.path, self.owned)


class LinkJob(NamedTuple):
    """A hard link to make: `job` becomes another name of `source`, whose identity is known."""

    job: WriteJob
    source: Parts
    identity: tuple[int, int]


@dataclass(frozen=True, slots=True)
class RestoreContext:
    """Everything that is the same for all files of a restore.

    `target` is a descriptor of the target directory. `from_disk`: verify content by reading it
    back from the disk instead of the page cache. Symlinks may lead to the directories in
    `followed`. `tag` begins the temporary names; `check_cancelled` raises when the restore was
    cancelled. `keeper` keeps replaced files; `owners` restores owners by name.
    """

    target: int
    overwrite: Overwrite
    warnings: Warnings
    journal: JournalWriter | None = None
    from_disk: bool = False
    followed: Followed | None = None
    tag: bytes = b""
    check_cancelled: Callable[[], None] = lambda: None
    keeper: Keeper | None = None
    owners: OwnerNames | None = None

    def directories(self) -> DirFd:
        """Return an object that opens directories below the target; use it in `with`."""
        return DirFd(self.target, self.followed)


class _Prepared(NamedTuple):
    """A complete file that still has its temporary name."""

    job: WriteJob
    new: NewEntry


def write_files(
    context: RestoreContext,
    directories: DirFd,
    jobs: Iterable[tuple[WriteJob, Sequence[bytes]]],
) -> list[FileResult]:
    """Write each job's file with its content (a list of blobs); return the results in order.

    All are written before the journal records them and the first one gets its final name.
    """
    return _write_all(
        context,
        directories,
        (partial(_prepare, context, directories, job, content) for job, content in jobs),
    )


def _write_all(
    context: RestoreContext, directories: DirFd, writes: Iterable[Callable[[], _Prepared]]
) -> list[FileResult]:
    """Write files under temporary names, then place them; leave no temporary name behind."""
    prepared: list[_Prepared | FileResult] = []
    try:
        for write in writes:
            context.check_cancelled()
            prepared.append(_attempt(write))
        return _place_all(context, directories, prepared)
    finally:
        for item in prepared:
            if isinstance(item, _Prepared):
                _discard(directories, item)


_T = TypeVar("_T")


def _attempt(write: Callable[[], _T]) -> _T | FileResult:
    """Call a function; an error becomes the result for the file."""
    try:
        return write()
    except (OSError, CesbrError) as error:
        return FileResult(error)
    except Exception as error:  # noqa: BLE001 - an unforeseen error concerns this file alone
        return FileResult(unforeseen(error))


def _prepare(
    context: RestoreContext, directories: DirFd, job: WriteJob, content: Sequence[bytes]
) -> _Prepared:
    """Write a file, symlink or special file under a temporary name."""
    if not stat.S_ISREG(job.node.mode):
        directory = directories.open(job.directory)
        try:
            special = NewSpecial(directory, job.metadata, context.warnings, context.tag)
        except PermissionError as error:
            explain_flags(directory, b".", error)
            raise
        return _Prepared(job, special)
    inherits_acl = directories.has_default_acl(job.directory)
    new = new_file(context, directories.open(job.directory), job.name)
    try:
        for blob in content:
            new.write(blob)
        new.finish(
            job.node.blobs,
            job.metadata,
            context.warnings,
            from_disk=context.from_disk,
            inherits_acl=inherits_acl,
        )
    except BaseException:
        new.discard()
        raise
    return _Prepared(job, new)


def _place_all(
    context: RestoreContext, directories: DirFd, prepared: Sequence[_Prepared | FileResult]
) -> list[FileResult]:
    """Record complete files in the journal, and give them their final names."""
    results = [
        item
        if isinstance(item, FileResult)
        else _attempt(partial(_early_result, context, directories, item.job))
        for item in prepared
    ]
    if context.journal:
        context.journal.files(
            (item.job.path, item.new.status, item.job.journal_key)
            for item, result in zip(prepared, results, strict=True)
            if isinstance(item, _Prepared) and result is None
        )
    if context.keeper:
        context.keeper.files(
            (item.job.path, item.new.status, item.job.action is Action.CREATE)
            for item, result in zip(prepared, results, strict=True)
            if isinstance(item, _Prepared) and result is None
        )
    placed: list[FileResult] = []
    for item, result in zip(prepared, results, strict=True):
        if isinstance(item, _Prepared) and result is None:
            placed.append(_attempt(partial(_place, context, directories, item)))
        else:
            assert result is not None
            placed.append(result)
    return placed


def _early_result(context: RestoreContext, directories: DirFd, job: WriteJob) -> FileResult | None:
    """Return SKIPPED for a file that is kept because it was modified after planning, else None."""
    if job.action is not Action.OVERWRITE or context.overwrite is not Overwrite.IF_NEWER:
        return None
    status = lookup(directories.open(job.directory), job.name)
    if status is None or context.overwrite.replaces(status.st_mtime_ns, job.node.mtime_ns):
        return None
    return FileResult(Done.SKIPPED)


def _place(context: RestoreContext, directories: DirFd, item: _Prepared) -> FileResult:
    """Give a complete file its final name; keep the file that it replaces."""
    job, new = item
    identity = new.identity if job.hard_linked else None
    new.directory = directories.open(job.directory)
    replace = job.action in (Action.OVERWRITE, Action.REDO)
    try:
        if replace and context.keeper:
            context.keeper.keep(new.directory, job.directory, job.name)
        new.place(job.name, replace=replace)
    except AppearedError:
        if (other := spelled(new.directory, job.name)) is not None:
            raise RestoreError(one_file(job.name, other)) from None
        if context.overwrite is Overwrite.NEVER:
            return FileResult(Done.SKIPPED)
        raise
    except PermissionError as error:
        explain_flags(new.directory, job.name, error)
        raise
    return FileResult(Done.WRITTEN, identity)


def _discard(directories: DirFd, item: _Prepared) -> None:
    """Remove the temporary name of a file if it still exists."""
    with contextlib.suppress(OSError):
        item.new.directory = directories.open(item.job.directory)
        item.new.discard()


def unforeseen(error: Exception) -> RestoreError:
    """Return the error to report for a file when an unforeseen exception was raised."""
    what = str(error) or "no reason given"
    return RestoreError(f"Unexpected error ({type(error).__name__}: {what}).")


def new_file(context: RestoreContext, directory: int, name: bytes) -> NewFile:
    """Create a temporary file in an open directory for the file `name`."""
    try:
        return NewFile(directory, context.tag)
    except PermissionError as error:
        explain_flags(directory, name, error)
        raise


def finish(
    context: RestoreContext,
    directories: DirFd,
    new: NewFile,
    job: WriteJob,
    *,
    verified: bool = False,
) -> FileResult:
    """Verify a file that was written in several steps, and give it its final name.

    `verified`: the content was read back and compared already. Raises OSError or CesbrError.
    """
    new.finish(
        job.node.blobs,
        job.metadata,
        context.warnings,
        from_disk=context.from_disk,
        verified=verified,
    )
    return place_file(context, directories, new, job)


def place_file(
    context: RestoreContext, directories: DirFd, new: NewEntry, job: WriteJob
) -> FileResult:
    """Record a complete file in the journal, and give it its final name."""
    return _place_all(context, directories, [_Prepared(job, new)])[0]


def link_files(context: RestoreContext, links: Iterable[LinkJob]) -> list[FileResult]:
    """Make hard links; an error means that the file must be written instead."""
    with context.directories() as sources, context.directories() as directories:
        writes = (partial(_link, context, sources, directories, link) for link in links)
        return _write_all(context, directories, writes)


def _link(context: RestoreContext, sources: DirFd, directories: DirFd, link: LinkJob) -> _Prepared:
    source = sources.open(link.source[:-1])
    directory = directories.open(link.job.directory)
    new = NewLink(directory, source, link.source[-1], link.identity, context.tag)
    return _Prepared(link.job, new)


def begin(context: RestoreContext, job: WriteJob) -> tuple[DirFd, NewFile]:
    """Create a file that is written in several steps; pass both results to `end` in any case."""
    directories = context.directories()
    try:
        return directories, new_file(context, directories.open(job.directory), job.name)
    except BaseException:
        directories.close()
        raise


def end(directories: DirFd, new: NewFile) -> None:
    """Close what `begin` opened; remove the temporary file unless it has its final name."""
    new.discard()
    directories.close()


def write_blobs(new: NewFile, blobs: Iterable[bytes]) -> None:
    """Append blobs to a file."""
    for blob in blobs:
        new.write(blob)


def write_batch(
    context: RestoreContext, jobs: Iterable[tuple[WriteJob, Sequence[bytes]]]
) -> list[FileResult]:
    """Like `write_files`, with directories opened for this call."""
    with context.directories() as directories:
        return write_files(context, directories, jobs)


def close(context: RestoreContext) -> None:
    """Close the target directory."""
    os.close(context.target)
