"""Many backups at once: one walk in which what they share is looked at once.

A moment of the timeline is a backup, or a snapshot of no backup; the oldest is number 0.  A set of
moments is an integer with a bit for each.  A place in the walk is a `Level`: the distinct folders
that stand at one path, each with the moments that have it there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import trio

from cesbrfs.catalog import names
from cesbrfs.catalog.backups import Backup
from cesbrfs.entries import Document, Entry, Folder, Link, Stored
from cesbrfs.errors import (
    CesbrError,
    NotAFolderError,
    NotFoundError,
    RepositoryUnreachableError,
)
from cesbrfs.history.memo import Memo, Row, row_of
from cesbrfs.paths import show
from cesbrfs.tasks import gather
from cesbrfs.view import View

Parts = tuple[bytes, ...]
Level = Mapping[bytes, int]
"""The moments that have it, by a folder's key in the memo."""

_AHEAD: Final = 8
"""Places of the walk whose folders are read while the ones before them are looked at."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A backup, or a snapshot of none: its ID, its time, and the names that lead to it."""

    id: str
    time_ns: int
    parts: Parts


@dataclass(frozen=True, slots=True)
class Trouble:
    """A folder that could not be read, and why."""

    parts: Parts
    error: CesbrError


Progress = Callable[[int], object]
"""Is told how many folders were looked at."""


@dataclass(slots=True)
class Timeline:
    """The moments of a walk, oldest first, and the level of their roots."""

    memo: Memo
    moments: Sequence[Moment]
    roots: Level
    troubles: list[Trouble] = field(default_factory=list)

    @property
    def everything(self) -> int:
        """All moments."""
        return (1 << len(self.moments)) - 1

    def of(self, mask: int) -> Iterator[Moment]:
        """Yield the moments of a set, oldest first."""
        while mask:
            low = mask & -mask
            yield self.moments[low.bit_length() - 1]
            mask ^= low

    def newest(self, mask: int) -> Moment:
        """Return the newest moment of a set that is not empty."""
        return self.moments[mask.bit_length() - 1]

    def oldest(self, mask: int) -> Moment:
        """Return the oldest moment of a set that is not empty."""
        return self.moments[(mask & -mask).bit_length() - 1]

    def time_of(self, row: Row, mask: int) -> int:
        """Return when `row` was modified: a folder of ours is as old as its newest backup."""
        time_ns = row.mtime_ns
        return self.newest(mask).time_ns if time_ns is None else time_ns

    async def rows(self, level: Level, name: bytes) -> list[tuple[Row, int]]:
        """Return the distinct rows of this name in the folders of `level`."""
        found: dict[Row, int] = {}
        for key, mask in level.items():
            row = (await self.memo.listing(key)).get(name)
            if row is not None:
                found[row] = found.get(row, 0) | mask
        return list(found.items())

    async def at(self, parts: Parts) -> list[tuple[Row, int]]:
        """Return the distinct rows at a path, [] where no moment has it; the root has none."""
        level = self.roots
        found: list[tuple[Row, int]] = []
        for at, name in enumerate(parts):
            if at:
                level = folders(found)
            found = await self.rows(level, name)
        return found

    async def level(self, parts: Parts) -> Level:
        """Return the folders at a path.

        Raises NotFoundError, or NotAFolderError where it is a folder in no moment.
        """
        if not parts:
            return self.roots
        found = await self.at(parts)
        shown = "/".join(map(show, parts))
        if not found:
            raise NotFoundError(f"No backup that was searched has {shown!r}.")
        level = folders(found)
        if not level:
            raise NotAFolderError(f"{shown!r} is not a folder.")
        return level

    async def walk(
        self,
        start: Parts,
        look: Callable[[Parts, list[tuple[Mapping[bytes, Row], int]]], Awaitable[None]],
        progress: Progress | None = None,
    ) -> None:
        """Call `look` with each path from `start` down and the distinct folders that stand there.

        A folder comes before those in it, those in the order of their names.  One that cannot be
        read is noted in `troubles`; a storage that does not answer ends the walk.
        """
        seen = 0
        stack: list[tuple[Parts, Level]] = [(start, await self.level(start))]
        async with trio.open_nursery() as nursery:
            while stack:
                parts, level = stack.pop()
                for _, following in stack[-_AHEAD:]:
                    self._fetch(nursery, following)
                held: list[tuple[Mapping[bytes, Row], int]] = []
                below: dict[bytes, dict[bytes, int]] = {}
                for key, mask in level.items():
                    try:
                        listing = await self.memo.listing(key)
                    except RepositoryUnreachableError:
                        raise
                    except CesbrError as error:
                        self.troubles.append(Trouble(parts, error))
                        continue
                    held.append((listing, mask))
                    for name, row in listing.items():
                        if row.subtree is not None:
                            there = below.setdefault(name, {})
                            there[row.subtree] = there.get(row.subtree, 0) | mask
                seen += len(level)
                if progress is not None:
                    progress(seen)
                await look(parts, held)
                stack += [((*parts, name), below[name]) for name in sorted(below, reverse=True)]
            nursery.cancel_scope.cancel()

    def _fetch(self, nursery: trio.Nursery, level: Level) -> None:
        for key in level:
            if not self.memo.holds(key):
                nursery.start_soon(self._fetch_one, key)

    async def _fetch_one(self, key: bytes) -> None:
        try:
            await self.memo.fetch(key)
        except CesbrError:
            return  # told when the walk comes there


def folders(rows: Iterable[tuple[Row, int]]) -> Level:
    """Return the level of those rows that are folders."""
    level: dict[bytes, int] = {}
    for row, mask in rows:
        if row.subtree is not None:
            level[row.subtree] = level.get(row.subtree, 0) | mask
    return level


async def of_backups(view: View, memo: Memo, backups: Iterable[Backup]) -> Timeline:
    """Return the timeline of these backups, as the view shows them without ``backup.json``."""
    await memo.recall()
    ordered = sorted(backups, key=lambda backup: (backup.time_ns, backup.name))
    there = (await view.backups()).by_name.values()
    memo.retain_roots([view.layout_key(backup) for backup in there])
    moments = [Moment(backup.id, backup.time_ns, (backup.name,)) for backup in ordered]

    async def root(backup: Backup) -> bytes | None:
        label = view.layout_key(backup)
        kept = memo.root(label)
        if kept is not None:
            return kept
        row = await _row(view, memo, backup.name, await view.at((backup.name,)))
        # What is shown whole, perhaps because it could not be read, is looked at anew.
        if row is not None and row.subtree and not (await view.layout(backup)).whole:
            memo.keep_root(label, row.subtree)
        return row.subtree if row else None

    return _timeline(memo, moments, await gather([partial(root, backup) for backup in ordered]))


async def of_snapshot(view: View, memo: Memo, name: bytes) -> Timeline:
    """Return the timeline of one snapshot of no backup, by its name in ``/_snapshots``."""
    await memo.recall()
    parts = (names.SNAPSHOTS, name)
    entry = await view.at(parts)
    row = await _row(view, memo, name, entry)
    shown = "/".join(map(show, parts))
    moment = Moment(shown, entry.node.mtime_ns, parts)
    return _timeline(memo, [moment], [row.subtree if row else None])


def _timeline(memo: Memo, moments: Sequence[Moment], keys: Sequence[bytes | None]) -> Timeline:
    roots: dict[bytes, int] = {}
    for number, key in enumerate(keys):
        if key is not None:
            roots[key] = roots.get(key, 0) | 1 << number
    return Timeline(memo, moments, roots)


async def _row(view: View, memo: Memo, name: bytes, entry: Entry) -> Row | None:
    """Return the row of an entry; None for what describes a backup and is no part of it."""
    if isinstance(entry, Document | Link):
        return None
    if isinstance(entry, Folder):
        rows = []
        for below, child in (await view.children(entry)).items():
            row = await _row(view, memo, below, child)
            if row is not None:
                rows.append(row)
        node = entry.node
        key = memo.fold(rows)
        return Row(name, "dir", node.mode, node.uid, node.gid, 0, None, 0, subtree=key)
    assert isinstance(entry, Stored)
    if entry.top:
        return row_of(entry.node, name, memo.top(entry.snapshot))
    return row_of(entry.node, name, entry.node.subtree)
