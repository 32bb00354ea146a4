"""Making backups: what there is to back up, the care around it, the result."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from cesbrfs.paths import show
from shell import render
from shell.commands import Command
from shell.table import fitted

if TYPE_CHECKING:
    from cesbrfs.backup import BackupPlan, BackupResult, DumpRunner, Step
    from cesbrfs.restic import Status
    from cesbrfs.settings import Settings
    from shell.progress import Progress
    from shell.session import Context


def _backup_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dogus", metavar="DOGU", nargs="*", help="only these dogus (default: all, and the instance)"
    )
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="only show what would be backed up"
    )
    parser.add_argument(
        "--skip-health-checks",
        action="store_true",
        help="back up dogus that are not healthy, too, without asking how they are",
    )
    parser.add_argument(
        "--force", action="store_true", help="back up even if the instance suspends its backups"
    )


async def _backup(context: Context, arguments: argparse.Namespace) -> int:
    await context.require_active(force=arguments.force or arguments.dry_run)
    dogus: Sequence[str] | None = arguments.dogus or None
    if arguments.dry_run:
        from cesbrfs.backup import plan_backup  # noqa: PLC0415 - not for the prompt's start

        settings = await context.session.settings()
        plan = await plan_backup(settings.instance(), dogus, _runner(settings))
        await context.out.result(plan.as_json(), lambda: _plan_text(plan, context.out.room))
        return 0

    async def tell(result: BackupResult) -> None:
        await context.out.result(result.as_json(), lambda: result_text(result))

    skip = arguments.skip_health_checks
    return (await back_up(context, dogus, tell, skip_health_checks=skip)).exit_code


def _runner(settings: Settings) -> DumpRunner | None:
    from cesbrfs.backup import DumpRunner  # noqa: PLC0415 - as above

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
    from cesbrfs.backup import choose, plan_backup, run_backup  # noqa: PLC0415 - as above
    from cesbrfs.ces.backup_config import backup_config  # noqa: PLC0415 - as above
    from shell.care import require_healthy, scripts_of  # noqa: PLC0415 - as above

    settings = await context.session.settings()
    instance = settings.instance()
    runner = _runner(settings)
    plan = await plan_backup(instance, dogus, runner)
    restic = await context.restic(creates=True)
    view = await context.view()
    config = await backup_config(instance.registry)
    scripts = await scripts_of(context, config)

    async def prepare(backup_id: str) -> BackupPlan:
        if not skip_health_checks:
            installed = await instance.dogus()
            await require_healthy(context, config, choose(installed, dogus or ()) or installed)
        await scripts.run("pre_backup", CESBR_BACKUP_ID=backup_id)
        # The script may have made what was missing.
        now = await plan_backup(instance, dogus, runner)
        for left_out in now.left_out:
            context.out.note(f"Left out: {show(left_out.path)}: {left_out.reason}.")
        return now

    with context.out.progress("Backing up") as progress:
        result = await run_backup(
            plan,
            instance=instance,
            restic=restic,
            repository=view.repository,
            on_progress=partial(_show_step, progress, {}),
            prepare=prepare,
            safety=safety,
        )
    await view.backups(max_age=0)
    await tell(result)
    if result.exit_code == 0:
        await scripts.run("post_backup", CESBR_BACKUP_ID=result.id)
    elif config.post_backup_script is not None:
        context.out.note("The script after a backup is not run, as this one is incomplete.")
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


def _show_step(progress: Progress, running: dict[int, Status], step: Step) -> None:
    """Show how far the points are that are backed up at the moment; `running` keeps them."""
    from cesbrfs.restic import Status  # noqa: PLC0415 - as above

    if step.result is not None:
        running.pop(step.number, None)
    elif isinstance(step.event, Status):
        running[step.number] = step.event
    events = running.values()
    progress.update(
        files=sum(event.files_done for event in events) if events else None,
        total_files=sum(event.total_files for event in events) if events else None,
        bytes=sum(event.bytes_done for event in events) if events else None,
        total_bytes=sum(event.total_bytes for event in events) if events else None,
        note=f"[{step.number}/{step.total}] {step.dogu or 'instance'} {step.kind}",
    )


def result_text(result: BackupResult) -> str:
    """Return how a backup went."""
    total = sum(point.bytes for point in result.points)
    added = sum(point.added for point in result.points)
    failed = [f"failed: {show(failure.path)}: {failure.error}" for failure in result.failed]
    return (
        f"Backup {result.id} is {result.status}:"
        f" {render.count(len(result.points), 'point')} of data, {render.size(total)}"
        f" ({render.size(added)} of it new).\n"
    ) + render.lines(failed)


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
