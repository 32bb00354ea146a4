"""What differs between two folders: names, contents, and where asked for attributes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import msgspec

from cesbrfs.errors import CesbrError, NotFoundError, RepositoryUnreachableError
from cesbrfs.history.compare import same_content
from cesbrfs.history.folder_index import FolderIndex, IndexedEntry
from cesbrfs.history.timeline import BackupSlot, Parts, Timeline, Troubles, cannot_be_shown, shown
from cesbrfs.history.versions import What
from cesbrfs.util.escape import show

Mark = Literal["+", "-", "M", "T", "U"]
"""Added, removed, another content, another type, other attributes: the letters of restic diff."""

_NOTHING: Final[Mapping[bytes, IndexedEntry]] = {}


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: the names below the backup, and the rows before and after it."""

    parts: Parts
    mark: Mark
    before: IndexedEntry | None
    after: IndexedEntry | None


@dataclass(slots=True)
class Remarks:
    """What a comparison could not say anything about, each once.

    `troubles` could not be read; `uncovered` was not backed up on one side, so that its absence
    there means nothing.
    """

    troubles: Troubles = field(default_factory=Troubles)
    uncovered: list[Parts] = field(default_factory=list)


class Side(Protocol):
    """One of the two that are compared.  `subtree` of its rows means something to it alone."""

    async def listing(self, key: bytes) -> Mapping[bytes, IndexedEntry]:
        """Return what a folder holds, by name."""
        ...

    def refused(self, key: bytes) -> Sequence[str]:
        """Return why entries of a folder that was just listed cannot be shown."""
        ...

    def covers(self, key: bytes) -> bool:
        """Check whether a name that the folder lacks did not exist."""
        ...

    async def same_content(
        self,
        path: Parts,
        own: tuple[bytes, IndexedEntry],
        other: BackupSide,
        theirs: tuple[bytes, IndexedEntry],
    ) -> bool:
        """Check whether `theirs`, of the side `other`, has the same content as `own`.

        Each row has the key of its folder; both are of one type and no folders.
        """
        ...


class BackupSide:
    """The side of a backup, or of several that follow each other."""

    def __init__(self, line: Timeline) -> None:
        self.line: Final = line

    async def listing(self, key: bytes) -> Mapping[bytes, IndexedEntry]:
        """Return what a folder holds, by name."""
        return await self.line.memo.listing(key)

    def refused(self, key: bytes) -> Sequence[str]:
        """Return why entries of a folder that was just listed cannot be shown."""
        return self.line.memo.refused(key)

    def covers(self, key: bytes) -> bool:
        """Check whether a name that the folder lacks did not exist."""
        return not self.line.memo.is_open(key)

    async def same_content(
        self,
        path: Parts,
        own: tuple[bytes, IndexedEntry],
        other: BackupSide,
        theirs: tuple[bytes, IndexedEntry],
    ) -> bool:
        """Check whether both have the same bytes, target or device number."""
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
    """Yield the differences between two folders, by their keys; None for a folder that is not.

    Folders come before what they hold, names in their order.  Where both sides are backups, folders
    of the same key are not looked into.  `attributes` are mode, owner, time and extended
    attributes.  What cannot be compared goes to `remarks`.
    """
    alike = isinstance(after, BackupSide)
    stack: list[tuple[Parts, bytes | None, bytes | None]] = [(parts, first, second)]
    while stack:
        at, left, right = stack.pop()
        ours = await _listing(before, left, at, remarks)
        theirs = await _listing(after, right, at, remarks)
        if ours is None or theirs is None:
            continue
        below: list[tuple[Parts, bytes | None, bytes | None]] = []
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
            change = change_of(path, old, new, same=same, attributes=attributes)
            if change is not None:
                yield change
            down, across = (row.subtree if row else None for row in (old, new))
            if down != across or not alike:
                below.append((path, down, across))
        stack += [(p, a, b) for p, a, b in reversed(below) if a is not None or b is not None]


async def _listing(
    side: Side, key: bytes | None, at: Parts, remarks: Remarks
) -> Mapping[bytes, IndexedEntry] | None:
    """Return what a folder holds; None for one that cannot be read, which is noted."""
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
    """Check whether the folder of this key lacks the row, and that means nothing."""
    return row is None and key is not None and not side.covers(key)


def change_of(
    parts: Parts,
    before: IndexedEntry | None,
    after: IndexedEntry | None,
    *,
    same: bool,
    attributes: bool,
) -> Change | None:
    """Return how one entry differs, None where it does not; `same` tells of its content."""
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
    """Yield how the one moment of `after` differs, from `parts` down, from that of `before`.

    Raises NotFoundError where neither has the path, or one does not cover it, and why where one
    cannot be read.
    """
    ours, theirs = BackupSide(before), BackupSide(after)
    if parts:
        held = await _one_row(before, parts), await _one_row(after, parts)
        old, new = (found[1] if found else None for found in held)
        if old is None and new is None:
            raise NotFoundError(f"Neither backup has {shown(parts)!r}.")
        same = True
        if held[0] and held[1] and old and new and old.type == new.type != "dir":
            same = await theirs.same_content(parts, held[1], ours, held[0])
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
    """Return the row that the one moment of `line` has at a path, with the key of its folder."""
    traced = await line.trace(parts)
    if line.troubles:
        raise line.troubles[0].error
    if not traced.covering:
        backup = show(os.fsencode(line.moments[0].id))
        raise NotFoundError(
            f"Backup {backup} cannot be compared at {shown(parts)!r}: that was not backed up in it."
        )
    return next(((next(iter(traced.folders)), row) for row, _ in traced.rows), None)


def attributes_differ(before: IndexedEntry, after: IndexedEntry) -> bool:
    """Tell whether two rows of one type differ in mode, owner, time or extended attributes."""
    if before.seconds is None or after.seconds is None:
        return False  # a folder of ours has nothing of its own
    return _attributes(before) != _attributes(after)


def _attributes(row: IndexedEntry) -> tuple[object, ...]:
    mode = 0 if row.type == "symlink" else row.mode  # a link's permissions are nobody's choice
    return mode, row.uid, row.gid, row.seconds, row.nanoseconds, row.extra


@dataclass(frozen=True, slots=True)
class Step:
    """What happened to a folder from the moment before to this one, and what changed in it."""

    moment: BackupSlot
    what: What
    changes: Sequence[Change] = ()


async def history(timeline: Timeline, parts: Parts, *, attributes: bool = False) -> list[Step]:
    """Return what changed in a folder from backup to backup, oldest first.

    Backups that do not cover the folder, and those in which nothing changed, are passed over; so
    is any part of it that a backup does not cover.  What cannot be read goes to the timeline's
    troubles.  Raises NotFoundError or NotAFolderError.
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
            changes = diff(side, before, side, key, parts, remarks=remarks, attributes=attributes)
            found = [change async for change in changes]
            if found:
                steps.append(Step(moment, "changed", found))
            key = await _merged(timeline.memo, before, key)
        before = key
    if not steps:
        raise NotFoundError(f"No backup has {shown(parts)!r}.")
    return steps


async def _merged(memo: FolderIndex, before: bytes, key: bytes) -> bytes:
    """Return the key of a folder with what the earlier one has and the later does not cover."""
    if before == key or not memo.is_open(key):
        return key
    earlier, rows = await memo.listing(before), dict(await memo.listing(key))
    for name, row in earlier.items():
        later = rows.setdefault(name, row)
        if row.subtree and later.subtree:
            below = await _merged(memo, row.subtree, later.subtree)
            rows[name] = msgspec.structs.replace(later, subtree=below)
    return memo.fold(rows[name] for name in sorted(rows))
