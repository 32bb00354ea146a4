"""What differs between two folders: names, contents, and where asked for attributes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from cesbrfs.errors import NotFoundError
from cesbrfs.history.memo import Memo, Row
from cesbrfs.history.timeline import Moment, Parts, Timeline
from cesbrfs.paths import show

Mark = Literal["+", "-", "M", "T", "U"]
"""Added, removed, another content, another type, other attributes: the letters of restic diff."""

_NOTHING: Final[Mapping[bytes, Row]] = {}


@dataclass(frozen=True, slots=True)
class Change:
    """One difference: the names below the backup, and the rows before and after it."""

    parts: Parts
    mark: Mark
    before: Row | None
    after: Row | None


class Side(Protocol):
    """One of the two that are compared.  `subtree` of its rows means something to it alone."""

    async def listing(self, key: bytes) -> Mapping[bytes, Row]:
        """Return what a folder holds, by name."""
        ...

    async def same_content(self, folder: bytes, row: Row, theirs: Row) -> bool:
        """Tell whether `theirs`, of the other side, says the same as `row`.

        `folder` is the key of the other side's folder; both are of one type and no folders.
        """
        ...


class Backed:
    """The side of a backup."""

    def __init__(self, memo: Memo) -> None:
        self._memo = memo

    async def listing(self, key: bytes) -> Mapping[bytes, Row]:
        """Return what a folder holds, by name."""
        return await self._memo.listing(key)

    async def same_content(self, _folder: bytes, row: Row, theirs: Row) -> bool:
        """Tell whether both have the same blobs, target or device number."""
        return row.content == theirs.content


async def diff(
    before: Side,
    first: bytes | None,
    after: Side,
    second: bytes | None,
    parts: Parts = (),
    *,
    attributes: bool = False,
) -> AsyncIterator[Change]:
    """Yield the differences between two folders, by their keys; None for a folder that is not.

    Folders come before what they hold, names in their order.  Where both sides are one, folders of
    the same key are not looked into.  `attributes` are mode, owner, time and extended attributes.
    """
    stack: list[tuple[Parts, bytes | None, bytes | None]] = [(parts, first, second)]
    while stack:
        at, left, right = stack.pop()
        ours = _NOTHING if left is None else await before.listing(left)
        theirs = _NOTHING if right is None else await after.listing(right)
        below: list[tuple[Parts, bytes | None, bytes | None]] = []
        for name in sorted(ours.keys() | theirs.keys()):
            old, new = ours.get(name), theirs.get(name)
            path = (*at, name)
            same = True
            if old and new and old.type == new.type != "dir":
                same = await after.same_content(left or b"", new, old)
            change = change_of(path, old, new, same=same, attributes=attributes)
            if change is not None:
                yield change
            down, across = (row.subtree if row else None for row in (old, new))
            if down != across or before is not after:
                below.append((path, down, across))
        stack += [(p, a, b) for p, a, b in reversed(below) if a is not None or b is not None]


def change_of(
    parts: Parts, before: Row | None, after: Row | None, *, same: bool, attributes: bool
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
    before: Timeline, after: Timeline, parts: Parts, *, attributes: bool = False
) -> AsyncIterator[Change]:
    """Yield how the one moment of `after` differs, from `parts` down, from that of `before`.

    Raises NotFoundError where neither has the path.
    """
    side = Backed(before.memo)
    if parts:
        held = [[row for row, _ in await line.at(parts)] for line in (before, after)]
        old, new = (rows[0] if rows else None for rows in held)  # one each: there is one moment
        if old is None and new is None:
            raise NotFoundError(f"Neither backup has {'/'.join(map(show, parts))!r}.")
        same = old is not None and new is not None and old.identity == new.identity
        change = change_of(parts, old, new, same=same, attributes=attributes)
        if change is not None:
            yield change
        first, second = (row.subtree if row else None for row in (old, new))
    else:
        first, second = (next(iter(line.roots), None) for line in (before, after))
    if first != second:
        async for change in diff(side, first, side, second, parts, attributes=attributes):
            yield change


def attributes_differ(before: Row, after: Row) -> bool:
    """Tell whether two rows of one type differ in mode, owner, time or extended attributes."""
    if before.seconds is None or after.seconds is None:
        return False  # a folder of ours has nothing of its own
    return _attributes(before) != _attributes(after)


def _attributes(row: Row) -> tuple[object, ...]:
    mode = 0 if row.type == "symlink" else row.mode  # a link's permissions are nobody's choice
    return mode, row.uid, row.gid, row.seconds, row.nanoseconds, row.extra


@dataclass(frozen=True, slots=True)
class Step:
    """What changed in a folder from the moment before to this one; None where it appeared."""

    moment: Moment
    changes: Sequence[Change] | None


async def history(timeline: Timeline, parts: Parts, *, attributes: bool = False) -> list[Step]:
    """Return what changed in a folder from backup to backup, oldest first.

    Backups without the folder, and those in which nothing changed, are passed over.  Raises
    NotFoundError or NotAFolderError.
    """
    level = await timeline.level(parts)
    side = Backed(timeline.memo)
    steps: list[Step] = []
    before: bytes | None = None
    for number, moment in enumerate(timeline.moments):
        key = next((key for key, mask in level.items() if mask >> number & 1), None)
        if key is None or key == before:
            continue
        if before is None:
            steps.append(Step(moment, None))
        else:
            found = [
                change
                async for change in diff(side, before, side, key, parts, attributes=attributes)
            ]
            if found:
                steps.append(Step(moment, found))
        before = key
    if not steps:
        raise NotFoundError(f"No backup has {'/'.join(map(show, parts))!r}.")
    return steps
