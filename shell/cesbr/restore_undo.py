"""What a restore keeps to be undone: from its options to the plan and the undo log."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cesbr.state.resume import absolute, undo_logs
from cesbr.ui import humanize
from cesbrfs.restore.replaced import IN_PLACE, KeepPlan
from cesbrfs.restore.targets import directory_of
from cesbrfs.restore.undo_log import NewUndo, log_file, new_undo_id

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.restore import Selection, Target
    from cesbrfs.restore.request import RestoreRequest


def keep_plan(context: Context, request: RestoreRequest, target: Target) -> KeepPlan | None:
    """Return where replaced files are kept, None if they are not."""
    if not request.keeps:
        return None
    if undo_logs(context) is None:
        context.out.note(
            "Replaced files are not kept, because there is no state directory: set HOME or"
            " XDG_STATE_HOME to be able to undo the restore."
        )
        return None
    if request.backup_dir is not None:
        return KeepPlan(absolute(request.backup_dir))
    return KeepPlan(default=directory_of(target) / IN_PLACE if request.in_place else None)


def new_undo(context: Context, request: RestoreRequest, selection: Selection) -> NewUndo | None:
    """Return the undo log to write; a resumed restore continues its log."""
    directory = undo_logs(context)
    if directory is None:
        return None
    file = log_file(directory, request.undo or new_undo_id())
    return NewUndo(file, os.fsdecode(selection.backups[0]), request.in_place)


def undo_text(undo_id: str | None) -> str:
    """Return how to undo a restore, nothing if there is nothing to undo."""
    if undo_id is None:
        return ""
    return humanize.lines(
        [f"To undo: cesbr undo {undo_id}. To delete what was kept: cesbr undo --remove {undo_id}"]
    )
