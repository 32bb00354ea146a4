"""Looking back: where a name is, which versions of a file there are, what became of a folder."""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from cesbrfs.errors import CesbrError, UsageError
from cesbrfs.history import diffing
from cesbrfs.history.finding import TYPES, Criteria, Match, find
from cesbrfs.history.live import live_row, same_file
from cesbrfs.history.memo import Row
from cesbrfs.history.versions import Version, Versions, versions
from cesbrfs.paths import for_json, show
from cesbrfs.repo.times import format_time
from cesbrfs.restore.landing import place_on_instance
from cesbrfs.when import parse_when
from shell import render
from shell.changes import change_json, change_line
from shell.commands import Command
from shell.lines import JsonArray, Lines
from shell.report import report
from shell.scope import Scope, scope
from shell.table import fitted, hanging

if TYPE_CHECKING:
    from cesbrfs.history.diffing import Change
    from cesbrfs.history.timeline import Moment, Parts, Timeline
    from shell.session import Context

_PARTIAL: Final = 3
_SIZE: Final = re.compile(r"([+-]?)(\d+)(?:([kmgt])(?:i?b)?|b)?", re.IGNORECASE)
_UNITS: Final = "kmgt"
_SIZE_CELLS: Final = 9
_TIME_CELLS: Final = 19
_WIDE: Final = 120
"""Cells from which on a terminal has room for all that is told of what was found."""
_NARROW: Final = 72
"""Cells below which a Backup ID would leave no room for the path."""


# find


def _find_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("path", metavar="PATH", nargs="?", default=".", help="where to search (default: here)")
    add(
        "--backup", metavar="ID", action="append", default=[], help="search this backup; repeatable"
    )
    add("--all", action="store_true", help="search all backups, as at the root")
    add("--each", action="store_true", help="a line for each backup that has it")
    add("--name", metavar="GLOB", action="append", default=[], help="names that fit; repeatable")
    add("--iname", metavar="GLOB", action="append", default=[], help="the same in any case")
    add("--path", metavar="GLOB", dest="globs", action="append", default=[], help="paths that fit")
    add("--regex", metavar="REGEX", action="append", default=[], help="paths in which it occurs")
    add("--type", metavar="TYPE", action="append", default=[], help="f, d, l or restic's words")
    add("--size", metavar="SIZE", action="append", default=[], help="files: +10M, -4k, 1024")
    add("--newer", metavar="TIME", help="modified at that time or later: '2 days ago'")
    add("--older", metavar="TIME", help="modified before that time: 2026-11-22")
    add("--select", action="store_true", help="select what is found, each in its newest backup")


async def _find(context: Context, arguments: argparse.Namespace) -> int:
    criteria = _criteria(arguments)
    out = context.out
    with out.progress("Searching", events=False) as progress:
        where = await scope(context, arguments.path, arguments.backup, everywhere=arguments.all)
        line = where.timeline
        each = arguments.each or len(line.moments) == 1
        chosen: list[Parts] = []
        lines, array = Lines(out), JsonArray(out)
        columns = _columns(line, out.room)
        if not each and out.terminal and not out.as_json:
            await lines.add(_found_heading(columns))

        async def take(match: Match) -> None:
            if arguments.select:
                moments = line.of(match.moments) if each else [line.newest(match.moments)]
                chosen.extend((*moment.parts, *match.parts) for moment in moments)
            if out.as_json:
                for told in _found_json(line, match, each=each):
                    await array.add(told)
            elif each:
                for moment in line.of(match.moments):
                    await lines.add(f"{_shown((*moment.parts, *match.parts))}\n")
            else:
                await lines.add(_found_line(line, match, columns, out.room))

        await find(line, where.parts, criteria, take, lambda seen: progress.update(files=seen))
        await (array.close() if out.as_json else lines.flush())
        await line.memo.keep()
    if arguments.select:
        new = context.session.basket(await context.view()).add(chosen)
        out.note(f"Selected {render.count(new, 'path')}; 'cesbr selected' lists them.")
    return await _tell_troubles(context, line)


async def _tell_troubles(context: Context, line: Timeline) -> int:
    for trouble in line.troubles:
        await report(
            CesbrError(f"{'/'.join(map(show, trouble.parts))}: {trouble.error.message}"),
            context.out,
        )
    return _PARTIAL if line.troubles else 0


def _criteria(arguments: argparse.Namespace) -> Criteria:
    if arguments.name and arguments.iname:
        raise UsageError("Give either --name or --iname.")
    least, most = _bounds(arguments.size)
    now = time.time_ns()
    return Criteria(
        names=arguments.name or arguments.iname,
        ignore_case=bool(arguments.iname),
        paths=arguments.globs,
        regexes=arguments.regex,
        types=frozenset(map(_type, arguments.type)),
        least=least,
        most=most,
        newer_ns=parse_when(arguments.newer, now) if arguments.newer else None,
        older_ns=parse_when(arguments.older, now) - 1 if arguments.older else None,
    )


def _type(text: str) -> str:
    if text in TYPES.values():
        return text
    if text not in TYPES:
        known = ", ".join(f"{short} ({name})" for short, name in TYPES.items())
        raise UsageError(f"{text!r} is no type; those are {known}.")
    return TYPES[text]


def _bounds(sizes: Iterable[str]) -> tuple[int | None, int | None]:
    """Return the least and the most bytes that ``+10M``, ``-4k`` and ``1024`` ask for."""
    least: int | None = None
    most: int | None = None
    for text in sizes:
        match = _SIZE.fullmatch(text)
        if match is None:
            raise UsageError(f"{text!r} is no size; write +10M for more, -4k for less, or 1024.")
        sign, digits, unit = match.groups()
        count = int(digits) << 10 * (_UNITS.index(unit.lower()) + 1 if unit else 0)
        if sign != "-":
            least = max(count + 1 if sign else count, least or 0)
        if sign != "+":
            bound = count - 1 if sign else count
            most = bound if most is None else min(bound, most)
    return least, most


def _columns(line: Timeline, available: int | None) -> dict[str, str]:
    """Return the columns before the path, each with its alignment and width as format() has it.

    They do not depend on what is found, which comes only later.  A narrow terminal gets fewer.
    """
    wide = max((len(moment.id) for moment in line.moments), default=4)
    made = {
        "#": f">{len(str(len(line.moments)))}",
        "First": f"<{wide}",
        "Last": f"<{wide}",
        "Size": f">{_SIZE_CELLS}",
        "Modified": f"<{_TIME_CELLS}",
    }
    if available is not None and available < _WIDE:
        del made["First"], made["Modified"]
    if available is not None and available < _NARROW:
        del made["Last"]
    return made


def _found_heading(columns: Mapping[str, str]) -> str:
    return "".join(f"{name:{cells}}  " for name, cells in columns.items()) + "Path\n"


def _found_line(
    line: Timeline, match: Match, columns: Mapping[str, str], available: int | None
) -> str:
    row = match.row
    told = {
        "#": str(match.moments.bit_count()),
        "First": line.oldest(match.moments).id,
        "Last": line.newest(match.moments).id,
        "Size": render.size(row.size) if row.type == "file" else "-",
        "Modified": render.local_time(line.time_of(row, match.moments)),
    }
    before = "".join(f"{told[name]:{cells}}  " for name, cells in columns.items())
    return hanging(before, _path(match.parts, row), available)


def _path(parts: Parts, row: Row) -> str:
    return "/".join(map(show, parts)) + "/" * (row.type == "dir")


def _shown(parts: Parts) -> str:
    return "/" + "/".join(map(show, parts))


def _row_json(row: Row, time_ns: int) -> dict[str, object]:
    return {
        "type": row.type,
        "size": row.size,
        "mode": f"{row.mode & 0o7777:04o}",
        "uid": row.uid,
        "gid": row.gid,
        "mtime": format_time(time_ns),
    }


def _found_json(line: Timeline, match: Match, *, each: bool) -> Iterable[dict[str, object]]:
    row, mask = match.row, match.moments
    told = {**for_json(match.parts[-1]), **_row_json(row, line.time_of(row, mask))}
    if each:
        for moment in line.of(mask):
            path = b"/" + b"/".join((*moment.parts, *match.parts))
            yield {**for_json(path, "path"), **told, "backup": moment.id}
        return
    yield {
        **for_json(b"/".join(match.parts), "path"),
        **told,
        "first": line.oldest(mask).id,
        "last": line.newest(mask).id,
        "count": mask.bit_count(),
    }


# versions


def _versions_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="a file, inside the backups or in one of them")


async def _versions(context: Context, arguments: argparse.Namespace) -> int:
    with context.out.progress("Looking through the backups", events=False):
        where = await scope(context, arguments.path, everywhere=True)
        line = where.timeline
        found = await versions(line, where.parts)
        live = await _live(context, where, found)
        await line.memo.keep()
    newest = line.newest(found.covering)
    rows = []
    told = []
    for version, is_live in zip(found.versions, live, strict=True):
        first, last = line.oldest(version.moments), line.newest(version.moments)
        marks = ["newest"] * (last is newest) + ["live"] * bool(is_live)
        count = version.moments.bit_count()
        modified = line.time_of(version.row, version.moments)
        size = render.size(version.row.size) if version.row.type == "file" else version.row.type
        rows.append(
            (str(count), first.id, last.id, size, render.local_time(modified), ", ".join(marks))
        )
        told.append(
            {
                "id": version.row.content.hex(),
                **_row_json(version.row, modified),
                "first": first.id,
                "last": last.id,
                "backups": [moment.id for moment in line.of(version.moments)],
                "newest": last is newest,
                "live": is_live,
            }
        )
    await context.out.result(
        told,
        lambda: fitted(
            rows,
            ("#", "First", "Last", "Size", "Modified", ""),
            context.out.room,
            right=("#", "Size"),
            spare=("Modified", "First", "#"),
            last="keep",
        ),
    )
    if found.events[-1].what == "vanished" and not context.out.as_json:
        context.out.note(f"It is gone since backup {found.events[-1].moment.id}.")
    if live and not any(live) and live[0] is not None and not context.out.as_json:
        context.out.note("None of them is what the instance has now.")
    return 0


async def _live(context: Context, where: Scope, found: Versions) -> list[bool | None]:
    """Tell for each version whether the instance has it now; None where it has no such place."""
    place = place_on_instance(where.parts)
    if not place or isinstance(place, str):
        return [None] * len(found.versions)
    root = (await context.session.settings()).root
    path = os.path.join(os.fsencode(root), *place)
    return [await _is_live(context, where, version, path) for version in found.versions]


async def _is_live(context: Context, where: Scope, version: Version, path: bytes) -> bool:
    row = live_row(path)
    if row is None or row.type != version.row.type:
        return False
    if row.type != "file":
        return row.content == version.row.content
    view = await context.view()
    newest = where.timeline.newest(version.moments)
    node = (await view.at((*newest.parts, *where.parts))).node
    return await same_file(view.repository, node, path)


# log


def _log_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", nargs="?", default=".", help="a folder or file (default: here)"
    )
    parser.add_argument("--metadata", action="store_true", help="tell of modes, owners, times, too")


async def _log(context: Context, arguments: argparse.Namespace) -> int:
    with context.out.progress("Looking through the backups", events=False):
        where = await scope(context, arguments.path, everywhere=True)
        line = where.timeline
        rows = await line.at(where.parts)
        steps: list[tuple[Moment, str, Sequence[Change]]]
        if rows and all(row.subtree is None for row, _ in rows):
            events = (await versions(line, where.parts)).events
            steps = [(event.moment, event.what, ()) for event in events]
        else:
            found = await diffing.history(line, where.parts, attributes=arguments.metadata)
            steps = [
                (step.moment, "appeared" if step.changes is None else "changed", step.changes or ())
                for step in found
            ]
        await line.memo.keep()
    told = [
        {
            "backup": moment.id,
            "time": format_time(moment.time_ns),
            "event": what,
            "changes": [change_json(change) for change in changes],
        }
        for moment, what, changes in steps
    ]
    await context.out.result(
        told,
        lambda: "".join(
            _step_text(moment, what, context.out.room)
            + "".join(change_line(change, context.out.room, "  ") for change in changes)
            for moment, what, changes in steps
        ),
    )
    return 0


def _step_text(moment: Moment, what: str, available: int | None) -> str:
    row = (moment.id, render.local_time(moment.time_ns), what)
    return fitted([row], ("", "Time", ""), available, spare=("Time",), last="keep", headed=False)


COMMANDS: Final = (
    Command(
        "find",
        "Find files and folders in one, several or all backups.",
        "find redmine --name '*.txt'",
        _find_arguments,
        _find,
        "At the root all backups are searched, inside a backup that one.  Over several, a line"
        " stands for one content of one path, with the first and the last backup that have it.",
        looks_back=True,
    ),
    Command(
        "versions",
        "List the distinct versions of a file over all backups, the newest last.",
        "versions redmine/volumes/files/report.txt",
        _versions_arguments,
        _versions,
        "Equal contents are one version.  The last column tells which is the newest backup's, and"
        " which the instance has now.",
        looks_back=True,
    ),
    Command(
        "log",
        "Tell what changed in a folder from backup to backup.",
        "log redmine/volumes/files",
        _log_arguments,
        _log,
        "+ added, - removed, M content, T type, U metadata.",
        looks_back=True,
    ),
)
