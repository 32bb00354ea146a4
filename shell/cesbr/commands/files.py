"""Looking at files and directories: lists, trees, attributes, content."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from cesbr.commands import Command
from cesbr.commands.navigate import add_backup_flag, choose_backup, locate_one, locate_some
from cesbr.damage import report_lacking
from cesbr.paths import nothing_to_look_at
from cesbr.ui import humanize
from cesbr.ui.errors import report
from cesbr.ui.file_content import write_content
from cesbr.ui.listing import Colours, Style, largest_first, newest_first
from cesbr.ui.stream import LineStream
from cesbr.ui.table import pairs
from cesbrfs.errors import CesbrError, InterruptedByUserError, UsageError
from cesbrfs.util.escape import for_json, show

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.vfs.entries import Entry, ResolvedPath
    from cesbrfs.vfs.tree import BackupTree

_PARTIAL: Final = 3
_JSON_LEVELS: Final = 300
"""How deep a tree in JSON may be: encoders and decoders of JSON are recursive."""

# ls


def _ls_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", metavar="PATH", nargs="*", help="files and directories (default .)"
    )
    parser.add_argument(
        "-l", "--long", action="store_true", help="show mode, owner, size, time and target"
    )
    parser.add_argument(
        "-n", "--numeric-uid-gid", action="store_true", help="like -l, with numeric owners"
    )
    parser.add_argument("-a", "--all", action="store_true", help="show names that begin with a dot")
    parser.add_argument("-h", "--human", action="store_true", help="show sizes in KiB, MiB, …")
    parser.add_argument(
        "-t",
        dest="key",
        action="store_const",
        const=newest_first,
        help="sort by time, newest first",
    )
    parser.add_argument(
        "-S",
        dest="key",
        action="store_const",
        const=largest_first,
        help="sort by size, largest first",
    )
    parser.add_argument("-r", "--reverse", action="store_true", help="reverse the order")
    parser.add_argument(
        "-R", "--recursive", action="store_true", help="list directories recursively"
    )
    parser.add_argument("-1", dest="one", action="store_true", help="print one name per line")
    parser.add_argument(
        "-d", "--directory", action="store_true", help="list the directory itself, not its content"
    )
    add_backup_flag(parser)


def _style(context: Context) -> Style:
    out, environ = context.out, context.session.environ
    return Style(
        colours=Colours.of(environ, terminal=out.terminal),
        columns=out.room,
    )


async def _ls(context: Context, arguments: argparse.Namespace) -> int:
    """List files first, under the names they were asked for by, then what each directory holds."""
    style = replace(
        _style(context),
        long=arguments.long or arguments.numeric_uid_gid,
        numeric=arguments.numeric_uid_gid,
        human=arguments.human,
        one=arguments.one,
        hidden=arguments.all or context.out.as_json,
        key=arguments.key,
        backwards=arguments.reverse,
    )
    view = await context.view()
    single: dict[str, ResolvedPath] = {}
    directories: dict[str, ResolvedPath] = {}
    backup = await choose_backup(context, arguments.backup, arguments.paths)
    troubles: dict[str, None] = {}
    places, missing = await locate_some(context, arguments.paths or ["."], backup)
    for shown, place in places:
        a_file = arguments.directory or not stat.S_ISDIR(place.entry.node.mode)
        (single if a_file else directories)[shown] = place
    if context.out.as_json:
        entries = [_entry_json(place) for place in single.values()]
        for place in directories.values():
            listing = _held(view, place, style, troubles, deep=arguments.recursive)
            async with aclosing(listing) as levels:
                entries += [
                    _entry_json(child) async for _, children in levels for child in children
                ]
        await context.out.result(entries, "")
        code = await _tell(context, troubles) or await report_lacking(context, directories.values())
        return code or missing
    if single:
        listed = style.order((shown, place.entry) for shown, place in single.items())
        await context.out.text(style.text(listed), painted=True)
    headings = arguments.recursive or len(directories) > 1 or bool(single) or bool(missing)
    between = "\n" if single else ""
    for shown, place in directories.items():
        listing = _held(view, place, style, troubles, deep=arguments.recursive)
        async with aclosing(listing) as levels:
            async for directory, children in levels:
                inner = "/".join((shown.rstrip("/"), *directory)) if directory else shown
                heading = f"{between}{inner}:\n" if headings else ""
                named = [(show(child.parts[-1]), child.entry) for child in children]
                await context.out.text(heading + style.text(named), painted=True)
                between = "\n"
    if () in {place.parts for place in directories.values()} and not (await view.backups()).by_name:
        context.out.note(await nothing_to_look_at(context))
    code = await _tell(context, troubles) or await report_lacking(context, directories.values())
    return code or missing


async def _tell(context: Context, troubles: dict[str, None]) -> int:
    """Report what could not be read; return the exit code."""
    for message in troubles:
        await report(CesbrError(message), context.out)
    return _PARTIAL if troubles else 0


async def _held(
    view: BackupTree, place: ResolvedPath, style: Style, troubles: dict[str, None], *, deep: bool
) -> AsyncGenerator[tuple[tuple[str, ...], list[ResolvedPath]], None]:
    """Yield the entries of a directory in order; with `deep`, of its subdirectories as well."""
    waiting: list[tuple[tuple[str, ...], ResolvedPath]] = [((), place)]
    while waiting:
        names, directory = waiting.pop()
        children = await _children(view, directory, style, troubles)
        yield names, children
        if deep:
            waiting += [
                ((*names, show(child.parts[-1])), child)
                for child in reversed(children)
                if stat.S_ISDIR(child.entry.node.mode)
            ]


async def _children(
    view: BackupTree, place: ResolvedPath, style: Style, troubles: dict[str, None]
) -> list[ResolvedPath]:
    """Return what a directory holds, as `style` orders it; backups come by their age.

    What cannot be read has the type `unknown`, and goes to `troubles`.
    """
    from cesbrfs.repo.format.model import Node
    from cesbrfs.vfs.entries import ResolvedPath, SnapshotEntry
    from cesbrfs.vfs.timeline import cannot_be_shown

    children = dict(await view.children(place.entry))
    for reason in await view.refused(place.entry):
        troubles[f"{place.shown}: {cannot_be_shown(reason).message}"] = None
    if isinstance(place.entry, SnapshotEntry):
        for name in await view.unknown(place.entry):
            children[name] = SnapshotEntry(name, Node(name, "unknown", 0), place.entry.snapshot)
    names = sorted(children) if place.parts else list(children)
    ordered = style.order(
        (os.fsdecode(name), children[name])
        for name in names
        if style.hidden or not name.startswith(b".")
    )
    return [ResolvedPath((*place.parts, os.fsencode(name)), entry) for name, entry in ordered]


def _entry_json(place: ResolvedPath) -> dict[str, object]:
    from cesbrfs.repo.format.timestamps import format_time

    node = place.entry.node
    fields: dict[str, object] = {
        **for_json(place.entry.name),
        **for_json(b"/" + b"/".join(place.parts), "path"),
        "type": node.type,
        "size": node.size,
        "mode": humanize.permissions(node),
        "uid": node.uid,
        "gid": node.gid,
        "mtime": format_time(node.mtime_ns),
    }
    if node.type == "symlink":
        fields.update(for_json(node.target, "target"))
    return fields


# tree


def _tree_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", nargs="?", default=".", help="a directory (default .)"
    )
    parser.add_argument("-L", "--level", type=int, metavar="N", help="show at most N levels")
    parser.add_argument("-d", "--directory", action="store_true", help="show directories only")
    parser.add_argument("-a", "--all", action="store_true", help="show names that begin with a dot")
    add_backup_flag(parser)


async def _tree(context: Context, arguments: argparse.Namespace) -> int:
    if arguments.level is not None and arguments.level < 1:
        raise UsageError("--level must be 1 or more.")
    place = await locate_one(context, arguments.path, arguments.backup)
    style = replace(_style(context), hidden=arguments.all or context.out.as_json)
    walk = _Tree(context, await context.view(), style, arguments.level, arguments.directory)
    if context.out.as_json:
        await context.out.result(await walk.as_json(place, 1), "")
        return await _tell(context, walk.troubles) or await report_lacking(context, [place])
    await context.out.text(
        style.colours.paint(show(os.fsencode(arguments.path)), place.entry.node) + "\n",
        painted=True,
    )
    await walk.show(place)
    counted = [humanize.count(walk.directories, "directory", "directories")]
    if not arguments.directory:
        counted.append(humanize.count(walk.files, "file"))
    await context.out.text(f"\n{', '.join(counted)}\n")
    return await _tell(context, walk.troubles) or await report_lacking(context, [place])


class _Tree:
    """One walk through a tree; counts what it meets."""

    def __init__(
        self,
        context: Context,
        view: BackupTree,
        style: Style,
        deepest: int | None,
        only_directories: bool,
    ) -> None:
        self._context = context
        self._view = view
        self._style = style
        self._deepest = deepest
        self._only_directories = only_directories
        self.files = self.directories = 0
        self.troubles: dict[str, None] = {}

    async def _within(self, place: ResolvedPath) -> list[ResolvedPath]:
        children = await _children(self._view, place, self._style, self.troubles)
        if self._only_directories:
            children = [child for child in children if stat.S_ISDIR(child.entry.node.mode)]
        return children

    def _goes_on(self, child: ResolvedPath, level: int) -> bool:
        deeper = self._deepest is None or level < self._deepest
        return deeper and stat.S_ISDIR(child.entry.node.mode)

    async def show(self, place: ResolvedPath) -> None:
        """Print everything below `place`; the lines of its children have no prefix.

        Only levels with further children are kept, and the prefix is in parts, because its length
        grows with the depth.
        """
        lines = LineStream(self._context.out)
        prefix: list[str] = []
        stack = [(0, iter(await self._marked_last(place)))]
        while stack:
            depth, children = stack[-1]
            child, last = next(children, (None, True))
            if last:
                stack.pop()
            if child is None:
                continue
            del prefix[depth:]
            node = child.entry.node
            if stat.S_ISDIR(node.mode):
                self.directories += 1
            else:
                self.files += 1
            name = self._style.colours.paint(show(child.parts[-1]), node)
            target = f" -> {show(node.target)}" if node.type == "symlink" else ""
            line = f"{''.join(prefix)}{'└' if last else '├'}── {name}{target}\n"
            await lines.add(line, painted=True)
            if self._goes_on(child, depth + 1):
                prefix.append("    " if last else "│   ")
                stack.append((depth + 1, iter(await self._marked_last(child))))
        await lines.flush()

    async def _marked_last(self, place: ResolvedPath) -> list[tuple[ResolvedPath | None, bool]]:
        """Return the children of a directory, each with whether it is the last one."""
        children = await self._within(place)
        return [(child, child is children[-1]) for child in children]

    async def as_json(self, place: ResolvedPath, level: int) -> list[dict[str, object]]:
        """Return everything below `place` as JSON; directories have `contents`.

        Raises CesbrError if directories are nested deeper than an encoder of JSON can follow.
        """
        if level > _JSON_LEVELS:
            raise CesbrError(
                f"Cannot write JSON of directories nested deeper than {_JSON_LEVELS} levels. Pass"
                " --level."
            )
        contents: list[dict[str, object]] = []
        for child in await self._within(place):
            fields = _entry_json(child)
            if self._goes_on(child, level):
                fields["contents"] = await self.as_json(child, level + 1)
            contents.append(fields)
        return contents


# stat


def _stat_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", metavar="PATH", nargs="+", help="files and directories")
    add_backup_flag(parser)


async def _stat(context: Context, arguments: argparse.Namespace) -> int:
    backup = await choose_backup(context, arguments.backup, arguments.paths)
    located, missing = await locate_some(context, arguments.paths, backup)
    places = [place for _, place in located]
    await context.out.result(
        [_stat_json(place) for place in places],
        lambda: "\n".join(_stat_text(place, context.out.room) for place in places),
    )
    return missing


def _stat_json(place: ResolvedPath) -> dict[str, object]:
    from cesbrfs.repo.format.timestamps import format_time

    node = place.entry.node
    fields = _entry_json(place)
    if node.type in ("dev", "chardev"):
        fields["device"] = node.rdev
    return {
        **fields,
        "atime": format_time(node.atime_ns),
        "ctime": format_time(node.ctime_ns),
        "user": node.user,
        "group": node.group,
        "inode": node.inode,
        "links": node.links,
        "xattrs": [for_json(name) | {"size": len(value)} for name, value in node.xattrs],
        "blobs": len(node.blobs),
        "snapshot": _snapshot(place.entry),
    }


def _snapshot(entry: Entry) -> str | None:
    from cesbrfs.vfs.entries import SnapshotEntry

    return entry.snapshot.id if isinstance(entry, SnapshotEntry) else None


def _stat_text(place: ResolvedPath, available: int | None) -> str:
    node = place.entry.node
    rows: dict[str, str] = {
        "Path": place.shown,
        "Type": node.type,
        "Size": f"{node.size:,} bytes ({humanize.size(node.size)})",
        "Mode": f"{humanize.permissions(node)} ({stat.filemode(node.mode)})",
        "Owner": f"{':'.join(humanize.owner(node))} ({node.uid}:{node.gid})",
        "Modified": humanize.full_time(node.mtime_ns),
        "Accessed": humanize.full_time(node.atime_ns),
        "Changed": humanize.full_time(node.ctime_ns),
    }
    if node.type == "symlink":
        rows["Target"] = show(node.target)
    if node.type == "file":
        rows["Blobs"] = str(len(node.blobs))
    if node.links > 1:
        rows["Links"] = f"{node.links} (inode {node.inode})"
    if node.xattrs:
        rows["Attributes"] = ", ".join(show(name) for name, _ in node.xattrs)
    if snapshot := _snapshot(place.entry):
        rows["Snapshot"] = snapshot
    return pairs([(f"{name}:", value) for name, value in rows.items()], available)


# cat, less


def _cat_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", metavar="PATH", nargs="+", help="files")
    parser.add_argument(
        "-f", "--force", action="store_true", help="print binary content to a terminal"
    )
    add_backup_flag(parser)


async def _cat(context: Context, arguments: argparse.Namespace) -> int:
    """Write the files one after the other; one that fails does not keep back the others."""

    async def write(data: bytes) -> bool:
        await context.out.data(data)
        return True

    guarded = context.out.terminal and not arguments.force
    return await write_content(context, arguments.paths, arguments.backup, write, guarded=guarded)


async def _less(context: Context, arguments: argparse.Namespace) -> int:
    """Show the files in a pager, where there is a terminal; else write them."""
    if not (context.out.terminal and sys.stdin.isatty()):
        return await _cat(context, arguments)
    import trio

    from cesbr.ui.pager import Pager

    code = 0
    with context.out.lent():
        async with Pager.open(context.session.environ) as pager, trio.open_nursery() as nursery:

            async def leave() -> None:  # the user has closed the pager
                await pager.ended()
                nursery.cancel_scope.cancel()

            nursery.start_soon(leave)
            with pager.reading:
                code = await write_content(
                    context,
                    arguments.paths,
                    arguments.backup,
                    pager.write,
                    guarded=not arguments.force,
                )
            nursery.cancel_scope.cancel()
    if pager.interrupted:
        raise InterruptedByUserError("Interrupted.")
    return code


COMMANDS: Final = (
    Command(
        "ls",
        "List the content of a directory.",
        "ls -l /latest/redmine",
        _ls_arguments,
        _ls,
        "Names with control characters are shown escaped, and can be typed in that form.  Paths may"
        " contain the wildcards * ? and [a-z].  --json lists all names, with or without -a.",
    ),
    Command(
        "tree",
        "Show a directory and everything below it.",
        "tree -L 2 /latest/redmine",
        _tree_arguments,
        _tree,
    ),
    Command(
        "stat",
        "Show all attributes of a file or directory.",
        "stat --backup latest redmine/volumes/files",
        _stat_arguments,
        _stat,
    ),
    Command(
        "cat",
        "Print the content of files.",
        "cat /latest/redmine/dogu.json",
        _cat_arguments,
        _cat,
        "Content is printed unchanged.  Binary content is not printed to a terminal unless --force"
        " is passed.",
    ),
    Command(
        "less",
        "Show files page by page, in $PAGER or less.",
        "less /latest/redmine/dogu.json",
        _cat_arguments,
        _less,
        "Without a terminal, it prints them like cat.",
    ),
)
