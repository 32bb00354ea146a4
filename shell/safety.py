"""A backup of what a restore in place is about to replace."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cesbrfs.catalog import names
from cesbrfs.errors import RegistryUnreachableError, RestoreError
from cesbrfs.paths import show
from shell.commands.backup import back_up, result_text

if TYPE_CHECKING:
    from cesbrfs.backup import BackupResult
    from cesbrfs.restore import RestorePlan
    from shell.session import Context


async def safety_backup(context: Context, planned: RestorePlan, *, wanted: bool | None) -> None:
    """Back up the dogus that the restore changes, as they are now, if that is `wanted`.

    None: a person is asked where something is replaced.  RestoreError when the backup is not
    complete.
    """
    if wanted is False or (wanted is None and not planned.will_overwrite):
        return
    touched = {landing.source[1] for landing in planned.landings if len(landing.source) > 1}
    settings = await context.session.settings()
    try:
        installed = {dogu.name for dogu in await settings.instance().dogus()}
    except RegistryUnreachableError as error:
        if wanted:
            raise
        context.out.note(f"What is there now cannot be backed up: {error.message}")
        return
    dogus = sorted(installed & {os.fsdecode(name) for name in touched})
    everything = names.INSTANCE in touched  # its configuration is part of whole backups alone
    if not dogus and not everything:
        return
    what = "the instance" if everything else " and ".join(show(os.fsencode(d)) for d in dogus)
    if wanted is None and not await context.out.ask(f"Back up {what} first, as it is now?"):
        return

    async def tell(result: BackupResult) -> None:
        context.out.note(f"Safety backup: {result_text(result)}")

    # What is not healthy is restored all the more, and its scripts are those of any backup.
    chosen = None if everything else dogus
    result = await back_up(context, chosen, tell, skip_health_checks=True, safety=True)
    if result.exit_code:
        raise RestoreError(
            f"The safety backup {result.id} is incomplete, and nothing was restored; say"
            " --no-safety-backup to go on without."
        )
