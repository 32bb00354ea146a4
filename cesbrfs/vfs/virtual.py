"""The entries that we make ourselves: folders, files and links around what is stored."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cesbrfs.catalog.layout import Placement
from cesbrfs.repo.format.model import Node, Snapshot
from cesbrfs.vfs.entries import Entry, SnapshotEntry, VirtualDir

_ID_DIGITS: Final = 8


@dataclass(frozen=True, slots=True)
class VirtualEntries:
    """Makes entries that belong to the user `uid` and the group `gid`."""

    uid: int
    gid: int

    def node(
        self, name: bytes, mode: int, time_ns: int, size: int = 0, target: bytes = b""
    ) -> Node:
        """Return the attributes of an entry of ours; `mode` is a complete ``st_mode``."""
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

    def folder(
        self,
        name: bytes,
        time_ns: int,
        load: Callable[[], Awaitable[Mapping[bytes, Entry]]],
        known: Callable[[bytes], Entry | None] | None = None,
    ) -> VirtualDir:
        """Return a folder of what `load` brings; `known` is told at `VirtualDir`."""
        folder = VirtualDir(name, self.node(name, stat.S_IFDIR | 0o555, time_ns), load)
        if known is not None:
            folder.known = known
        return folder

    def fixed(self, name: bytes, time_ns: int, entries: Mapping[bytes, Entry]) -> VirtualDir:
        """Return a folder of these entries."""

        async def load() -> Mapping[bytes, Entry]:
            return entries

        return self.folder(name, time_ns, load)

    def nest(
        self, time_ns: int, placed: Mapping[tuple[bytes, ...], Placement]
    ) -> dict[bytes, Entry]:
        """Turn placements by path into folders within folders."""
        entries: dict[bytes, Entry] = {}
        deeper: dict[bytes, dict[tuple[bytes, ...], Placement]] = {}
        for path, placement in placed.items():
            if len(path) == 1:
                node = placement.node
                entries[path[0]] = SnapshotEntry(
                    path[0], node, placement.snapshot, top=not node.name
                )
            else:
                deeper.setdefault(path[0], {})[path[1:]] = placement
        for name in sorted(deeper):
            entries[name] = self.fixed(name, time_ns, self.nest(time_ns, deeper[name]))
        return entries


def whole(snapshots: Sequence[Snapshot]) -> dict[bytes, Entry]:
    """Return whole snapshots by short ID, by full ID where short ones are alike."""
    short = Counter(s.id[:_ID_DIGITS] for s in snapshots)
    entries: dict[bytes, Entry] = {}
    for snapshot in snapshots:
        digits = snapshot.id[:_ID_DIGITS]
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
