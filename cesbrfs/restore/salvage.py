"""Write the intact parts of a damaged file, with holes in the place of the lost ranges.

The file is written as ``NAME.damaged`` next to the place of the file, never as the file itself, and
is not recorded in the journal: `--resume` tries the file again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

import msgspec
import trio

from cesbrfs.errors import BlobMissingError, CesbrError, DamagedError, RestoreError, StorageError
from cesbrfs.repo.format.tree import NAME_MAX
from cesbrfs.restore import files
from cesbrfs.restore.content import find_entry, write_job
from cesbrfs.restore.dirfd import DirFd, lookup, obstacle, tell
from cesbrfs.restore.files import Done, RestoreContext, WriteJob
from cesbrfs.restore.overwrite import Action
from cesbrfs.restore.plan import PlannedDirectory, PlannedFile
from cesbrfs.restore.report import LostRange, RestoreReport, Salvaged
from cesbrfs.restore.writer import NewFile
from cesbrfs.vfs.entries import VirtualFile
from cesbrfs.vfs.tree import BackupTree

SUFFIX: Final = b".damaged"
_CHARACTER_BYTES: Final = 4


class Part(NamedTuple):
    """Consecutive bytes of a file: a blob (ID of 32 bytes), or a lost range."""

    blob: bytes | None
    length: int


class Salvager:
    """Salvages files of one restore."""

    def __init__(self, view: BackupTree, context: RestoreContext) -> None:
        self._view: Final = view
        self._blobs: Final = view.repository.blobs
        self._context: Final = replace(context, journal=None)

    async def salvage(self, file: PlannedFile, report: RestoreReport) -> None:
        """Write the intact parts of `file`, if there are any, and add it to the report."""
        try:
            entry = await find_entry(self._view, file)
            if isinstance(entry, VirtualFile):
                return
            node = entry.node
            index = await self._view.repository.index()
            parts = located(node.blobs, [index.plain_length(b) for b in node.blobs], node.size)
            name = free_name(file.directory, file.name)
            job = write_job(file, entry, owners=self._context.owners)
            job = msgspec.structs.replace(job, name=name, action=Action.CREATE, hard_linked=False)
            salvaged = await self._write(file.path, job, parts)
        except OSError as error:
            self._warn(file, tell(error))
        except CesbrError as error:
            self._warn(file, error.message)
        else:
            report.salvaged += [salvaged] if salvaged else []

    def _warn(self, file: PlannedFile, reason: str) -> None:
        what = f"The intact parts of a damaged file were not written ({reason.rstrip('.')})"
        self._context.warnings.add(what, file.path)

    async def _write(self, path: bytes, job: WriteJob, parts: Sequence[Part]) -> Salvaged | None:
        opened, new = await trio.to_thread.run_sync(files.begin, self._context, job)
        try:
            digests: list[bytes | None] = []
            lost: list[LostRange] = []
            for part in parts:
                data = None if part.blob is None else await self._load(part.blob)
                if data is None:
                    _add_lost(lost, LostRange(new.size, part.length))
                    new.skip(part.length)
                else:
                    await trio.to_thread.run_sync(new.write, data)
                digests.append(None if data is None else part.blob)
            if sum(one.length for one in lost) == new.size:
                return None
            finish = partial(_finish, self._context, opened, new, job, digests)
            await trio.to_thread.run_sync(finish)
            return Salvaged(path, job.path, new.size, tuple(lost))
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(files.end, opened, new)

    async def _load(self, blob: bytes) -> bytes | None:
        try:
            return await self._blobs.data(blob)
        except (BlobMissingError, DamagedError, StorageError):
            return None


def _finish(
    context: RestoreContext,
    opened: DirFd,
    new: NewFile,
    job: WriteJob,
    digests: Sequence[bytes | None],
) -> None:
    """Verify the file, and give it its name; replace an existing one as `context` permits."""
    status = lookup(opened.open(job.directory), job.name)
    if status is not None:
        reason = obstacle(status, to_directory=False)
        if reason is None and not context.overwrite.replaces(status.st_mtime_ns, job.node.mtime_ns):
            reason = "It exists already. Remove it, or see --overwrite."
        if reason is not None:
            raise RestoreError(reason)
        job = msgspec.structs.replace(job, action=Action.OVERWRITE)
    new.finish(digests, job.metadata, context.warnings, from_disk=context.from_disk)
    outcome = files.place_file(context, opened, new, job).outcome
    if outcome is Done.SKIPPED:
        raise RestoreError("It was created by another program. Restore it again.")
    if not isinstance(outcome, Done):
        raise outcome


def located(blobs: Sequence[bytes], lengths: Sequence[int | None], size: int) -> list[Part]:
    """Return the parts of a file of `size` bytes, given its blobs and their known lengths.

    The positions of blobs between two blobs of unknown length are unknown, so all between the first
    and the last of these is lost. Raises RestoreError if the lengths contradict the size.
    """
    unknown = [at for at, length in enumerate(lengths) if length is None]
    if not unknown:
        return [Part(blob, length or 0) for blob, length in zip(blobs, lengths, strict=True)]
    first, last = unknown[0], unknown[-1]
    before, after = (
        [Part(blob, length or 0) for blob, length in zip(some, known, strict=True)]
        for some, known in (
            (blobs[:first], lengths[:first]),
            (blobs[last + 1 :], lengths[last + 1 :]),
        )
    )
    gap = size - sum(part.length for part in (*before, *after))
    if gap < 0:
        raise RestoreError("The recorded size of the file contradicts that of its parts.")
    return [*before, Part(None, gap), *after]


def free_name(directory: PlannedDirectory, name: bytes) -> bytes:
    """Return the name for what is salvaged of `name`; not one that the backup has, too."""
    planned = {file.name for file in directory.files} | directory.directories.keys()
    number = 1
    while True:
        suffix = SUFFIX if number == 1 else b"%s-%d" % (SUFFIX, number)
        found = _cut(name, NAME_MAX - len(suffix)) + suffix
        if found not in planned:
            return found
        number += 1


def _cut(name: bytes, length: int) -> bytes:
    """Return at most `length` bytes of a name, and no part of a character at the end."""
    if len(name) <= length:
        return name
    for end in range(length, length - _CHARACTER_BYTES, -1):
        if name[end] & 0xC0 != 0x80:  # noqa: PLR2004 - not inside a character of UTF-8
            return name[:end]
    return name[:length]


def _add_lost(lost: list[LostRange], one: LostRange) -> None:
    """Add a range, joined with the previous one if they are adjacent."""
    if lost and lost[-1].offset + lost[-1].length == one.offset:
        one = LostRange(lost[-1].offset, lost.pop().length + one.length)
    if one.length:
        lost.append(one)
