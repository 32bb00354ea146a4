r"""Expand wildcards in paths: ``/latest/*/dogu.json``, ``report-[0-9]?.txt``.

A name that contains ``*``, ``?`` or ``[`` takes precedence over a wildcard match; an escaped
character (``\x2a``) is always literal. Wildcards do not match a leading dot.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from cesbrfs.errors import NotDirectoryError, NotFoundError
from cesbrfs.util.escape import show, unshow
from cesbrfs.vfs.entries import ResolvedPath, VirtualSymlink
from cesbrfs.vfs.tree import BackupTree

_MAGIC: Final = re.compile(r"[*?\[]")
_ESCAPE: Final = re.compile(r"\\(?:x[0-9a-fA-F]{2}|.)", re.DOTALL)

Parts = tuple[bytes, ...]


def has_wildcards(path: str) -> bool:
    """Return whether `path` contains a wildcard character."""
    return bool(_MAGIC.search(path))


async def expand(view: BackupTree, path: str, start: Sequence[bytes] = ()) -> list[ResolvedPath]:
    """Resolve `path` literally, or else return all matches of its wildcards.

    Matches are sorted by name and unique. Raises NotFoundError if nothing matches.
    """
    try:
        return [await view.resolve(path, start)]
    except NotFoundError:
        if not has_wildcards(path):
            raise
    locations: list[Parts] = [() if path.startswith("/") else tuple(start)]
    for part in path.split("/"):
        if part not in ("", "."):
            found = [
                parts for location in locations for parts in await _below(view, location, part)
            ]
            locations = list(dict.fromkeys(found))
    if not locations:
        raise nothing_matches(path)
    return [ResolvedPath(parts, await view.at(parts)) for parts in locations]


async def _below(view: BackupTree, location: Parts, part: str) -> Iterable[Parts]:
    try:
        if not has_wildcards(part):
            return [(await view.resolve(part, location)).parts]
        children = await view.children(await view.at(location))
    except (NotFoundError, NotDirectoryError):
        return []
    # `latest` points to another match.
    names = [name for name, child in children.items() if not isinstance(child, VirtualSymlink)]
    return [(*location, name) for name in matching(part, names)]


def matching(part: str, names: Iterable[bytes]) -> list[bytes]:
    """Return the `names` that match the pattern `part`, sorted."""
    pattern = _matcher(part)
    return sorted(
        name
        for name in names
        if pattern.match(name.decode("utf-8", "surrogateescape"))
        and (not name.startswith(b".") or part.startswith("."))
    )


def fits(typed: Sequence[bytes], parts: Parts) -> bool:
    """Return whether `parts` is the typed path or below it.

    Typed parts may be literal, escaped, or contain wildcards.
    """
    return len(parts) >= len(typed) and all(map(_matches, map(os.fsdecode, typed), parts))


def _matches(typed: str, name: bytes) -> bool:
    if os.fsencode(typed) == name or unshow(typed) == name:
        return True
    return has_wildcards(typed) and bool(matching(typed, (name,)))


def nothing_matches(path: str) -> NotFoundError:
    """Return the error for a path whose wildcards match nothing."""
    return NotFoundError(f"Nothing matches {show(os.fsencode(path))}.")


@lru_cache
def _matcher(part: str) -> re.Pattern[str]:
    """Compile a glob; an escaped character is literal."""

    def literal(match: re.Match[str]) -> str:
        raw = unshow(match[0])
        if raw is None:
            return match[0]
        text = raw.decode("utf-8", "surrogateescape")
        return f"[{text}]" if _MAGIC.match(text) else text

    return re.compile(fnmatch.translate(_ESCAPE.sub(literal, part)))
