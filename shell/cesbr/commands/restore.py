"""The commands `plan` and `restore`: plan, confirmation, restore, report."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from cesbr.commands import Command
from cesbr.commands.navigate import choose_backup, locate_all
from cesbr.damage import report_damaged, require_newest
from cesbr.restore_arguments import parse_request, plan_arguments, restore_arguments
from cesbr.restore_dogus import affected
from cesbr.restore_undo import keep_plan, new_undo, undo_text
from cesbr.safeguards import restore_on_instance
from cesbr.state.basket import shown
from cesbr.state.resume import absolute, journals, resume
from cesbr.ui.restore_origin import (
    Origin,
    origins_of,
    origins_text,
    other_host,
    require_own_host,
)
from cesbr.ui.restore_sheet import denied_text, plan_text, report_text, salvaged_text, troubles_text
from cesbrfs.ces.backup_config import BackupConfig, backup_config
from cesbrfs.errors import (
    InterruptedByUserError,
    NotFoundError,
    PartialError,
    RegistryError,
    RegistryUnreachableError,
    UsageError,
)
from cesbrfs.restore import (
    InPlace,
    Progress,
    RestorePlan,
    Target,
    ToDirectory,
    default_target,
    execute,
    make_plan,
    select,
)
from cesbrfs.restore.blueprint import denial, require_same_blueprint
from cesbrfs.restore.journal import Journal
from cesbrfs.restore.journal import read as read_journal
from cesbrfs.restore.owners import OwnerNames
from cesbrfs.restore.patterns import Patterns
from cesbrfs.restore.request import RestoreRequest
from cesbrfs.restore.summary import sheet_json
from cesbrfs.restore.targets import directory_of
from cesbrfs.vfs.entries import ResolvedPath

if TYPE_CHECKING:
    from cesbr.backups import SafetyBackup
    from cesbr.session import Context
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.restore import Selection
    from cesbrfs.restore.undo_log import NewUndo
    from cesbrfs.vfs.tree import BackupTree


async def _plan(context: Context, arguments: argparse.Namespace) -> int:
    request = parse_request(arguments)
    # It leaves even a missing repository as it is.
    view = await context.view(may_init=False)
    return await _show(context, view, request, await _chosen(context, view, request))


async def _show(
    context: Context, view: BackupTree, request: RestoreRequest, selection: Selection
) -> int:
    """Show what a restore would do, and whether the instance would deny it."""
    planned = await _planned(context, view, request, selection)
    origins = await origins_of(view, selection)
    denied: str | None = None
    dogus = await affected(context, planned, in_place=request.in_place, stop=request.stop_dogu)
    if request.in_place:
        backup = await _only_backup(view, selection)
        denied = None if request.other_host else await other_host(context, backup)
        denied = denied or await _denied(context, view, selection)
    await context.out.result(
        {
            **sheet_json(planned),
            "from": [o.as_json() for o in origins],
            "denied": denied,
            "dogus": dogus.as_json(),
        },
        lambda: (
            origins_text(origins, context.out.room)
            + plan_text(planned, context.out.room)
            + dogus.text()
            + denied_text(denied)
        ),
    )
    return PartialError.exit_code if planned.refused else 0


async def _denied(context: Context, view: BackupTree, selection: Selection) -> str | None:
    backup = await _only_backup(view, selection)
    instance = (await context.session.settings()).instance()
    try:
        return await denial(view, backup, instance, await backup_config(instance.registry))
    except RegistryUnreachableError as error:
        context.out.note(f"Whether the instance denies this is not known: {error.message}")
        return None


async def _restore(context: Context, arguments: argparse.Namespace) -> int:
    request = parse_request(arguments)
    if request.maintenance and not request.in_place and not request.resume:
        raise UsageError("--maintenance requires --in-place.")
    config = await _config(context, request)
    # A dry run leaves even a missing repository as it is.
    view = await context.view(may_init=not request.dry_run)
    if request.resume:
        request = await resume(context, view, request)
    selection = await _chosen(context, view, request)
    if request.dry_run:
        return await _show(context, view, request, selection)
    target = directory_of(await _target(context, request, selection))
    directory = journals(context)
    if directory is None:
        return await _ask_and_restore(context, request, selection, config)
    with await trio.to_thread.run_sync(Journal, directory, target) as journal:
        return await _ask_and_restore(context, request, selection, config, journal)


async def _ask_and_restore(
    context: Context,
    request: RestoreRequest,
    selection: Selection,
    config: BackupConfig,
    journal: Journal | None = None,
) -> int:
    view = await context.view()
    if request.in_place and request.yes:
        await require_newest(context, view, await _only_backup(view, selection))
    planned = await _planned(context, view, request, selection, journal)
    if request.in_place:
        backup = await _only_backup(view, selection)
        instance = (await context.session.settings()).instance()
        await require_same_blueprint(view, backup, instance, config)
        await require_own_host(context, backup, unless=request.other_host)
    origins = await origins_of(view, selection)
    dogus = await affected(context, planned, in_place=request.in_place, stop=request.stop_dogu)
    if request.yes:
        for warning in (*planned.warnings, *dogus.warnings):
            context.out.note(f"warning: {warning}", always=True)
    else:
        text = origins_text(origins, context.out.room) + plan_text(planned, context.out.room)
        text += dogus.text()
        plan_json = {
            **sheet_json(planned),
            "from": [origin.as_json() for origin in origins],
            "dogus": dogus.as_json(),
        }
        context.out.event("plan", plan_json, text)
    saved = await _safety(context, request, planned) if request.in_place else None
    if not request.yes and not await context.out.ask("Restore this?"):
        context.out.note("Nothing was restored.")
        return 0
    if saved:
        await saved.make(context)
    undo = new_undo(context, request, selection) if planned.keep else None
    if journal:
        paths = [shown((item.backup, *item.parts)) for item in selection.items]
        undo_id = undo.file.stem if undo else None
        journal.begin(request.as_json(view.repository.id, paths, planned.target, undo_id))
    work = partial(_carry_out, context, view, planned, journal, origins, request=request, undo=undo)
    if request.in_place:
        backup = await _only_backup(view, selection)
        code = await restore_on_instance(
            context,
            config,
            backup.id,
            work,
            maintenance=request.maintenance,
            stop=dogus.to_stop,
        )
    else:
        code = await work()
    if code == 0 and request.is_of_selection:
        context.session.basket(view).remove((i.backup, *i.parts) for i in selection.items)
    return code


async def _safety(
    context: Context, request: RestoreRequest, planned: RestorePlan
) -> SafetyBackup | None:
    """Return the backup that is wanted of what will be replaced; a person is asked."""
    from cesbr.backups import choose_safety_backup

    wanted = request.safety_backup
    if wanted is None and request.yes:
        wanted = False
    return await choose_safety_backup(context, planned, wanted=wanted)


async def _chosen(context: Context, view: BackupTree, request: RestoreRequest) -> Selection:
    """Return what the command line names, else what is selected."""
    if request.paths or request.backup:
        backup = await choose_backup(context, request.backup, request.paths)
        located = [
            place
            for path in request.paths or ["."]
            for _, place in await locate_all(context, path, backup)
        ]
        if not request.yes:  # before the question: it may have been the latest
            await report_damaged(context)
        return select(located)
    paths = context.session.basket(view).paths
    if not paths:
        raise UsageError(
            "Nothing to restore. Pass paths, select some first, or pass --backup ID for a whole"
            " backup."
        )
    try:
        return select([ResolvedPath(parts, await view.at(parts)) for parts in paths])
    except NotFoundError as error:
        raise NotFoundError(
            f"{error.message[:-1]} any more. Deselect it with 'cesbr deselect'."
        ) from None


async def _planned(
    context: Context,
    view: BackupTree,
    request: RestoreRequest,
    selection: Selection,
    journal: Journal | None = None,
) -> RestorePlan:
    target = await _target(context, request, selection)
    past = journal.past if journal else None
    directory = journals(context)
    if directory and not journal:
        past = await trio.to_thread.run_sync(read_journal, directory, directory_of(target))
    suffix = request.suffix
    with context.out.progress("Planning", results=True):
        return await make_plan(
            view,
            selection,
            target,
            request.effective_overwrite,
            suffix=suffix,
            past=past,
            keep=keep_plan(context, request, target),
            delete=request.delete,
            patterns=Patterns.of(request.include, request.exclude),
            owners=OwnerNames() if request.owner_by_name else None,
        )


async def _carry_out(
    context: Context,
    view: BackupTree,
    planned: RestorePlan,
    journal: Journal | None,
    origins: Sequence[Origin],
    *,
    request: RestoreRequest,
    undo: NewUndo | None,
) -> int:
    with context.out.progress("Restoring") as progress:

        def tell(done: Progress) -> None:
            progress.update(**done._asdict())

        tell(Progress(0, 0, planned.files, planned.bytes))
        try:
            workers = (await context.session.settings()).workers
            report = await execute(
                view,
                planned,
                tell,
                journal,
                from_disk=request.verify,
                workers=workers,
                salvage=request.salvage,
                undo=undo,
            )
        except BaseException:
            if journal is None or trio.current_effective_deadline() > -math.inf:
                raise
            raise InterruptedByUserError(
                "Interrupted. Restored files stay; run 'cesbr restore --resume' to continue."
            ) from None
    undo_id = undo.file.stem if undo and undo.file.exists() else None
    await context.out.result(
        {**report.as_json(), "from": [o.as_json() for o in origins], "undo": undo_id},
        lambda: origins_text(origins, context.out.room) + report_text(report) + undo_text(undo_id),
    )
    if not context.out.as_json:  # which has them in the result
        context.out.note(troubles_text(report), always=True, lines=True)
    if report.salvaged and not context.out.as_json:
        context.out.note(salvaged_text(report), always=True, lines=True)
    if report.failed and journal and not context.out.as_json:
        context.out.note("Run 'cesbr restore --resume' to retry only what failed.")
    return report.exit_code


async def _only_backup(view: BackupTree, selection: Selection) -> Backup:
    """Return the one backup that a restore in place is of."""
    (name,) = selection.backups
    return (await view.backups()).by_name[name]


async def _config(context: Context, request: RestoreRequest) -> BackupConfig:
    """Return what the instance wants of restores, as far as this one has to do with it.

    SuspendedError when it wants none.  A registry that is lost must not keep data lost, too, and a
    user who may not read it can restore elsewhere.
    """
    registry = (await context.session.settings()).open_registry()
    asks = not (request.force or request.dry_run)
    if not asks and (request.dry_run or not request.in_place):
        return BackupConfig(registry.address)
    try:
        config = await backup_config(registry)
    except RegistryError as error:
        if request.in_place and not isinstance(error, RegistryUnreachableError):
            raise
        context.out.note(f"Whether restores are suspended is not known: {error.message}")
        if request.in_place:
            context.out.note("So no script runs, and a backup of any blueprint is restored.")
        return BackupConfig(registry.address)
    if asks:
        config.require_active()
    return config


async def _target(context: Context, request: RestoreRequest, selection: Selection) -> Target:
    if request.in_place:
        return InPlace((await context.session.settings()).root)
    return ToDirectory(absolute(request.target or default_target(selection)))


COMMANDS: Final = (
    Command(
        "plan",
        "Show what a restore would do, without changing anything.",
        "plan --backup latest redmine/volumes/files --target /tmp/back",
        plan_arguments,
        _plan,
        "Shows the backup, the target, sizes, and what happens to existing files.",
    ),
    Command(
        "restore",
        "Restore the selection, files and directories, a dogu, or a whole backup.",
        "restore --backup latest redmine/volumes/files --target /tmp/back",
        restore_arguments,
        _restore,
        "Shows a plan and asks first.  Exit code 3: something could not be restored.",
    ),
)
