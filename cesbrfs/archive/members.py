"""Walk chosen paths of backups, and name what is found as members of an archive."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass

import msgspec

from cesbrfs.errors import CesbrError, RepositoryUnreachableError, UsageError
from cesbrfs.repo.format.model import Node, hard_link_id
from cesbrfs.util.escape import show
from cesbrfs.vfs.entries import Entry, ResolvedPath, SnapshotEntry, VirtualFile
from cesbrfs.vfs.tree import BackupTree

Failed = Callable[[str, CesbrError], object]
"""Receives a path, escaped, and why it could not be read."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an archive: its name, metadata, and path in the backups, escaped.

    `link` is equal for the names of one file, None for a file with one name. `content` is that of
    a generated file.
    """

    name: bytes
    node: Node
    shown: str
    link: tuple[str, int] | None = None
    content: bytes | None = None


def chosen(located: Iterable[ResolvedPath]) -> list[ResolvedPath]:
    """Return the paths sorted, without those below another one; UsageError for the root."""
    found: list[ResolvedPath] = []
    for place in sorted(located, key=lambda place: place.parts):
        if not place.parts:
            raise UsageError("All backups at once cannot be exported. Name a backup, or a path.")
        if not found or place.parts[: len(found[-1].parts)] != found[-1].parts:
            found.append(place)
    return found


async def members(
    view: BackupTree, places: Iterable[ResolvedPath], failed: Failed
) -> AsyncGenerator[Member, None]:
    """Yield a member for each of the `places`, their parents and everything below them.

    Names are paths below the backup, or below the Backup ID if there are several, as in a restore.
    Directories come before what they contain, sorted by name. Directories that cannot be read, and
    entries that cannot be shown, are passed to `failed`. Raises RepositoryUnreachableError.
    """
    roots = list(places)
    top = 0 if len({place.parts[0] for place in roots}) > 1 else 1
    parents: set[tuple[bytes, ...]] = set()
    for place in roots:
        for length in range(top + 1, len(place.parts)):
            parts = place.parts[:length]
            if parts not in parents:
                parents.add(parts)
                yield _member(parts, top, await view.at(parts))
        stack = [(place.parts, place.entry)]
        while stack:
            parts, entry = stack.pop()
            if len(parts) > top:
                yield _member(parts, top, entry)
            if not stat.S_ISDIR(entry.node.mode):
                continue
            shown = "/" + "/".join(map(show, parts))
            try:
                children = await view.children(entry)
                for reason in await view.refused(entry):
                    failed(shown, CesbrError(f"The entry {reason} was left out."))
            except RepositoryUnreachableError:
                raise
            except CesbrError as error:
                failed(shown, error)
                continue
            names = sorted(children, reverse=True)
            stack += [((*parts, name), children[name]) for name in names]


def _member(parts: tuple[bytes, ...], top: int, entry: Entry) -> Member:
    """Return the member for an entry; generated entries are writable for their owner."""
    node, link, content = entry.node, None, None
    if isinstance(entry, SnapshotEntry):
        if entry.top:  # no owner is recorded
            node = msgspec.structs.replace(node, uid=os.geteuid(), gid=os.getegid())
        elif number := hard_link_id(node):
            link = (entry.snapshot.id, number)
    elif isinstance(entry, VirtualFile):
        content = entry.content
        node = msgspec.structs.replace(node, mode=stat.S_IFREG | 0o644)
    elif stat.S_ISDIR(node.mode):
        node = msgspec.structs.replace(node, mode=stat.S_IFDIR | 0o755)
    shown = "/" + "/".join(map(show, parts))
    return Member(b"/".join(parts[top:]), node, shown, link, content)
