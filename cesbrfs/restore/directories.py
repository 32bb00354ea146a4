"""Create the directories of a restore, and apply their metadata in the end. Blocking."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable

from cesbrfs.errors import CesbrError, RestoreError
from cesbrfs.restore.content import directory_metadata
from cesbrfs.restore.dirfd import DirFd, explain_flags, one_file, spelled
from cesbrfs.restore.files import Parts, RestoreContext
from cesbrfs.restore.journal import PreviousRun
from cesbrfs.restore.metadata import handle, read_attributes
from cesbrfs.restore.owners import OwnerNames
from cesbrfs.restore.permissions import close_again, open_up
from cesbrfs.restore.plan import PlannedDirectory
from cesbrfs.restore.writer import apply_to_directory, make_directory, temp_prefix


def make_directories(
    context: RestoreContext, directories: Iterable[PlannedDirectory]
) -> tuple[int, list[tuple[PlannedDirectory, OSError | CesbrError]]]:
    """Create the directories that do not exist; return how many were created, and the failures.

    The content of a directory that failed is marked as lost.
    """
    made = 0
    failed: list[tuple[PlannedDirectory, OSError | CesbrError]] = []
    with context.directories() as dirfd:
        for directory in directories:
            context.check_cancelled()
            assert directory.parent is not None
            if directory.parent.lost:
                directory.lost = True
                continue
            try:
                if directory.exists:
                    _make_writable(context, dirfd, directory)
                    if context.journal:
                        context.journal.directory(directory.path, dressed=directory.dressed)
                else:
                    if context.keeper:
                        context.keeper.created(directory.path)
                    if context.journal:  # first, so that a later run completes its metadata
                        context.journal.directory(directory.path, dressed=True)
                    made += _create(dirfd.open(directory.parent.parts), directory)
            except (OSError, RestoreError) as error:
                directory.lost = True
                failed.append((directory, error))
    return made, failed


def _create(parent: int, directory: PlannedDirectory) -> bool:
    """Create a directory unless it appeared since it was planned; return whether it was created."""
    try:
        created = make_directory(parent, directory.name)
    except PermissionError as error:
        explain_flags(parent, b".", error)
        raise
    if not created and (other := spelled(parent, directory.name)) is not None:
        raise RestoreError(one_file(directory.name, other))
    directory.exists = True
    directory.dressed = created
    return created


def _make_writable(context: RestoreContext, dirfd: DirFd, directory: PlannedDirectory) -> None:
    """Make an existing directory writable if something will be written there."""
    writes = any(file.writes for file in directory.files) or not all(
        below.exists for below in directory.directories.values()
    )
    writes = writes or directory.deletes
    if not (directory.dressed or writes):
        return
    if context.keeper:
        opened = dirfd.open(directory.parts)
        if writes or not _looks_same(directory, opened, context.owners):
            context.keeper.directory(directory.path, opened, directory.closed_mode)
    with contextlib.suppress(OSError):  # then writing the files fails, and names them
        open_up(dirfd.open(directory.parts), directory, context.journal)


def _looks_same(directory: PlannedDirectory, opened: int, owners: OwnerNames | None) -> bool:
    """Return whether an open directory has the recorded metadata already."""
    metadata = directory_metadata(directory, owners)
    status, node = os.stat(opened), metadata.node
    same_owner = not metadata.owned or (node.uid, node.gid) == (status.st_uid, status.st_gid)
    modes = stat.S_IMODE(node.mode) == stat.S_IMODE(status.st_mode)
    if not (same_owner and modes and node.mtime_ns == status.st_mtime_ns):
        return False
    found = read_attributes(handle(opened))
    return {os.fsencode(name): value for name, value in found.items()} == dict(node.xattrs)


def remove_stale_temp_files(context: RestoreContext, past: PreviousRun) -> None:
    """Remove temporary files that earlier restores into this target left behind."""
    prefixes = tuple(map(temp_prefix, past.tags))
    if prefixes:
        paths = (b"", *past.directories)
        remove_temp_files(context, [tuple(filter(None, p.split(b"/"))) for p in paths], prefixes)


def remove_temp_files(
    context: RestoreContext, directories: Iterable[Parts], prefixes: tuple[bytes, ...]
) -> None:
    """Remove the files in `directories` whose names begin with one of `prefixes`."""
    with context.directories() as dirfd:
        for parts in directories:
            context.check_cancelled()
            with contextlib.suppress(OSError):  # the directory may not exist any more
                remove_by_prefix(dirfd.open(parts), prefixes)


def remove_by_prefix(directory: int, prefixes: tuple[bytes, ...]) -> None:
    """Remove the files in an open directory whose names begin with one of `prefixes`."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = os.open(".", flags, dir_fd=directory)
    try:
        for name in map(os.fsencode, os.listdir(descriptor)):
            if name.startswith(prefixes):
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def finish_directories(
    context: RestoreContext, directories: Iterable[PlannedDirectory]
) -> list[tuple[PlannedDirectory, OSError]]:
    """Apply the metadata of directories after everything in them was written; return failures."""
    failed: list[tuple[PlannedDirectory, OSError]] = []
    with context.directories() as dirfd:
        for directory in directories:
            if not directory.exists or directory.lost:
                continue
            try:
                if directory.dressed:
                    opened = dirfd.open(directory.parts)
                    apply_to_directory(
                        opened, directory_metadata(directory, context.owners), context.warnings
                    )
                elif directory.closed_mode is not None:
                    close_again(dirfd.open(directory.parts), directory)
            except OSError as error:
                failed.append((directory, error))
    return failed
