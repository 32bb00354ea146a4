"""What surrounds a backup or a restore of an instance: health, scripts, maintenance mode."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, get_args

from cesbrfs.errors import CesbrError

if TYPE_CHECKING:
    from pathlib import Path

    from cesbr.session import Context
    from cesbrfs.ces.backup_config import BackupConfig
    from cesbrfs.ces.dogu_control import DoguControl
    from cesbrfs.ces.hooks import Hooks
    from cesbrfs.ces.instance import InstalledDogu
    from cesbrfs.config.settings import Settings

_TITLE: Final = "Maintenance"


@contextlib.contextmanager
def backups_blocked(root: Path, activity: str) -> Iterator[None]:
    """Prevent backups of the instance during `activity`, which changes what they use."""
    from cesbrfs.ces.backup_lock import block_backups
    from cesbrfs.repo.format.timestamps import format_time

    with block_backups(root, activity, format_time(time.time_ns())):
        yield


async def require_healthy(
    context: Context, config: BackupConfig, dogus: list[InstalledDogu]
) -> None:
    """Raise HealthError if one of `dogus` is unhealthy; report checks that are impossible."""
    from cesbrfs.ces.health import check_health, require_health

    if config.ignore_dogu_health:
        context.out.note(
            "The dogus' health is not checked: /config/backup/ignore_dogu_health is true."
        )
        return
    settings = await context.session.settings()
    with context.out.progress("Checking health"):
        findings = await check_health(dogus, settings.open_registry(), host=settings.health_host)
    for finding in findings:
        if not finding.checked:
            context.out.note(f"Not checked: {finding}.")
    require_health(findings)


async def scripts_of(context: Context, config: BackupConfig) -> Hooks:
    """Return the configured scripts; what they print goes to stderr as it comes."""
    from cesbrfs.ces.hooks import HookName, Hooks

    settings = await context.session.settings()
    paths = {occasion: getattr(config, f"{occasion}_script") for occasion in get_args(HookName)}
    return Hooks(paths, context.out.note, settings.script_timeout)


def dogu_control(settings: Settings) -> DoguControl:
    """Return how dogus are started and stopped."""
    from cesbrfs.ces.dogu_control import DoguControl

    return DoguControl(settings.dogu_control, settings.command_runner, settings.script_timeout)


async def running_dogus(context: Context, dogus: Sequence[str]) -> list[str]:
    """Return those of `dogus` that are running; none if that cannot be determined."""
    control = dogu_control(await context.session.settings())
    if not control.can_probe:
        return []
    try:
        return await control.running(dogus)
    except CesbrError as error:
        context.out.note(f"Whether dogus are running is not known: {error.message}")
        return []


async def restore_on_instance(
    context: Context,
    config: BackupConfig,
    backup_id: str,
    work: Callable[[], Awaitable[int]],
    *,
    maintenance: bool = False,
    stop: Sequence[str] = (),
) -> int:
    """Do `work`, a restore of a backup or its undo, and return its exit code.

    The scripts run before and after it, in maintenance mode with `maintenance`. The dogus in `stop`
    that are running are stopped, and always started again.
    """
    from cesbrfs.ces.dogu_control import stopped
    from cesbrfs.ces.maintenance import maintenance_mode

    settings = await context.session.settings()
    scripts = await scripts_of(context, config)
    async with contextlib.AsyncExitStack() as stack:
        if maintenance:
            text = f"The data of backup {backup_id} is being restored."
            mode = maintenance_mode(
                settings.root,
                settings.open_registry(),
                title=_TITLE,
                text=text,
                notify=context.out.note,
            )
            await stack.enter_async_context(mode)
        await scripts.run("pre_restore", CESBR_BACKUP_ID=backup_id)
        if stop:
            async with stopped(dogu_control(settings), stop, context.out.note):
                code = await work()
        else:
            code = await work()
        if code == 0:
            await scripts.run("post_restore", CESBR_BACKUP_ID=backup_id)
        elif config.post_restore_script is not None:
            context.out.note(
                "The post-restore script was not run, because the restore is incomplete."
            )
    return code


async def take_back_maintenance(context: Context) -> None:
    """Turn off the maintenance mode that a restore left on when it was killed."""
    try:
        settings = context.session.loaded()
    except CesbrError:
        return  # the command tells
    from cesbrfs.ces.maintenance import is_left_on, turn_off_leftover

    if is_left_on(settings.root):
        with contextlib.suppress(CesbrError):  # what is wrong with the registry, the command tells
            await turn_off_leftover(settings.root, settings.open_registry(), context.out.note)
