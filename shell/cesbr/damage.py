"""Files of the repository that could not be read: each is named, and makes results partial."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from cesbrfs.errors import CesbrError, DamagedError, PartialError
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.vfs.tree import BackupTree

_CONCERNED: Final = {
    "snapshots": "Snapshot {} cannot be read; a backup may be missing or incomplete: {}",
    "trees": "Snapshot {} cannot be read completely: {}",
    "index": "Index {} cannot be read; data of backups may be missing: {}",
}


async def report_damaged(context: Context, *, again: bool = False) -> int:
    """Report snapshot and index files that could not be read; return 3 where there are any.

    One that this session has reported before is left out, unless `again` is set.
    """
    session = context.session
    if session.view is None:
        return 0
    damaged = damaged_files(session.view.repository.damaged)
    for file, message in damaged.items():
        if again or file not in session.reported:
            from cesbr.ui.errors import report

            await report(CesbrError(message), context.out)
    session.reported = frozenset(damaged)
    return PartialError.exit_code if damaged else 0


def require_newest(view: BackupTree, backup: Backup) -> None:
    """Raise DamagedError if ``latest`` chose `backup`, and a snapshot cannot be read.

    For commands that replace data of the instance without a question: it may be newer.
    """
    message = unreadable_snapshot(view) if view.chose_newest else None
    if message is not None:
        chosen = show(os.fsencode(backup.id))
        raise DamagedError(
            f"Nothing was restored. {message} So {chosen} may not be the newest backup. To restore"
            f" it, pass --backup {chosen}."
        )


def unreadable_snapshot(view: BackupTree) -> str | None:
    """Return the sentence for a snapshot that cannot be read, None if all can."""
    damaged = damaged_files(view.repository.damaged)
    return next((text for file, text in damaged.items() if file.startswith("snapshots/")), None)


def damaged_files(damaged: dict[str, str]) -> dict[str, str]:
    """Return a sentence for each snapshot or index file in `damaged`, by the file."""
    return {
        file: _CONCERNED[kind].format(name[:8], reason)
        for file, reason in sorted(damaged.items())
        for kind, _, name in (file.partition("/"),)
        if kind in _CONCERNED
    }
