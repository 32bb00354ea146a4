"""Restore: a selection is planned, the plan is shown, carried out, and reported.

    selection = select([await view.resolve("/20261122T213000Z-7f3a9c/redmine")])
    planned = await make_plan(view, selection, ToDirectory(path), Overwrite.NEVER)
    report = await execute(view, planned)

Files are written by this package, not by ``restic restore``: it works alike with every version of
restic, does not follow symlinks in the target, and restores each file atomically.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cesbrfs.restore.executor import execute as execute
    from cesbrfs.restore.overwrite import Action as Action
    from cesbrfs.restore.overwrite import Overwrite as Overwrite
    from cesbrfs.restore.plan import PlannedDirectory as PlannedDirectory
    from cesbrfs.restore.plan import PlannedFile as PlannedFile
    from cesbrfs.restore.plan import RestorePlan as RestorePlan
    from cesbrfs.restore.planner import make_plan as make_plan
    from cesbrfs.restore.report import Failure as Failure
    from cesbrfs.restore.report import Progress as Progress
    from cesbrfs.restore.report import RestoreReport as RestoreReport
    from cesbrfs.restore.selection import Item as Item
    from cesbrfs.restore.selection import Selection as Selection
    from cesbrfs.restore.selection import default_target as default_target
    from cesbrfs.restore.selection import select as select
    from cesbrfs.restore.targets import BY_BACKUP as BY_BACKUP
    from cesbrfs.restore.targets import InPlace as InPlace
    from cesbrfs.restore.targets import Refused as Refused
    from cesbrfs.restore.targets import Target as Target
    from cesbrfs.restore.targets import ToDirectory as ToDirectory

_MODULES = {
    "BY_BACKUP": "targets",
    "Action": "overwrite",
    "Failure": "report",
    "InPlace": "targets",
    "Item": "selection",
    "Overwrite": "overwrite",
    "PlannedFile": "plan",
    "PlannedDirectory": "plan",
    "Progress": "report",
    "Refused": "targets",
    "RestorePlan": "plan",
    "RestoreReport": "report",
    "Selection": "selection",
    "Target": "targets",
    "ToDirectory": "targets",
    "default_target": "selection",
    "execute": "executor",
    "make_plan": "planner",
    "select": "selection",
}
"""Where each public name is defined. Imported on first use: worker processes need few of them."""

__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - as the names' own types
    try:
        module = _MODULES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
