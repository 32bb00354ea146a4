"""The directory ``_versions`` of a mount: every name of any backup, and the contents of each file.

``_versions/<dogu>/<path>`` merges the directories at that path of all backups. A file in it is a
directory of its distinct contents, each named by the oldest backup that has it. A name that is a
file in some backups and a directory in others is such a directory of versions, too: the merged
directory is one of them, named in the same way, so that no name of a backup can hide another.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from functools import partial, reduce
from operator import and_
from typing import Final

from cesbrfs.catalog import directory_names
from cesbrfs.repo.format.model import Node
from cesbrfs.util.tasks import gather
from cesbrfs.vfs.directory_index import IndexedEntry
from cesbrfs.vfs.entries import Entry, MergedDir, SnapshotEntry, VirtualDir
from cesbrfs.vfs.merge import (
    BackupMerger,
    MergedBackups,
    MergedDirectory,
    Rows,
    StoredEntry,
    version_name,
)
from cesbrfs.vfs.timeline import Parts, union
from cesbrfs.vfs.virtual import VirtualEntries

_READ_ONLY: Final = stat.S_IFDIR | 0o555
_CLOSED: Final = stat.S_IFDIR | 0o500


class VersionTree:
    """The entries below ``_versions``."""

    def __init__(self, merger: BackupMerger, virtual: VirtualEntries) -> None:
        self._merger = merger
        self._virtual = virtual

    def root(self, time_ns: int) -> MergedDir:
        """Return the directory ``_versions``, modified at `time_ns`."""
        name = directory_names.VERSIONS
        return self._directory(name, self._virtual.node(name, _READ_ONLY, time_ns), ())

    def _directory(
        self, name: bytes, node: Node, parts: Parts, *, recorded: bool = False
    ) -> MergedDir:
        return MergedDir(
            name,
            node,
            partial(self._names, parts),
            child=partial(self._name, parts),
            ephemeral=True,
            parts=parts,
            recorded=recorded,
        )

    # Merged directories

    async def _names(self, parts: Parts) -> Mapping[bytes, Entry]:
        merged = await self._merger.merged()
        directory = await merged.directory(parts)
        return {
            name: await self._entry(merged, directory, (*parts, name))
            for name in directory.entries
            if _is_shown(parts, name)
        }

    async def _name(self, parts: Parts, name: bytes) -> Entry | None:
        merged = await self._merger.merged()
        directory = await merged.directory(parts)
        if name not in directory.entries or not _is_shown(parts, name):
            return None
        return await self._entry(merged, directory, (*parts, name))

    async def _entry(self, merged: MergedBackups, above: MergedDirectory, parts: Parts) -> Entry:
        """Return an entry of the directory `above`: a merged directory, or one of versions."""
        rows = above.entries[parts[-1]]
        if all(row.type == "dir" for row, _ in rows):
            node, recorded = await self._attributes(merged, above, parts, rows)
            return self._directory(parts[-1], node, parts, recorded=recorded)
        row, mask = _newest(rows)
        return VirtualDir(
            parts[-1],
            self._virtual.node(parts[-1], _READ_ONLY, merged.line.time_of(row, mask)),
            partial(self._version_entries, parts),
            child=partial(self._version_entry, parts),
            ephemeral=True,
        )

    async def _attributes(
        self, merged: MergedBackups, above: MergedDirectory, parts: Parts, rows: Rows
    ) -> tuple[Node, bool]:
        """Return the attributes of the merged directory of `rows`, which are in `above`.

        The second value is whether its owner is recorded in the backups.

        It gives no user more access than the directory in each of the backups: it has the
        permissions that all of them have. If their owners, groups or extended attributes (ACLs)
        differ, only the owner of the mount has access.
        """
        stored = [(row, mask) for row, mask in rows if row.seconds is not None]
        row, mask = _newest(stored or rows)
        time_ns = merged.line.time_of(row, mask)
        if not stored:
            return self._virtual.node(parts[-1], _READ_ONLY, time_ns), False
        if len({(row.uid, row.gid, row.extra) for row, _ in stored}) > 1:
            return self._virtual.node(parts[-1], _CLOSED, time_ns), False
        xattrs: tuple[tuple[bytes, bytes], ...] = ()
        if row.extra:
            node, _ = await merged.node(merged.newest(above, row, mask), parts)
            xattrs = node.xattrs
        node = Node(
            name=parts[-1],
            type="dir",
            mode=reduce(and_, (row.mode for row, _ in stored)),
            mtime_ns=time_ns,
            atime_ns=time_ns,
            ctime_ns=time_ns,
            uid=row.uid,
            gid=row.gid,
            xattrs=xattrs,
        )
        return node, True

    # Versions of a name

    async def _version_entries(self, parts: Parts) -> Mapping[bytes, Entry]:
        merged = await self._merger.merged()
        versions = await merged.versions(parts)
        made = [
            partial(self._version, merged, parts, name, version)
            for name, version in versions.items()
        ]
        entries: list[Entry] = list(await gather(made))
        directory = await self._directory_version(merged, parts)
        if directory is not None:
            entries.append(directory)
        return {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.name)}

    async def _version_entry(self, parts: Parts, name: bytes) -> Entry | None:
        merged = await self._merger.merged()
        version = (await merged.versions(parts)).get(name)
        if version is not None:
            return await self._version(merged, parts, name, version)
        directory = await self._directory_version(merged, parts)
        return directory if directory is not None and directory.name == name else None

    async def _version(
        self, merged: MergedBackups, parts: Parts, name: bytes, version: StoredEntry
    ) -> Entry:
        return SnapshotEntry(name, *await merged.node(version, parts))

    async def _directory_version(self, merged: MergedBackups, parts: Parts) -> Entry | None:
        """Return the merged directory as one version of a name that is also something else."""
        above = await merged.directory(parts[:-1])
        rows = [pair for pair in above.entries.get(parts[-1], ()) if pair[0].type == "dir"]
        if not rows:
            return None
        oldest = merged.line.oldest(union(mask for _, mask in rows))
        node, recorded = await self._attributes(merged, above, parts, rows)
        return self._directory(version_name(oldest, parts), node, parts, recorded=recorded)


def _newest(rows: Rows) -> tuple[IndexedEntry, int]:
    """Return the entry in the newest of the backups."""
    return max(rows, key=lambda pair: pair[1])


def _is_shown(parts: Parts, name: bytes) -> bool:
    """Return whether a name is merged: the roots of snapshots are not."""
    return bool(parts) or name != directory_names.SNAPSHOTS
