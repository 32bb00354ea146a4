"""What a command that looks back looks at: which backups, and where inside them."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from cesbrfs.catalog import directory_names
from cesbrfs.errors import NotFoundError, UsageError
from cesbrfs.util.escape import show, unshow
from cesbrfs.vfs import timeline
from cesbrfs.vfs.glob import has_wildcards, matching, nothing_matches
from cesbrfs.vfs.timeline import directories

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.vfs.timeline import Level, Parts, Timeline


class TypedPath(NamedTuple):
    """The names that a path leads to, as they were typed after the first `known` ones."""

    parts: Parts
    known: int

    def below(self, number: int) -> TypedPath:
        """Return what is left without the first `number` names."""
        return TypedPath(self.parts[number:], max(0, self.known - number))

    @property
    def wild(self) -> int | None:
        """The place of the first name that may hold wildcards; None where no one does."""
        places = range(self.known, len(self.parts))
        return next((at for at in places if has_wildcards(os.fsdecode(self.parts[at]))), None)


@dataclass(frozen=True, slots=True)
class PathScope:
    """The backups to look at, oldest first, and the paths inside them: one, without wildcards."""

    timeline: Timeline
    paths: Sequence[Parts]


async def scope(
    context: Context,
    path: str,
    backups: Sequence[str] = (),
    *,
    everywhere: bool = False,
    between: tuple[int, int] | None = None,
) -> PathScope:
    """Return where `path` leads: in `backups`, else everywhere, else in the backup it names.

    With `backups` it starts inside them, and at the root it may, too; then, and where it is looked
    `everywhere`, it leads to all backups: those whose times, in ns, are `between` two, if given.
    Raises NotFoundError for a backup that is not, and where wildcards match nothing.
    """
    view = await context.view()
    memo = context.session.memo(view)
    there = (await view.backups()).by_name
    since, until = between or (0, math.inf)
    every = [backup for backup in there.values() if since <= backup.time_ns <= until]

    async def settled(chosen: Iterable[Backup], typed: TypedPath) -> PathScope:
        line = await timeline.of_backups(view, memo, chosen)
        return PathScope(line, await settle(line, typed, path))

    if backups:
        given = [await view.find_backup(backup, [path]) for backup in backups]
        return await settled({backup.id: backup for backup in given}.values(), typed_at((), path))
    typed = typed_at(context.session.place, path)
    first = typed.parts[0] if typed.parts else b""
    if first == directory_names.SNAPSHOTS:
        if len(typed.parts) == 1:
            raise UsageError("Pass one of the snapshots below /_snapshots.")
        line = await timeline.of_snapshot(view, memo, typed.parts[1])
        return PathScope(line, await settle(line, typed.below(2), path))
    if typed.wild == 0 and first not in there:
        named = [there[name] for name in matching(os.fsdecode(first), there)]
        with contextlib.suppress(NotFoundError):  # it may match names inside the backups
            result = await settled(every if everywhere else named, typed.below(1))
            if named and (result.paths == [()] or await result.timeline.at(result.paths[0])):
                return result
        return await settled(every, typed)
    inside: Backup | None = there.get(first)
    if inside is None and directory_names.steps_back(os.fsdecode(first)) is not None:
        inside = await view.find_backup(os.fsdecode(first))
    if inside is None and (await view.backups()).starting(os.fsdecode(first)):
        result = await settled(every, typed)
        if any([await result.timeline.at(parts) for parts in result.paths]):
            return result
        inside = await view.find_backup(os.fsdecode(first))
    chosen = [inside] if inside and not everywhere else every
    return await settled(chosen, typed.below(1) if inside else typed)


def walk(start: Sequence[bytes], path: str) -> tuple[bytes, ...]:
    """Return the names that `path` leads to from `start`, as they were typed; nothing is read."""
    return _walk(start, path).parts


def typed_at(place: Sequence[bytes], path: str) -> TypedPath:
    """Return what `path` says where one is at `place`."""
    return _walk(() if path.startswith("/") else place, path)


def _walk(start: Sequence[bytes], path: str) -> TypedPath:
    parts, known = list(start), len(start)
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
            known = min(known, len(parts))
        elif part not in ("", "."):
            parts.append(os.fsencode(part))
    return TypedPath(tuple(parts), known)


async def settle(line: Timeline, typed: TypedPath, path: str) -> Sequence[Parts]:
    """Return the paths that match the names, one if they have no wildcards.

    They are taken as they were typed; where nothing is called so, as escaped; else as wildcards.
    NotFoundError when those match nothing; without them nobody looks whether anything is there.
    """
    parts = typed.parts
    meant = tuple(unshow(os.fsdecode(part)) or part for part in parts)
    if meant == parts and typed.wild is None:
        return [parts]
    if await line.at(parts):
        return [parts]
    if typed.wild is None or await line.at(meant):
        return [meant]
    matches: dict[Parts, Level] = {(): line.roots}
    for at, part in enumerate(parts):
        deeper: dict[Parts, Level] = {}
        for place, level in matches.items():
            for name in await _named(line, place, level, part, wild=at >= typed.known):
                deeper[(*place, name)] = directories(await line.at((*place, name)))
        matches = deeper
    if not matches:
        raise nothing_matches(path)
    return list(matches)


async def _named(
    line: Timeline, place: Parts, level: Level, part: bytes, *, wild: bool
) -> Sequence[bytes]:
    """Return the names in the directories of `level`, at `place`, that match `part`."""
    text = os.fsdecode(part)
    names = {name for key in level for name in await line.listing(place, key) or ()}
    if wild and has_wildcards(text):
        return matching(text, names)
    return [name for name in (part, unshow(text)) if name in names][:1]


async def nothing_to_look_at(context: Context) -> str:
    """Return what to do where there is no backup."""
    if (await (await context.view()).backups()).loose:
        return "No snapshot belongs to a backup. Pass one of those below /_snapshots."
    return "There is no backup yet. Create one with 'cesbr backup'."


async def whole(context: Context, backup: str, typed: TypedPath) -> Timeline:
    """Return the timeline of one backup; ``latest`` is the newest that holds the names."""
    view = await context.view()
    paths = ["/".join(map(os.fsdecode, typed.parts))] if typed.parts else []
    newest = await view.find_backup(backup, paths)
    return await timeline.of_backups(view, context.session.memo(view), [newest])


class Compared(NamedTuple):
    """What `diff` compares: a backup, another one or None for the instance, and a path in both."""

    before: Timeline
    after: Timeline | None
    typed: TypedPath


LIVE: Final = "live"
"""The name of the instance where a backup is expected."""


async def compared(context: Context, before: str, after: str, path: str | None) -> Compared:
    """Return what `diff BEFORE AFTER PATH` compares.

    Both may be paths that begin with a backup, and so may the path.  Raises UsageError where two
    paths differ, or one is in another backup.
    """
    first, below = await _split(context, before)
    second, other = (after, None) if after == LIVE else await _split(context, after)
    given = [typed for typed in (below, other) if typed is not None]
    if path is not None:
        given.append(await _below(context, path, [id_ for id_ in (first, second) if id_ != LIVE]))
    if any(typed.parts != given[0].parts for typed in given):
        paths = " and ".join(repr(timeline.shown(typed.parts)) for typed in given)
        raise UsageError(f"diff compares one path in both backups, not {paths}. Pass one path.")
    typed = given[0] if given else typed_at(context.session.place[1:], "")
    old = await whole(context, first, typed)
    return Compared(old, None if second == LIVE else await whole(context, second, typed), typed)


async def _split(context: Context, text: str) -> tuple[str, TypedPath | None]:
    """Return the backup that a path begins with and what follows; just `text` if it is no path."""
    backups = (await (await context.view()).backups()).by_name.values()
    typed = typed_at((), text)
    if not text.startswith("/") or not typed.parts or text in {backup.id for backup in backups}:
        return text, None
    first = os.fsdecode(typed.parts[0])
    return first, typed.below(1) if len(typed.parts) > 1 else None


async def _below(context: Context, path: str, sides: Sequence[str]) -> TypedPath:
    """Return the names that a path gives below the backups `sides`, with one of which it may begin.

    Raises UsageError where it begins with another one.
    """
    typed = typed_at(() if path.startswith("/") else context.session.place[1:], path)
    if not typed.parts or typed.wild == 0 or typed.known:
        return typed
    first = os.fsdecode(typed.parts[0])
    if first in sides:
        return typed.below(1)
    view = await context.view()
    backups = await view.backups()
    is_latest = directory_names.steps_back(first) is not None
    if not (is_latest or typed.parts[0] in backups.by_name or backups.starting(first)):
        return typed
    rest = "/".join(map(os.fsdecode, typed.parts[1:]))
    compared_ones = [(await view.find_backup(side, [rest])).name for side in sides]
    for name in compared_ones:
        if typed.parts[0] in await view.children(await view.at((name,))):
            return typed
    if (await view.find_backup(first, [rest])).name not in compared_ones:
        raise UsageError(
            f"{show(os.fsencode(path))!r} is in neither of the two backups. Pass only"
            f" {show(os.fsencode(rest))!r}."
        )
    return typed.below(1)
