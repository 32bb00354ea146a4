"""Comparing a backup with others or with the instance, and measuring what it adds to them."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import trio

from cesbr.commands import Command
from cesbr.commands.navigate import add_backup_flag, choose_backup, locate_some
from cesbr.damage import report_lacking
from cesbr.paths import LIVE, TypedPath, compared, settle
from cesbr.ui import humanize
from cesbr.ui.diff import change_json, change_line, for_terminal, summary
from cesbr.ui.errors import report
from cesbr.ui.file_content import CONTROL
from cesbr.ui.listing import Colours
from cesbr.ui.stream import JsonArray, LineStream
from cesbr.ui.table import fitted
from cesbrfs.errors import CesbrError, NotFoundError, RepositoryUnreachableError, UsageError
from cesbrfs.history.diff import Change, Mark, Remarks, diff_backups
from cesbrfs.history.live import LiveError, LiveInstance, diff_live
from cesbrfs.history.usage import Usage, UsageReport
from cesbrfs.restore.targets import place_on_instance
from cesbrfs.util.escape import for_json, show, unshow
from cesbrfs.vfs.entries import VirtualFile
from cesbrfs.vfs.glob import fits, nothing_matches
from cesbrfs.vfs.timeline import Parts, ReadError, Timeline

if TYPE_CHECKING:
    from pathlib import Path

    from cesbr.session import Context

_PARTIAL: Final = 3
_MOST_BYTES: Final = 4 << 20
"""A larger file is not compared line by line."""


def _diff_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("before", metavar="ID", help="a backup")
    add(
        "after", metavar="ID|live", help="another backup, or live: the current data of the instance"
    )
    add("path", metavar="PATH", nargs="?", help="a path inside them (default: here, or all)")
    add("--content", action="store_true", help="compare text files line by line")
    add("--metadata", action="store_true", help="also compare modes, owners and times")
    add("--checksum", action="store_true", help="with live: also read files of equal size and time")


async def _diff(context: Context, arguments: argparse.Namespace) -> int:
    if arguments.before == LIVE:
        raise UsageError("Pass the backup first: 'cesbr diff ID live'.")
    out = context.out
    marks: Counter[Mark] = Counter()
    lines, array = LineStream(out), JsonArray(out)
    colours = Colours.of(context.session.environ, terminal=out.terminal).on
    with out.progress("Comparing", results=True) as progress:
        comparison = await _compare(context, arguments)
        async for change in comparison.changes:
            if not fits(comparison.wanted, change.parts):
                continue
            marks[change.mark] += 1
            progress.update(files=marks.total())
            if out.as_json:
                await array.add(change_json(change))
                continue
            await lines.add(change_line(change, out.room))
            if arguments.content:
                text = await comparison.content(change)
                text = for_terminal(text, colours=colours) if out.terminal else text
                await lines.add(text, painted=True)
        await (array.close() if out.as_json else lines.flush())
        await comparison.before.index.save()
    if not marks and not await comparison.there():
        raise nothing_matches(arguments.path)
    if not out.as_json:
        _remark(context, comparison)
        out.note(summary(marks))
    for trouble in comparison.troubles:
        await report(CesbrError(trouble.message), out)
    return _PARTIAL if comparison.troubles else 0


def _remark(context: Context, comparison: Comparison) -> None:
    """Print what was not compared, and why."""
    if comparison.ground and comparison.ground.left_out:
        paths = ["/".join(map(show, left.parts)) for left in comparison.ground.left_out]
        context.out.note(
            f"Not compared, because they have no place on the instance: {', '.join(paths)}."
        )
    if comparison.remarks.uncovered:
        paths = ["/".join(map(show, parts)) for parts in comparison.remarks.uncovered]
        context.out.note(f"Not compared, because only one side covers it: {', '.join(paths)}.")


class Comparison:
    """Two sides at one path; without `after` the other one is the instance.

    Only changes at or below `wanted` are shown: names with wildcards, () for all.
    """

    def __init__(
        self,
        context: Context,
        before: Timeline,
        after: Timeline | None,
        ground: LiveInstance | None,
    ) -> None:
        self._context = context
        self.before = before
        self.after = after
        self.ground = ground
        self.wanted: Parts = ()
        self.remarks = ground.remarks if ground else Remarks()
        self.changes: AsyncIterator[Change]

    @property
    def troubles(self) -> list[ReadError]:
        """What could not be read."""
        after = self.after.troubles if self.after else []
        return [*self.remarks.troubles, *self.before.troubles, *after]

    async def there(self) -> bool:
        """Return whether a side contains the wanted paths."""
        for side in (self.before, self.after):
            if side is not None:
                with contextlib.suppress(NotFoundError):
                    await settle(side, TypedPath(self.wanted, 0), "")
                    return True
        return False

    async def content(self, change: Change) -> str:
        """Return the line diff of a changed text file; "" for other types.

        A file that cannot be read goes to `remarks`.
        """
        try:
            return await self._content(change)
        except RepositoryUnreachableError:
            raise
        except CesbrError as error:
            self.remarks.troubles.note(change.parts, error)
            return ""

    async def _content(self, change: Change) -> str:
        rows = [row for row in (change.before, change.after) if row is not None]
        if change.mark not in "M+-" or any(row.type != "file" for row in rows):
            return ""
        if any(row.size > _MOST_BYTES for row in rows):
            return "   (too large to compare line by line)\n"
        path = "/".join(map(show, change.parts))
        sides = [
            b"" if change.before is None else await self._stored(self.before, change.parts),
            b"" if change.after is None else await self._other(change.parts),
        ]
        texts = [_text(side) for side in sides]
        old, new = texts
        names = (
            f"a/{path}" if change.before else "/dev/null",
            f"b/{path}" if change.after else "/dev/null",
        )
        if old is None or new is None:
            return "   (not text)\n"
        return await trio.to_thread.run_sync(
            lambda: "".join(_ended(difflib.unified_diff(old, new, *names))), abandon_on_cancel=True
        )

    async def _other(self, parts: Parts) -> bytes:
        if self.after is not None:
            return await self._stored(self.after, parts)
        assert self.ground is not None
        place = self.ground.place(parts)
        assert not isinstance(place, str)
        path = os.path.join(os.fsencode(self.ground.root), *place)

        def read() -> bytes:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.open(path, flags), "rb") as file:
                return file.read(_MOST_BYTES + 1)

        try:
            return await trio.to_thread.run_sync(read)
        except OSError as error:
            raise LiveError(
                f"Cannot read {show(path)} on the instance: {error.strerror}."
            ) from error

    async def _stored(self, side: Timeline, parts: Parts) -> bytes:
        view = await self._context.view()
        content = await view.content(await view.at((*side.moments[0].parts, *parts)))
        if isinstance(content, VirtualFile):
            return content.content
        return await content.read(0, content.size)


async def _compare(context: Context, arguments: argparse.Namespace) -> Comparison:
    before, after, typed = await compared(
        context, arguments.before, arguments.after, arguments.path
    )
    path, wanted = await _settled(typed, [side for side in (before, after) if side])
    if after is not None:
        made = Comparison(context, before, after, None)
        made.changes = diff_backups(
            before, after, path, remarks=made.remarks, attributes=arguments.metadata
        )
    else:
        root = (await context.session.settings()).root
        if path and not await before.at(path):
            if not _on_instance(root, path):
                shown = "/".join(map(show, path))
                raise NotFoundError(f"Backup {before.moments[0].id} has no {shown!r}.")
            wanted = path
            while path and not await before.at(path):
                path = path[:-1]
        made = await compare_live(
            context, before, path, attributes=arguments.metadata, checksum=arguments.checksum
        )
    made.wanted = wanted
    return made


async def compare_live(
    context: Context,
    before: Timeline,
    path: Parts,
    *,
    attributes: bool = False,
    checksum: bool = False,
) -> Comparison:
    """Return the comparison of a backup with the instance, at and below `path`."""
    ground = LiveInstance(
        root=(await context.session.settings()).root,
        place=place_on_instance,
        attributes=attributes,
        checksum=checksum,
    )
    made = Comparison(context, before, None, ground)
    made.changes = diff_live(await context.view(), before, path, ground)
    return made


def _on_instance(root: Path, path: Parts) -> bool:
    place = place_on_instance(path)
    return (
        not isinstance(place, str)
        and bool(place)
        and os.path.lexists(os.path.join(os.fsencode(root), *place))
    )


async def _settled(typed: TypedPath, sides: Sequence[Timeline]) -> tuple[Parts, Parts]:
    """Return the path to compare, and what of it is wanted, if a part of it has wildcards.

    Names that match wildcards may exist on one side only: the whole directory is compared.
    """
    for side in sides:
        for names in (typed.parts, tuple(unshow(os.fsdecode(p)) or p for p in typed.parts)):
            if await side.at(names):
                return names, ()
    if typed.wild is None:
        return typed.parts, ()
    (directory,) = await settle(sides[0], TypedPath(typed.parts[: typed.wild], typed.known), "")
    return directory, (*directory, *typed.parts[typed.wild :])


def _text(data: bytes) -> list[str] | None:
    """Return the lines of a text; None for what is none, or would upset a terminal."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return None if CONTROL.search(data) else io.StringIO(text, newline="\n").readlines()


def _ended(lines: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a unified diff, saying where the last one has no end."""
    for line in lines:
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


# du


def _du_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", metavar="PATH", nargs="*", help="files and directories (default .)"
    )
    parser.add_argument(
        "--depth", metavar="N", type=int, default=1, help="levels to list (default 1)"
    )
    add_backup_flag(parser)


async def _du(context: Context, arguments: argparse.Namespace) -> int:
    if arguments.depth < 0:
        raise UsageError("--depth must be 0 or more.")
    view = await context.view()
    rows: list[Usage] = []
    backup = await choose_backup(context, arguments.backup, arguments.paths)
    with context.out.progress("Measuring", results=True) as progress:
        sizes = UsageReport(view, lambda seen: progress.update(files=seen))
        places, missing = await locate_some(context, arguments.paths or ["."], backup)
        for _, place in places:
            rows += await sizes.measure(place.parts, arguments.depth)
    rows_json = [
        {
            **for_json(b"/" + b"/".join(row.parts), "path"),
            "size": row.size,
            "files": row.files,
            "added": row.added,
        }
        for row in rows
    ]
    shown = [
        (
            humanize.size(row.size),
            humanize.size(row.added),
            f"{row.files:,}",
            "/" + "/".join(map(show, row.parts)),
        )
        for row in rows
    ]
    await context.out.result(
        rows_json,
        lambda: fitted(
            shown,
            ("Size", "Adds", "Files", "Path"),
            context.out.room,
            right=("Size", "Adds", "Files"),
            spare=("Files",),
        ),
    )
    for error in sizes.troubles:
        await report(error, context.out)
    code = _PARTIAL if sizes.troubles else missing
    return code or await report_lacking(context, [place for _, place in places])


COMMANDS: Final = (
    Command(
        "diff",
        "Show what differs between two backups, or between one and the instance.",
        "diff latest live redmine/volumes",
        _diff_arguments,
        _diff,
        "+ added, - removed, M content, T type, U metadata.  The exit code is 0 even if there are"
        " differences.",
        looks_back=True,
    ),
    Command(
        "du",
        "Show the size of directories, and what each of them adds to the repository.",
        "du --depth 2 /latest",
        _du_arguments,
        _du,
        "Adds is the stored size of the data that no other backup contains.",
    ),
)
