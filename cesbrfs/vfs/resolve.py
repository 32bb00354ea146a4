"""Resolve paths to entries, and the names that a user types to backups."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from cesbrfs.catalog import directory_names
from cesbrfs.catalog.backups import Backup, Backups
from cesbrfs.errors import NotFoundError, UsageError
from cesbrfs.util.escape import show, unshow
from cesbrfs.util.suggest import did_you_mean
from cesbrfs.vfs.entries import Entry, ResolvedPath, VirtualDir, VirtualSymlink

_NOT_OWNERS: Final = (
    "",
    "..",
    directory_names.SNAPSHOTS.decode(),
    directory_names.BACKUP_JSON.decode(),
)
"""First parts of a path below a backup that name neither a dogu nor the instance."""
_WILDCARD: Final = re.compile(r"[*?\[]")


class ResolvableTree(Protocol):
    """The part of `BackupTree` that path resolution uses."""

    @property
    def root(self) -> VirtualDir:
        """The root directory."""
        ...

    async def backups(self) -> Backups:
        """Return all backups."""
        ...

    async def find_backup(self, wanted: str) -> Backup:
        """Return a backup by ID, prefix, ``latest~N`` or time."""
        ...

    async def children(self, entry: Entry) -> Mapping[bytes, Entry]:
        """Return the entries of a directory by name."""
        ...

    async def child(self, entry: Entry, name: bytes) -> Entry | None:
        """Return one entry of a directory, None if it does not exist."""
        ...

    async def unknown(self, entry: Entry) -> Mapping[bytes, str]:
        """Return the entries of a directory that cannot be read, with the reasons."""
        ...

    async def no_latest(self) -> NotFoundError:
        """Return the error for a missing ``latest``."""
        ...


async def resolve(tree: ResolvableTree, path: str, start: Sequence[bytes] = ()) -> ResolvedPath:
    """Resolve `path` relative to `start`; documented at `BackupTree.resolve`."""
    parts: list[bytes] = [] if path.startswith("/") else list(start)
    entry = await lookup(tree, parts)
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            parts = parts[:-1]
            entry = await lookup(tree, parts)
            continue
        name, entry = await _step(tree, parts, entry, part)
        if isinstance(entry, VirtualSymlink):
            name = entry.node.target
            entry = await lookup(tree, [*parts, name])
        parts.append(name)
    return ResolvedPath(tuple(parts), entry)


async def lookup(tree: ResolvableTree, parts: Sequence[bytes]) -> Entry:
    """Return the entry at the exact names `parts`; NotFoundError if one does not exist."""
    entry: Entry = tree.root
    for at, part in enumerate(parts):
        found = await tree.child(entry, part)
        if found is None:
            raise NotFoundError(f"There is no {_joined(parts[: at + 1])}.")
        entry = found
    return entry


async def _step(
    tree: ResolvableTree, parts: list[bytes], entry: Entry, part: str
) -> tuple[bytes, Entry]:
    """Return the name and entry that `part` means in the directory `entry`.

    `part` is a name as it is or in escaped form, or at the root an abbreviated Backup ID.
    """
    literal = part.encode("utf-8", "surrogateescape")
    unescaped = unshow(part)
    found = await tree.child(entry, literal)
    if unescaped is None or unescaped == literal:
        if found is None:
            return await _by_prefix(tree, parts, entry, part, literal)
        return literal, found
    escaped = await tree.child(entry, unescaped)
    if found is not None and escaped is not None:
        raise NotFoundError(
            f"{part!r} is ambiguous: it matches two entries of {_joined(parts)}. Write each"
            " backslash of a name as \\x5c."
        )
    if escaped is not None:
        return unescaped, escaped
    if found is not None:
        return literal, found
    return await _by_prefix(tree, parts, entry, part, unescaped)


async def _by_prefix(
    tree: ResolvableTree, parts: list[bytes], entry: Entry, part: str, name: bytes
) -> tuple[bytes, Entry]:
    """Return the backup that `part` means at the root: ``latest~N``, or a prefix of its ID."""
    backups = await tree.backups()
    if not parts and directory_names.steps_back(part) is not None:
        backup = await tree.find_backup(part)
    elif not parts and backups.starting(part):
        backup = backups.find(part)
    else:
        raise await _not_found(tree, parts, entry, name)
    return backup.name, await lookup(tree, [backup.name])


async def _not_found(
    tree: ResolvableTree, parts: Sequence[bytes], directory: Entry, name: bytes
) -> NotFoundError:
    """Return the error for a missing name, with the reason or a similar name."""
    if name == directory_names.LATEST and not parts:
        return await tree.no_latest()
    if name in (directory_names.DOGUS, directory_names.VERSIONS) and not parts:
        return NotFoundError(
            f"/{show(name)} exists in mounts only. Use 'cesbr versions PATH' for the contents of a"
            " file over all backups."
        )
    reason = (await tree.unknown(directory)).get(name)
    if reason is not None:
        return NotFoundError(
            f"Cannot read {_joined([*parts, name])}: {reason}. A newer restic or another system"
            " may have written it."
        )
    known = map(show, await tree.children(directory))
    hint = did_you_mean(show(name), known, ".")
    return NotFoundError(f"There is no {_joined([*parts, name])}{hint}")


def _joined(parts: Sequence[bytes]) -> str:
    return "/" + "/".join(show(part) for part in parts)


def parse_past_time(text: str) -> int | None:
    """Return the end of the time span that `text` names, in ns; None if it is not a time.

    A date means the end of that day. A span that has not ended is cut at the current time.
    Raises UsageError for a time in the future.
    """
    from cesbrfs.util.dates import parse_when

    now = time.time_ns()
    try:
        first, last = (parse_when(text, now, last=last) for last in (False, True))
    except UsageError:
        return None
    if first > now:
        raise UsageError(
            f"{text!r} is in the future. Give a time in the past, a Backup ID, or latest."
        )
    return min(last, now)


def owner_directory(dogu: str | None) -> str:
    """Return the escaped directory name of a dogu, or of the instance for None."""
    return show(directory_names.INSTANCE if dogu is None else directory_names.directory_name(dogu))


def owner_directories(paths: Iterable[str]) -> frozenset[str]:
    """Return the first parts of `paths`; empty if one is a wildcard or names no owner."""
    first = [
        next((part for part in path.split("/") if part not in ("", ".")), "") for path in paths
    ]
    if any(name in _NOT_OWNERS or _WILDCARD.search(name) for name in first):
        return frozenset()
    return frozenset(show(unshow(name) or os.fsencode(name)) for name in first)
