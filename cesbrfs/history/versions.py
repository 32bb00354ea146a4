"""List the versions of a path in all backups, and its changes from backup to backup."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cesbrfs.errors import NotFoundError
from cesbrfs.vfs.compare import distinct
from cesbrfs.vfs.directory_index import IndexedEntry
from cesbrfs.vfs.timeline import BackupSlot, Parts, Timeline, shown

What = Literal["appeared", "changed", "vanished"]


@dataclass(frozen=True, slots=True)
class Version:
    """One distinct content: its entry in the newest backup, and the mask of all with it."""

    row: IndexedEntry
    moments: int


@dataclass(frozen=True, slots=True)
class Event:
    """A change since the previous backup; `row` is None for a vanished path."""

    moment: BackupSlot
    what: What
    row: IndexedEntry | None


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of a path, ordered by newest backup, and its events, oldest first.

    `covering` is the mask of the backups that include the path's location. Absence in others does
    not mean that the path did not exist.
    """

    versions: Sequence[Version]
    events: Sequence[Event]
    covering: int


async def versions(timeline: Timeline, parts: Parts) -> Versions:
    """Return the versions of a path; raises NotFoundError if no backup contains it.

    A directory has a single version, regardless of its content.
    """
    traced = await timeline.trace(parts)
    if not traced.rows:
        raise NotFoundError(
            f"No backup contains {shown(parts)!r}. Search for the name with 'cesbr find --name'."
        )
    rows = await distinct(timeline, parts, traced.directories, traced.rows)
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
