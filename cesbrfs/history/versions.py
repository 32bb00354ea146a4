"""The versions of one path over all backups, and what became of it from backup to backup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cesbrfs.errors import NotFoundError
from cesbrfs.history.compare import distinct
from cesbrfs.history.folder_index import IndexedEntry
from cesbrfs.history.timeline import BackupSlot, Parts, Timeline, shown

What = Literal["appeared", "changed", "vanished"]


@dataclass(frozen=True, slots=True)
class Version:
    """One distinct content: the row of the newest moment that has it, and all that have it."""

    row: IndexedEntry
    moments: int


@dataclass(frozen=True, slots=True)
class Event:
    """What a moment shows to have happened since the one before it; a vanished path has no row."""

    moment: BackupSlot
    what: What
    row: IndexedEntry | None


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
    traced = await timeline.trace(parts)
    if not traced.rows:
        raise NotFoundError(
            f"No backup has {shown(parts)!r}; 'cesbr find --name' finds where a name is."
        )
    rows = await distinct(timeline, parts, traced.folders, traced.rows)
    found = [Version(row, mask) for row, mask in rows]
    return Versions(found, _events(timeline, found, traced.covering), traced.covering)


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
