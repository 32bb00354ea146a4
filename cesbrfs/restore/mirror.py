"""Find and delete what the backup does not have, in directories that it has completely."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from cesbrfs.catalog import directory_names
from cesbrfs.catalog.layout import Placement
from cesbrfs.errors import RestoreError
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.restore.dirfd import DirFd, lookup, tell
from cesbrfs.restore.files import RestoreContext
from cesbrfs.restore.patterns import Pattern
from cesbrfs.restore.plan import Extra, PlannedDirectory, RestorePlan
from cesbrfs.restore.replaced import DIRECTORY, existing, mount_id
from cesbrfs.restore.report import Failure, RestoreReport
from cesbrfs.restore.targets import Refused, RestoreItem
from cesbrfs.restore.undo_log import attributes_of
from cesbrfs.restore.writer import temp_prefix
from cesbrfs.util.escape import show
from cesbrfs.vfs.entries import SnapshotEntry
from cesbrfs.vfs.tree import BackupTree

_OURS: Final = (DIRECTORY, b"lost+found")
"""Names that are never deleted: files kept for undo, and those of the file system itself."""
_WALK: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Parts = tuple[bytes, ...]


def require_readable(refused: Sequence[Refused]) -> None:
    """Raise RestoreError if a part of the backup is missing: its files must not be deleted."""
    if refused:
        first = refused[0]
        more = f" (and {len(refused) - 1:,} more)" if len(refused) > 1 else ""
        raise RestoreError(
            f"Cannot delete what the backup does not have, because a part of it is missing:"
            f" {show(first.path)}{more}: {first.reason} Restore without --delete, or choose"
            " another backup."
        )


# Which directories the backup has completely


async def mark_complete(view: BackupTree, top: PlannedDirectory, item: RestoreItem) -> None:
    """Mark the directories of `item` that were backed up themselves, not just as parents.

    `top` is the planned directory of the item. Whole snapshots are not marked.
    """
    backup = (await view.backups()).by_name.get(item.source[0])
    names = item.source[1:]
    if backup is None or names[:1] == (directory_names.SNAPSHOTS,):
        return
    for placement in (await view.layout(backup)).placed.values():
        shared = min(len(names), len(placement.path))
        if names[:shared] == placement.path[:shared]:
            _mark_placement(placement, names, top)


def _mark_placement(placement: Placement, names: Parts, top: PlannedDirectory) -> None:
    directory: PlannedDirectory | None = top
    source = placement.source.rstrip("/")
    if len(names) >= len(placement.path):
        below = names[len(placement.path) :]
        source = "/".join((source, *map(os.fsdecode, below)))
    else:
        for name in placement.path[len(names) :]:
            directory = directory.directories.get(name) if directory else None
    if directory is not None:
        _mark(directory, source, placement.snapshot)


def _mark(directory: PlannedDirectory, source: str, snapshot: Snapshot) -> None:
    """Mark a directory if one of the backed up paths contains it, else those below it."""
    if not isinstance(directory.entry, SnapshotEntry):
        return
    if any(_contains(path, source) for path in snapshot.paths):
        directory.complete = snapshot.excludes
        return
    for name, below in directory.directories.items():
        _mark(below, f"{source}/{os.fsdecode(name)}", snapshot)


def _contains(path: str, source: str) -> bool:
    path = path.rstrip("/")
    return source == path or source.startswith(path + "/")


# What else is there


def find_extras(
    planned: RestorePlan,
    directory: PlannedDirectory,
    opened: int,
    names: Iterable[bytes],
    present: Mapping[tuple[int, int], object],
) -> list[Extra]:
    """Return what an open directory contains in addition to the planned `names`; raises OSError.

    `present` are the (device, inode) of planned names that the file system spells differently.
    """
    assert directory.complete is not None
    finder = _Finder(planned, directory.complete)
    known = set(names)
    for name in _names_of(opened):
        if name not in known and not finder.is_protected((*directory.parts, name)):
            status = lookup(opened, name)
            if status is not None and (status.st_dev, status.st_ino) not in present:
                finder.add(opened, directory.parts, name, status)
    return finder.found


class _Finder:
    def __init__(self, planned: RestorePlan, excludes: Sequence[str]) -> None:
        self._planned = planned
        # They apply to paths on the instance. Protect too much, rather than too little.
        self._excludes = [_by_last_name(text) for text in excludes if text.strip("/")]
        self._kept: tuple[int, int] | None = None
        keep = planned.keep
        if keep is not None and keep.directory is not None:
            status = os.stat(existing(keep.directory))
            self._kept = status.st_dev, status.st_ino
        self.found: list[Extra] = []

    def is_protected(self, parts: Parts) -> bool:
        """Return whether a path is never deleted: excluded from the backup or from the restore."""
        name = parts[-1]
        if name in _OURS or name.startswith(temp_prefix(b"")):
            return True
        excluded = any(pattern.matches(parts) for pattern in self._excludes)
        return excluded or self._planned.patterns.excludes(parts)

    def add(self, opened: int, above: Parts, name: bytes, status: os.stat_result) -> bool:
        """Add a file, or a directory and its content; return False if a part of it stays."""
        parts = (*above, name)
        if stat.S_ISSOCK(status.st_mode):  # no backup has them; programs may listen on it
            return False
        if not stat.S_ISDIR(status.st_mode):
            self.found.append(Extra(parts, status.st_size, is_directory=False))
            return True
        if self._planned.guard.against(status) or (status.st_dev, status.st_ino) == self._kept:
            return False
        below = os.open(name, _WALK, dir_fd=opened)
        try:
            if mount_id(below) != mount_id(opened):
                return False
            position = len(self.found)
            complete = True
            for child in _names_of(below):
                found = lookup(below, child)
                if self.is_protected((*parts, child)):
                    complete = False
                elif found is not None:
                    complete = self.add(below, parts, child, found) and complete
        finally:
            os.close(below)
        if complete:
            self.found.insert(position, Extra(parts, 0, is_directory=True))
        return complete


def _by_last_name(text: str) -> Pattern:
    """Return a pattern for the last name of a pattern of restic, or for all names after ``*``."""
    names = text.strip("/").split("/")
    while len(names) > 1 and names[-1].strip("*"):
        del names[0]
    return Pattern.of("/".join(names))


def _names_of(opened: int) -> list[bytes]:
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=opened)
    try:
        return sorted(map(os.fsencode, os.listdir(descriptor)))
    finally:
        os.close(descriptor)


# Deleting


def delete_extras(context: RestoreContext, plan: RestorePlan, report: RestoreReport) -> None:
    """Delete what was planned, files before directories; failures are reported. Blocking."""
    files = [extra for extra in plan.extras if not extra.is_directory]
    directories = [extra for extra in plan.extras if extra.is_directory]
    with context.directories() as dirfd:
        if context.keeper:
            for extra in list(directories):
                try:
                    attributes = attributes_of(dirfd.open(extra.parts))
                except OSError as error:  # an undo could not restore them
                    report.failed.append(_failure(extra, tell(error)))
                    directories.remove(extra)
                else:
                    context.keeper.log.add(("removes", show(extra.path), attributes))
        for extra in files:
            context.check_cancelled()
            with _reporting(report, extra):
                report.deleted += _delete_file(context, dirfd, extra)
        for extra in reversed(directories):
            with _reporting(report, extra):
                os.rmdir(extra.parts[-1], dir_fd=dirfd.open(extra.parts[:-1]))
                report.deleted_directories += 1


def _delete_file(context: RestoreContext, dirfd: DirFd, extra: Extra) -> bool:
    """Delete or keep a file; return False if it is gone, or a directory now."""
    *above, name = extra.parts
    directory = dirfd.open(above)
    status = lookup(directory, name)
    if status is None or stat.S_ISDIR(status.st_mode):
        return False
    if context.keeper:
        context.keeper.take(directory, tuple(above), name)
    else:
        os.unlink(name, dir_fd=directory)
    return True


@contextmanager
def _reporting(report: RestoreReport, extra: Extra) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        report.failed.append(_failure(extra, tell(error)))
    except RestoreError as error:
        report.failed.append(_failure(extra, error.message))


def _failure(extra: Extra, reason: str) -> Failure:
    return Failure(extra.path, f"Cannot delete it: {reason}")
