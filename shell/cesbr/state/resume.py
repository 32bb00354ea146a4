"""Find the journal of an interrupted restore, to resume it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cesbr.state.state_dir import required_state_directory
from cesbrfs.config.layers import absolute_path
from cesbrfs.errors import UsageError
from cesbrfs.restore.journal import last_request
from cesbrfs.restore.journal import read as read_journal

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.restore.request import RestoreRequest
    from cesbrfs.vfs.tree import BackupTree


def journals(context: Context) -> Path | None:
    """Return where the journals of restores are; raises StateError."""
    state = required_state_directory(context.session.environ)
    return state / "restores" if state else None


def undo_logs(context: Context) -> Path | None:
    """Return where the undo logs of restores are; raises StateError."""
    state = required_state_directory(context.session.environ)
    return state / "undo" if state else None


async def resume(context: Context, view: BackupTree, request: RestoreRequest) -> RestoreRequest:
    """Return the request of the interrupted restore: into this target, or the last one.

    Raises UsageError if there is none.
    """
    directory = journals(context)
    recorded = None
    if directory and (request.target or request.in_place):
        target = absolute(request.target or (await context.session.settings()).root)
        recorded = (await trio.to_thread.run_sync(read_journal, directory, target)).request
    elif directory:
        recorded = await trio.to_thread.run_sync(last_request, directory, view.repository.id)
    if recorded is None or recorded["repository"] != view.repository.id:
        raise UsageError(
            "There is no interrupted restore from this repository. Pass the paths to restore."
        )
    return request.resumed(recorded)


def absolute(path: str | Path) -> Path:
    """Return a path from the root on."""
    return Path(absolute_path(str(path)))
