"""The steps of a restore that work on the target: many small ones in one go.  Blocking.

Each is called in a thread, and looks between two files whether it was cancelled.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import msgspec
import trio

from cesbrfs.errors import CesbrError, RestoreError
from cesbrfs.repo.format.model import Node
from cesbrfs.restore.dirfd import DirFd, Followed, lookup, naming_flags, one_file, spelled, tell
from cesbrfs.restore.journal import Journal, PreviousRun, key_of
from cesbrfs.restore.metadata import FileMetadata, Warnings
from cesbrfs.restore.permissions import close_again, open_up
from cesbrfs.restore.plan import FILE_MODE, Action, Overwrite, PlannedFile, PlannedFolder
from cesbrfs.restore.writer import (
    AppearedError,
    NewEntry,
    NewFile,
    NewLink,
    NewSpecial,
    dress_folder,
    make_folder,
    temporary,
)
from cesbrfs.vfs.entries import Entry, SnapshotEntry, VirtualFile

_FOLDER_MODE = stat.S_IFDIR | 0o755


class Done(Enum):
    """How a file ended that did not fail."""

    WRITTEN = auto()
    SKIPPED = auto()


Outcome = Done | OSError | CesbrError


@dataclass(frozen=True, slots=True)
class RestoreContext:
    """What every step needs: the open target, the rule about existing files, notes and journal.

    `from_disk`: what was written is read back from the disk itself, not from the kernel's memory.
    `followed` are the folders that symlinks may lead to.
    """

    target: int
    overwrite: Overwrite
    notes: Warnings
    journal: Journal | None = None
    from_disk: bool = False
    followed: Followed | None = None

    def descend(self) -> DirFd:
        """Return what opens folders of the target, for `with`."""
        return DirFd(self.target, self.followed)

    @property
    def tag(self) -> bytes:
        """What tells this restore's temporary files from those of others."""
        return self.journal.tag if self.journal else b""


@dataclass(frozen=True, slots=True)
class WriteJob:
    """One file to write whole: `content` holds its blobs, nothing for links and special files."""

    file: PlannedFile
    entry: Entry
    content: Sequence[bytes]


def clothing(entry: Entry | None, name: bytes, path: bytes) -> FileMetadata:
    """Return the attributes for `entry`; what is ours can be written to by its owner."""
    if entry is None:
        now = time.time_ns()
        node = Node(name=name, type="dir", mode=_FOLDER_MODE, mtime_ns=now, atime_ns=now)
    elif isinstance(entry, SnapshotEntry):
        node = entry.node
    else:
        mode = _FOLDER_MODE if stat.S_ISDIR(entry.node.mode) else FILE_MODE
        node = msgspec.structs.replace(entry.node, mode=mode)
    return FileMetadata(node, path, owned=isinstance(entry, SnapshotEntry) and not entry.top)


def digests(entry: Entry) -> Sequence[bytes]:
    """Return the SHA-256 that the blobs of a regular file must have."""
    if isinstance(entry, VirtualFile):
        return [hashlib.sha256(entry.content).digest()]
    return entry.node.blobs


def make_folders(
    site: RestoreContext, folders: Iterable[PlannedFolder]
) -> tuple[int, list[tuple[PlannedFolder, OSError | CesbrError]]]:
    """Make the folders that do not exist; return how many were made, and the failures.

    Those in a folder that failed are lost with it.
    """
    made = 0
    failed: list[tuple[PlannedFolder, OSError | CesbrError]] = []
    with site.descend() as descent:
        for folder in folders:
            trio.from_thread.check_cancelled()
            assert folder.parent is not None
            if folder.parent.lost:
                folder.lost = True
                continue
            try:
                if folder.exists:
                    _ready(site, descent, folder)
                else:
                    made += _made(descent.open(folder.parent.parts), folder)
            except (OSError, RestoreError) as error:
                folder.lost = True
                failed.append((folder, error))
                continue
            if site.journal:
                site.journal.folder(folder.path, dressed=folder.dressed)
    return made, failed


def _made(above: int, folder: PlannedFolder) -> bool:
    """Make a folder, unless one is there by now."""
    with naming_flags(above, b"."):
        created = make_folder(above, folder.name)
    if not created and (other := spelled(above, folder.name)) is not None:
        raise RestoreError(one_file(folder.name, other))
    folder.exists = True
    folder.dressed = created
    return created


def _ready(site: RestoreContext, descent: DirFd, folder: PlannedFolder) -> None:
    """Open a folder up that exists if something will be written there."""
    changes = folder.dressed or any(file.writes for file in folder.files)
    if changes or not all(below.exists for below in folder.folders.values()):
        with contextlib.suppress(OSError):  # what is to be written there fails then, by name
            open_up(descent.open(folder.parts), folder, site.journal)


def remove_stale_temp_files(site: RestoreContext, past: PreviousRun) -> None:
    """Take away the temporary files that restores into this target have left behind."""
    prefixes = tuple(map(temporary, past.tags))
    if not prefixes:
        return
    with site.descend() as descent:
        for path in (b"", *past.folders):
            trio.from_thread.check_cancelled()
            with contextlib.suppress(OSError):  # it may be gone
                _sweep(descent.open(tuple(filter(None, path.split(b"/")))), prefixes)


def _sweep(folder: int, prefixes: tuple[bytes, ...]) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = os.open(".", flags, dir_fd=folder)
    try:
        for name in map(os.fsencode, os.listdir(descriptor)):
            if name.startswith(prefixes):
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def dress_folders(site: RestoreContext, folders: Iterable[PlannedFolder]) -> None:
    """Give folders their attributes, now that nothing in them will change any more."""
    with site.descend() as descent:
        for folder in folders:
            if not folder.exists or folder.lost:
                continue
            try:
                if folder.dressed:
                    wear = clothing(folder.entry, folder.name, folder.path)
                    dress_folder(descent.open(folder.parts), wear, site.notes)
                elif folder.closed_mode is not None:
                    close_again(descent.open(folder.parts), folder)
            except OSError as error:
                reason = tell(error)
                site.notes.add(f"A folder's attributes could not be set ({reason})", folder.path)


def write_files(site: RestoreContext, jobs: Iterable[WriteJob]) -> list[Outcome]:
    """Write each job's file; return how it went, in the same order."""
    with site.descend() as descent:
        return list(_each(site, descent, jobs))


def _each(site: RestoreContext, descent: DirFd, jobs: Iterable[WriteJob]) -> Iterator[Outcome]:
    for job in jobs:
        trio.from_thread.check_cancelled()
        try:
            folder = descent.open(job.file.folder.parts)
            if not stat.S_ISREG(job.entry.node.mode):
                yield _write_special(site, folder, job)
                continue
            new = _new_file(site, folder, job.file.name)
            try:
                for blob in job.content:
                    new.write(blob)
                yield finish(site, new, job.file, job.entry)
            finally:
                new.discard()
        except (OSError, CesbrError) as error:
            yield error
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this file's alone
            yield unforeseen(error)


def unforeseen(error: Exception) -> RestoreError:
    """Return the error for a file that failed in a way that nothing here foresees."""
    what = str(error) or "no reason given"
    return RestoreError(f"It cannot be restored ({type(error).__name__}: {what}).")


def _write_special(site: RestoreContext, folder: int, job: WriteJob) -> Outcome:
    file = job.file
    wear = clothing(job.entry, file.name, file.path)
    with naming_flags(folder, b"."):
        new = NewSpecial(folder, wear, site.notes, site.tag)
    try:
        return _place(site, new, file, key_of(job.entry))
    finally:
        new.discard()


def finish(site: RestoreContext, new: NewFile, file: PlannedFile, entry: Entry) -> Outcome:
    """Check a file whose content was written, dress it, and put it in its place."""
    wear = clothing(entry, file.name, file.path)
    new.finish(digests(entry), wear, site.notes, from_disk=site.from_disk)
    return _place(site, new, file, key_of(entry))


def _place(site: RestoreContext, new: NewEntry, file: PlannedFile, key: str) -> Done:
    replace = file.action in (Action.OVERWRITE, Action.REDO)
    identity = new.identity if file.links is not None else None
    if file.action is Action.OVERWRITE and site.overwrite is Overwrite.IF_NEWER:
        status = lookup(new.folder, file.name)  # it may have been changed since
        if status and not site.overwrite.replaces(status.st_mtime_ns, file.mtime_ns):
            return Done.SKIPPED
    if site.journal:
        site.journal.file(file.path, new.status, key)
    try:
        with naming_flags(new.folder, file.name):
            new.place(file.name, replace=replace)
    except AppearedError:
        if (other := spelled(new.folder, file.name)) is not None:
            raise RestoreError(one_file(file.name, other)) from None
        if site.overwrite is Overwrite.NEVER:
            return Done.SKIPPED
        raise
    if file.links is not None and file.links.leader is file:
        file.links.written, file.links.key = identity, key
    return Done.WRITTEN


def link_files(site: RestoreContext, files: Iterable[PlannedFile]) -> list[Outcome]:
    """Link each file to the one written for it; an error means that it has to be written."""
    found: list[Outcome] = []
    with site.descend() as there, site.descend() as here:
        for file in files:
            trio.from_thread.check_cancelled()
            links = file.links
            if links is None or links.leader is None or links.written is None:
                found.append(RestoreError("The file to link to was not restored."))
                continue
            try:
                source = there.open(links.leader.folder.parts)
                folder = here.open(file.folder.parts)
                new = NewLink(folder, source, links.leader.name, links.written, site.tag)
                try:
                    found.append(_place(site, new, file, links.key))
                finally:
                    new.discard()
            except (OSError, RestoreError) as error:
                found.append(error)
    return found


def begin(site: RestoreContext, file: PlannedFile) -> tuple[DirFd, NewFile]:
    """Open a new file for writing in several steps; give both to `end` whatever happens."""
    descent = site.descend()
    try:
        return descent, _new_file(site, descent.open(file.folder.parts), file.name)
    except BaseException:
        descent.close()
        raise


def _new_file(site: RestoreContext, folder: int, name: bytes) -> NewFile:
    with naming_flags(folder, name):
        return NewFile(folder, site.tag)


def end(descent: DirFd, new: NewFile) -> None:
    """Close what `begin` opened, and take the temporary file away."""
    new.discard()
    descent.close()


def write_blobs(new: NewFile, blobs: Iterable[bytes]) -> None:
    """Add blobs to a file."""
    for blob in blobs:
        new.write(blob)


def close(site: RestoreContext) -> None:
    """Close the target."""
    os.close(site.target)
