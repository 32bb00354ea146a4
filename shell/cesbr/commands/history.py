"""Looking back: where a name is, which versions of a file there are, what became of a directory."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from cesbr.commands import Command
from cesbr.criteria import add_backup_options, add_file_options, criteria, period
from cesbr.paths import PathScope, nothing_to_look_at, scope
from cesbr.ui import humanize
from cesbr.ui.diff import change_json, change_line
from cesbr.ui.errors import report
from cesbr.ui.matches import columns_of, found_heading, found_json, found_line, row_json, shown
from cesbr.ui.stream import JsonArray, LineStream
from cesbr.ui.table import fitted
from cesbrfs.errors import CesbrError, UsageError
from cesbrfs.history import diff
from cesbrfs.history.find import Match, find
from cesbrfs.history.live import live_row, same_file
from cesbrfs.history.versions import Version, Versions, versions
from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.restore.targets import place_on_instance
from cesbrfs.util.escape import for_json, show

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.history.diff import Change
    from cesbrfs.vfs.timeline import BackupSlot, Parts, Timeline

_PARTIAL: Final = 3


# find


def _find_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("path", metavar="PATH", nargs="?", default=".", help="where to search (default: here)")
    add_backup_options(parser)
    add("--each", action="store_true", help="print a line for each backup that contains a match")
    add_file_options(parser, single_dash=True)
    add(
        "--deleted",
        action="store_true",
        help="find what older backups have and the newest one does not, with its last version",
    )
    add("--select", action="store_true", help="select the matches, each in its newest backup")


async def _find(context: Context, arguments: argparse.Namespace) -> int:
    wanted, between = criteria(arguments), period(arguments)
    out = context.out
    with out.progress("Searching", results=True) as progress:
        everywhere = _is_everywhere(arguments, between)
        where = await scope(
            context, arguments.path, arguments.backup, everywhere=everywhere, between=between
        )
        line = where.timeline
        each = arguments.each or len(line.moments) == 1
        chosen: list[Parts] = []
        lines, array = LineStream(out), JsonArray(out)
        columns = columns_of(line, out.room)
        headed = each or not out.terminal or out.as_json

        async def take(match: Match) -> None:
            if arguments.select:
                moments = line.of(match.moments) if each else [line.newest(match.moments)]
                chosen.extend((*moment.parts, *match.parts) for moment in moments)
            if out.as_json:
                for fields in found_json(line, match, each=each):
                    await array.add(fields)
            elif each:
                for moment in line.of(match.moments):
                    await lines.add(f"{shown((*moment.parts, *match.parts))}\n")
            else:
                nonlocal headed
                if not headed:
                    headed = True
                    await lines.add(found_heading(columns))
                await lines.add(found_line(line, match, columns, out.room))

        for path in where.paths:
            await find(
                line,
                path,
                wanted,
                take,
                lambda seen: progress.update(files=seen),
                deleted=arguments.deleted,
            )
        await (array.close() if out.as_json else lines.flush())
        await line.index.save()
    if arguments.select:
        new = context.session.basket(await context.view()).add(chosen)
        out.note(f"Selected {humanize.count(new, 'path')}. Run 'cesbr selected' to list them.")
    return await tell_troubles(context, line)


def _is_everywhere(arguments: argparse.Namespace, between: tuple[int, int] | None) -> bool:
    """Return whether all backups are searched, wherever the path leads."""
    if arguments.deleted and arguments.backup:
        raise UsageError("Pass either --deleted or --backup, not both.")
    return bool(arguments.all or arguments.deleted or between is not None)


async def tell_troubles(context: Context, line: Timeline) -> int:
    """Report what could not be read, or that there is no backup; return the exit code."""
    if not line.moments:
        context.out.note(await nothing_to_look_at(context))
    for trouble in line.troubles:
        await report(CesbrError(trouble.message), context.out)
    return _PARTIAL if line.troubles else 0


# versions


def _versions_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a file, inside the backups or in one of them")


async def _versions(context: Context, arguments: argparse.Namespace) -> int:
    with context.out.progress("Searching the backups", results=True):
        where = await scope(context, arguments.path, everywhere=True)
        by_path = [(path, await versions(where.timeline, path)) for path in where.paths]
        live = [await which_are_live(context, where.timeline, path, of) for path, of in by_path]
        await where.timeline.index.save()
    rows_json: list[dict[str, object]] = []
    blocks = []
    for (path, of), now in zip(by_path, live, strict=True):
        rows = list(version_rows(where.timeline, of, now))
        rows_json += [
            _version_json(where.timeline, path, of, *each)
            for each in zip(of.versions, now, strict=True)
        ]
        blocks.append(_heading(path, where) + _versions_text(rows, context.out.room))
    await context.out.result(rows_json, "\n".join(blocks))
    if not context.out.as_json:
        for (path, of), now in zip(by_path, live, strict=True):
            _remark(context, where, path, of, now)
    return await tell_troubles(context, where.timeline)


def _heading(path: Parts, where: PathScope) -> str:
    """Return the heading for one path of several."""
    return f"{'/'.join(map(show, path))}:\n" if len(where.paths) > 1 else ""


def version_rows(
    line: Timeline, versions: Versions, live: Iterable[bool | None]
) -> Iterable[tuple[str, ...]]:
    """Yield the cells of each version: number of backups, first, last, size, time, marks."""
    for version, is_live in zip(versions.versions, live, strict=True):
        first, last = line.oldest(version.moments), line.newest(version.moments)
        marks = ["newest"] * (last is line.newest(versions.covering)) + ["live"] * bool(is_live)
        yield (
            str(version.moments.bit_count()),
            first.id,
            last.id,
            humanize.size(version.row.size) if version.row.type == "file" else version.row.type,
            humanize.local_time(line.time_of(version.row, version.moments)),
            ", ".join(marks),
        )


def _versions_text(rows: Sequence[Sequence[str]], available: int | None) -> str:
    return fitted(
        rows,
        ("#", "First", "Last", "Size", "Modified", ""),
        available,
        right=("#", "Size"),
        spare=("Modified", "First", "#"),
        last="keep",
    )


def _version_json(
    line: Timeline, path: Parts, versions: Versions, version: Version, is_live: bool | None
) -> dict[str, object]:
    last = line.newest(version.moments)
    return {
        "id": version.row.content_id,
        **for_json(b"/".join(path), "path"),
        **row_json(version.row, line.time_of(version.row, version.moments)),
        "first": line.oldest(version.moments).id,
        "last": last.id,
        "backups": [moment.id for moment in line.of(version.moments)],
        "newest": last is line.newest(versions.covering),
        "live": is_live,
    }


def _remark(
    context: Context, where: PathScope, path: Parts, versions: Versions, live: Sequence[bool | None]
) -> None:
    """Say what the table does not: that it is gone, or that the instance has something else."""
    name = "It" if len(where.paths) == 1 else show(path[-1])
    if versions.events[-1].what == "vanished":
        context.out.note(f"{name} no longer exists as of backup {versions.events[-1].moment.id}.")
    if live and not any(live) and live[0] is not None:
        of = "None of them" if len(where.paths) == 1 else f"No version of {show(path[-1])}"
        context.out.note(f"{of} equals the current content on the instance.")


async def which_are_live(
    context: Context, line: Timeline, path: Parts, versions: Versions
) -> list[bool | None]:
    """Return for each version whether the instance has it now; None where it has no such place."""
    place = place_on_instance(path)
    if not place or isinstance(place, str):
        return [None] * len(versions.versions)
    root = (await context.session.settings()).root
    live = os.path.join(os.fsencode(root), *place)
    return [await _is_live(context, line, path, version, live) for version in versions.versions]


async def _is_live(
    context: Context, line: Timeline, path: Parts, version: Version, live: bytes
) -> bool:
    row = live_row(live)
    if row is None or row.type != version.row.type:
        return False
    if row.type != "file":
        return row.content == version.row.content
    view = await context.view()
    newest = line.newest(version.moments)
    node = (await view.at((*newest.parts, *path))).node
    return await same_file(view.repository, node, live)


# log


def _log_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", nargs="?", default=".", help="a directory or file (default: here)"
    )
    parser.add_argument(
        "--metadata", action="store_true", help="also show changes of modes, owners and times"
    )


async def _log(context: Context, arguments: argparse.Namespace) -> int:
    steps_json: list[dict[str, object]] = []
    blocks = []
    with context.out.progress("Searching the backups", results=True):
        where = await scope(context, arguments.path, everywhere=True)
        for path in where.paths:
            steps = await _steps(where.timeline, path, attributes=arguments.metadata)
            steps_json += [_step_json(path, *step) for step in steps]
            lines = [_step_text(*step, context.out.room) for step in steps]
            blocks.append(_heading(path, where) + "".join(lines))
        await where.timeline.index.save()
    await context.out.result(steps_json, "\n".join(blocks))
    return await tell_troubles(context, where.timeline)


_Step = tuple["BackupSlot", str, Sequence["Change"], int]
"""A backup, what happened to the path until then, the changes below it, and how many more."""


async def _steps(line: Timeline, path: Parts, *, attributes: bool) -> Sequence[_Step]:
    rows = await line.at(path)
    if rows and all(row.subtree is None for row, _ in rows):
        events = (await versions(line, path)).events
        return [(event.moment, event.what, (), 0) for event in events]
    steps = await diff.history(line, path, attributes=attributes)
    return [(step.moment, step.what, step.changes, step.more) for step in steps]


def _step_json(
    path: Parts, moment: BackupSlot, what: str, changes: Sequence[Change], more: int
) -> dict[str, object]:
    return {
        **for_json(b"/".join(path), "path"),
        "backup": moment.id,
        "time": format_time(moment.time_ns),
        "event": what,
        "changes": [change_json(change) for change in changes],
        "more": more,
    }


def _step_text(
    moment: BackupSlot, what: str, changes: Sequence[Change], more: int, available: int | None
) -> str:
    row = (moment.id, humanize.local_time(moment.time_ns), what)
    text = fitted([row], ("", "Time", ""), available, spare=("Time",), last="keep", headed=False)
    text += "".join(change_line(change, available, "  ") for change in changes)
    return text + f"  and {more:,} more; 'cesbr diff' shows all of them\n" if more else text


COMMANDS: Final = (
    Command(
        "find",
        "Find files and directories in one, several or all backups.",
        "find redmine --name '*.txt'",
        _find_arguments,
        _find,
        "At the root all backups are searched, inside a backup that one.  Over several, each"
        " line is one content of one path, with the first and the last backup that have it.",
        looks_back=True,
        all_backups=True,
    ),
    Command(
        "versions",
        "List the distinct versions of a file over all backups, the newest last.",
        "versions redmine/volumes/files/report.txt",
        _versions_arguments,
        _versions,
        "Equal contents are one version.  The last column marks the version of the newest backup"
        " and the one on the instance.",
        looks_back=True,
        all_backups=True,
    ),
    Command(
        "log",
        "Show what changed in a directory from backup to backup.",
        "log redmine/volumes/files",
        _log_arguments,
        _log,
        "+ added, - removed, M content, T type, U metadata.",
        looks_back=True,
        all_backups=True,
    ),
)
