"""Create the directories of a restore, and apply their metadata in the end. Blocking."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from cesbrfs.errors import CesbrError, RestoreError
from cesbrfs.restore.content import folder_metadata
from cesbrfs.restore.dirfd import DirFd, explain_flags, one_file, spelled, tell
from cesbrfs.restore.files import Parts, RestoreContext
from cesbrfs.restore.journal import PreviousRun
from cesbrfs.restore.permissions import close_again, open_up
from cesbrfs.restore.plan import PlannedFolder
from cesbrfs.restore.writer import apply_to_folder, make_folder, temp_prefix


def make_folders(
    context: RestoreContext, folders: Iterable[PlannedFolder]
) -> tuple[int, list[tuple[PlannedFolder, OSError | CesbrError]]]:
    """Create the folders that do not exist; return how many were created, and the failures.

    The content of a folder that failed is marked as lost.
    """
    made = 0
    failed: list[tuple[PlannedFolder, OSError | CesbrError]] = []
    with context.directories() as directories:
        for folder in folders:
            context.check_cancelled()
            assert folder.parent is not None
            if folder.parent.lost:
                folder.lost = True
                continue
            try:
                if folder.exists:
                    _make_writable(context, directories, folder)
                else:
                    made += _create(directories.open(folder.parent.parts), folder)
            except (OSError, RestoreError) as error:
                folder.lost = True
                failed.append((folder, error))
                continue
            if context.journal:
                context.journal.folder(folder.path, dressed=folder.dressed)
    return made, failed


def _create(parent: int, folder: PlannedFolder) -> bool:
    """Create a folder unless it appeared since it was planned; return whether it was created."""
    try:
        created = make_folder(parent, folder.name)
    except PermissionError as error:
        explain_flags(parent, b".", error)
        raise
    if not created and (other := spelled(parent, folder.name)) is not None:
        raise RestoreError(one_file(folder.name, other))
    folder.exists = True
    folder.dressed = created
    return created


def _make_writable(context: RestoreContext, directories: DirFd, folder: PlannedFolder) -> None:
    """Make an existing folder writable if something will be written there."""
    changes = folder.dressed or any(file.writes for file in folder.files)
    if changes or not all(below.exists for below in folder.folders.values()):
        with contextlib.suppress(OSError):  # then writing the files fails, and names them
            open_up(directories.open(folder.parts), folder, context.journal)


def remove_stale_temp_files(context: RestoreContext, past: PreviousRun) -> None:
    """Remove temporary files that earlier restores into this target left behind."""
    prefixes = tuple(map(temp_prefix, past.tags))
    if prefixes:
        paths = (b"", *past.folders)
        remove_temp_files(context, [tuple(filter(None, p.split(b"/"))) for p in paths], prefixes)


def remove_temp_files(
    context: RestoreContext, folders: Iterable[Parts], prefixes: tuple[bytes, ...]
) -> None:
    """Remove the files in `folders` whose names begin with one of `prefixes`."""
    with context.directories() as directories:
        for parts in folders:
            context.check_cancelled()
            with contextlib.suppress(OSError):  # the folder may not exist any more
                _remove_by_prefix(directories.open(parts), prefixes)


def _remove_by_prefix(folder: int, prefixes: tuple[bytes, ...]) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = os.open(".", flags, dir_fd=folder)
    try:
        for name in map(os.fsencode, os.listdir(descriptor)):
            if name.startswith(prefixes):
                os.unlink(name, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def finish_folders(context: RestoreContext, folders: Iterable[PlannedFolder]) -> None:
    """Apply the metadata of folders after everything in them was written."""
    with context.directories() as directories:
        for folder in folders:
            if not folder.exists or folder.lost:
                continue
            try:
                if folder.dressed:
                    opened = directories.open(folder.parts)
                    apply_to_folder(opened, folder_metadata(folder), context.warnings)
                elif folder.closed_mode is not None:
                    close_again(directories.open(folder.parts), folder)
            except OSError as error:
                reason = tell(error)
                context.warnings.add(
                    f"A folder's attributes could not be set ({reason})", folder.path
                )
