"""Compare two directories: names, content, and optionally metadata."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import msgspec

from cesbrfs.errors import CesbrError, NotFoundError, RepositoryUnreachableError
from cesbrfs.history.versions import What
from cesbrfs.util.escape import show
from cesbrfs.vfs.compare import same_content
from cesbrfs.vfs.directory_index import DirectoryIndex, IndexedEntry
from cesbrfs.vfs.timeline import BackupSlot, Parts, Timeline, Troubles, cannot_be_shown, shown

Mark = Literal["+", "-", "M", "T", "U"]
"""Added, removed, modified, type changed, metadata changed: the letters of restic diff."""

_Pair = tuple[bytes | None, bytes | None]
"""The keys of a directory on both sides."""
_EQUAL_MAX: Final = 16_384
"""Maximum number of pairs remembered as having no difference."""
CHANGES_MAX: Final = 100_000
"""Maximum number of changes that a step of a history contains; the others are counted."""
_NOTHING: Final[Mapping[bytes, IndexedEntry]] = {}


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: the path below the backup, and the entries before and after."""

    parts: Parts
    mark: Mark
    before: IndexedEntry | None
    after: IndexedEntry | None


@dataclass(slots=True)
class Remarks:
    """Paths that could not be compared, without duplicates.

    `troubles` are read errors. `uncovered` paths were not backed up on one side, so their absence
    there is not a difference.
    """

    troubles: Troubles = field(default_factory=Troubles)
    uncovered: list[Parts] = field(default_factory=list)


class Side(Protocol):
    """One side of a comparison. Only this side can interpret the `subtree` of its entries."""

    async def listing(self, key: bytes) -> Mapping[bytes, IndexedEntry]:
        """Return the entries of a directory by name."""
        ...

    def refused(self, key: bytes) -> Sequence[str]:
        """Return the reasons for entries of a just listed directory that cannot be shown."""
        ...

    def covers(self, key: bytes) -> bool:
        """Return whether a name missing in the directory did not exist when it was backed up."""
        ...

    async def same_content(
        self,
        path: Parts,
        own: tuple[bytes, IndexedEntry],
        other: BackupSide,
        theirs: tuple[bytes, IndexedEntry],
    ) -> bool:
        """Return whether `theirs`, of the side `other`, has the same content as `own`.

        Both are entries with the key of their directory. They have the same type, not "dir".
        """
        ...


class BackupSide:
    """A backup, or a sequence of backups, as a side."""

    def __init__(self, line: Timeline) -> None:
        self.line: Final = line

    async def listing(self, key: bytes) -> Mapping[bytes, IndexedEntry]:
        """Return the entries of a directory by name."""
        return await self.line.index.listing(key)

    def refused(self, key: bytes) -> Sequence[str]:
        """Return the reasons for entries of a just listed directory that cannot be shown."""
        return self.line.index.refused(key)

    def covers(self, key: bytes) -> bool:
        """Return whether a name missing in the directory did not exist when it was backed up."""
        return not self.line.index.is_open(key)

    async def same_content(
        self,
        path: Parts,
        own: tuple[bytes, IndexedEntry],
        other: BackupSide,
        theirs: tuple[bytes, IndexedEntry],
    ) -> bool:
        """Return whether both have the same bytes, target or device number."""
        return await same_content(self.line, path, own, theirs, others=other.line)


async def diff(
    before: BackupSide,
    first: bytes | None,
    after: Side,
    second: bytes | None,
    parts: Parts = (),
    *,
    remarks: Remarks,
    attributes: bool = False,
) -> AsyncIterator[Change]:
    """Yield the differences between two directories, given by key; None for a missing directory.

    Directories come before their entries, which are sorted by name. If both sides are backups,
    directories with the same key are skipped. With `attributes`, differences of mode, owner, time
    and extended attributes are included. Paths that cannot be compared are added to `remarks`.

    If both sides are backups, a pair of directories that has no difference is not compared again at
    another path: the paths of a few nested directories can be 2**50.
    """
    alike = isinstance(after, BackupSide)
    equal = _EqualPairs()
    found = 0
    stack: list[tuple[Parts, _Pair, int | None]] = [(parts, (first, second), None)]
    while stack:
        at, pair, earlier = stack.pop()
        results = found + len(remarks.troubles) + len(remarks.uncovered)
        if earlier is not None:  # everything below it was compared
            if results == earlier:
                equal.add(pair)
            continue
        if pair in equal:
            continue
        if alike:
            stack.append((at, pair, results))
        below: list[tuple[Parts, _Pair, int | None]] = []
        async for path, old, new, same in _entries(before, after, at, pair, remarks):
            change = change_of(path, old, new, same=same, attributes=attributes)
            if change is not None:
                found += 1
                yield change
            down, across = (row.subtree if row else None for row in (old, new))
            if (down != across or not alike) and (down is not None or across is not None):
                below.append((path, (down, across), None))
        stack += reversed(below)


class _EqualPairs:
    """The last pairs of directories that have no difference."""

    def __init__(self) -> None:
        self._pairs: set[_Pair] = set()

    def __contains__(self, pair: _Pair) -> bool:
        return pair in self._pairs

    def add(self, pair: _Pair) -> None:
        """Remember a pair; directories within each other come back soon or not at all."""
        if len(self._pairs) >= _EQUAL_MAX:
            self._pairs.clear()
        self._pairs.add(pair)


async def _entries(
    before: BackupSide, after: Side, at: Parts, pair: _Pair, remarks: Remarks
) -> AsyncIterator[tuple[Parts, IndexedEntry | None, IndexedEntry | None, bool]]:
    """Yield path, both entries and whether their content is equal, for each name of a pair.

    Paths that cannot be compared are added to `remarks` instead.
    """
    left, right = pair
    ours = await _listing(before, left, at, remarks)
    theirs = await _listing(after, right, at, remarks)
    if ours is None or theirs is None:
        return
    for name in sorted(ours.keys() | theirs.keys()):
        old, new = ours.get(name), theirs.get(name)
        path = (*at, name)
        if _uncovered(before, left, old) or _uncovered(after, right, new):
            remarks.uncovered.append(path)
            continue
        same = True
        if old and new and left and right and old.type == new.type != "dir":
            try:
                same = await after.same_content(path, (right, new), before, (left, old))
            except RepositoryUnreachableError:
                raise
            except CesbrError as error:
                remarks.troubles.note(path, error)
                continue
        yield path, old, new, same


async def _listing(
    side: Side, key: bytes | None, at: Parts, remarks: Remarks
) -> Mapping[bytes, IndexedEntry] | None:
    """Return the entries of a directory; on a read error, record it and return None."""
    if key is None:
        return _NOTHING
    try:
        listing = await side.listing(key)
    except RepositoryUnreachableError:
        raise
    except CesbrError as error:
        remarks.troubles.note(at, error)
        return None
    for reason in side.refused(key):
        remarks.troubles.note(at, cannot_be_shown(reason))
    return listing


def _uncovered(side: Side, key: bytes | None, row: IndexedEntry | None) -> bool:
    """Return whether the entry is missing because it was not backed up."""
    return row is None and key is not None and not side.covers(key)


def change_of(
    parts: Parts,
    before: IndexedEntry | None,
    after: IndexedEntry | None,
    *,
    same: bool,
    attributes: bool,
) -> Change | None:
    """Return the difference of one entry, or None; `same` is whether the content is equal."""
    mark: Mark
    if before is None:
        mark = "+"
    elif after is None:
        mark = "-"
    elif before.type != after.type:
        mark = "T"
    elif not same:
        mark = "M"
    elif attributes and attributes_differ(before, after):
        mark = "U"
    else:
        return None
    return Change(parts, mark, before, after)


async def diff_backups(
    before: Timeline,
    after: Timeline,
    parts: Parts,
    *,
    remarks: Remarks | None = None,
    attributes: bool = False,
) -> AsyncIterator[Change]:
    """Yield the differences at and below `parts` between two timelines of one backup each.

    Raises NotFoundError if neither backup has the path or one does not cover it, and read errors.
    """
    ours, theirs = BackupSide(before), BackupSide(after)
    if parts:
        found = await _one_row(before, parts), await _one_row(after, parts)
        old, new = (pair[1] if pair else None for pair in found)
        if old is None and new is None:
            raise NotFoundError(f"Neither backup contains {shown(parts)!r}.")
        same = True
        if found[0] and found[1] and old and new and old.type == new.type != "dir":
            same = await theirs.same_content(parts, found[1], ours, found[0])
        change = change_of(parts, old, new, same=same, attributes=attributes)
        if change is not None:
            yield change
        first, second = (row.subtree if row else None for row in (old, new))
    else:
        first, second = (next(iter(line.roots), None) for line in (before, after))
    if first != second:
        remarks = remarks or Remarks()
        async for change in diff(
            ours, first, theirs, second, parts, remarks=remarks, attributes=attributes
        ):
            yield change


async def _one_row(line: Timeline, parts: Parts) -> tuple[bytes, IndexedEntry] | None:
    """Return the entry at a path in a timeline of one backup, with the key of its directory."""
    traced = await line.trace(parts)
    if line.troubles:
        raise line.troubles[0].error
    if not traced.covering:
        backup = show(os.fsencode(line.moments[0].id))
        raise NotFoundError(
            f"Backup {backup} cannot be compared at {shown(parts)!r}: the backup does not"
            " include it."
        )
    return next(((next(iter(traced.directories)), row) for row, _ in traced.rows), None)


def attributes_differ(before: IndexedEntry, after: IndexedEntry) -> bool:
    """Return whether two entries of one type differ in mode, owner, time or xattrs."""
    if before.seconds is None or after.seconds is None:
        return False  # a virtual directory has no recorded metadata
    return _attributes(before) != _attributes(after)


def _attributes(row: IndexedEntry) -> tuple[object, ...]:
    mode = 0 if row.type == "symlink" else row.mode  # the mode of a symlink has no meaning
    return mode, row.uid, row.gid, row.seconds, row.nanoseconds, row.extra


@dataclass(frozen=True, slots=True)
class Step:
    """The change of a directory from the previous backup to this one."""

    moment: BackupSlot
    what: What
    changes: Sequence[Change] = ()
    more: int = 0
    """Number of changes beyond `CHANGES_MAX`."""


async def history(timeline: Timeline, parts: Parts, *, attributes: bool = False) -> list[Step]:
    """Return the changes of a directory from backup to backup, oldest first.

    Backups that do not cover the directory or have no changes are skipped, as is any part of the
    directory that a backup does not cover. Read errors are added to `timeline.troubles`. Raises
    NotFoundError or NotDirectoryError.
    """
    level = await timeline.level(parts)
    covering = (await timeline.trace(parts)).covering if parts else timeline.everything
    side, remarks = BackupSide(timeline), Remarks(timeline.troubles)
    steps: list[Step] = []
    before: bytes | None = None
    for number, moment in enumerate(timeline.moments):
        key = next((key for key, mask in level.items() if mask >> number & 1), None)
        if key == before or not covering >> number & 1:
            continue
        if key is None:
            steps.append(Step(moment, "vanished"))
        elif before is None:
            steps.append(Step(moment, "appeared"))
        else:
            found: list[Change] = []
            more = 0
            async for change in diff(
                side, before, side, key, parts, remarks=remarks, attributes=attributes
            ):
                if len(found) < CHANGES_MAX:
                    found.append(change)
                else:
                    more += 1
            if found:
                steps.append(Step(moment, "changed", found, more))
            key = await _merged(timeline.index, before, key)
        before = key
    if not steps:
        raise NotFoundError(f"No backup contains {shown(parts)!r}.")
    return steps


async def _merged(index: DirectoryIndex, before: bytes, key: bytes) -> bytes:
    """Return the key of the later directory, plus earlier entries that it does not cover."""
    if before == key or not index.is_open(key):
        return key
    earlier, rows = await index.listing(before), dict(await index.listing(key))
    for name, row in earlier.items():
        later = rows.setdefault(name, row)
        if row.subtree and later.subtree:
            below = await _merged(index, row.subtree, later.subtree)
            rows[name] = msgspec.structs.replace(later, subtree=below)
    return index.fold(rows[name] for name in sorted(rows))
