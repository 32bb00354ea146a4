"""The versions of one path over all backups, and what became of it from backup to backup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from cesbrfs.errors import NotFoundError
from cesbrfs.history.finding import distinct
from cesbrfs.history.memo import Row
from cesbrfs.history.timeline import Moment, Parts, Timeline, folders
from cesbrfs.paths import show

What = Literal["appeared", "changed", "vanished"]


@dataclass(frozen=True, slots=True)
class Version:
    """One distinct content: the row of the newest moment that has it, and all that have it."""

    row: Row
    moments: int


@dataclass(frozen=True, slots=True)
class Event:
    """What a moment shows to have happened since the one before it; a vanished path has no row."""

    moment: Moment
    what: What
    row: Row | None


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of a path in the order of their last moments, and its events, oldest first.

    `covering` is the set of moments that hold what the path would be in: only there its absence
    says that it was gone.
    """

    versions: Sequence[Version]
    events: Sequence[Event]
    covering: int


async def versions(timeline: Timeline, parts: Parts) -> Versions:
    """Return the versions of a path; NotFoundError when no moment has it.

    Folders are one version whatever they hold.
    """
    rows: list[tuple[Row, int]] = []
    level = timeline.roots
    covering = 0
    for name in parts:
        rows = await timeline.rows(level, name)
        stored = [mask for row, mask in rows if row.seconds is not None]
        if not covering and stored:  # what was backed up begins here; above are folders of ours
            covering = _union(stored)
        level = folders(rows)
    if not rows:
        shown = "/".join(map(show, parts))
        raise NotFoundError(f"No backup has {shown!r}; 'cesbr find --name' finds where a name is.")
    found = [Version(row, mask) for row, mask in distinct(rows)]
    covering = covering or _union(version.moments for version in found)
    return Versions(found, _events(timeline, found, covering), covering)


def _union(masks: Iterable[int]) -> int:
    together = 0
    for mask in masks:
        together |= mask
    return together


def _events(timeline: Timeline, found: Sequence[Version], covering: int) -> list[Event]:
    events: list[Event] = []
    before: Version | None = None
    for number, moment in enumerate(timeline.moments):
        if not covering >> number & 1:
            continue
        now = next((version for version in found if version.moments >> number & 1), None)
        if now is not before:
            what: What = "appeared" if before is None else "changed" if now else "vanished"
            events.append(Event(moment, what, now.row if now else None))
        before = now
    return events
