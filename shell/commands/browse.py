"""Looking around: which backups there are and what is in them."""

from __future__ import annotations

import argparse
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from cesbrfs.catalog.names import folder_name
from cesbrfs.catalog.status import Status
from cesbrfs.errors import CesbrError, IsAFolderError, NotAFolderError, UsageError
from cesbrfs.paths import for_json, show
from cesbrfs.repo.model import format_time
from cesbrfs.tasks import gather
from cesbrfs.view import Document, Entry, Folder, Located, Stored
from shell import render
from shell.commands import Command
from shell.report import report

if TYPE_CHECKING:
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.view import View
    from shell.session import Context

_CHUNK: Final = 4 << 20


def add_backup_flag(parser: argparse.ArgumentParser) -> None:
    """Declare ``--backup ID``."""
    parser.add_argument(
        "--backup", metavar="ID", help="paths start inside this backup (an ID, or latest)"
    )


async def locate(context: Context, path: str, backup: str | None) -> Located:
    """Find what `path` names: inside `backup`, else from where one is."""
    view = await context.view()
    if backup is None:
        return await view.resolve(path, context.session.place)
    found = await view.find_backup(backup)
    located = await view.resolve(path.lstrip("/") or ".", (found.name,))
    if located.parts[:1] != (found.name,):
        raise UsageError(f"{path!r} leads out of backup {found.id}; leave out --backup.")
    return located


# backups

_HEADINGS: Final = ("ID", "Time", "Status", "Size", "Dogus")


@dataclass(frozen=True, slots=True)
class _Described:
    """A backup as ``backups --json`` tells it; `time` is RFC 3339, `size` bytes."""

    id: str
    time: str
    status: str
    dogus: list[str]
    size: int | None


async def _backups(context: Context, _arguments: argparse.Namespace) -> int:
    view = await context.view()
    backups = list((await view.backups()).by_name.values())
    described = await gather([partial(_describe, view, backup) for backup in backups])
    rows = [
        (
            backup.id,
            render.local_time(backup.time_ns),
            told.status,
            render.size(told.size),
            " ".join(told.dogus),
        )
        for backup, told in zip(backups, described, strict=True)
    ]
    limit = context.out.columns if context.out.terminal else None
    await context.out.result(
        [asdict(told) for told in described],
        lambda: render.table(rows, _HEADINGS, right={3}, limit=limit) if rows else "",
    )
    if not backups and not context.out.as_json:
        context.out.note("There is no backup yet; make one with 'cesbr backup'.")
    return 0


async def _describe(view: View, backup: Backup) -> _Described:
    told = await view.reports.of(backup)
    return _Described(
        id=backup.id,
        time=format_time(backup.time_ns),
        status=told.status.value,
        dogus=await _dogus(view, backup),
        size=told.size(backup),
    )


async def _dogus(view: View, backup: Backup) -> list[str]:
    """Return a backup's dogus; a complete one's manifest names them, so no tree is read."""
    told = await view.reports.of(backup)
    if told.status is Status.COMPLETE and told.manifest is not None:
        return sorted({show(folder_name(p.dogu)) for p in told.manifest.points if p.dogu})
    return await view.dogus(backup)


# use, cd, pwd


def _use_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backup", metavar="ID", help="a Backup ID, its beginning, or latest")


async def _use(context: Context, arguments: argparse.Namespace) -> int:
    view = await context.view()
    backup = await view.find_backup(arguments.backup)
    context.session.place = (backup.name,)
    status = (await view.reports.of(backup)).status.value
    when = render.local_time(backup.time_ns)
    await context.out.result(
        {"id": backup.id, "time": format_time(backup.time_ns), "status": status},
        f"Backup {backup.id} of {when}, {status}.\n",
    )
    return 0


def _cd_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", nargs="?", default="/", help="a folder (default /)")


async def _cd(context: Context, arguments: argparse.Namespace) -> int:
    located = await locate(context, arguments.path, None)
    if not stat.S_ISDIR(located.entry.node.mode):
        raise NotAFolderError(f"{located.shown} is not a folder.")
    context.session.place = located.parts
    return 0


async def _pwd(context: Context, _arguments: argparse.Namespace) -> int:
    path = b"/" + b"/".join(context.session.place)
    await context.out.result(
        for_json(path, "path"), lambda: (context.session.shown_place or "/") + "\n"
    )
    return 0


# ls


def _ls_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", metavar="PATH", nargs="*", help="files and folders (default .)")
    parser.add_argument("-l", "--long", action="store_true", help="mode, owner, size, time, target")
    parser.add_argument(
        "-d", "--directory", action="store_true", help="a folder itself, not what it holds"
    )
    add_backup_flag(parser)


async def _ls(context: Context, arguments: argparse.Namespace) -> int:
    """List files first, under the names they were asked for by, then what each folder holds."""
    view = await context.view()
    single: dict[str, Located] = {}
    folders: dict[str, dict[str, Located]] = {}
    for path in arguments.paths or ["."]:
        place = await locate(context, path, arguments.backup)
        shown = show(os.fsencode(path))
        if arguments.directory or not stat.S_ISDIR(place.entry.node.mode):
            single[shown] = place
        else:
            children = await _children(view, place)
            folders[shown] = {show(child.parts[-1]): child for child in children}
    if context.out.as_json:
        listed = [*single.values(), *(c for held in folders.values() for c in held.values())]
        await context.out.result([_entry_json(place) for place in listed], "")
        return 0
    blocks = [_listing(context, single, long=arguments.long)] if single else []
    for shown, held in folders.items():
        heading = f"{shown}:\n" if len(folders) > 1 or single else ""
        blocks.append(heading + _listing(context, held, long=arguments.long))
    await context.out.text("\n".join(blocks))
    return 0


async def _children(view: View, place: Located) -> list[Located]:
    children = await view.children(place.entry)
    names = list(children) if isinstance(place.entry, Folder) else sorted(children)
    return [Located((*place.parts, name), children[name]) for name in names]


def _listing(context: Context, places: Mapping[str, Located], *, long: bool) -> str:
    """Return the lines that show `places` by these names."""
    if long:
        return render.table([_long(place.entry, name) for name, place in places.items()], right={2})
    if context.out.terminal:
        marked = [
            name + "/" * stat.S_ISDIR(place.entry.node.mode) for name, place in places.items()
        ]
        return render.columns(marked, context.out.columns)
    return "".join(f"{name}\n" for name in places)


def _long(entry: Entry, name: str) -> tuple[str, ...]:
    node = entry.node
    target = f" -> {show(node.target)}" if node.type == "symlink" else ""
    return (
        stat.filemode(node.mode),
        render.owner(node),
        str(node.size),
        render.local_time(node.mtime_ns),
        name + target,
    )


def _entry_json(place: Located) -> dict[str, object]:
    node = place.entry.node
    told: dict[str, object] = {
        **for_json(place.entry.name),
        **for_json(b"/" + b"/".join(place.parts), "path"),
        "type": node.type,
        "size": node.size,
        "mode": render.permissions(node),
        "uid": node.uid,
        "gid": node.gid,
        "mtime": format_time(node.mtime_ns),
    }
    if node.type == "symlink":
        told.update(for_json(node.target, "target"))
    return told


# stat


def _stat_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", metavar="PATH", nargs="+", help="files and folders")
    add_backup_flag(parser)


async def _stat(context: Context, arguments: argparse.Namespace) -> int:
    places = [await locate(context, path, arguments.backup) for path in arguments.paths]
    await context.out.result(
        [_stat_json(place) for place in places],
        lambda: "\n".join(_stat_text(place) for place in places),
    )
    return 0


def _stat_json(place: Located) -> dict[str, object]:
    node = place.entry.node
    told = _entry_json(place)
    if node.type in ("dev", "chardev"):
        told["device"] = node.rdev
    return {
        **told,
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
    return entry.snapshot.id if isinstance(entry, Stored) else None


def _stat_text(place: Located) -> str:
    node = place.entry.node
    rows: dict[str, str] = {
        "Path": place.shown,
        "Type": node.type,
        "Size": f"{node.size:,} bytes ({render.size(node.size)})",
        "Mode": f"{render.permissions(node)} ({stat.filemode(node.mode)})",
        "Owner": f"{render.owner(node)} ({node.uid}:{node.gid})",
        "Modified": format_time(node.mtime_ns),
        "Accessed": format_time(node.atime_ns),
        "Changed": format_time(node.ctime_ns),
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
    return render.table([(f"{name}:", value) for name, value in rows.items()])


# cat


def _cat_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", metavar="PATH", nargs="+", help="files")
    add_backup_flag(parser)


async def _cat(context: Context, arguments: argparse.Namespace) -> int:
    """Write the files one after the other; one that fails does not keep back the others."""
    failed: list[int] = []
    for path in arguments.paths:
        try:
            await _cat_one(context, await locate(context, path, arguments.backup))
        except CesbrError as error:
            if len(arguments.paths) == 1:
                raise
            failed.append(await report(error, context.out))
    return failed[0] if failed else 0


async def _cat_one(context: Context, place: Located) -> None:
    view = await context.view()
    node = place.entry.node
    if stat.S_ISDIR(node.mode):
        raise IsAFolderError(f"{place.shown} is a folder; 'cesbr ls' lists it.")
    if node.type == "symlink":
        raise UsageError(f"{place.shown} is a link to {show(node.target)}; name that file.")
    if node.type != "file":
        raise UsageError(f"{place.shown} is a {node.type} and has no content.")
    content = await view.content(place.entry)
    if isinstance(content, Document):
        await context.out.data(content.content)
        return
    for offset in range(0, content.size, _CHUNK):
        await context.out.data(await content.read(offset, _CHUNK))


def _nothing(_parser: argparse.ArgumentParser) -> None:
    """Declare no arguments."""


COMMANDS: Final = (
    Command(
        "backups",
        "List the backups, the newest last.",
        "backups",
        _nothing,
        _backups,
        "A backup is complete, incomplete, or unverified where nothing tells.",
    ),
    Command("use", "Go into a backup.", "use latest", _use_arguments, _use),
    Command("cd", "Go to a folder.", "cd /latest/redmine/volumes", _cd_arguments, _cd),
    Command("pwd", "Say where one is.", "pwd", _nothing, _pwd),
    Command(
        "ls",
        "List what a folder holds.",
        "ls -l /latest/redmine",
        _ls_arguments,
        _ls,
        "A name that a terminal must not get is shown escaped, and may be written so.",
    ),
    Command(
        "stat",
        "Show all that is known of a file or folder.",
        "stat --backup latest redmine/volumes/files",
        _stat_arguments,
        _stat,
    ),
    Command(
        "cat",
        "Write the content of files.",
        "cat /latest/redmine/dogu.json",
        _cat_arguments,
        _cat,
        "Bytes are written as they are; redirect what is no text.",
    ),
)
