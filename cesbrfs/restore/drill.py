"""A restore drill: restore files to a scratch directory, verify them from the disk, remove them."""

from __future__ import annotations

import fcntl
import math
import os
import random
import shutil
import stat
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from cesbrfs.catalog import directory_names
from cesbrfs.errors import RestoreError
from cesbrfs.restore.dirfd import tell
from cesbrfs.restore.executor import execute
from cesbrfs.restore.plan import PlannedDirectory, PlannedFile, RestorePlan
from cesbrfs.restore.planner import make_plan
from cesbrfs.restore.report import Progress, RestoreReport
from cesbrfs.restore.selection import select
from cesbrfs.restore.targets import ToDirectory
from cesbrfs.vfs.entries import ResolvedPath
from cesbrfs.vfs.tree import BackupTree

PREFIX: Final = "cesbr-drill-"
"""Begins the names of scratch directories."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Which files are restored: a `share` of them (1: all), chosen at random from `seed`."""

    share: float
    seed: int

    def of(self, files: list[PlannedFile]) -> list[PlannedFile]:
        """Return the chosen files, at least one if there is any."""
        if self.share >= 1:
            return files
        chooser = random.Random(self.seed)  # noqa: S311 - nothing secret depends on it
        return chooser.sample(files, math.ceil(len(files) * self.share))


async def drill(
    view: BackupTree,
    place: ResolvedPath,
    scratch: Path,
    sample: Sample,
    on_progress: Callable[[Progress], None] | None = None,
    *,
    workers: int | None = None,
) -> RestoreReport:
    """Restore a sample of the files at `place` to an empty directory, and return the report.

    Each file is flushed and read back from the disk, and compared with the SHA-256 of its blobs.
    Raises RestoreError if the free space is not sufficient.
    """
    planned = await make_plan(view, select([place]), ToDirectory(scratch))
    _keep_sample(planned, sample)
    if planned.warnings:
        raise RestoreError(planned.warnings[0])
    return await execute(view, planned, on_progress, from_disk=True, workers=workers)


def _keep_sample(planned: RestorePlan, sample: Sample) -> None:
    """Reduce a plan to a sample of its regular files, and their directories."""
    files = [
        file
        for directory in planned.order
        for file in directory.files
        if file.type == "file" and file.writes and not file.follows and not _is_registry(file)
    ]
    chosen = sample.of(files)
    kept: dict[int, list[PlannedFile]] = {}
    for file in chosen:
        kept.setdefault(id(file.directory), []).append(file)
    needed: set[int] = set()
    for file in chosen:
        directory: PlannedDirectory | None = file.directory
        while directory is not None and id(directory) not in needed:
            needed.add(id(directory))
            directory = directory.parent
    top = planned.order[0]
    planned.order = [one for one in planned.order if one is top or id(one) in needed]
    for one in planned.order:
        one.files = kept.get(id(one), [])
    planned.files, planned.bytes = len(chosen), sum(file.size for file in chosen)
    planned.directories = len(planned.order) - 1
    planned.sockets = 0
    for room in planned.rooms.values():
        room.needed = sum(room.rounded(file.size) for file in chosen)


def _is_registry(file: PlannedFile) -> bool:
    """Return whether a file contains registry values, which can be secrets: none are written."""
    return file.name == directory_names.REGISTRY_JSON and len(file.directory.parts) == 1


@asynccontextmanager
async def scratch_directory(parent: Path) -> AsyncGenerator[Path, None]:
    """Create a private directory in `parent`, and remove it with its content in the end.

    Directories that killed drills left in `parent` are removed first. Raises RestoreError.
    """
    try:
        path, descriptor = await trio.to_thread.run_sync(_create, parent)
    except OSError as error:
        raise RestoreError(f"Cannot restore to {parent}: {tell(error)}") from error
    try:
        yield path
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_remove, path)
        os.close(descriptor)


def _create(parent: Path) -> tuple[Path, int]:
    """Return a new directory and its descriptor, whose lock tells others that it is in use."""
    above = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(above, fcntl.LOCK_EX)  # no other drill looks before ours is locked
        _remove_stale(parent)
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path, descriptor
    finally:
        os.close(above)


def _remove_stale(parent: Path) -> None:
    """Remove directories of drills that were killed: they are ours, and nobody has locked them."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    for path in parent.glob(PREFIX + "*"):
        with suppress(OSError):
            opened = os.open(path, flags)
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(opened).st_uid == os.geteuid():
                    _remove(path)
            finally:
                os.close(opened)


def _remove(path: Path) -> None:
    """Remove a directory of ours; restored directories may be read-only."""
    if os.geteuid():
        for directory, _, _, opened in os.fwalk(path):
            del directory
            with suppress(OSError):
                os.fchmod(opened, stat.S_IRWXU)
    shutil.rmtree(path, ignore_errors=True)
