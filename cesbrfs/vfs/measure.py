"""Count the files and bytes of a subtree."""

from __future__ import annotations

import stat
from functools import partial
from typing import NamedTuple

from cesbrfs.repo.format.model import hard_link_id
from cesbrfs.util.tasks import gather
from cesbrfs.vfs.entries import Entry, SnapshotEntry
from cesbrfs.vfs.tree import BackupTree


class TreeSize(NamedTuple):
    """Number of entries other than directories, and the total size of regular files in bytes.

    Each hard link counts in `files`; its content counts once in `bytes`.
    """

    files: int
    bytes: int


async def measure(view: BackupTree, entry: Entry) -> TreeSize:
    """Measure `entry` and everything below it; raises read errors of its directories."""
    files = size = 0
    linked: set[tuple[str, int]] = set()
    level: list[tuple[Entry, int]] = [(entry, 1)]
    while level:
        # A directory that occurs several times in a level is read once.
        directories: dict[object, tuple[Entry, int]] = {}
        for one, times in level:
            node = one.node
            if stat.S_ISDIR(node.mode):
                key = _directory_key(one)
                known, before = directories.get(key, (one, 0))
                directories[key] = known, before + times
                continue
            files += times
            link = hard_link_id(node) if isinstance(one, SnapshotEntry) else 0
            if isinstance(one, SnapshotEntry) and link:
                name = (one.snapshot.id, link)
                if name in linked:
                    continue
                linked.add(name)
                size += node.size if node.type == "file" else 0
            elif node.type == "file":
                size += node.size * times
        listed = await gather(
            [partial(view.children, directory) for directory, _ in directories.values()]
        )
        level = [
            (child, times)
            for children, (_, times) in zip(listed, directories.values(), strict=True)
            for child in children.values()
        ]
    return TreeSize(files, size)


def _directory_key(directory: Entry) -> object:
    """Return what directories that hold the same have in common."""
    if isinstance(directory, SnapshotEntry):
        return directory.snapshot.id, directory.top, directory.node.subtree
    return id(directory)
