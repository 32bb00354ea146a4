"""Making backups and keeping their repository well."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import trio

from cesbrfs.errors import CesbrError, UsageError
from cesbrfs.paths import show
from shell import render
from shell.commands import Command

if TYPE_CHECKING:
    from cesbrfs.backup import BackupPlan, BackupResult, Step
    from cesbrfs.settings import Settings
    from shell.progress import Progress
    from shell.session import Context

_SUBSET: Final = re.compile(r"\d+/\d+|\d+(\.\d+)?%|\d+[KMGTkmgt]?")
_STATE_SECONDS: Final = 30.0
"""How long `status` waits for a repository's storage."""


# init


def _nothing(_parser: argparse.ArgumentParser) -> None:
    """Declare no arguments."""


async def _init(context: Context, _arguments: argparse.Namespace) -> int:
    from cesbrfs.readiness import initialise  # noqa: PLC0415 - brings restic's driver along

    if context.no_init:
        raise UsageError("'init' creates the repository, so leave out --no-init.")
    access = await context.session.access()
    said: list[str] = []
    created = await initialise(access, open_restic=context.session.restic, say=said.append)
    await context.out.result(
        {"repository": access.shown, "initialised": created}, "".join(f"{line}\n" for line in said)
    )
    return 0


# backup


def _backup_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dogus", metavar="DOGU", nargs="*", help="only these dogus (default: all, and the instance)"
    )
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="only show what would be backed up"
    )
    parser.add_argument(
        "--force", action="store_true", help="back up even if the instance suspends its backups"
    )


async def _backup(context: Context, arguments: argparse.Namespace) -> int:
    from cesbrfs.backup import plan_backup, run_backup  # noqa: PLC0415 - as above

    await context.require_active(force=arguments.force or arguments.dry_run)
    settings = await context.session.settings()
    instance = settings.instance()
    plan = await plan_backup(instance, arguments.dogus or None)
    if arguments.dry_run:
        await context.out.result(plan.as_json(), lambda: _plan_text(plan))
        return 0
    restic = await context.restic()
    view = await context.view()
    for left_out in plan.left_out:
        context.out.note(f"Left out: {show(left_out.path)}: {left_out.reason}.")
    with context.out.progress("Backing up") as progress:
        result = await run_backup(
            plan,
            instance=instance,
            restic=restic,
            repository=view.repository,
            on_progress=lambda step: _show_step(progress, step),
        )
    await view.backups(max_age=0)
    await context.out.result(result.as_json(), lambda: _result_text(result))
    return result.exit_code


def _plan_text(plan: BackupPlan) -> str:
    rows: list[tuple[str, str, str]] = []
    for step in plan.steps:
        owner = step.dogu or "instance"
        what = [str(path) for path in step.paths] or [step.document or "nothing"]
        rows += [(owner, step.kind, path) for path in what]
        rows += [(owner, step.kind, f"FAILS {show(f.path)}: {f.error}") for f in step.failed]
        rows += [(owner, step.kind, f"left out {show(o.path)}: {o.reason}") for o in step.left_out]
    rows += [("-", "-", f"left out {show(o.path)}: {o.reason}") for o in plan.left_out]
    return render.table(rows, ("Of", "Kind", "What"))


def _show_step(progress: Progress, step: Step) -> None:
    from cesbrfs.restic import Status  # noqa: PLC0415 - as above

    event = step.event if isinstance(step.event, Status) else None
    progress.update(
        files=event.files_done if event else None,
        total_files=event.total_files if event else None,
        bytes=event.bytes_done if event else None,
        total_bytes=event.total_bytes if event else None,
        note=f"[{step.number}/{step.total}] {step.dogu or 'instance'} {step.kind}",
    )


def _result_text(result: BackupResult) -> str:
    total = sum(point.bytes for point in result.points)
    added = sum(point.added for point in result.points)
    failed = [f"failed: {show(failure.path)}: {failure.error}\n" for failure in result.failed]
    return (
        f"Backup {result.id} is {result.status}:"
        f" {render.count(len(result.points), 'point')} of data, {render.size(total)}"
        f" ({render.size(added)} of it new).\n"
    ) + "".join(failed)


# check


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--read-data", action="store_true", help="read and check all data, too: takes long"
    )
    extent.add_argument(
        "--read-data-subset",
        metavar="SUBSET",
        help="read and check a part of the data: 1/10, 5%% or 500M",
    )


async def _check(context: Context, arguments: argparse.Namespace) -> int:
    subset = arguments.read_data_subset
    if subset is not None and not _SUBSET.fullmatch(subset):
        raise UsageError(f"{subset!r} is no part of the data; write one such as 1/10, 5% or 500M.")
    restic = await context.restic()
    with context.out.progress("Checking") as progress:
        report = await restic.check(
            read_data=arguments.read_data,
            read_data_subset=subset,
            on_line=lambda line: progress.update(note=line),
        )
    sound = "No errors were found" + (
        ".\n" if arguments.read_data else "; --read-data reads the data itself, too.\n"
    )
    await context.out.result(
        {"ok": report.ok, "errors": list(report.errors)},
        lambda: sound if report.ok else "".join(f"{line}\n" for line in report.errors),
    )
    if report.ok:
        return 0
    context.out.note(
        f"The repository at {restic.access.shown} has errors; see"
        " https://restic.readthedocs.io/en/stable/077_troubleshooting.html before you repair it."
    )
    return 1


# unlock


def _unlock_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--remove-all", action="store_true", help="remove locks of running processes, too"
    )


async def _unlock(context: Context, arguments: argparse.Namespace) -> int:
    restic = await context.restic()
    before = await restic.locks()
    await restic.unlock(remove_all=arguments.remove_all)
    left = await restic.locks()
    removed = len(before - left)
    text = f"{render.count(removed, 'lock')} removed"
    text += f", {len(left)} left: in use, or --remove-all removes them.\n" if left else ".\n"
    await context.out.result({"removed": removed, "left": len(left)}, text)
    return 0


# status


async def _status(context: Context, _arguments: argparse.Namespace) -> int:
    """Tell what is configured and how it is; changes nothing, and needs nothing to be right."""
    from cesbrfs.mounts import our_mounts  # noqa: PLC0415 - as above
    from cesbrfs.settings import load  # noqa: PLC0415 - as above

    settings = load(context.session.flags, context.session.environ)
    problem: str | None = None
    try:
        settings = await settings.resolve()
    except CesbrError as error:
        problem = error.message
    repository = await _repository_state(settings, problem)
    status: dict[str, object] = {
        "repository": repository,
        "restic": await _restic_state(settings),
        "mounts": [{"mountpoint": m.mountpoint, "source": m.source} for m in our_mounts()],
        "settings": settings.describe(),
    }
    await context.out.result(status, lambda: _status_text(status))
    return 0


async def _repository_state(settings: Settings, problem: str | None) -> dict[str, object]:
    from cesbrfs.readiness import by_reader  # noqa: PLC0415 - as above

    described = settings.describe()["repository"]["value"]
    state: dict[str, object] = {"url": described, "state": "not configured", "message": problem}
    if problem is not None:
        return state
    try:
        access = await settings.access()
        with trio.fail_after(_STATE_SECONDS):
            verdict = await by_reader(access)
    except trio.TooSlowError:
        message = f"{described} did not answer within {_STATE_SECONDS:.0f} s."
        return state | {"state": "unreachable", "message": message}
    except CesbrError as error:
        configured = settings.repository is not None and settings.password is not None
        return state | {
            "state": "unknown" if configured else "not configured",
            "message": error.message,
        }
    message = verdict.error.message if verdict.error else ""
    return state | {"state": verdict.state.value, "message": message or None}


async def _restic_state(settings: Settings) -> dict[str, object]:
    from cesbrfs.restic import find_restic, read_version  # noqa: PLC0415 - as above

    try:
        path = await find_restic(settings.restic)
        return {"version": str(await read_version(path)), "path": str(path)}
    except CesbrError as error:
        return {"version": None, "path": None, "message": error.message}


def _status_text(status: Mapping[str, object]) -> str:
    repository, restic = status["repository"], status["restic"]
    mounts, settings = status["mounts"], status["settings"]
    assert isinstance(repository, dict)
    assert isinstance(restic, dict)
    assert isinstance(mounts, list)
    assert isinstance(settings, dict)
    rows = [
        ("Repository:", repository["url"] or "none"),
        ("State:", repository["state"]),
    ]
    if repository["message"]:
        rows.append(("", repository["message"]))
    rows.append(
        (
            "restic:",
            f"{restic['version']} ({restic['path']})" if restic["version"] else restic["message"],
        )
    )
    rows += [("Mounted:", f"{m['mountpoint']} (from {m['source']})") for m in mounts]
    told = [
        (f"  {name}", _setting(setting["value"]), f"({setting['source']})")
        for name, setting in settings.items()
    ]
    return render.table(rows) + "Settings:\n" + render.table(told)


def _setting(value: object) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


COMMANDS: Final = (
    Command(
        "init",
        "Create the repository; one that is there is kept as it is.",
        "init",
        _nothing,
        _init,
        "Every command that needs the repository does this by itself, unless --no-init is given.",
    ),
    Command(
        "backup",
        "Back up all dogus and the instance's configuration, or some dogus.",
        "backup redmine postgresql",
        _backup_arguments,
        _backup,
        "Exit code 3: something could not be backed up, and the backup is incomplete.",
    ),
    Command(
        "check",
        "Check the repository for errors.",
        "check --read-data-subset 1/10",
        _check_arguments,
        _check,
        "Without --read-data its structure is checked, not the content of its data.",
    ),
    Command(
        "unlock",
        "Remove the locks that dead processes left in the repository.",
        "unlock",
        _unlock_arguments,
        _unlock,
    ),
    Command(
        "status",
        "Show the settings, the repository's state and the mounts; changes nothing.",
        "status",
        _nothing,
        _status,
    ),
)
