"""What a name in the tree of backups can stand for.  Made and walked by `cesbrfs.vfs.tree`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cesbrfs.errors import NotAFolderError
from cesbrfs.repo.format.model import Node, Snapshot
from cesbrfs.util.escape import show


@dataclass(slots=True, eq=False)
class Entry:
    """One name in the tree, with the attributes in `node`; `node.name` may differ from `name`."""

    name: bytes
    node: Node


@dataclass(slots=True, eq=False)
class SnapshotEntry(Entry):
    """What lies in a snapshot.  `top` marks a snapshot's own root."""

    snapshot: Snapshot
    top: bool = False


class TreeRef(NamedTuple):
    """Where to find what a stored folder holds: a tree's ID, None where none is recorded."""

    snapshot: Snapshot
    tree: bytes | None
    top: bool

    @classmethod
    def of(cls, folder: SnapshotEntry) -> TreeRef:
        """Return it for `folder`; NotAFolderError for anything else that is stored."""
        if folder.node.type != "dir":
            raise NotAFolderError(f"{show(folder.name)!r} is not a folder.")
        return cls(
            folder.snapshot,
            folder.snapshot.tree if folder.top else folder.node.subtree,
            folder.top,
        )


def _unknown(_name: bytes) -> None:
    return None


@dataclass(slots=True, eq=False)
class VirtualDir(Entry):
    """A folder of ours; `load` returns what it holds now.

    `known` returns the entry of one name as it was lately, where that need not be waited for.
    """

    load: Callable[[], Awaitable[Mapping[bytes, Entry]]]
    known: Callable[[bytes], Entry | None] = _unknown


@dataclass(slots=True, eq=False)
class VirtualFile(Entry):
    """A file of ours, whose bytes are `content`."""

    content: bytes


@dataclass(slots=True, eq=False)
class VirtualSymlink(Entry):
    """A symlink of ours; its target is in `node.target`."""


@dataclass(frozen=True, slots=True)
class ResolvedPath:
    """Where a path led: the names from the root on, and the entry there."""

    parts: tuple[bytes, ...]
    entry: Entry

    @property
    def shown(self) -> str:
        """The path as people see it."""
        return "/" + "/".join(show(part) for part in self.parts)
