"""Merge the directories of all backups, path by path, for a mount.

A merged directory has each name that any backup has at its path, with the distinct entries of that
name. Each distinct tree is read once (`directory_index`), and merged directories are cached until
the list of backups changes, both within bounds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar

import trio

from cesbrfs.catalog import directory_names
from cesbrfs.catalog.backups import Backups
from cesbrfs.errors import (
    CesbrError,
    DamagedError,
    NotDirectoryError,
    NotFoundError,
    RepositoryUnreachableError,
)
from cesbrfs.repo.format.model import Node, Snapshot
from cesbrfs.repo.read.trees import no_tree
from cesbrfs.util.escape import show
from cesbrfs.util.lru import LruCache
from cesbrfs.util.tasks import gather
from cesbrfs.vfs.compare import distinct
from cesbrfs.vfs.directory_index import DirectoryIndex, IndexedEntry
from cesbrfs.vfs.timeline import (
    BackupSlot,
    Level,
    Parts,
    Timeline,
    Troubles,
    directories,
    of_backups,
    shown,
)
from cesbrfs.vfs.tree import BackupTree

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

Rows = Sequence[tuple[IndexedEntry, int]]
"""Distinct entries at one path, each with the mask of the backups that have it."""

_REFRESH_SECONDS: Final = 10.0
"""How long a listing of snapshots is used: each name of a path needs it."""
_INCOMPLETE_SECONDS: Final = 60.0
"""How long a directory of which a tree could not be read is cached."""
_CHECKPOINT_ENTRIES: Final = 4096
"""Entries merged between two checkpoints."""
_COMPARED_MAX: Final = 16
"""More contents of one size are not read to compare them."""
_NS: Final = 1_000_000_000
_ENTRY_BYTES: Final = 400
"""Memory of a distinct entry of a merged directory, without its mask."""


@dataclass(frozen=True, slots=True)
class MergedDirectory:
    """The entries of a merged directory by name, sorted.

    `level` has the trees it consists of, `size` is in bytes of memory, `expires` a time of trio.
    """

    level: Level
    entries: Mapping[bytes, Rows]
    size: int
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """An entry at some path, a backup that has it, and the key of its directory in that backup."""

    row: IndexedEntry
    moment: BackupSlot
    directory: bytes


class MergedBackups:
    """The merged directories of the backups that exist at one time."""

    def __init__(self, view: BackupTree, backups: Backups, line: Timeline) -> None:
        self.line: Final = line
        self._view = view
        self._backups = backups
        self._slots: Final = {moment.parts[0]: at for at, moment in enumerate(line.moments)}
        capacity = view.repository.caching.merged_directories // 2
        self._merged: LruCache[Parts, MergedDirectory] = LruCache(
            capacity, lambda merged: merged.size, 1
        )
        self._versions: LruCache[Parts, Mapping[bytes, StoredEntry]] = LruCache(
            capacity // 2, lambda found: _ENTRY_BYTES * (len(found) + 1), 1
        )
        self._nodes: LruCache[tuple[bytes, Parts], tuple[Node, Snapshot]] = LruCache(
            capacity // 2, lambda pair: 2 * _ENTRY_BYTES + len(pair[0].content)
        )

    def moment(self, backup: bytes, mask: int) -> BackupSlot | None:
        """Return the slot of a backup, by its directory name, if `mask` has it."""
        slot = self._slots.get(backup)
        return self.line.moments[slot] if slot is not None and mask >> slot & 1 else None

    async def directory(self, parts: Parts) -> MergedDirectory:
        """Return the merged directory at a path below the backups.

        Raises NotFoundError, NotDirectoryError, and a read error if none of its trees can be read.
        """
        depth = len(parts)
        while depth and self._directory_nowait(parts[:depth]) is None:
            depth -= 1
        merged = await self._load(parts[:depth], self.line.roots)
        for at in range(depth, len(parts)):
            below = parts[: at + 1]
            rows = [row for row, _ in merged.entries.get(parts[at], ())]
            if not rows:
                raise NotFoundError(f"No backup contains {shown(below)!r} any more.")
            if all(row.type != "dir" for row in rows):
                raise NotDirectoryError(f"{shown(below)!r} is not a directory.")
            errors = [no_tree() for row in rows if row.type == "dir" and row.subtree is None]
            merged = await self._load(below, directories(merged.entries[parts[at]]), errors)
        return merged

    def _directory_nowait(self, parts: Parts) -> MergedDirectory | None:
        """Return a merged directory from the cache."""
        merged = self._merged.peek(parts)
        if merged is not None and merged.expires and merged.expires < trio.current_time():
            self._merged.drop(parts.__eq__)
            return None
        return merged

    async def _load(
        self, parts: Parts, level: Level, errors: Sequence[CesbrError] = ()
    ) -> MergedDirectory:
        merged = self._directory_nowait(parts)
        if merged is None:
            merged = await self._merged.get(parts, partial(self._merge, parts, level, errors))
        return merged

    async def _merge(
        self, parts: Parts, level: Level, known_errors: Sequence[CesbrError]
    ) -> MergedDirectory:
        masks: dict[bytes, int] = {}
        errors = list(known_errors)
        were_read = 0

        async def add(key: bytes, mask: int) -> None:
            nonlocal were_read
            try:
                rows = await self.line.index.rows(key)
            except RepositoryUnreachableError:
                raise
            except CesbrError as error:
                errors.append(error)
                return
            were_read += 1
            for at, row in enumerate(rows, 1):
                if at % _CHECKPOINT_ENTRIES == 0:
                    await trio.lowlevel.checkpoint()
                masks[row] = masks.get(row, 0) | mask
            await trio.lowlevel.checkpoint()

        await gather([partial(add, key, mask) for key, mask in level.items()])
        if errors and not were_read:
            raise errors[0]
        for error in errors:
            _log.warning("Not all backups can be read at %s: %s", shown(parts) or "/", error)
        found: dict[bytes, list[tuple[IndexedEntry, int]]] = {}
        for raw, mask in masks.items():
            entry = self.line.index.decode_row(raw)
            if entry is not None:
                found.setdefault(entry.name, []).append((entry, mask))
        entries = {name: found[name] for name in sorted(found)}
        distinct_entries = len(level) + sum(1 + len(rows) for rows in entries.values())
        size = (1 + distinct_entries) * (_ENTRY_BYTES + len(self.line.moments) // 8)
        expires = trio.current_time() + _INCOMPLETE_SECONDS if errors else None
        return MergedDirectory(level, entries, size, expires)

    async def versions(self, parts: Parts) -> Mapping[bytes, StoredEntry]:
        """Return the distinct contents at a path by name, oldest first, without directories.

        Files with the same bytes are one version, in the oldest backup that has it.
        """
        return await self._versions.get(parts, partial(self._find_versions, parts))

    async def _find_versions(self, parts: Parts) -> Mapping[bytes, StoredEntry]:
        merged = await self.directory(parts[:-1])
        rows = [pair for pair in merged.entries.get(parts[-1], ()) if pair[0].type != "dir"]
        line = replace(self.line, troubles=Troubles())
        found = await distinct(line, parts, merged.level, rows, compared_max=_COMPARED_MAX)
        for trouble in line.troubles:
            _log.warning("Versions cannot be compared: %s", trouble.message)
        found_at = sorted((mask & -mask).bit_length() - 1 for _, mask in found)
        versions = [
            StoredEntry(_at(rows, slot), self.line.moments[slot], _at(merged.level.items(), slot))
            for slot in found_at
        ]
        return {version_name(version.moment, parts): version for version in versions}

    def newest(self, merged: MergedDirectory, row: IndexedEntry, mask: int) -> StoredEntry:
        """Return an entry of a merged directory in the newest backup of `mask`."""
        key = _at(merged.level.items(), mask.bit_length() - 1)
        return StoredEntry(row, self.line.newest(mask), key)

    async def node(self, entry: StoredEntry, parts: Parts) -> tuple[Node, Snapshot]:
        """Return the complete node of an entry at a path, and the snapshot that contains it."""
        key = entry.moment.parts[0], parts
        return await self._nodes.get(key, partial(self._load_node, entry, parts))

    async def _load_node(self, entry: StoredEntry, parts: Parts) -> tuple[Node, Snapshot]:
        (name,) = entry.moment.parts
        placed = (await self._view.layout(self._backups.by_name[name])).placed
        for length in range(1, len(parts) + 1):
            placement = placed.get(parts[:length])
            if placement is None:
                continue
            if length == len(parts):
                return placement.node, placement.snapshot
            node = await self.line.index.node(entry.directory, parts[-1])
            if node is not None:
                return node, placement.snapshot
        raise DamagedError(f"{shown(parts)!r} is not in backup {show(name)}. Run 'cesbr check'.")


class BackupMerger:
    """Provides the merged directories of the backups that exist now."""

    def __init__(self, view: BackupTree) -> None:
        self._view = view
        self._index: Final = DirectoryIndex(view.repository, long_lived=True)
        self._current: tuple[Backups, float, MergedBackups] | None = None
        self._lock = trio.Lock()

    async def merged(self) -> MergedBackups:
        """Return the merged directories; the same object until the list of backups changes.

        If a backup could not be read, they are merged again after a minute.
        """
        while True:
            backups = await self._view.backups(_REFRESH_SECONDS)
            if (merged := self._merged_nowait(backups)) is not None:
                return merged
            async with self._lock:
                if (merged := self._merged_nowait(backups)) is not None:
                    return merged
                try:
                    line = await of_backups(self._view, self._index, backups.by_name.values())
                except NotFoundError:  # one of the backups was removed during this time
                    if await self._view.backups(_REFRESH_SECONDS) is backups:
                        raise
                    continue
                self._index.prune_virtual_except(line.roots)
                merged = MergedBackups(self._view, backups, line)
                self._current = backups, self._view.layouts_expire(), merged
                await self._index.save()

    def _merged_nowait(self, backups: Backups) -> MergedBackups | None:
        """Return the cached directories if they are of these backups, and have not expired."""
        if self._current is None:
            return None
        known, expires, merged = self._current
        return merged if known is backups and self._view.clock() < expires else None


def version_name(moment: BackupSlot, parts: Parts) -> bytes:
    """Return the name of the version of a path in the backup `moment`, with its local time."""
    stamp = time.strftime("%Y-%m-%dT%H-%M-%S", time.localtime(moment.time_ns // _NS))
    return directory_names.version_name(stamp.encode(), moment.parts[0], parts[-1])


def _at(masks: Iterable[tuple[_T, int]], slot: int) -> _T:
    """Return what is paired with the mask that has a slot."""
    return next(found for found, mask in masks if mask >> slot & 1)
