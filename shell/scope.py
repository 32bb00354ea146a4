"""What a command that looks back looks at: which backups, and where inside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cesbrfs.catalog import names
from cesbrfs.errors import UsageError
from cesbrfs.history import timeline
from cesbrfs.paths import unshow

if TYPE_CHECKING:
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.history.timeline import Parts, Timeline
    from shell.session import Context


@dataclass(frozen=True, slots=True)
class Scope:
    """The backups to look at, oldest first, and the names inside them that the path gave."""

    timeline: Timeline
    parts: Parts


async def scope(
    context: Context, path: str, backups: Sequence[str] = (), *, everywhere: bool = False
) -> Scope:
    """Return where `path` leads: in `backups`, else everywhere, else in the backup it names.

    With `backups` it starts inside them, and at the root it may, too; then, and where it is looked
    `everywhere`, it leads to all backups.  Raises NotFoundError for a backup that is not.
    """
    view = await context.view()
    memo = context.session.memo(view)
    there = (await view.backups()).by_name
    if backups:
        found = [await view.find_backup(backup) for backup in backups]
        chosen = list({backup.id: backup for backup in found}.values())
        return await settle(await timeline.of_backups(view, memo, chosen), walk((), path))
    typed = walk(() if path.startswith("/") else context.session.place, path)
    first = typed[0] if typed else b""
    if first == names.SNAPSHOTS:
        if len(typed) == 1:
            raise UsageError("Name one of the snapshots below /_snapshots.")
        return await settle(await timeline.of_snapshot(view, memo, typed[1]), typed[2:])
    inside: Backup | None = there.get(first)
    if first == names.LATEST:
        inside = await view.find_backup(first.decode())
    parts = typed[1:] if inside else typed
    chosen = [inside] if inside and not everywhere else list(there.values())
    return await settle(await timeline.of_backups(view, memo, chosen), parts)


def walk(start: Sequence[bytes], path: str) -> tuple[bytes, ...]:
    """Return the names that `path` leads to from `start`, as they were typed; nothing is read."""
    parts = list(start)
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(os.fsencode(part))
    return tuple(parts)


async def settle(line: Timeline, typed: tuple[bytes, ...]) -> Scope:
    """Take names as they were typed, or, where nothing is called so, as escaped."""
    meant = tuple(unshow(os.fsdecode(part)) or part for part in typed)
    if meant != typed and not await line.at(typed):
        return Scope(line, meant)
    return Scope(line, typed)


async def whole(context: Context, backup: str) -> Timeline:
    """Return the timeline of one backup."""
    view = await context.view()
    found = await view.find_backup(backup)
    return await timeline.of_backups(view, context.session.memo(view), [found])


def inside(context: Context, path: str | None) -> tuple[bytes, ...]:
    """Return the names that `path` gives below a backup's root; without one, where one is."""
    place = context.session.place[1:]
    start: Sequence[bytes] = place if path is None or not path.startswith("/") else ()
    return walk(start, path or "")
