"""Making backups: what there is to back up, the care around it, the result."""

from __future__ import annotations

import argparse
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final

from cesbr.commands import Command
from cesbr.ui import humanize
from cesbr.ui.table import fitted
from cesbrfs.errors import CesbrError, InterruptedByUserError
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbr.ui.backup_progress import PointKey
    from cesbrfs.backup import BackupPlan, BackupResult, DumpRunner
    from cesbrfs.catalog.manifest import Point
    from cesbrfs.config.settings import Settings
    from cesbrfs.vfs.tree import BackupTree


_EXPECTED_SECONDS: Final = 2.0
"""How long a backup waits to learn how large the last one was."""


def _backup_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dogus",
        metavar="DOGU",
        nargs="*",
        help="back up only these dogus (default: all dogus and the instance)",
    )
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="only show what would be backed up"
    )
    parser.add_argument(
        "--skip-health-checks",
        action="store_true",
        help="skip the health checks, and also back up dogus that are not healthy",
    )
    parser.add_argument(
        "--force", action="store_true", help="back up even if the instance suspends its backups"
    )


async def _backup(context: Context, arguments: argparse.Namespace) -> int:
    await context.require_active(force=arguments.force or arguments.dry_run)
    dogus: Sequence[str] | None = arguments.dogus or None
    if arguments.dry_run:
        from cesbrfs.backup import plan_backup

        settings = await context.session.settings()
        plan = await plan_backup(settings.instance(), dogus, _runner(settings))
        await context.out.result(plan.as_json(), lambda: _plan_text(plan, context.out.room))
        return 0

    async def tell(result: BackupResult) -> None:
        await context.out.result(result.as_json(), lambda: result_text(result))

    skip = arguments.skip_health_checks
    return (await back_up(context, dogus, tell, skip_health_checks=skip)).exit_code


def _runner(settings: Settings) -> DumpRunner | None:
    from cesbrfs.backup import DumpRunner

    if not settings.command_runner:
        return None
    return DumpRunner(settings.command_runner, settings.script_timeout)


async def back_up(
    context: Context,
    dogus: Sequence[str] | None,
    tell: Callable[[BackupResult], Awaitable[None]],
    *,
    skip_health_checks: bool,
    safety: bool = False,
) -> BackupResult:
    """Back up these dogus, None: everything, with the scripts and checks around a backup.

    `tell` gets the result before the last script runs; `safety` marks a safety backup.
    """
    import trio

    from cesbr.safeguards import require_healthy, scripts_of
    from cesbr.ui.backup_progress import BackupProgress
    from cesbrfs.backup import choose, plan_backup, run_backup
    from cesbrfs.ces.backup_config import backup_config

    settings = await context.session.settings()
    instance = settings.instance()
    runner = _runner(settings)
    plan = await plan_backup(instance, dogus, runner)
    restic = await context.restic(creates=True)
    view = await context.view()
    config = await backup_config(instance.registry)
    scripts = await scripts_of(context, config)

    begun: list[str] = []

    async def prepare(backup_id: str) -> BackupPlan:
        if not skip_health_checks:
            installed = await instance.dogus()
            await require_healthy(context, config, choose(installed, dogus or ()) or installed)
        await scripts.run("pre_backup", CESBR_BACKUP_ID=backup_id)
        # The script may have made what was missing.
        now = await plan_backup(instance, dogus, runner)
        for left_out in now.left_out:
            context.out.note(f"Left out: {show(left_out.path)}: {left_out.reason}.")
        run.begin(now.steps)
        begun.append(backup_id)
        return now

    with context.out.progress("Backing up") as progress:
        run = BackupProgress(progress, await _expected(view))
        try:
            result = await run_backup(
                plan,
                instance=instance,
                restic=restic,
                repository=view.repository,
                on_progress=run.update,
                prepare=prepare,
                safety=safety,
                workers=(await context.session.settings()).workers,
            )
        except BaseException as error:
            if run.saved and trio.current_effective_deadline() == -math.inf:
                text = f"Interrupted. {_left(begun[0], run.saved)}"
                raise InterruptedByUserError(text) from None
            if isinstance(error, Exception) and run.saved:
                context.out.note(_left(begun[0], run.saved), always=True)
            raise
    await view.backups(max_age=0)
    await tell(result)
    if result.exit_code == 0:
        await scripts.run("post_backup", CESBR_BACKUP_ID=result.id)
    elif config.post_backup_script is not None:
        context.out.note("The post-backup script was not run, because the backup is incomplete.")
    return result


def _plan_text(plan: BackupPlan, available: int | None) -> str:
    rows: list[tuple[str, str, str]] = []
    for step in plan.steps:
        owner = step.dogu or "instance"
        what = [str(path) for path in step.paths] or [step.document or "nothing"]
        rows += [(owner, step.kind, path) for path in what]
        rows += [(owner, step.kind, f"FAILS {show(f.path)}: {f.error}") for f in step.failed]
        rows += [(owner, step.kind, f"left out {show(o.path)}: {o.reason}") for o in step.left_out]
    rows += [("-", "-", f"left out {show(o.path)}: {o.reason}") for o in plan.left_out]
    return fitted(rows, ("Of", "Kind", "What"), available)


async def _expected(view: BackupTree) -> dict[PointKey, int]:
    """Return the bytes of each point of data in the latest backup; {} where nothing tells soon."""
    import trio

    points: Sequence[Point] = ()
    with trio.move_on_after(_EXPECTED_SECONDS), contextlib.suppress(CesbrError):
        latest = await view.latest()
        manifest = (await view.reports.of(latest)).manifest if latest else None
        points = manifest.points if manifest else ()
    return {(point.kind, point.dogu): point.bytes or 0 for point in points}


def _left(backup_id: str, saved: int) -> str:
    """Return what a backup that was cut short leaves behind."""
    return (
        f"Backup {backup_id} is incomplete: {humanize.count(saved, 'snapshot')} of it"
        f" {'is' if saved == 1 else 'are'} in the repository. 'cesbr forget {backup_id}' removes"
        " it, and the next backup reuses its data."
    )


def result_text(result: BackupResult) -> str:
    """Return how a backup went."""
    total = sum(point.bytes for point in result.points)
    added = sum(point.added for point in result.points)
    failed = [f"failed: {show(failure.path)}: {failure.error}" for failure in result.failed]
    return (
        f"Backup {result.id} is {result.status}:"
        f" {humanize.count(len(result.points), 'point')} of data, {humanize.size(total)}"
        f" ({humanize.size(added)} of it new).\n"
    ) + humanize.lines(failed)


COMMANDS: Final = (
    Command(
        "backup",
        "Back up all dogus and the instance's configuration, or some dogus.",
        "backup redmine postgresql",
        _backup_arguments,
        _backup,
        "Exit code 3: something could not be backed up, and the backup is incomplete.",
    ),
)
