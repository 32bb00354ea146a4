"""What a word may become when Tab is pressed: Backup IDs, dogus, paths.  Knows no cmd2.

All of it reads, and never initialises.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from cesbrfs.errors import NotAFolderError, NotFoundError
from cesbrfs.paths import show, unshow
from cesbrfs.tasks import gather
from cesbrfs.view import Link
from shell import render

if TYPE_CHECKING:
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.view import View
    from shell.session import Context

_FRESH_SECONDS: Final = 10.0
"""Backups are listed again when the last list is older."""
_DESCRIBED: Final = 30
"""Backups that are shown with their status, which their manifests must be read for."""
_SHOWN: Final = 400
"""Names that are offered; nobody reads more, and the terminal would be busy with them."""
_LOOKED_INTO: Final = 8
"""Backups that are looked into for a path that may begin in any of them."""


async def backups(context: Context, *, live: bool = False) -> list[tuple[str, str]]:
    """Return the Backup IDs, the newest first, with time, status and size beside.

    Before them `latest` stands, and with `live` what means the instance.
    """
    view = await context.view(may_init=False)
    newest = await _newest_first(view)
    told = await gather([partial(_beside, view, backup) for backup in newest[:_DESCRIBED]])
    told += [render.local_time(backup.time_ns) for backup in newest[_DESCRIBED:]]
    found = [(backup.id, beside) for backup, beside in zip(newest, told, strict=True)]
    first = [("live", "the instance as it is")] if live else []
    return [*first, ("latest", "the newest complete backup"), *found] if found else []


async def _newest_first(view: View) -> list[Backup]:
    return list((await view.backups(_FRESH_SECONDS)).by_name.values())[::-1]


async def _beside(view: View, backup: Backup) -> str:
    told = await view.reports.of(backup)
    size = render.size(told.size(backup))
    return f"{render.local_time(backup.time_ns)}  {told.status:<10}  {size:>9}"


async def dogus(context: Context) -> list[str]:
    """Return the names of the dogus that are installed."""
    instance = (await context.session.settings()).instance()
    return [dogu.name for dogu in await instance.dogus()]


class Continuation(NamedTuple):
    """A name that what was typed may become: the whole word, the name as a menu shows it.

    `beside` is the size of a file.
    """

    word: str
    shown: str
    is_folder: bool
    beside: str = ""


async def paths(
    context: Context,
    typed: str,
    write: Callable[[bytes], str],
    *,
    backup: str | None = None,
    looks_back: bool = False,
) -> list[Continuation]:
    """Return what the last name of the path `typed` may become; `write` spells names.

    With `backup` the path starts inside that one.  Of a command that `looks_back` it may also start
    inside the backups: then it is looked for in the newest that have such a name.
    """
    view = await context.view(may_init=False)
    newest = await _newest_first(view)
    folder, slash, start = typed.rpartition("/")
    path = folder + slash or "."
    if backup is not None:
        inside = (await view.find_backup(backup)).name
        return await _below(view, path.lstrip("/") or ".", (inside,), start, write)
    place = context.session.place
    found = await _below(view, path, place, start, write)
    at_root = typed.startswith("/") or not place
    if looks_back and at_root and not (found and slash):
        for one in newest[:_LOOKED_INTO]:
            more = await _below(view, path.lstrip("/") or ".", (one.name,), start, write)
            if more:
                return found + more
    return found


async def _below(
    view: View, path: str, place: tuple[bytes, ...], start: str, write: Callable[[bytes], str]
) -> list[Continuation]:
    try:
        children = await view.children((await view.resolve(path, place)).entry)
    except (NotFoundError, NotAFolderError):
        return []
    folders = {
        name: stat.S_ISDIR(entry.node.mode) or isinstance(entry, Link)
        for name, entry in children.items()
    }
    sizes = {
        name: render.size(entry.node.size)
        for name, entry in children.items()
        if entry.node.type == "file"
    }
    return continuations(start, folders, write, sizes)


def continuations(
    start: str,
    children: Mapping[bytes, bool],
    write: Callable[[bytes], str],
    sizes: Mapping[bytes, str] | None = None,
) -> list[Continuation]:
    """Return what `start` may become: the names that begin so, folders with ``/``.

    `children` tells whether a name is a folder, `sizes` what stands beside a file.  What was typed
    stays, the rest of a name is spelt by `write`.  Of very many names some are returned, the first
    and the last of them, so that what all have in common stays the same.
    """
    literal, meant = start.encode("utf-8", "surrogateescape"), unshow(start)
    found = []
    for name in sorted(children):
        if meant is not None and name.startswith(meant):
            found.append((name, start, name[len(meant) :]))
        elif name.startswith(literal) or (meant is None and write(name).startswith(start)):
            found.append((name, "", name))
    if len(found) > _SHOWN:
        found = found[: _SHOWN // 2] + found[-_SHOWN // 2 :]
    return [
        Continuation(
            typed + write(rest) + "/" * children[name],
            show(name) + "/" * children[name],
            children[name],
            (sizes or {}).get(name, ""),
        )
        for name, typed, rest in found
    ]
