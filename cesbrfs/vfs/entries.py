"""Entries of the virtual file system: stored in a snapshot or generated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cesbrfs.errors import NotDirectoryError
from cesbrfs.repo.format.model import Node, Snapshot
from cesbrfs.util.escape import show


@dataclass(slots=True, eq=False)
class Entry:
    """A directory entry with its metadata in `node`; `node.name` may differ from `name`."""

    name: bytes
    node: Node


@dataclass(slots=True, eq=False)
class SnapshotEntry(Entry):
    """An entry stored in a snapshot. `top` marks the root of the snapshot.

    An `unreadable` entry replaces data whose trees cannot be read: reading it raises an error.
    """

    snapshot: Snapshot
    top: bool = False
    unreadable: bool = False


class TreeRef(NamedTuple):
    """Reference to the tree blob of a stored directory; `tree` is None if none is recorded."""

    snapshot: Snapshot
    tree: bytes | None
    top: bool

    @classmethod
    def of(cls, directory: SnapshotEntry) -> TreeRef:
        """Return the reference for `directory`; raises NotDirectoryError for other types."""
        if directory.node.type != "dir":
            raise NotDirectoryError(f"{show(directory.name)!r} is not a directory.")
        return cls(
            directory.snapshot,
            directory.snapshot.tree if directory.top else directory.node.subtree,
            directory.top,
        )


def _not_cached(_name: bytes) -> None:
    return None


@dataclass(slots=True, eq=False)
class VirtualDir(Entry):
    """A generated directory; `load` returns its current entries.

    `child_nowait` returns one entry from the cache without blocking; None means "not cached".
    `child`, if set, returns one entry without making the others.

    Of the entries of `ephemeral` directories, except merged directories, the kernel caches a few
    only: a walk would leave an object for each file of all backups in the mount.
    """

    load: Callable[[], Awaitable[Mapping[bytes, Entry]]]
    child_nowait: Callable[[bytes], Entry | None] = _not_cached
    child: Callable[[bytes], Awaitable[Entry | None]] | None = None
    ephemeral: bool = False


@dataclass(slots=True, eq=False)
class MergedDir(VirtualDir):
    """A directory with the names that any backup has at `parts`, the path below a backup.

    `recorded`: its owner and mode are those of the directory in the backups.
    """

    parts: tuple[bytes, ...] = ()
    recorded: bool = False


@dataclass(slots=True, eq=False)
class VirtualFile(Entry):
    """A generated file with the bytes `content`."""

    content: bytes


@dataclass(slots=True, eq=False)
class VirtualSymlink(Entry):
    """A generated symlink; its target is `node.target`."""


@dataclass(slots=True, eq=False)
class PendingSymlink(Entry):
    """A listed symlink whose target is not determined: a lookup may not find it, either."""


@dataclass(frozen=True, slots=True)
class ResolvedPath:
    """A resolved path: the names from the root and the entry."""

    parts: tuple[bytes, ...]
    entry: Entry

    @property
    def shown(self) -> str:
        """The path in escaped form."""
        return "/" + "/".join(show(part) for part in self.parts)
