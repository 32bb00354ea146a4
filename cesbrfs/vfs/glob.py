r"""Paths with wildcards: ``/latest/*/dogu.json``, ``report-[0-9]?.txt``.

A name that really holds ``*``, ``?`` or ``[`` goes first; written escaped (``\x2a``) it is never a
wildcard.  What a wildcard stands for does not begin with a dot, unless the dot is written.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from cesbrfs.errors import NotAFolderError, NotFoundError
from cesbrfs.util.escape import show, unshow
from cesbrfs.vfs.entries import ResolvedPath, VirtualSymlink
from cesbrfs.vfs.tree import BackupTree

_MAGIC: Final = re.compile(r"[*?\[]")
_ESCAPE: Final = re.compile(r"\\(?:x[0-9a-fA-F]{2}|.)", re.DOTALL)

Parts = tuple[bytes, ...]


def has_wildcards(path: str) -> bool:
    """Tell whether `path` holds a character that may be a wildcard."""
    return bool(_MAGIC.search(path))


async def expand(view: BackupTree, path: str, start: Sequence[bytes] = ()) -> list[ResolvedPath]:
    """Return what `path` names, as `BackupTree.resolve` finds it, or all that its wildcards match.

    Sorted by name, each once.  Raises NotFoundError when nothing matches.
    """
    try:
        return [await view.resolve(path, start)]
    except NotFoundError:
        if not has_wildcards(path):
            raise
    places: list[Parts] = [() if path.startswith("/") else tuple(start)]
    for part in path.split("/"):
        if part not in ("", "."):
            found = [parts for place in places for parts in await _below(view, place, part)]
            places = list(dict.fromkeys(found))
    if not places:
        raise nothing_matches(path)
    return [ResolvedPath(parts, await view.at(parts)) for parts in places]


async def _below(view: BackupTree, place: Parts, part: str) -> Iterable[Parts]:
    try:
        if not has_wildcards(part):
            return [(await view.resolve(part, place)).parts]
        children = await view.children(await view.at(place))
    except (NotFoundError, NotAFolderError):
        return []
    # A link of ours only stands for another one of them.
    names = [name for name, child in children.items() if not isinstance(child, VirtualSymlink)]
    return [(*place, name) for name in matching(part, names)]


def matching(part: str, names: Iterable[bytes]) -> list[bytes]:
    """Return those of `names` that `part` stands for by its wildcards, sorted."""
    pattern = _matcher(part)
    return sorted(
        name
        for name in names
        if pattern.match(name.decode("utf-8", "surrogateescape"))
        and (not name.startswith(b".") or part.startswith("."))
    )


def fits(typed: Sequence[bytes], parts: Parts) -> bool:
    """Tell whether `parts` lie at or below what was typed: as it is, escaped, or with wildcards."""
    return len(parts) >= len(typed) and all(map(_is, map(os.fsdecode, typed), parts))


def _is(typed: str, name: bytes) -> bool:
    if os.fsencode(typed) == name or unshow(typed) == name:
        return True
    return has_wildcards(typed) and bool(matching(typed, (name,)))


def nothing_matches(path: str) -> NotFoundError:
    """Return the error for a path whose wildcards stand for nothing."""
    return NotFoundError(f"Nothing matches {show(os.fsencode(path))}.")


@lru_cache
def _matcher(part: str) -> re.Pattern[str]:
    """Return what a name must match; an escaped character stands for itself."""

    def literal(match: re.Match[str]) -> str:
        raw = unshow(match[0])
        if raw is None:
            return match[0]
        text = raw.decode("utf-8", "surrogateescape")
        return f"[{text}]" if _MAGIC.match(text) else text

    return re.compile(fnmatch.translate(_ESCAPE.sub(literal, part)))
