"""Content of planned files: the job for each, and its blobs from the repository."""

from __future__ import annotations

import hashlib
import stat
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import msgspec
import trio

from cesbrfs.errors import CesbrError, RestoreError
from cesbrfs.repo.format.model import Node
from cesbrfs.restore.files import WriteJob
from cesbrfs.restore.journal import key_of
from cesbrfs.restore.metadata import FileMetadata
from cesbrfs.restore.owners import OwnerNames
from cesbrfs.restore.plan import FILE_MODE, PlannedDirectory, PlannedFile
from cesbrfs.vfs.entries import Entry, SnapshotEntry, VirtualFile
from cesbrfs.vfs.tree import BackupTree

_DIRECTORY_MODE: Final = stat.S_IFDIR | 0o755

_T = TypeVar("_T")


def write_job(
    file: PlannedFile,
    entry: Entry,
    parts: tuple[bytes, ...] | None = None,
    *,
    owners: OwnerNames | None = None,
) -> WriteJob:
    """Return the job that writes `file` from `entry`; `parts` is its directory's path, if known.

    With `owners`, owners are restored by name. Generated files are writable for their owner, and
    keep the owner they are created with.
    """
    node, key = entry.node, None
    if isinstance(entry, VirtualFile):
        content = hashlib.sha256(entry.content).digest()
        node = msgspec.structs.replace(node, mode=FILE_MODE, content=content)
        key = key_of(entry)
    elif owners is not None:
        node = owners.apply(node)
    return WriteJob(
        file.directory.parts if parts is None else parts,
        file.name,
        node,
        file.action,
        owned=isinstance(entry, SnapshotEntry) and not entry.top,
        key=key,
        hard_linked=file.links is not None and file.links.leader is file,
    )


def directory_metadata(
    directory: PlannedDirectory, owners: OwnerNames | None = None
) -> FileMetadata:
    """Return a directory's metadata; one without recorded metadata is owned by the process."""
    entry = directory.entry
    if entry is None:
        now = time.time_ns()
        node = Node(
            name=directory.name, type="dir", mode=_DIRECTORY_MODE, mtime_ns=now, atime_ns=now
        )
    elif isinstance(entry, SnapshotEntry):
        node = owners.apply(entry.node) if owners else entry.node
    else:
        node = msgspec.structs.replace(entry.node, mode=_DIRECTORY_MODE)
    owned = isinstance(entry, SnapshotEntry) and not entry.top
    return FileMetadata(node, directory.path, owned=owned)


async def find_entry(view: BackupTree, file: PlannedFile) -> Entry:
    """Return the entry in the backup that `file` is restored from."""
    if file.entry is not None:
        return file.entry
    directory = file.directory.entry
    entry = await view.child(directory, file.name) if directory else None
    if entry is None:
        raise RestoreError("It was removed from the repository after planning. Choose it again.")
    return entry


class EntryFinder:
    """Finds the entries of planned files; reads each directory once if its files follow another."""

    def __init__(self, view: BackupTree) -> None:
        self._view: Final = view
        self._directory: Entry | None = None
        self._children: Mapping[bytes, Entry] = {}

    async def find(self, file: PlannedFile) -> Entry:
        """Like `find_entry`."""
        directory = file.directory.entry
        if file.entry is not None or not isinstance(directory, SnapshotEntry):
            return await find_entry(self._view, file)
        if directory is not self._directory:
            self._children = await self._view.children(directory)
            self._directory = directory
        return self._children.get(file.name) or await find_entry(self._view, file)


async def load_blobs(
    data: Callable[[bytes], Awaitable[bytes]], blobs: Sequence[bytes]
) -> list[bytes]:
    """Return the content of blobs, loaded concurrently by `data`."""
    if len(blobs) == 1:
        return [await data(blobs[0])]
    return await run_concurrently([partial(data, blob) for blob in blobs])


async def run_concurrently(calls: Sequence[Callable[[], Awaitable[_T]]]) -> list[_T]:
    """Return the results of concurrent calls; raises the first of their errors."""
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
