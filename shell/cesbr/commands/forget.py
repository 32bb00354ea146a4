"""Removing backups: some by name, or all that a policy does not keep."""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from cesbr.commands import Command
from cesbr.commands.navigate import note_future
from cesbr.ui import humanize
from cesbr.ui.table import fitted
from cesbrfs.errors import UsageError

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.catalog.status import Report
    from cesbrfs.ces.retention import Policy
    from cesbrfs.forget import BackupDecision, ForgetPlan
    from cesbrfs.restic import PruneReport
    from cesbrfs.vfs.tree import BackupTree

CONFIGURED: Final = "configured"
_COUNTED: Final = ("last", "hourly", "daily", "weekly", "monthly", "yearly")


def _forget_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backups", metavar="ID", nargs="*", help="remove these backups")
    rules = parser.add_argument_group("or remove all backups that are not kept")
    rules.add_argument(
        "--policy",
        metavar="NAME",
        help="apply this policy ('policies' lists them), or the one that is configured in the"
        f" registry: '{CONFIGURED}', the default",
    )
    for name in _COUNTED:
        what = "backups" if name == "last" else f"backups, one {_ONE_OF[name]}"
        rules.add_argument(f"--keep-{name}", metavar="N", type=int, help=f"keep the last N {what}")
    rules.add_argument(
        "--keep-within", metavar="SPAN", help="keep backups that are not older than this: 1y5m7d2h"
    )
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="only show what would be removed"
    )
    parser.add_argument(
        "--prune", action="store_true", help="also remove the data that no backup needs any more"
    )
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--force", action="store_true", help="remove even the last complete backup, if named"
    )


_ONE_OF: Final = {
    "hourly": "an hour",
    "daily": "a day",
    "weekly": "a week",
    "monthly": "a month",
    "yearly": "a year",
}


async def _forget(context: Context, arguments: argparse.Namespace) -> int:
    from cesbrfs.ces.backup_lock import block_backups
    from cesbrfs.repo.format.timestamps import format_time

    policy = _rules(arguments)
    if policy is None and not arguments.backups:
        policy = await _by_name(context, arguments.policy or CONFIGURED)
    view = await context.view(may_init=not arguments.dry_run)
    planned = await _plan(context, view, arguments, policy)
    if arguments.dry_run:
        await context.out.result(
            {"backups": [fate.as_json() for fate in planned.decisions]},
            lambda: _plan_text(planned, context.out.room),
        )
        return 0
    if policy is not None and planned.going:
        from cesbr.damage import require_statuses

        require_statuses(context, view)
    if planned.going and not arguments.yes:
        context.out.note(_plan_text(planned, context.out.room), always=True, lines=True)
        number = humanize.count(len(planned.going), "backup")
        if not await context.out.ask(f"Remove {number}?"):
            context.out.note("Nothing was removed.")
            return 0
    root = (await context.session.settings()).root
    with block_backups(root, "The removal of backups", format_time(time.time_ns())):
        removed = await _remove(context, view, planned)
        pruned = await _prune(context) if arguments.prune else None
    result = {
        "removed": [backup.id for backup in planned.going],
        "snapshots": removed,
        "pruned": pruned is not None,
        "backups": [fate.as_json() for fate in planned.decisions],
    }
    shown = _plan_text(planned, context.out.room) if arguments.yes or not planned.going else ""
    await context.out.result(result, lambda: shown + _result_text(planned, removed, pruned))
    return 0


def _rules(arguments: argparse.Namespace) -> Policy | None:
    """Return the policy that the --keep- flags make; UsageError for two ways of choosing."""
    from cesbrfs.ces.retention import parse_duration, restic_policy

    values = vars(arguments)
    counts = {
        name: values[f"keep_{name}"] for name in _COUNTED if values[f"keep_{name}"] is not None
    }
    rules = bool(counts) or arguments.keep_within is not None
    if bool(arguments.backups) + bool(arguments.policy) + rules > 1:
        raise UsageError("Pass either Backup IDs, --policy or --keep-..., not several of them.")
    if arguments.force and not arguments.backups:
        raise UsageError("--force requires Backup IDs; a policy always keeps the last backup.")
    if not rules:
        return None
    within = None if arguments.keep_within is None else parse_duration(arguments.keep_within)
    return restic_policy(counts, within)


async def _by_name(context: Context, name: str) -> Policy:
    from cesbrfs.ces.retention import POLICIES, policy_named

    if name.lower() != CONFIGURED:
        return policy_named(name)
    configured = await _configured(context)
    if configured is None:
        context.out.note(
            "Retention is not enabled in the registry, so all backups are kept. Pass Backup IDs or"
            " a policy, or set /config/backup/retention_enabled to true."
        )
    return configured or POLICIES["keepAll"]


async def _configured(context: Context) -> Policy | None:
    """Return the policy in the registry, None if retention is not enabled."""
    from cesbrfs.ces.backup_config import backup_config

    settings = await context.session.settings()
    return (await backup_config(settings.open_registry())).retention_policy


async def _reports(view: BackupTree) -> dict[str, Report]:
    """Return the report of every backup."""
    from cesbrfs.util.tasks import gather

    backups = list((await view.backups(max_age=0)).by_name.values())
    reports = await gather([partial(view.reports.of, backup) for backup in backups])
    return {backup.id: report for backup, report in zip(backups, reports, strict=True)}


async def _plan(
    context: Context, view: BackupTree, arguments: argparse.Namespace, policy: Policy | None
) -> ForgetPlan:
    from cesbr.damage import unread_snapshot
    from cesbrfs.forget import by_name, by_policy
    from cesbrfs.util.dates import LOCAL

    pattern = (await context.session.settings()).backup_tag
    with context.out.progress("Reading the manifests"):
        reports = await _reports(view)
    backups = await view.backups()
    note_future(context, list(backups.by_name.values()))
    if policy is None:
        chosen = [await view.find_backup(wanted) for wanted in arguments.backups]
        return by_name(
            chosen,
            backups,
            reports,
            force=arguments.force,
            pattern=pattern,
            unread=unread_snapshot(view),
        )
    return by_policy(policy, backups, reports, now_ns=time.time_ns(), zone=LOCAL, pattern=pattern)


async def _remove(context: Context, view: BackupTree, planned: ForgetPlan) -> int:
    from cesbrfs.forget import execute

    if not planned.going:
        return 0
    with context.out.progress("Removing backups") as progress:
        removed = await execute(
            planned,
            restic=await context.session.restic(),
            repository=view.repository,
            on_phase=lambda number, total: progress.update(note=f"step {number} of {total}"),
            say=lambda text: context.out.note(text, always=True),
        )
    await view.backups(max_age=0)
    return removed


async def _prune(context: Context) -> PruneReport:
    restic = await context.session.restic()
    with context.out.progress("Pruning") as progress:
        return await restic.prune(on_line=lambda line: progress.update(note=line))


def _plan_text(planned: ForgetPlan, available: int | None) -> str:
    from cesbrfs.forget import NOT_NAMED

    if not planned.decisions:
        return "There is no backup.\n"
    decisions = [fate for fate in planned.decisions if fate.reasons != (NOT_NAMED,)]
    hosts = len({fate.host for fate in decisions}) > 1
    some = any(fate.dogus is not None for fate in decisions)
    rows = [_row(fate, hosts=hosts, dogus=some) for fate in decisions]
    more = (*(("Host",) if hosts else ()), *(("Dogus",) if some else ()))
    return fitted(
        rows,
        ("", "ID", "Time", "Status", "Size", *more, "Why"),
        available,
        right=("Size",),
        spare=("Time", "Size", "Host", "Dogus", "Status"),
    )


def _row(fate: BackupDecision, *, hosts: bool, dogus: bool) -> tuple[str, ...]:
    of = "all" if fate.dogus is None else " ".join(sorted(fate.dogus))
    return (
        "keep" if fate.keep else "remove",
        fate.backup.id,
        humanize.local_time(fate.backup.time_ns),
        fate.report.status.value + ", safety" * fate.backup.safety,
        humanize.size(fate.report.size(fate.backup)),
        *((fate.host,) if hosts else ()),
        *((of,) if dogus else ()),
        ", ".join(fate.reasons),
    )


def _result_text(planned: ForgetPlan, removed: int, pruned: PruneReport | None) -> str:
    text = "Nothing was removed.\n"
    if planned.going:
        text = (
            f"Removed {humanize.count(len(planned.going), 'backup')}"
            f" ({humanize.count(removed, 'snapshot')}), kept {len(planned.staying):,}.\n"
        )
        if pruned is None:
            text += "Their data is still stored. Run 'forget --prune' to remove it.\n"
    if pruned is not None:
        text += f"Pruned {pruned.removed or 'the repository'}"
        text += f"; {pruned.remaining} are left.\n" if pruned.remaining else ".\n"
    return text


# policies


def _nothing(_parser: argparse.ArgumentParser) -> None:
    """Declare no arguments."""


async def _policies(context: Context, _arguments: argparse.Namespace) -> int:
    from cesbrfs.ces.retention import POLICIES
    from cesbrfs.forget import by_policy
    from cesbrfs.util.dates import LOCAL

    configured = await _configured(context)
    view = await context.view()
    pattern = (await context.session.settings()).backup_tag
    reports = await _reports(view)
    backups = await view.backups()
    now_ns = time.time_ns()
    policies: list[dict[str, object]] = []
    rows: list[tuple[str, ...]] = []
    for policy in POLICIES.values():
        planned = by_policy(policy, backups, reports, now_ns=now_ns, zone=LOCAL, pattern=pattern)
        going = [backup.id for backup in planned.going]
        policies.append(
            {
                "name": policy.name,
                "meaning": policy.meaning,
                "configured": policy is configured,
                "remove": going,
                "keep": [backup.id for backup in planned.staying],
            }
        )
        rows.append(
            (
                "*" if policy is configured else "",
                policy.name,
                f"{len(going):,} of {len(planned.decisions):,}",
                policy.meaning,
            )
        )
    headings = ("", "Policy", "Removes", "Meaning")
    text = fitted(rows, headings, context.out.room, right=("Removes",))
    text += (
        "* configured in the registry.\n"
        if configured
        else "Retention is off: no backup expires.\n"
    )
    await context.out.result(policies, text)
    return 0


COMMANDS: Final = (
    Command(
        "forget",
        "Remove backups by ID, or all that a policy does not keep.",
        "forget --policy keepLastSevenDays --dry-run",
        _forget_arguments,
        _forget,
        "Shows which backups are removed and kept, and why, and asks first.  A backup is removed"
        " with all its snapshots; snapshots of no backup are kept, and so is the last complete"
        " backup.",
        all_backups=True,
    ),
    Command(
        "policies",
        "List the retention policies and what each would remove now.",
        "policies",
        _nothing,
        _policies,
        all_backups=True,
    ),
)
