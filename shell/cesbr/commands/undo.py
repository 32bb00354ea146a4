"""The command `undo`: put back what a restore replaced."""

from __future__ import annotations

import argparse
import math
import os
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from cesbr.commands import Command
from cesbr.restore_dogus import affected
from cesbr.safeguards import restore_on_instance
from cesbr.state.resume import journals, undo_logs
from cesbr.ui import humanize
from cesbr.ui.table import fitted
from cesbr.ui.undo_sheet import plan_text, report_text, troubles_text
from cesbrfs.errors import (
    InterruptedByUserError,
    NotFoundError,
    RegistryUnreachableError,
    RestoreError,
    UsageError,
)
from cesbrfs.restore.journal import Journal
from cesbrfs.restore.undo import Undo, kept_size, remove_record
from cesbrfs.restore.undo_log import UndoRecord, find_log, read_logs
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.ces.backup_config import BackupConfig
    from cesbrfs.restore.undo_report import UndoPlan

_STEP: Final = 100
"""Files between two updates of the progress."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "restore", metavar="RESTORE", nargs="?", help="ID of the restore (default: the last one)"
    )
    parser.add_argument("--list", action="store_true", help="list the restores that can be undone")
    parser.add_argument(
        "--remove",
        action="store_true",
        help="delete what was kept for the restore, which then cannot be undone",
    )
    parser.add_argument(
        "--maintenance", action="store_true", help="turn the maintenance mode on during the undo"
    )
    parser.add_argument(
        "--stop-dogu",
        action="store_true",
        help="stop each running dogu whose volumes are written, and start it again afterwards",
    )
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="only show what would be put back"
    )
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")


async def _undo(context: Context, arguments: argparse.Namespace) -> int:
    directory = undo_logs(context)
    if directory is None:
        raise UsageError("There is no state directory. Set HOME or XDG_STATE_HOME.")
    records = await trio.to_thread.run_sync(read_logs, directory)
    if arguments.list:
        return await _list(context, records)
    if arguments.remove and arguments.restore is None:
        raise UsageError("Pass the ID of the restore to --remove. See 'cesbr undo --list'.")
    record = find_log(records, arguments.restore)
    state = journals(context)
    assert state is not None
    # Neither a restore to this target nor another undo may run at the same time.
    with await trio.to_thread.run_sync(Journal, state, record.target) as journal:
        if arguments.remove:
            return await _remove(context, record, arguments)
        if record.undone or record.removing:
            what = "was undone already" if record.undone else "was removed"
            raise NotFoundError(
                f"Restore {record.id} {what}. Remove what is left with 'cesbr undo --remove"
                f" {record.id}'."
            )
        _require_last(record, records)
        code = await _plan_and_undo(context, record, arguments, journal.past.tags)
        request = journal.past.request
        if not arguments.dry_run and request and request.get("undo") == record.id:
            journal.complete()  # it is not resumed any more
        return code


def _require_last(record: UndoRecord, records: list[UndoRecord]) -> None:
    """Raise RestoreError if a later restore wrote to the same paths, and is not undone."""
    later = records[records.index(record) + 1 :]
    for other in later:
        if not (other.undone or other.removing) and record.overlaps(other):
            raise RestoreError(
                f"Restore {other.id} wrote to the same paths later. Undo it first, or remove it"
                f" with 'cesbr undo --remove {other.id}'."
            )


async def _plan_and_undo(
    context: Context, record: UndoRecord, arguments: argparse.Namespace, tags: set[bytes]
) -> int:
    undo = await trio.to_thread.run_sync(Undo, record, tags)
    try:
        with context.out.progress("Planning"):
            planned = await trio.to_thread.run_sync(undo.plan)
        dogus = await affected(context, planned, in_place=record.in_place, stop=arguments.stop_dogu)
        plan_json = {**planned.as_json(), "dogus": dogus.as_json()}
        text = plan_text(planned, context.out.room) + dogus.text()
        if arguments.dry_run:
            await context.out.result(plan_json, text)
            return 0
        if arguments.yes:
            for warning in dogus.warnings:
                context.out.note(f"warning: {warning}", always=True)
        else:
            context.out.event("plan", plan_json, text)
            if not await context.out.ask("Undo this restore?"):
                context.out.note("Nothing was changed.")
                return 0

        work = partial(_carry_out, context, undo, planned)
        if not record.in_place:
            return await work()
        return await restore_on_instance(
            context,
            await _config(context),
            record.backup,
            work,
            maintenance=arguments.maintenance,
            stop=dogus.to_stop,
        )
    finally:
        undo.close()


async def _carry_out(context: Context, undo: Undo, planned: UndoPlan) -> int:
    with context.out.progress("Undoing", results=True) as progress:

        def tell(done: int, total: int) -> None:
            trio.from_thread.check_cancelled()
            if done % _STEP == 0 or done == total:
                update = partial(progress.update, files=done, total_files=total)
                trio.from_thread.run_sync(update)

        try:
            report = await trio.to_thread.run_sync(undo.run, planned, tell)
        except BaseException:
            if trio.current_effective_deadline() > -math.inf:
                raise
            raise InterruptedByUserError(
                "Interrupted. Run 'cesbr undo' again to continue."
            ) from None
    await context.out.result(report.as_json(), lambda: report_text(report))
    if not context.out.as_json:
        context.out.note(troubles_text(report), always=True, lines=True)
    return report.exit_code


async def _config(context: Context) -> BackupConfig:
    """Return the scripts that the instance runs around a restore; none without its registry."""
    from cesbrfs.ces.backup_config import BackupConfig, backup_config

    registry = (await context.session.settings()).open_registry()
    try:
        return await backup_config(registry)
    except RegistryUnreachableError as error:
        context.out.note(f"No script runs: {error.message}")
        return BackupConfig(registry.address)


async def _remove(context: Context, record: UndoRecord, arguments: argparse.Namespace) -> int:
    files, size = await trio.to_thread.run_sync(kept_size, record)
    what = f"{humanize.count(files, 'file')}, {humanize.size(size)}"
    if arguments.dry_run:
        await context.out.result(
            {"id": record.id, "files": files, "bytes": size}, lambda: f"Would delete {what}.\n"
        )
        return 0
    question = f"Delete what was kept for restore {record.id} ({what})?"
    if not arguments.yes and not await context.out.ask(question):
        context.out.note("Nothing was deleted.")
        return 0
    await trio.to_thread.run_sync(remove_record, record)
    await context.out.result(
        {"id": record.id, "files": files, "bytes": size}, lambda: f"Deleted {what}.\n"
    )
    return 0


async def _list(context: Context, records: list[UndoRecord]) -> int:
    sizes = [await trio.to_thread.run_sync(kept_size, record) for record in records]
    rows = [
        {
            "id": record.id,
            "time": record.time,
            "target": show(os.fsencode(record.target)),
            "backup": record.backup,
            "paths": [show(path) for path in record.paths],
            "files": files,
            "bytes": size,
            "state": _state(record),
            "directories": [show(os.fsencode(place)) for place in record.places],
        }
        for record, (files, size) in zip(records, sizes, strict=True)
    ]
    await context.out.result(rows, lambda: _list_text(records, sizes, context.out.room))
    return 0


def _state(record: UndoRecord) -> str:
    if record.removing:
        return "partly removed"
    return "undone" if record.undone else "restored"


def _list_text(
    records: list[UndoRecord], sizes: list[tuple[int, int]], available: int | None
) -> str:
    if not records:
        return "There is no restore to undo.\n"
    rows = [
        (
            record.id,
            _state(record),
            show(os.fsencode(record.backup)),
            f"{files:,}",
            humanize.size(size),
            _first_path(record),
        )
        for record, (files, size) in zip(records, sizes, strict=True)
    ]
    headings = ("ID", "State", "From backup", "Kept files", "Size", "Path")
    return fitted(rows, headings, available, right=headings[3:5], spare=("From backup", "State"))


def _first_path(record: UndoRecord) -> str:
    paths = [show(os.path.join(os.fsencode(record.target), path)) for path in record.paths]
    more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
    return f"{paths[0]}{more}" if paths else ""


COMMANDS: Final = (
    Command(
        "undo",
        "Undo a restore: put back what it replaced, and remove what it created.",
        "undo --list",
        _arguments,
        _undo,
        "Shows a plan and asks first.  Files that were changed after the restore are kept.  Exit"
        " code 3: something could not be put back.",
    ),
)
