"""Where a path that was not found is: in which backup, or how it has to be written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import trio

from cesbr.paths import TypedPath, settle, typed_at
from cesbrfs.catalog import directory_names
from cesbrfs.errors import CesbrError, NotFoundError
from cesbrfs.util.escape import show
from cesbrfs.vfs import timeline
from cesbrfs.vfs.timeline import shown, union

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.vfs.timeline import Parts, Timeline

_SECONDS: Final = 10.0
"""Maximum time for the search; then the error stays as it was."""


async def explained(
    context: Context, error: NotFoundError, path: str, backup: Backup | None = None
) -> NotFoundError:
    """Return an error with the backups that have `path`, or `error` if none has it.

    The path started inside `backup`, or where none is given at the session's place.
    """
    with trio.move_on_after(_SECONDS):
        try:
            return await _explained(context, path, backup) or error
        except CesbrError:
            pass
    return error


async def _explained(context: Context, path: str, backup: Backup | None) -> NotFoundError | None:
    view = await context.view()
    backups = await view.backups()
    line = await timeline.of_backups(view, context.session.memo(view), backups.by_name.values())
    if hint := await _on_instance(context, line, path, backup):
        return hint
    if backup is not None:
        return await _elsewhere(line, backup, typed_at((), path), flag=True)
    place = context.session.place
    typed = typed_at(place, path)
    first = os.fsdecode(typed.parts[0]) if typed.parts else ""
    if first == directory_names.SNAPSHOTS.decode() or not first:
        return None
    if typed.parts[0] in backups.by_name or directory_names.steps_back(first) is not None:
        named = await view.find_backup(first)
        if len(place) > 1 and not path.startswith("/"):
            again = TypedPath((place[0], *typed_at((), path).parts), 1)
            if await _held(line, named, again.below(1)):
                return NotFoundError(
                    f"There is no {_absolute(typed.parts)}: paths start at {_absolute(place)}."
                    f" Write {_absolute(again.parts)}."
                )
        return await _elsewhere(line, named, typed.below(1), flag=False)
    return await _inside(context, line, typed)


async def _on_instance(
    context: Context, line: Timeline, path: str, backup: Backup | None
) -> NotFoundError | None:
    """Explain a path of the instance, such as ``/var/lib/ces/redmine/volumes/files``."""
    if backup is None and not path.startswith("/"):
        return None
    full = "/" + path.lstrip("/")  # with --backup, `path` has lost its slash
    root = str((await context.session.settings()).root).rstrip("/")
    match typed_at((), full.removeprefix(root)).parts:
        case (b"var", b"lib", b"ces", dogu, *rest):
            parts = (dogu, *rest)
        case (b"etc", *rest):
            parts = (directory_names.INSTANCE, directory_names.CONFIGURATION, b"etc", *rest)
        case _:
            return None
    _, have, _ = await _traced(line, TypedPath(parts, 0))
    if not have:
        return None
    write = shown(parts) if backup else _absolute((directory_names.LATEST, *parts))
    return NotFoundError(
        f"{show(os.fsencode(full))} is a path on the instance. Write {write} for its backup."
    )


async def _inside(context: Context, line: Timeline, typed: TypedPath) -> NotFoundError | None:
    """Explain a path that starts inside a backup, where it has to name one."""
    parts, have, _ = await _traced(line, typed)
    if not have:
        return None
    latest = await (await context.view()).latest()
    newest = line.newest(have)
    is_latest = latest is not None and any(m.parts == (latest.name,) for m in line.of(have))
    name, place = (
        ("latest", (directory_names.LATEST,))
        if is_latest
        else (show(os.fsencode(newest.id)), newest.parts)
    )
    return NotFoundError(
        f"There is no {_absolute(parts)}: this path starts inside a backup. Write"
        f" {_absolute((*place, *parts))}, or add --backup {name}."
    )


async def _elsewhere(
    line: Timeline, backup: Backup, typed: TypedPath, *, flag: bool
) -> NotFoundError | None:
    """Explain a path that `backup` lacks, by the other backups; `flag` means --backup."""
    parts, have, covering = await _traced(line, typed)
    number = next(n for n, m in enumerate(line.moments) if m.parts == (backup.name,))
    if not have or have >> number & 1:
        return None
    newest = line.newest(have)
    earlier = have & (1 << number) - 1
    if not covering >> number & 1:
        what = f"does not cover {shown(parts)!r}"
    elif earlier:
        later = covering & ~have & ~((1 << earlier.bit_length()) - 1)
        what = f"has no {shown(parts)!r}: it is gone since backup {_id(line, later)}"
    else:
        what = f"does not have {shown(parts)!r} yet"
    use = (
        f"pass --backup {show(os.fsencode(newest.id))}"
        if flag
        else f"use {_absolute((*newest.parts, *parts))}"
    )
    return NotFoundError(
        f"Backup {show(os.fsencode(backup.id))} {what}. The newest backup that has it is"
        f" {show(os.fsencode(newest.id))}: {use}."
    )


def _id(line: Timeline, mask: int) -> str:
    return show(os.fsencode(line.oldest(mask).id))


async def _held(line: Timeline, backup: Backup, typed: TypedPath) -> bool:
    _, have, _ = await _traced(line, typed)
    return any(moment.parts == (backup.name,) for moment in line.of(have))


async def _traced(line: Timeline, typed: TypedPath) -> tuple[Parts, int, int]:
    """Return the names that were meant, the moments that have them, and those covering them."""
    paths = await settle(line, typed, "")
    traces = [await line.trace(parts) for parts in paths]
    have = union(mask for traced in traces for _, mask in traced.rows)
    return (
        paths[0] if len(paths) == 1 else typed.parts,
        have,
        union(traced.covering for traced in traces),
    )


def _absolute(parts: Parts) -> str:
    return "/" + shown(parts)
