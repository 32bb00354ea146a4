"""Files of the repository that could not be read: each is named, and makes results partial."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from cesbrfs.errors import CesbrError, DamagedError, PartialError
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cesbr.session import Context
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.vfs.entries import ResolvedPath
    from cesbrfs.vfs.tree import BackupTree

_CONCERNED: Final = {
    "snapshots": "Snapshot {} cannot be read; a backup may be missing or incomplete: {}",
    "trees": "Snapshot {} cannot be read completely: {}",
    "manifests": "{1}",
    "index": "Index {} cannot be read; data of backups may be missing: {}",
}


async def report_damaged(context: Context, *, again: bool = False) -> int:
    """Report what could not be read while the command ran; return 3 where there is anything.

    What the command has reported is left out, and what the session has, unless `again` is set.
    """
    session = context.session
    if session.view is None:
        return 0
    damaged = damaged_files(session.view.repository.damaged_files.all)
    for file, message in damaged.items():
        if file not in context.reported and (again or file not in session.reported):
            from cesbr.ui.errors import report

            await report(CesbrError(message), context.out)
    context.reported.update(damaged)
    session.reported = frozenset(damaged)
    return PartialError.exit_code if damaged else 0


async def require_newest(context: Context, view: BackupTree, backup: Backup) -> None:
    """Raise DamagedError if ``latest`` chose `backup`, but what cannot be read may be newer.

    For commands that replace data of the instance without a question.
    """
    if not view.chose_newest:
        return
    newer = {
        snapshot.id
        for other in (await view.backups()).by_name.values()
        if other.time_ns > backup.time_ns
        for snapshot in other.members
    }
    message = _first(context, view, lambda kind, name: kind == "snapshots" or name in newer)
    if message is not None:
        chosen = show(os.fsencode(backup.id))
        raise DamagedError(
            f"Nothing was restored. {message} So {chosen} may not be the newest backup. To restore"
            f" it, pass --backup {chosen}."
        )


async def report_lacking(context: Context, listed: Iterable[ResolvedPath]) -> int:
    """Report damaged files where a listing may lack their data; return the exit code.

    That is a listing of the root, which shows all backups, and one of the points of data of a
    backup that is not known to be complete.
    """
    view = await context.view()
    for place in listed:
        if not place.parts or await _may_lack_points(view, place):
            return await report_damaged(context, again=True)
    return 0


async def _may_lack_points(view: BackupTree, place: ResolvedPath) -> bool:
    from cesbrfs.catalog.status import Status
    from cesbrfs.vfs.entries import VirtualDir

    backup = (await view.backups()).by_name.get(place.parts[0])
    if backup is None or not isinstance(place.entry, VirtualDir):
        return False
    return (await view.reports.of(backup)).status is not Status.COMPLETE


def require_statuses(context: Context, view: BackupTree) -> None:
    """Raise DamagedError if a status may be wrong because a snapshot could not be read.

    For commands that remove backups by their status.
    """
    message = _first(context, view, lambda kind, _: kind in {"snapshots", "manifests"})
    if message is not None:
        raise DamagedError(
            f"Nothing was removed. {message} Repair the repository, or name the backups to remove."
        )


def unread_snapshot(view: BackupTree) -> str:
    """Return the sentence for a snapshot that could not be read, empty if there is none."""
    damaged = damaged_files(view.repository.damaged_files.all)
    return next((text for file, text in damaged.items() if file.startswith("snapshots/")), "")


def _first(context: Context, view: BackupTree, concerns: Callable[[str, str], bool]) -> str | None:
    """Return the sentence for a damaged file that is a concern; an error with it will report it."""
    for file, message in damaged_files(view.repository.damaged_files.all).items():
        if concerns(*file.split("/")):
            context.reported.add(file)
            return message
    return None


def damaged_files(damaged: dict[str, str]) -> dict[str, str]:
    """Return a sentence for each snapshot or index file in `damaged`, by the file."""
    return {
        file: _CONCERNED[kind].format(name[:8], reason)
        for file, reason in sorted(damaged.items())
        for kind, _, name in (file.partition("/"),)
        if kind in _CONCERNED
    }
