"""The directories of a mount that cover all backups: ``_dogus`` and ``_versions``."""

from __future__ import annotations

from collections.abc import Mapping

from cesbrfs.catalog import directory_names
from cesbrfs.vfs.dogu_tree import DoguTree
from cesbrfs.vfs.entries import Entry
from cesbrfs.vfs.merge import BackupMerger
from cesbrfs.vfs.tree import BackupTree
from cesbrfs.vfs.version_tree import VersionTree


class AcrossBackups:
    """The directories that cover all backups of `view`."""

    def __init__(self, view: BackupTree) -> None:
        merger = BackupMerger(view)
        self._view = view
        self._dogus = DoguTree(view, merger, view.virtual)
        self._versions = VersionTree(merger, view.virtual)

    def directory(self, name: bytes) -> Entry | None:
        """Return one of the directories, None for any other name."""
        time_ns = self._view.root.node.mtime_ns
        if name == directory_names.DOGUS:
            return self._dogus.root(time_ns)
        return self._versions.root(time_ns) if name == directory_names.VERSIONS else None

    def listed(self) -> Mapping[bytes, Entry]:
        """Return the directories that the root lists.

        ``_versions`` is found by name only: listed, each recursive walk of the root would open a
        directory for each file that any backup has, and read each content again.
        """
        return {directory_names.DOGUS: self._dogus.root(self._view.root.node.mtime_ns)}
