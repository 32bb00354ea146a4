"""Generate the virtual entries around stored ones: directories, files and symlinks."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cesbrfs.catalog.layout import Placement
from cesbrfs.repo.format.model import Node, Snapshot
from cesbrfs.vfs.entries import Entry, SnapshotEntry, VirtualDir

_SHORT_ID_DIGITS: Final = 8


@dataclass(frozen=True, slots=True)
class VirtualEntries:
    """Factory of virtual entries with the owner `uid` and `gid`."""

    uid: int
    gid: int

    def node(
        self, name: bytes, mode: int, time_ns: int, size: int = 0, target: bytes = b""
    ) -> Node:
        """Return the metadata of a virtual entry; `mode` is a complete ``st_mode``."""
        kind = {stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}.get(stat.S_IFMT(mode), "file")
        return Node(
            name=name,
            type=kind,  # type: ignore[arg-type]  # one of three literals
            mode=mode,
            mtime_ns=time_ns,
            atime_ns=time_ns,
            ctime_ns=time_ns,
            uid=self.uid,
            gid=self.gid,
            size=size,
            target=target,
        )

    def directory(
        self,
        name: bytes,
        time_ns: int,
        load: Callable[[], Awaitable[Mapping[bytes, Entry]]],
        child_nowait: Callable[[bytes], Entry | None] | None = None,
    ) -> VirtualDir:
        """Return a directory; `load` and `child_nowait` are documented at `VirtualDir`."""
        directory = VirtualDir(name, self.node(name, stat.S_IFDIR | 0o555, time_ns), load)
        if child_nowait is not None:
            directory.child_nowait = child_nowait
        return directory

    def fixed_directory(
        self, name: bytes, time_ns: int, entries: Mapping[bytes, Entry]
    ) -> VirtualDir:
        """Return a directory of constant entries."""

        async def load() -> Mapping[bytes, Entry]:
            return entries

        return self.directory(name, time_ns, load)

    def nested(
        self, time_ns: int, placed: Mapping[tuple[bytes, ...], Placement]
    ) -> dict[bytes, Entry]:
        """Build nested directories from placements by path; return the entries of the top."""
        entries: dict[bytes, Entry] = {}
        deeper: dict[bytes, dict[tuple[bytes, ...], Placement]] = {}
        for path, placement in placed.items():
            if len(path) == 1:
                node = placement.node
                entries[path[0]] = SnapshotEntry(
                    path[0],
                    node,
                    placement.snapshot,
                    top=not node.name,
                    unreadable=placement.unreadable,
                )
            else:
                deeper.setdefault(path[0], {})[path[1:]] = placement
        for name in sorted(deeper):
            entries[name] = self.fixed_directory(name, time_ns, self.nested(time_ns, deeper[name]))
        return entries


def snapshot_directories(snapshots: Sequence[Snapshot]) -> dict[bytes, Entry]:
    """Return the roots of snapshots by short ID, or by full ID where short IDs collide."""
    short = Counter(s.id[:_SHORT_ID_DIGITS] for s in snapshots)
    entries: dict[bytes, Entry] = {}
    for snapshot in snapshots:
        digits = snapshot.id[:_SHORT_ID_DIGITS]
        name = (snapshot.id if short[digits] > 1 else digits).encode()
        node = Node(
            name=name,
            type="dir",
            mode=stat.S_IFDIR | 0o755,
            mtime_ns=snapshot.time_ns,
            atime_ns=snapshot.time_ns,
            ctime_ns=snapshot.time_ns,
            subtree=snapshot.tree,
        )
        entries[name] = SnapshotEntry(name, node, snapshot, top=True)
    return entries
