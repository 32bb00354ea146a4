"""The directory ``_dogus`` of a mount: links to each dogu in each backup, by dogu."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from functools import partial
from typing import Final

from cesbrfs.catalog import directory_names
from cesbrfs.vfs.entries import Entry, VirtualDir, VirtualSymlink
from cesbrfs.vfs.merge import BackupMerger, MergedBackups
from cesbrfs.vfs.timeline import BackupSlot, union
from cesbrfs.vfs.tree import BackupTree
from cesbrfs.vfs.virtual import VirtualEntries

_NO_DOGUS: Final = frozenset({directory_names.INSTANCE, directory_names.SNAPSHOTS})


class DoguTree:
    """The entries below ``_dogus``."""

    def __init__(self, view: BackupTree, merger: BackupMerger, virtual: VirtualEntries) -> None:
        self._view = view
        self._merger = merger
        self._virtual = virtual

    def root(self, time_ns: int) -> VirtualDir:
        """Return the directory ``_dogus``, modified at `time_ns`."""
        directory = self._virtual.directory(directory_names.DOGUS, time_ns, self._dogus)
        directory.ephemeral = True
        return directory

    async def _dogus(self) -> Mapping[bytes, Entry]:
        merged = await self._merger.merged()
        found: dict[bytes, Entry] = {}
        for name in (await merged.directory(())).entries:
            mask = await _holding(merged, name)
            if mask and name not in _NO_DOGUS:
                time_ns = merged.line.newest(mask).time_ns
                directory = self._virtual.directory(name, time_ns, partial(self._links, name))
                directory.child = partial(self._link, name)
                directory.ephemeral = True
                found[name] = directory
        return found

    async def _links(self, dogu: bytes) -> Mapping[bytes, Entry]:
        merged = await self._merger.merged()
        moments = merged.line.of(await _holding(merged, dogu))
        found = {moment.parts[0]: self._entry(moment.parts[0], dogu, moment) for moment in moments}
        latest = await self._latest(merged, dogu)
        if latest is not None:
            found[latest.name] = latest
        return found

    async def _link(self, dogu: bytes, name: bytes) -> Entry | None:
        merged = await self._merger.merged()
        if name == directory_names.LATEST:
            return await self._latest(merged, dogu)
        moment = merged.moment(name, await _holding(merged, dogu))
        return self._entry(name, dogu, moment) if moment is not None else None

    async def _latest(self, merged: MergedBackups, dogu: bytes) -> Entry | None:
        """Return the link to the newest complete backup of a dogu, None without one."""
        latest = await self._view.latest_of(dogu)
        if latest is None:
            return None
        moment = merged.moment(latest.name, await _holding(merged, dogu))
        return self._entry(directory_names.LATEST, dogu, moment) if moment is not None else None

    def _entry(self, name: bytes, dogu: bytes, moment: BackupSlot) -> Entry:
        target = b"../../%s/%s" % (moment.parts[0], dogu)
        mode = stat.S_IFLNK | 0o777
        node = self._virtual.node(name, mode, moment.time_ns, size=len(target), target=target)
        return VirtualSymlink(name, node)


async def _holding(merged: MergedBackups, dogu: bytes) -> int:
    """Return the mask of the backups that have the directory of a dogu."""
    rows = (await merged.directory(())).entries.get(dogu, ())
    return union(mask for row, mask in rows if row.type == "dir")
