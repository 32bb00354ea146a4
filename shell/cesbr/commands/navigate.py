"""Finding one's way: which backups there are, and where one is.

Modules that read backups are imported where they are used: the key is derived at the same time
(see `Session.access`).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from cesbr.commands import Command
from cesbr.ui import humanize
from cesbr.ui.progress import duration
from cesbr.ui.table import fitted
from cesbrfs.errors import CesbrError, NotDirectoryError, NotFoundError, PartialError, UsageError
from cesbrfs.util.escape import for_json, printable, show

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbr.state.drills import DrillHistory
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.vfs.entries import ResolvedPath
    from cesbrfs.vfs.tree import BackupTree


def add_backup_flag(parser: argparse.ArgumentParser) -> None:
    """Declare ``--backup ID``."""
    parser.add_argument(
        "--backup",
        metavar="ID",
        help="paths start inside this backup (an ID, latest, latest~1)",
    )


async def choose_backup(
    context: Context, backup: str | None, paths: Sequence[str]
) -> Backup | None:
    """Return the backup that ``--backup`` means for all of these paths; None without the flag.

    ``latest`` and times mean the newest complete one that holds what the paths lead into.  It is
    named on stderr where it is another one than they mean without paths.
    """
    if backup is None:
        return None
    view = await context.view()
    inside = [path.removeprefix(f"/{backup}/") for path in paths]  # a path may begin with it
    chosen = await view.find_backup(backup, inside)
    plain: Backup | None = None
    with contextlib.suppress(NotFoundError):
        plain = await view.find_backup(backup)
    if plain is None or plain.id != chosen.id:
        shown, when = show(os.fsencode(chosen.id)), humanize.local_time(chosen.time_ns)
        context.out.note(f"{backup} is backup {shown} of {when}, the newest that holds the paths.")
    return chosen


async def locate(context: Context, path: str, backup: str | Backup | None) -> ResolvedPath:
    """Find what `path` names: inside `backup`, else from where one is."""
    view = await context.view()
    chosen = await choose_backup(context, backup, [path]) if isinstance(backup, str) else backup
    start = context.session.place if chosen is None else (chosen.name,)
    path = await _inside(view, path, chosen)
    try:
        located = await view.resolve(path, start)
    except NotFoundError as error:
        from cesbr.not_found import explained

        raise await explained(context, error, path, chosen) from None
    if chosen is not None and located.parts[:1] != start:
        raise UsageError(f"{path!r} is outside of backup {chosen.id}. Remove --backup.")
    return located


async def _inside(view: BackupTree, path: str, backup: Backup | None) -> str:
    """Return a path with ``--backup`` as it is from the backup's root on, from where it may begin.

    It may begin with the backup itself, where that has no such name.  Raises UsageError where it
    begins with another one.
    """
    from cesbrfs.catalog import directory_names

    if backup is None or not path.startswith("/"):
        return path
    inside = path.lstrip("/") or "."
    first, _, rest = inside.partition("/")
    backups = await view.backups()
    is_latest = directory_names.steps_back(first) is not None
    known = is_latest or os.fsencode(first) in backups.by_name or backups.starting(first)
    if not known or os.fsencode(first) in await view.children(await view.at((backup.name,))):
        return inside
    try:
        named = await view.find_backup(first, [rest])
    except NotFoundError:
        return inside
    if named.name != backup.name:
        raise UsageError(
            f"{show(os.fsencode(path))!r} is not in backup {show(os.fsencode(backup.id))}. Remove"
            " --backup, or the first name of the path."
        )
    return rest or "."


async def locate_all(
    context: Context, path: str, backup: str | Backup | None
) -> list[tuple[str, ResolvedPath]]:
    """Find what `path` and its wildcards name, each with its path in the form that was typed."""
    from cesbrfs.vfs.glob import expand, has_wildcards

    if not has_wildcards(path):
        return [(show(os.fsencode(path)), await locate(context, path, backup))]
    view = await context.view()
    start = context.session.place
    chosen = await choose_backup(context, backup, [path]) if isinstance(backup, str) else backup
    if chosen is not None:
        start = (chosen.name,)
        path = await _inside(view, path, chosen)
    try:
        places = await expand(view, path, start)
    except NotFoundError as error:
        from cesbr.not_found import explained

        raise await explained(context, error, path, chosen) from None
    if chosen is not None and any(place.parts[:1] != start for place in places):
        raise UsageError(f"{path!r} is outside of backup {chosen.id}. Remove --backup.")
    short = not path.startswith("/") and all(p.parts[: len(start)] == start for p in places)
    return [
        ("/".join(map(show, place.parts[len(start) :])) if short else place.shown, place)
        for place in places
    ]


async def locate_some(
    context: Context, paths: Sequence[str], backup: Backup | None
) -> tuple[list[tuple[str, ResolvedPath]], int]:
    """Find what `paths` name, each with its path as typed; report those that name nothing.

    Returns the exit code, too: 3 where some are missing.  Where all are, the error is raised.
    """
    from cesbr.ui.errors import report

    located: list[tuple[str, ResolvedPath]] = []
    missing: list[CesbrError] = []
    for path in paths:
        try:
            located += await locate_all(context, path, backup)
        except (NotFoundError, NotDirectoryError) as error:
            missing.append(error)
    for one in missing if located else missing[:-1]:
        await report(one, context.out)
    if missing and not located:
        raise missing[-1]
    return located, PartialError.exit_code if missing else 0


async def locate_one(context: Context, path: str, backup: str | Backup | None) -> ResolvedPath:
    """Find the one thing that `path`, perhaps with wildcards, names."""
    (_, place), *others = await locate_all(context, path, backup)
    if others:
        raise UsageError(
            f"{path!r} matches {len(others) + 1:,} names, {place.shown} and others. Pass one of"
            " them."
        )
    return place


# backups

_NS: Final = 1_000_000_000
_WIDE: Final = 100
"""Cells from which on a terminal has room for how long a backup took, and for the growth."""


@dataclass(frozen=True, slots=True)
class DescribedBackup:
    """A backup in the output of ``backups --json``.

    `time` is RFC 3339, `size` bytes, `duration` seconds from its first snapshot to its last;
    `safety`: a restore in place made it; `future`: its time is later than the present; `whole`: it
    is of the whole instance, not of some dogus; `protected`: 'forget' does not remove it; `drills`:
    the dogus whose last successful drill restored this backup, with its time.
    """

    id: str
    time: str
    status: str
    dogus: list[str]
    size: int | None
    duration: float
    host: str = ""
    safety: bool = False
    future: bool = False
    whole: bool = False
    protected: bool = False
    note: str | None = None
    drills: dict[str, str] = field(default_factory=dict)


async def _backups(context: Context, _arguments: argparse.Namespace) -> int:
    from cesbr.state.drills import shown_drills
    from cesbr.state.state_dir import state_directory
    from cesbrfs.util.tasks import gather

    view = await context.view()
    backups = list((await view.backups()).by_name.values())
    drills = shown_drills(state_directory(context.session.environ), view.repository.id)
    described = await gather([partial(describe, view, backup, drills) for backup in backups])
    await context.out.result(
        [asdict(description) for description in described],
        lambda: _backups_text(backups, described, context.out.room),
    )
    if not backups and not context.out.as_json:
        context.out.note("There is no backup yet. Create one with 'cesbr backup'.")
    note_future(context, backups)
    return 0


def note_future(context: Context, backups: Sequence[Backup]) -> None:
    """Warn of backups that are dated in the future."""
    for backup in backups:
        if backup.time_ns > time.time_ns():
            shown, host = (show(os.fsencode(text)) for text in (backup.id, backup.host))
            context.out.note(
                f"Backup {shown} is dated in the future, {humanize.local_time(backup.time_ns)}:"
                f" it is never the latest. Check the clock of {host or 'its host'}.",
                always=True,
            )


def _backups_text(
    backups: Sequence[Backup], described: Sequence[DescribedBackup], available: int | None
) -> str:
    if not backups:
        return ""
    now = time.time()
    hosts = [show(os.fsencode(description.host)) for description in described]
    table: dict[str, list[str]] = {
        "ID": [show(os.fsencode(backup.id)) for backup in backups],
        "Time": [humanize.local_time(backup.time_ns) for backup in backups],
        "Age": [humanize.age(now - backup.time_ns / 1e9) for backup in backups],
        "Took": [duration(description.duration) for description in described],
        "Status": [status_text(description) for description in described],
        "Size": [humanize.size(description.size) for description in described],
        "Host": hosts,
        "Dogus": [
            "all" if description.whole else " ".join(description.dogus) for description in described
        ],
        "Note": [description.note or "" for description in described],
    }
    if not any(table["Note"]):
        del table["Note"]
    if len(set(hosts)) == 1:
        del table["Host"]
    if available is not None and available < _WIDE:
        del table["Took"]
    text = fitted(
        list(zip(*table.values(), strict=True)),
        list(table),
        available,
        right=("Age", "Took", "Size"),
        spare=("Time", "Size", "Age", "Host", *(("Dogus",) if "Note" in table else ())),
        last="keep",
    )
    sizes = [description.size for description in described if description.size is not None]
    if available is not None and available >= _WIDE and len(sizes) > 1:
        line = humanize.sparkline(sizes, available // 2)
        text += f"Size: {humanize.size(sizes[0])} {line} {humanize.size(sizes[-1])}\n"
    return text


async def describe(view: BackupTree, backup: Backup, drills: DrillHistory) -> DescribedBackup:
    """Return the description of a backup; its manifest is read, and its trees if it has none."""
    from cesbrfs.catalog.status import dogus_of
    from cesbrfs.repo.format.timestamps import format_time

    report = await view.reports.of(backup)
    last = backup.manifest or backup.snapshots[-1]
    dogus = await _dogus(view, backup)
    passed = {dogu: drill for dogu in dogus if (drill := drills.valid(dogu))}
    return DescribedBackup(
        id=backup.id,
        time=format_time(backup.time_ns),
        status=report.status.value,
        dogus=dogus,
        size=report.size(backup),
        duration=max(0, last.time_ns - backup.time_ns) / 1e9,
        host=backup.host,
        safety=backup.safety,
        future=backup.time_ns > time.time_ns(),
        whole=report.manifest is not None and dogus_of(backup, report) is None,
        protected=backup.protected,
        note=backup.note,
        drills={
            dogu: format_time(int(drill.time) * _NS)
            for dogu, drill in passed.items()
            if drill.backup == backup.id
        },
    )


def status_text(description: DescribedBackup) -> str:
    """Return the status of a backup with its marks, such as safety or protected."""
    more = [", safety"] * description.safety + [", protected"] * description.protected
    more += [", drilled"] * (0 < len(description.drills) == len(description.dogus))
    more += [", in the future"] * description.future
    return description.status + "".join(more)


async def _dogus(view: BackupTree, backup: Backup) -> list[str]:
    """Return a backup's dogus; a complete one's manifest names them, so no tree is read."""
    from cesbrfs.catalog.directory_names import directory_name
    from cesbrfs.catalog.status import Status

    report = await view.reports.of(backup)
    if report.status is Status.COMPLETE and report.manifest is not None:
        return sorted({show(directory_name(p.dogu)) for p in report.manifest.points if p.dogu})
    return await view.dogus(backup)


# use, cd, pwd


def _use_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "backup",
        metavar="ID",
        help="a Backup ID, its beginning, latest, latest~1, or a time: '2 days ago'",
    )


async def _use(context: Context, arguments: argparse.Namespace) -> int:
    from cesbrfs.repo.format.timestamps import format_time

    view = await context.view()
    backup = await view.find_backup(arguments.backup)
    context.session.go((backup.name,))
    status = (await view.reports.of(backup)).status.value
    when = humanize.local_time(backup.time_ns)
    more = ", safety" * backup.safety + ", protected" * backup.protected
    await context.out.result(
        {
            "id": backup.id,
            "time": format_time(backup.time_ns),
            "status": status,
            "protected": backup.protected,
            "note": backup.note,
        },
        f"Backup {show(os.fsencode(backup.id))} of {when}, {status}{more}.\n"
        + (f"{printable(backup.note)}\n" if backup.note else ""),
    )
    return 0


def _cd_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        metavar="PATH",
        nargs="?",
        default="/",
        help="a directory (default /), or - for the previous one",
    )


async def _cd(context: Context, arguments: argparse.Namespace) -> int:
    session = context.session
    if arguments.path == "-":
        view = await context.view()
        await view.at(session.came_from)  # it may be gone by now
        session.go(session.came_from)
        return await _pwd(context, arguments)
    located = await locate_one(context, arguments.path, None)
    if not stat.S_ISDIR(located.entry.node.mode):
        raise NotDirectoryError(f"{located.shown} is not a directory.")
    session.go(located.parts)
    return 0


async def _pwd(context: Context, _arguments: argparse.Namespace) -> int:
    path = b"/" + b"/".join(context.session.place)
    await context.out.result(
        for_json(path, "path"), lambda: (context.session.shown_place or "/") + "\n"
    )
    return 0


def _nothing(_parser: argparse.ArgumentParser) -> None:
    """Declare no arguments."""


COMMANDS: Final = (
    Command(
        "backups",
        "List the backups, the newest last.",
        "backups",
        _nothing,
        _backups,
        "A backup is complete, incomplete, or unverified if it has no manifest; safety: created by"
        " a restore in place; protected: 'forget' does not remove it.  Its duration is the time"
        " from the first to the last snapshot.",
        all_backups=True,
    ),
    Command(
        "use",
        "Open a backup, by its ID or by time.",
        "use latest",
        _use_arguments,
        _use,
        "A time means the backup that was the latest then.",
    ),
    Command("cd", "Go to a directory.", "cd /latest/redmine/volumes", _cd_arguments, _cd),
    Command("pwd", "Print the current directory.", "pwd", _nothing, _pwd),
)
