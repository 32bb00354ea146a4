"""Restoring keys of the registry: the difference, the question, the work, the report."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from cesbr.commands import Command
from cesbr.commands.navigate import choose_backup
from cesbr.damage import require_newest
from cesbr.ui import humanize
from cesbr.ui.restore_origin import add_other_host_flag, other_host, require_own_host
from cesbr.ui.table import pairs
from cesbrfs.errors import UsageError

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.restore.registry import KeyChange, RegistryPlan, RegistryReport
    from cesbrfs.vfs.tree import BackupTree

_SIGNS: Final = {"add": "+", "change": "~", "remove": "-"}
_KEPT: Final = 20
"""Keys that stay, as the plan lists them; --json has them all."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        metavar="DOGU|KEY",
        nargs="*",
        help="dogus, or keys and directories of keys, which begin with / (default: all)",
    )
    parser.add_argument("--instance", action="store_true", help="keys of the instance itself")
    parser.add_argument(
        "--backup", metavar="ID", help="the backup (default: where you are, else latest)"
    )
    parser.add_argument(
        "--delete", action="store_true", help="remove keys that the backup does not have"
    )
    add_other_host_flag(parser)
    parser.add_argument("-n", "--dry-run", action="store_true", help="only show the differences")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--force", action="store_true", help="restore even if the instance suspends its restores"
    )


async def _restore(context: Context, arguments: argparse.Namespace) -> int:
    from cesbr.safeguards import restore_on_instance
    from cesbr.ui.restore_sheet import denied_text
    from cesbrfs.ces.backup_config import backup_config
    from cesbrfs.restore.blueprint import denial, require_same_blueprint
    from cesbrfs.restore.registry import plan_registry

    instance = (await context.session.settings()).instance()
    config = await backup_config(instance.registry)
    if not (arguments.force or arguments.dry_run):
        config.require_active()
    view = await context.view(may_init=not arguments.dry_run)
    backup = await _backup(context, view, arguments)
    if arguments.yes and not arguments.dry_run:
        await require_newest(context, view, backup)
    owners: list[str | None] = [what for what in arguments.what if not what.startswith("/")]
    keys = [what for what in arguments.what if what.startswith("/")]
    if arguments.instance:
        owners.insert(0, None)
    if "/" in keys:
        raise UsageError("/ contains every key of the registry. Remove it to restore all of them.")
    if not arguments.dry_run:
        await require_same_blueprint(view, backup, instance, config)
        await require_own_host(context, backup, unless=arguments.other_host)
    planned = await plan_registry(view, backup, instance, owners, keys, delete=arguments.delete)
    if arguments.dry_run:
        denied = None if arguments.other_host else await other_host(context, backup)
        denied = denied or await denial(view, backup, instance, config)
        await context.out.result(
            {**planned.as_json(), "denied": denied},
            lambda: _plan_text(planned, context.out.room) + denied_text(denied),
        )
        return 0
    if not arguments.yes and planned.changes:
        context.out.note(_plan_text(planned, context.out.room), always=True, lines=True)
        if not await context.out.ask("Write this?"):
            context.out.note("Nothing was written.")
            return 0
    shown = _plan_text(planned, context.out.room) if arguments.yes else ""
    if not planned.changes:
        return await _write(context, planned, shown)
    return await restore_on_instance(
        context, config, backup.id, lambda: _write(context, planned, shown)
    )


async def _backup(context: Context, view: BackupTree, arguments: argparse.Namespace) -> Backup:
    """Return the backup that was asked for, else the one where one is, else the latest.

    The latest is that of the dogus where only such are named.
    """
    wanted = arguments.backup
    if wanted is None and context.session.place:
        by_name = (await view.backups()).by_name
        if (chosen := by_name.get(context.session.place[0])) is not None:
            return chosen
    by_key = arguments.instance or any(what.startswith("/") for what in arguments.what)
    chosen = await choose_backup(context, wanted or "latest", [] if by_key else arguments.what)
    assert chosen is not None
    return chosen


async def _write(context: Context, planned: RegistryPlan, shown: str) -> int:
    """Write what is planned and report it; `shown` is the plan, where nobody has seen it yet."""
    from cesbrfs.restore.registry import RegistryReport, write_registry

    report = RegistryReport(planned)
    settled = False
    instance = (await context.session.settings()).instance()
    try:
        with context.out.progress("Writing keys") as progress:
            await write_registry(
                instance.registry,
                report,
                lambda: progress.update(
                    note=f"{report.settled:,} of {humanize.count(len(planned.changes), 'key')}"
                ),
            )
        settled = True
    finally:
        if not settled:
            context.out.note(f"{_done(report)} so far. Restore again to continue.", always=True)
    await context.out.result(report.as_json(), lambda: shown + _report_text(report))
    return report.exit_code


def _plan_text(planned: RegistryPlan, available: int | None) -> str:
    rows = [("From backup:", planned.backup), ("To:", planned.address)]
    text = pairs(rows, available) + humanize.lines(map(_change, planned.changes))
    if not planned.changes:
        text += "No differences.\n" if not planned.refused else ""
    else:
        counts = [
            f"{sum(change.action == action for change in planned.changes)} {word}"
            for action, word in (("add", "new"), ("change", "changed"), ("remove", "removed"))
        ]
        text += f"{', '.join(counts)}, {planned.same} the same.\n"
    if planned.kept:
        text += f"Not in the backup, and kept (--delete removes them): {len(planned.kept)}\n"
        text += humanize.lines(f"  {key}" for key in planned.kept[:_KEPT])
        if len(planned.kept) > _KEPT:
            text += f"  and {len(planned.kept) - _KEPT:,} more\n"
    return text + humanize.lines(f"Cannot restore {r.key}: {r.error}" for r in planned.refused)


def _change(change: KeyChange) -> str:
    from cesbrfs.ces.redaction import masked_line

    values = [masked_line(change.key, v) for v in (change.old, change.new) if v is not None]
    return f"{_SIGNS[change.action]} {change.key}  {' -> '.join(values)}"


def _done(report: RegistryReport) -> str:
    return f"Written: {humanize.count(report.written, 'key')}, removed: {report.removed}"


def _report_text(report: RegistryReport) -> str:
    lines = [f"{_done(report)}, the same: {report.plan.same}."]
    lines += [
        f"not written: {key}: it was modified after planning; check it and restore again"
        for key in report.conflicts
    ]
    lines += [f"failed: {failure.key}: {failure.error}" for failure in report.failed]
    return humanize.lines(lines)


COMMANDS: Final = (
    Command(
        "restore-registry",
        "Restore registry keys of dogus, of the instance, or single keys.",
        "restore-registry redmine --backup latest --dry-run",
        _arguments,
        _restore,
        "Shows the differences with secrets hidden, and asks first.  A key that is modified after"
        " planning is not written, and no key is removed without --delete.  Exit code 3: some were"
        " not restored.",
    ),
)
