"""What a word may become when Tab is pressed: Backup IDs, dogus, paths.  Knows no cmd2.

All of it reads, and never initialises.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from cesbr.completion.name_index import Continuation, names_in
from cesbr.ui import humanize
from cesbrfs.errors import NotDirectoryError, NotFoundError
from cesbrfs.util.escape import show
from cesbrfs.util.tasks import gather

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.vfs.tree import BackupTree

_DESCRIBED: Final = 30
"""Backups that are shown with their status, which their manifests must be read for."""
_LOOKED_INTO: Final = 8
"""Backups that are looked into for a path that may begin in any of them."""


async def backups(
    context: Context, write: Callable[[bytes], str], *, live: bool = False
) -> list[tuple[str, str]]:
    """Return the Backup IDs as `write` spells them, newest first, with time, status and size.

    Before them `latest` stands, and with `live` what means the instance.
    """
    view = await context.view(may_init=False)
    newest = await _newest_first(view)
    descriptions = await gather([partial(_beside, view, backup) for backup in newest[:_DESCRIBED]])
    descriptions += [humanize.local_time(backup.time_ns) for backup in newest[_DESCRIBED:]]
    ids = [write(os.fsencode(backup.id)) for backup in newest]
    pairs = list(zip(ids, descriptions, strict=True))
    first = [("live", "the instance as it is")] if live else []
    return [*first, ("latest", "the newest complete backup of all"), *pairs] if pairs else []


async def _newest_first(view: BackupTree) -> list[Backup]:
    return list((await view.backups()).by_name.values())[::-1]


async def _beside(view: BackupTree, backup: Backup) -> str:
    report = await view.reports.of(backup)
    size = humanize.size(report.size(backup))
    more = "  safety" * backup.safety + "  protected" * backup.protected
    return f"{humanize.local_time(backup.time_ns)}  {report.status:<10}  {size:>9}{more}"


async def dogus(context: Context) -> list[str]:
    """Return the names of the dogus that are installed."""
    instance = (await context.session.settings()).instance()
    return [dogu.name for dogu in await instance.dogus()]


def restores(context: Context) -> list[tuple[str, str]]:
    """Return the IDs of restores that can be undone or removed, newest first, with their target."""
    from cesbr.state.resume import undo_logs
    from cesbrfs.restore.undo_log import read_logs

    directory = undo_logs(context)
    records = read_logs(directory) if directory else []
    return [(one.id, f"{one.time}  {show(os.fsencode(one.target))}") for one in reversed(records)]


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
    directory, slash, start = typed.rpartition("/")
    path = directory + slash or "."
    if backup is not None:
        inside = (await view.find_backup(backup)).name
        return await _below(context, path.lstrip("/") or ".", (inside,), start, write)
    place = context.session.place
    continuations = await _below(context, path, place, start, write)
    at_root = typed.startswith("/") or not place
    if looks_back and at_root and not (continuations and slash):
        for one in newest[:_LOOKED_INTO]:
            more = await _below(context, path.lstrip("/") or ".", (one.name,), start, write)
            if more:
                return continuations + more
    return continuations


async def _below(
    context: Context,
    path: str,
    place: tuple[bytes, ...],
    start: str,
    write: Callable[[bytes], str],
) -> list[Continuation]:
    view = await context.view(may_init=False)
    try:
        directory = (await view.resolve(path, place)).entry
        names = await names_in(view, directory, context.session.names(view))
    except (NotFoundError, NotDirectoryError):
        return []
    return names.continuing(start, write)
