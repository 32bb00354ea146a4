"""Walk many backups at once and visit each shared directory once.

A slot ("moment") of the timeline is a backup, or a snapshot of no backup; the oldest is number 0. A
set of slots is a bit mask. A `Level` of the walk has the distinct directories at one path, each
with the mask of the slots that contain it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from operator import or_
from typing import Final

import trio

from cesbrfs.catalog import directory_names
from cesbrfs.catalog.backups import Backup
from cesbrfs.errors import CesbrError, NotDirectoryError, NotFoundError, RepositoryUnreachableError
from cesbrfs.util.escape import show
from cesbrfs.util.tasks import gather
from cesbrfs.vfs.directory_index import DirectoryIndex, IndexedEntry, row_of
from cesbrfs.vfs.entries import Entry, SnapshotEntry, VirtualDir, VirtualFile, VirtualSymlink
from cesbrfs.vfs.tree import BackupTree

Parts = tuple[bytes, ...]
Level = Mapping[bytes, int]
"""The moments that have it, by a directory's key in the index."""

_UNPRODUCTIVE_MAX: Final = 16_384
"""Maximum number of directories remembered as containing no result."""
_PREFETCH_LEVELS: Final = 8
"""Number of following levels whose directories are prefetched."""


@dataclass(frozen=True, slots=True)
class BackupSlot:
    """A backup, or a snapshot of no backup: its ID, time and path in the tree."""

    id: str
    time_ns: int
    parts: Parts


@dataclass(frozen=True, slots=True)
class ReadError:
    """A path that could not be read, and the error."""

    parts: Parts
    error: CesbrError

    @property
    def message(self) -> str:
        """The message for the user."""
        return f"{shown(self.parts)}: {self.error.message}" if self.parts else self.error.message


class Troubles(list[ReadError]):
    """Read errors without duplicates."""

    def __init__(self) -> None:
        super().__init__()
        self._messages: set[str] = set()

    def note(self, parts: Parts, error: CesbrError) -> None:
        """Add an error unless it is a duplicate."""
        trouble = ReadError(parts, error)
        if trouble.message not in self._messages:
            self._messages.add(trouble.message)
            self.append(trouble)


@dataclass(frozen=True, slots=True)
class Trace:
    """The distinct entries at one path, and the directories that contain or could contain it.

    `covering` is the mask of the slots that show whether the path existed.
    """

    rows: Sequence[tuple[IndexedEntry, int]]
    directories: Level
    covering: int


Progress = Callable[[int], object]
"""Callback that receives the number of directories visited so far."""


@dataclass(slots=True)
class Timeline:
    """The slots of a walk, oldest first, and the level of their roots.

    `troubles` collects read errors.
    """

    view: BackupTree
    index: DirectoryIndex
    moments: Sequence[BackupSlot]
    roots: Level
    troubles: Troubles = field(default_factory=Troubles)

    @property
    def everything(self) -> int:
        """The mask of all slots."""
        return (1 << len(self.moments)) - 1

    def of(self, mask: int) -> Iterator[BackupSlot]:
        """Yield the slots of a mask, oldest first."""
        while mask:
            low = mask & -mask
            yield self.moments[low.bit_length() - 1]
            mask ^= low

    def newest(self, mask: int) -> BackupSlot:
        """Return the newest slot of a non-empty mask."""
        return self.moments[mask.bit_length() - 1]

    def oldest(self, mask: int) -> BackupSlot:
        """Return the oldest slot of a non-empty mask."""
        return self.moments[(mask & -mask).bit_length() - 1]

    def time_of(self, row: IndexedEntry, mask: int) -> int:
        """Return the mtime of `row`; a virtual directory has the time of its newest backup."""
        time_ns = row.mtime_ns
        return self.newest(mask).time_ns if time_ns is None else time_ns

    async def listing(self, parts: Parts, key: bytes) -> Mapping[bytes, IndexedEntry] | None:
        """Return the entries of the directory `key`, which is at `parts`.

        On a read error, adds it to `troubles` and returns None. Raises RepositoryUnreachableError.
        """
        try:
            return await self.index.listing(key)
        except RepositoryUnreachableError:
            raise
        except CesbrError as error:
            self.troubles.note(parts, error)
            return None

    async def whole_listing(self, parts: Parts, key: bytes) -> Mapping[bytes, IndexedEntry] | None:
        """Like `listing`, but also add unshowable entries to `troubles`."""
        listing = await self.listing(parts, key)
        if listing is not None:
            for reason in self.index.refused(key):
                self.troubles.note(parts, cannot_be_shown(reason))
        return listing

    async def trace(self, parts: Parts) -> Trace:
        """Return the entries at a path in each slot; the root has none."""
        level = self.roots
        rows: dict[IndexedEntry, int] = {}
        absent = 0
        for at, name in enumerate(parts):
            if at:
                level = directories(rows.items())
                absent |= union(mask for row, mask in rows.items() if row.subtree is None)
            rows = {}
            for key, mask in level.items():
                listing = await self.listing(parts[:at], key)
                if listing is None:
                    continue
                row = listing.get(name)
                if row is not None:
                    rows[row] = rows.get(row, 0) | mask
                elif not self.index.is_open(key):
                    absent |= mask
        return Trace(list(rows.items()), level, absent | union(rows.values()))

    async def at(self, parts: Parts) -> Sequence[tuple[IndexedEntry, int]]:
        """Return the distinct entries at a path, [] if no slot has it; the root has none."""
        return (await self.trace(parts)).rows

    async def level(self, parts: Parts) -> Level:
        """Return the directories at a path.

        Raises NotFoundError, or NotDirectoryError if it is not a directory in any slot.
        """
        if not parts:
            return self.roots
        found = await self.at(parts)
        if not found:
            raise NotFoundError(
                f"None of the searched backups contains {shown(parts)!r}. Search for the name with"
                " 'cesbr find --name'."
            )
        level = directories(found)
        if not level:
            raise NotDirectoryError(f"{shown(parts)!r} is not a directory.")
        return level

    async def walk(
        self,
        start: Parts,
        look: Callable[
            [Parts, Level, list[tuple[Mapping[bytes, IndexedEntry], int]]], Awaitable[None]
        ],
        progress: Progress | None = None,
        results: Callable[[], int] | None = None,
    ) -> None:
        """Call `look` for each path at or below `start` with the distinct directories at it.

        Directories come before their subdirectories, which are sorted by name. Read errors and
        unshowable entries are added to `troubles`. Raises RepositoryUnreachableError.

        With `results`, the number of results so far, directories without a result below them are
        not walked again at another path, so results must not depend on the path. The work is then
        linear in distinct directories and results; the paths of a few nested directories can be
        2**50.
        """
        seen = 0
        unproductive = _Barren()
        stack: list[tuple[Parts, Level, int | None]] = [(start, await self.level(start), None)]
        async with trio.open_nursery() as nursery:
            while stack:
                parts, level, before = stack.pop()
                if before is not None:  # everything below it was walked
                    if results and results() == before:
                        unproductive.add(level)
                    continue
                if results is not None:
                    if level in unproductive:
                        continue
                    stack.append((parts, level, results()))
                for _, following, ended in stack[-_PREFETCH_LEVELS:]:
                    if ended is None:
                        self._fetch(nursery, following)
                listings, below = await self._listings(parts, level)
                seen += len(level)
                if progress is not None:
                    progress(seen)
                await look(parts, level, listings)
                stack += [
                    ((*parts, name), below[name], None) for name in sorted(below, reverse=True)
                ]
            nursery.cancel_scope.cancel()

    async def _listings(
        self, parts: Parts, level: Level
    ) -> tuple[list[tuple[Mapping[bytes, IndexedEntry], int]], dict[bytes, dict[bytes, int]]]:
        """Return the directories of a level that can be read, and the levels below it by name."""
        held: list[tuple[Mapping[bytes, IndexedEntry], int]] = []
        below: dict[bytes, dict[bytes, int]] = {}
        for key, mask in level.items():
            listing = await self.whole_listing(parts, key)
            if listing is None:
                continue
            held.append((listing, mask))
            for name, row in listing.items():
                if row.subtree is not None:
                    there = below.setdefault(name, {})
                    there[row.subtree] = there.get(row.subtree, 0) | mask
        return held, below

    def _fetch(self, nursery: trio.Nursery, level: Level) -> None:
        for key in level:
            if not self.index.holds(key):
                nursery.start_soon(self._fetch_one, key)

    async def _fetch_one(self, key: bytes) -> None:
        try:
            await self.index.fetch(key)
        except CesbrError:
            return  # reported when the walk reads this directory


class _Barren:
    """Levels below which nothing was found, the last ones of them."""

    def __init__(self) -> None:
        self._known: set[frozenset[tuple[bytes, int]]] = set()

    def __contains__(self, level: Level) -> bool:
        return frozenset(level.items()) in self._known

    def add(self, level: Level) -> None:
        """Remember a level; directories within each other come back soon or not at all."""
        if len(self._known) >= _UNPRODUCTIVE_MAX:
            self._known.clear()
        self._known.add(frozenset(level.items()))


def cannot_be_shown(reason: str) -> CesbrError:
    """Return the error for an entry that no file system can show."""
    return CesbrError(
        f"Cannot read the entry {reason}. A newer restic or another system may have written it."
    )


def shown(parts: Parts) -> str:
    """Return a path below a backup in escaped form."""
    return "/".join(map(show, parts))


def union(masks: Iterable[int]) -> int:
    """Return the union of masks."""
    return reduce(or_, masks, 0)


def directories(rows: Iterable[tuple[IndexedEntry, int]]) -> Level:
    """Return the level of those entries that are directories."""
    level: dict[bytes, int] = {}
    for row, mask in rows:
        if row.subtree is not None:
            level[row.subtree] = level.get(row.subtree, 0) | mask
    return level


async def of_backups(
    view: BackupTree, index: DirectoryIndex, backups: Iterable[Backup]
) -> Timeline:
    """Return the timeline of these backups, without ``backup.json``."""
    await index.load()
    ordered = sorted(backups, key=lambda backup: (backup.time_ns, backup.name))
    there = (await view.backups()).by_name.values()
    index.prune_roots_except([view.layout_key(backup) for backup in there])
    moments = [BackupSlot(backup.id, backup.time_ns, (backup.name,)) for backup in ordered]

    async def root(backup: Backup) -> bytes | None:
        label = view.layout_key(backup)
        kept = index.root(label)
        if kept is not None:
            return kept
        layout = await view.layout(backup)
        row = await _row(view, index, (), await view.at((backup.name,)))
        # Do not cache a layout with whole snapshots either: they may have been unreadable.
        lasting = not (layout.whole or layout.unreadable) and await view.layout(backup) is layout
        if row is not None and row.subtree and lasting:
            index.save_root(label, row.subtree)
        return row.subtree if row else None

    keys = await gather([partial(root, backup) for backup in ordered])
    return _timeline(view, index, moments, keys)


async def of_snapshot(view: BackupTree, index: DirectoryIndex, name: bytes) -> Timeline:
    """Return the timeline of one snapshot of no backup, by its name in ``/_snapshots``."""
    await index.load()
    parts = (directory_names.SNAPSHOTS, name)
    entry = await view.at(parts)
    row = await _row(view, index, (), entry)
    moment = BackupSlot(shown(parts), entry.node.mtime_ns, parts)
    return _timeline(view, index, [moment], [row.subtree if row else None])


def _timeline(
    view: BackupTree,
    index: DirectoryIndex,
    moments: Sequence[BackupSlot],
    keys: Sequence[bytes | None],
) -> Timeline:
    roots: dict[bytes, int] = {}
    for number, key in enumerate(keys):
        if key is not None:
            roots[key] = roots.get(key, 0) | 1 << number
    return Timeline(view, index, moments, roots)


async def _row(
    view: BackupTree, index: DirectoryIndex, parts: Parts, entry: Entry
) -> IndexedEntry | None:
    """Return the index entry for `entry`, which is at `parts` below its backup.

    None for generated files and links, which are not part of the backup.
    """
    name = parts[-1] if parts else b""
    if isinstance(entry, VirtualFile | VirtualSymlink):
        return None
    if isinstance(entry, VirtualDir):
        children = await view.children(entry)
        found = [await _row(view, index, (*parts, below), c) for below, c in children.items()]
        rows = [row for row in found if row is not None]
        node = entry.node
        key = index.fold(rows, whole=_is_whole(parts, children.values()))
        return IndexedEntry(name, "dir", node.mode, node.uid, node.gid, 0, None, 0, subtree=key)
    assert isinstance(entry, SnapshotEntry)
    if entry.top:
        return row_of(entry.node, name, index.top(entry.snapshot))
    return row_of(entry.node, name, entry.node.subtree)


def _is_whole(parts: Parts, children: Iterable[Entry]) -> bool:
    """Return whether a virtual directory covers everything, because it is one point of data.

    This holds for the volumes of a dogu, unless each volume was backed up separately.
    """
    match parts:
        case (_, directory_names.CONFIGURATION, *_):
            return True
        case (_, directory_names.VOLUMES):
            snapshots = [child.snapshot for child in children if isinstance(child, SnapshotEntry)]
            return any("/volumes/" not in path for s in snapshots for path in s.paths)
    return False
