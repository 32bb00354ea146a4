"""A backup of what a restore in place is about to replace."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cesbr.commands.backup import back_up, result_text
from cesbrfs.catalog import directory_names
from cesbrfs.errors import RegistryUnreachableError, RestoreError
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.backup import BackupResult
    from cesbrfs.restore import RestorePlan


@dataclass(frozen=True, slots=True)
class SafetyBackup:
    """A backup of these dogus (None: of all) before a restore replaces their data."""

    dogus: Sequence[str] | None

    async def make(self, context: Context) -> None:
        """Make it; RestoreError when it is not complete."""

        async def tell(result: BackupResult) -> None:
            context.out.note(f"Safety backup: {result_text(result)}", lines=True)

        # What is not healthy is restored all the more, and its scripts are those of any backup.
        result = await back_up(context, self.dogus, tell, skip_health_checks=True, safety=True)
        if result.exit_code:
            raise RestoreError(
                f"The safety backup {result.id} is incomplete, and nothing was restored. Pass"
                " --no-safety-backup to restore without one."
            )


async def choose_safety_backup(
    context: Context, planned: RestorePlan, *, wanted: bool | None
) -> SafetyBackup | None:
    """Return a backup of the dogus that the restore changes if that is `wanted`.

    None: a person is asked where something is replaced.  Raises RestoreError if it is `wanted`, and
    a dogu with data on the instance is not installed.
    """
    if wanted is False or (wanted is None and not (planned.will_overwrite or planned.extras)):
        return None
    touched = {landing.source[1] for landing in planned.landings if len(landing.source) > 1}
    instance = (await context.session.settings()).instance()
    try:
        installed = {dogu.name for dogu in await instance.dogus()}
    except RegistryUnreachableError as error:
        if wanted:
            raise
        context.out.note(f"The current data cannot be backed up: {error.message}")
        return None
    names = {os.fsdecode(name) for name in touched - {directory_names.INSTANCE}}
    dogus = sorted(installed & names)
    others = [name for name in names - installed if (instance.dogus_directory / name).exists()]
    if wanted and others:
        raise RestoreError(
            f"The current data of {show(os.fsencode(min(others)))} cannot be backed up, because the"
            " registry does not have this dogu. Nothing was restored. Leave out --safety-backup:"
            " 'cesbr undo' puts back what a restore replaces."
        )
    # The configuration of the instance is part of whole backups alone.
    everything = directory_names.INSTANCE in touched
    if not dogus and not everything:
        return None
    what = "the instance" if everything else " and ".join(show(os.fsencode(d)) for d in dogus)
    question = f"Back up the current state of {what} first?"
    if wanted is None and not await context.out.ask(question, default=True):
        return None
    return SafetyBackup(None if everything else dogus)
