"""Getting things back: what was chosen, where it lands, the question, the work, the report."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cesbrfs.ces.backup_config import BackupConfig, backup_config
from cesbrfs.errors import RegistryUnreachableError, UsageError
from cesbrfs.paths import show
from cesbrfs.restore import (
    InPlace,
    Overwrite,
    Refused,
    RestorePlan,
    Target,
    ToFolder,
    default_target,
    execute,
    plan,
    select,
)
from cesbrfs.restore.blueprint import require_same_blueprint
from shell import render
from shell.care import restore_on_instance
from shell.commands import Command
from shell.commands.browse import add_backup_flag, locate

if TYPE_CHECKING:
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.restore import RestoreReport, Selection
    from cesbrfs.view import View
    from shell.session import Context

_NOBODY_TO_ASK: Final = (
    "A restore asks before it writes, and nobody is there to answer; say --yes to go on without,"
    " or --dry-run to see what it would do."
)
_SHOWN: Final = 20
"""Lines of one kind that the plan shows; --json has them all."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="what to restore (default, with --backup: all of that backup)",
    )
    add_backup_flag(parser)
    place = parser.add_argument_group("where to")
    place.add_argument(
        "--target", metavar="FOLDER", help="below this folder (default ./restored-<Backup ID>)"
    )
    place.add_argument(
        "--in-place",
        action="store_true",
        help="volumes and configuration to their places on the instance, replacing what is there",
    )
    place.add_argument(
        "--maintenance",
        action="store_true",
        help="with --in-place: turn the instance's maintenance mode on meanwhile",
    )
    parser.add_argument(
        "--overwrite",
        metavar="WHEN",
        choices=[str(value) for value in Overwrite],
        help="replace what exists: never (default), always (default in place), if-newer",
    )
    parser.add_argument("-n", "--dry-run", action="store_true", help="only show what it would do")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--force", action="store_true", help="restore even if the instance suspends its restores"
    )


async def _restore(context: Context, arguments: argparse.Namespace) -> int:
    if arguments.in_place and arguments.target:
        raise UsageError("Restore either to --target or --in-place, not both.")
    if arguments.maintenance and not arguments.in_place:
        raise UsageError("--maintenance is for a restore in place; say --in-place, too.")
    if not arguments.paths and not arguments.backup:
        raise UsageError("Restore what?  Name paths, or a whole backup with --backup ID.")
    config = await _config(context, arguments)
    # A dry run leaves even a missing repository as it is.
    view = await context.view(may_init=not arguments.dry_run)
    paths = arguments.paths or ["."]
    selection = select([await locate(context, path, arguments.backup) for path in paths])
    target = await _target(context, arguments, selection)
    overwrite = Overwrite.ALWAYS if arguments.in_place else Overwrite.NEVER
    if arguments.overwrite:
        overwrite = Overwrite(arguments.overwrite)
    planned = await plan(view, selection, target, overwrite)
    if arguments.dry_run:
        await context.out.result(planned.as_json(), lambda: _plan_text(planned))
        return 0
    if arguments.in_place:
        backup = await _only_backup(view, selection)
        instance = (await context.session.settings()).instance()
        await require_same_blueprint(view, backup, instance, config)
    if not arguments.yes:
        context.out.note(_plan_text(planned), always=True)
        if not await context.out.ask("Restore this?", _NOBODY_TO_ASK):
            context.out.note("Nothing was restored.")
            return 0
    if not arguments.in_place:
        return await _carry_out(context, view, planned)
    return await restore_on_instance(
        context,
        config,
        await _only_backup(view, selection),
        lambda: _carry_out(context, view, planned),
        maintenance=arguments.maintenance,
    )


async def _carry_out(context: Context, view: View, planned: RestorePlan) -> int:
    with context.out.progress("Restoring") as progress:
        report = await execute(
            view, planned, on_progress=lambda done: progress.update(**done._asdict())
        )
    await context.out.result(report.as_json(), lambda: _report_text(report))
    return report.exit_code


async def _only_backup(view: View, selection: Selection) -> Backup:
    """Return the one backup that a restore in place is of."""
    (name,) = selection.backups
    return (await view.backups()).by_name[name]


async def _config(context: Context, arguments: argparse.Namespace) -> BackupConfig:
    """Return what the instance wants of restores, as far as this one has to do with it.

    SuspendedError when it wants none.  A registry that is lost must not keep data lost, too.
    """
    registry = (await context.session.settings()).open_registry()
    asks = not (arguments.force or arguments.dry_run)
    if not asks and (arguments.dry_run or not arguments.in_place):
        return BackupConfig(registry.address)
    try:
        config = await backup_config(registry)
    except RegistryUnreachableError as error:
        context.out.note(f"Whether restores are suspended is not known: {error.message}")
        if arguments.in_place:
            context.out.note("So no script runs, and a backup of any blueprint is restored.")
        return BackupConfig(registry.address)
    if asks:
        config.require_active()
    return config


async def _target(context: Context, arguments: argparse.Namespace, selection: Selection) -> Target:
    if arguments.in_place:
        return InPlace((await context.session.settings()).root)
    return ToFolder(_absolute(arguments.target or default_target(selection)))


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))


def _plan_text(planned: RestorePlan) -> str:
    files = render.count(planned.files, "file")
    folders = render.count(planned.folders, "folder")
    rows = [
        ("To:", show(os.fsencode(planned.target))),
        ("Writes:", f"{files}, {folders}, {render.size(planned.bytes)}"),
    ]
    if planned.free is not None:
        rows.append(("Free there:", render.size(planned.free)))
    if planned.will_overwrite:
        rows.append(("Replaces:", render.count(planned.will_overwrite, "existing file")))
    if planned.will_skip:
        rows.append(("Skips:", f"{render.count(planned.will_skip, 'file')} (see --overwrite)"))
    rows += _listed("Cannot:", [f"{show(r.path)}: {r.reason}" for r in planned.refused])
    rows += _listed("Leaves out:", _grouped(planned.left_out))
    return render.table(rows)


def _grouped(left_out: Sequence[Refused]) -> list[str]:
    """Return one line for each reason, with the first path that it is true of."""
    paths: dict[str, list[str]] = {}
    for refused in left_out:
        paths.setdefault(refused.reason, []).append(show(refused.path))
    return [
        f"{found[0]}{f' and {len(found) - 1:,} more' if found[1:] else ''}: {reason}"
        for reason, found in paths.items()
    ]


def _listed(heading: str, lines: list[str]) -> list[tuple[str, str]]:
    rows = [("" if number else heading, line) for number, line in enumerate(lines[:_SHOWN])]
    if len(lines) > _SHOWN:
        rows.append(("", f"and {len(lines) - _SHOWN:,} more"))
    return rows


def _report_text(report: RestoreReport) -> str:
    done = f"{render.count(report.files, 'file')}, {render.size(report.bytes)}"
    lines = [f"Restored {done}, to {show(os.fsencode(report.target))}."]
    if report.skipped:
        lines.append(f"Left as they are: {render.count(report.skipped, 'file')}; see --overwrite.")
    lines += [f"warning: {warning}" for warning in report.warnings]
    lines += [f"left out: {line}" for line in _grouped(report.left_out)]
    lines += [f"failed: {show(failure.path)}: {failure.error}" for failure in report.failed]
    return "".join(f"{line}\n" for line in lines)


COMMANDS: Final = (
    Command(
        "restore",
        "Restore files and folders, a dogu, or a whole backup.",
        "restore --backup latest redmine/volumes/files --target /tmp/back",
        _arguments,
        _restore,
        "Shows what it will do and asks first.  Exit code 3: something could not be restored.",
    ),
)
