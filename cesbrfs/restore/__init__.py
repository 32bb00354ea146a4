"""Restore: a selection becomes a plan, the plan is shown, then carried out, then reported.

    selection = select([await view.resolve("/20261122T213000Z-7f3a9c/redmine")])
    planned = await plan(view, selection, ToFolder(path), Overwrite.NEVER)
    report = await execute(view, planned)

It writes files itself, the same with every version of restic: restic's include patterns, its
symlinks followed in the target and its all-or-nothing are why it is not asked to.
"""

from __future__ import annotations

from cesbrfs.restore.executor import execute
from cesbrfs.restore.plan import Action, Overwrite, PlannedFile, PlannedFolder, RestorePlan
from cesbrfs.restore.planner import plan
from cesbrfs.restore.report import Failure, Progress, RestoreReport
from cesbrfs.restore.selection import Item, Selection, default_target, select
from cesbrfs.restore.targets import BY_BACKUP, InPlace, Refused, Target, ToFolder

__all__ = [
    "BY_BACKUP",
    "Action",
    "Failure",
    "InPlace",
    "Item",
    "Overwrite",
    "PlannedFile",
    "PlannedFolder",
    "Progress",
    "Refused",
    "RestorePlan",
    "RestoreReport",
    "Selection",
    "Target",
    "ToFolder",
    "default_target",
    "execute",
    "plan",
    "select",
]
