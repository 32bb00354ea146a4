"""Write planned files: content, metadata, journal line, final name. Blocking, without trio.

Runs in threads of the main process and in worker processes alike.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import msgspec

from cesbrfs.errors import CesbrError, RestoreError
from cesbrfs.repo.format.model import Node
from cesbrfs.restore.dirfd import DirFd, Followed, explain_flags, lookup, one_file, spelled
from cesbrfs.restore.journal import JournalWriter, node_key
from cesbrfs.restore.metadata import FileMetadata, Warnings
from cesbrfs.restore.overwrite import Action, Overwrite
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
    the journal; None stands for the key of `node`. `hard_linked`: return the file's identity.
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
    """What writing a file needs besides the file itself.

    `target` is a descriptor of the target directory. `from_disk`: verify content by reading it
    back from the disk instead of the page cache. Symlinks may lead to the directories in
    `followed`. `tag` begins the temporary names; `check_cancelled` raises when the restore was
    cancelled.
    """

    target: int
    overwrite: Overwrite
    warnings: Warnings
    journal: JournalWriter | None = None
    from_disk: bool = False
    followed: Followed | None = None
    tag: bytes = b""
    check_cancelled: Callable[[], None] = lambda: None

    def directories(self) -> DirFd:
        """Return an object that opens directories below the target; use it in `with`."""
        return DirFd(self.target, self.followed)


def write_files(
    context: RestoreContext, jobs: Iterable[tuple[WriteJob, Sequence[bytes]]]
) -> list[FileResult]:
    """Write each job's file with its content (a list of blobs); return the results in order."""
    results: list[FileResult] = []
    with context.directories() as directories:
        for job, content in jobs:
            context.check_cancelled()
            results.append(write_file(context, directories, job, content))
    return results


def write_file(
    context: RestoreContext, directories: DirFd, job: WriteJob, content: Sequence[bytes]
) -> FileResult:
    """Write one file, symlink or special file; an error becomes its outcome."""
    try:
        directory = directories.open(job.directory)
        if not stat.S_ISREG(job.node.mode):
            return _write_special(context, directory, job)
        new = new_file(context, directory, job.name)
        try:
            for blob in content:
                new.write(blob)
            return finish(context, new, job)
        finally:
            new.discard()
    except (OSError, CesbrError) as error:
        return FileResult(error)
    except Exception as error:  # noqa: BLE001 - an unforeseen error concerns this file alone
        return FileResult(unforeseen(error))


def unforeseen(error: Exception) -> RestoreError:
    """Return the error to report for a file when an unforeseen exception was raised."""
    what = str(error) or "no reason given"
    return RestoreError(f"It cannot be restored ({type(error).__name__}: {what}).")


def new_file(context: RestoreContext, directory: int, name: bytes) -> NewFile:
    """Create a temporary file in an open directory for the file `name`."""
    try:
        return NewFile(directory, context.tag)
    except PermissionError as error:
        explain_flags(directory, name, error)
        raise


def _write_special(context: RestoreContext, directory: int, job: WriteJob) -> FileResult:
    try:
        new = NewSpecial(directory, job.metadata, context.warnings, context.tag)
    except PermissionError as error:
        explain_flags(directory, b".", error)
        raise
    try:
        return place(context, new, job)
    finally:
        new.discard()


def finish(
    context: RestoreContext, new: NewFile, job: WriteJob, *, verified: bool = False
) -> FileResult:
    """Verify the content of a new file, apply its metadata, and give it its final name.

    `verified`: the content was read back and compared already.
    """
    new.finish(
        job.node.blobs,
        job.metadata,
        context.warnings,
        from_disk=context.from_disk,
        verified=verified,
    )
    return place(context, new, job)


def place(context: RestoreContext, new: NewEntry, job: WriteJob) -> FileResult:
    """Give a complete temporary file its final name, after it was recorded in the journal."""
    identity = new.identity if job.hard_linked else None
    if job.action is Action.OVERWRITE and context.overwrite is Overwrite.IF_NEWER:
        status = lookup(new.folder, job.name)  # it may have been modified after planning
        if status and not context.overwrite.replaces(status.st_mtime_ns, job.node.mtime_ns):
            return FileResult(Done.SKIPPED)
    if context.journal:
        context.journal.file(job.path, new.status, job.journal_key)
    try:
        new.place(job.name, replace=job.action in (Action.OVERWRITE, Action.REDO))
    except AppearedError:
        if (other := spelled(new.folder, job.name)) is not None:
            raise RestoreError(one_file(job.name, other)) from None
        if context.overwrite is Overwrite.NEVER:
            return FileResult(Done.SKIPPED)
        raise
    except PermissionError as error:
        explain_flags(new.folder, job.name, error)
        raise
    return FileResult(Done.WRITTEN, identity)


def link_files(context: RestoreContext, links: Iterable[LinkJob]) -> list[FileResult]:
    """Make hard links; an error means that the file must be written instead."""
    results: list[FileResult] = []
    with context.directories() as sources, context.directories() as directories:
        for job, source, identity in links:
            context.check_cancelled()
            try:
                from_directory = sources.open(source[:-1])
                directory = directories.open(job.directory)
                new = NewLink(directory, from_directory, source[-1], identity, context.tag)
                try:
                    results.append(place(context, new, job))
                finally:
                    new.discard()
            except (OSError, RestoreError) as error:
                results.append(FileResult(error))
    return results


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


def close(context: RestoreContext) -> None:
    """Close the target directory."""
    os.close(context.target)
