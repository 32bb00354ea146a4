"""Files of the repository that could not be read: each is named, and makes results partial."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cesbrfs.errors import CesbrError, PartialError

if TYPE_CHECKING:
    from cesbr.session import Context

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


def damaged_files(damaged: dict[str, str]) -> dict[str, str]:
    """Return a sentence for each snapshot or index file in `damaged`, by the file."""
    return {
        file: _CONCERNED[kind].format(name[:8], reason)
        for file, reason in sorted(damaged.items())
        for kind, _, name in (file.partition("/"),)
        if kind in _CONCERNED
    }
