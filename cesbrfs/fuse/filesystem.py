"""The backup tree as inodes: lookups, directory listings, open files.  Imports no FUSE library."""

from __future__ import annotations

import errno
import logging
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cesbrfs.catalog.backups import Backups
from cesbrfs.catalog.directory_names import STATUS_DIRECTORY
from cesbrfs.errors import CesbrError, DamagedError, NotDirectoryError
from cesbrfs.fuse.access import for_owner_only
from cesbrfs.fuse.handles import DirHandle, HandleTable, OpenFile, Readable, VirtualFileHandle
from cesbrfs.fuse.inodes import (
    ROOT,
    HardLinkInode,
    Inode,
    InodeAttrs,
    InodeTable,
    StaleError,
    StoredDir,
    attrs_of,
    is_pending,
    removed,
    snapshot_of,
)
from cesbrfs.fuse.prefetch import SiblingPrefetcher, SubtreePrefetcher
from cesbrfs.fuse.status import GeneratedFile, MountStatus
from cesbrfs.repo.format.direntry import DirEntries, DirEntry
from cesbrfs.repo.format.model import Node, Tree
from cesbrfs.repo.repository import FileReader
from cesbrfs.util.escape import show
from cesbrfs.vfs.across import AcrossBackups
from cesbrfs.vfs.entries import Entry, SnapshotEntry, TreeRef, VirtualFile
from cesbrfs.vfs.tree import BackupTree

_log = logging.getLogger(__name__)

_SMALL_FILE: Final = 128 << 10
"""Files of up to this size go into the page cache when they are opened: one request less."""


@dataclass(frozen=True, slots=True)
class FilesystemSize:
    """The figures for statfs: bytes stored in the repository, and blobs as the number of files."""

    stored_bytes: int
    blobs: int


class NodeRef(NamedTuple):
    """An inode with its complete node.

    `size` is the size reported to the kernel. For a stored file, `directory` is the inode number of
    its directory, and `siblings` are the nodes of that directory.
    """

    number: int
    size: int
    entry: Entry
    directory: int = 0
    siblings: Sequence[Node] = ()


class InodeFileSystem:
    """Inodes over a `BackupTree`. All methods run in the trio thread.

    If other users have access to the mount, `secrets_owner` is the user and group that alone may
    read secrets. `across` provides the directories ``_dogus`` and ``_versions``.
    """

    def __init__(
        self,
        view: BackupTree,
        *,
        secrets_owner: tuple[int, int] | None = None,
        across: AcrossBackups | None = None,
    ) -> None:
        self.view: Final = view
        self._across = across
        self._secrets_owner = secrets_owner
        self.status: Final = MountStatus(view, self.counters)
        self._table: Final = InodeTable(view.root)
        self._inodes: Final = self._table.objects
        self._directories: Final = self._table.directories
        self._files: Final[HandleTable[OpenFile]] = HandleTable()
        self._open_counts: Final[Counter[int]] = Counter()
        """Number of open handles by inode."""
        self._listings: Final[HandleTable[DirHandle]] = HandleTable()
        self._listed: frozenset[str] | None = None
        """The snapshots at the last change; None before the first."""
        self._neighbours = SiblingPrefetcher(view.repository.blobs)
        self.prefetcher: Final = SubtreePrefetcher(self._prefetch_entries)
        self._status_directory: Final = self.status.directory()

    # Inodes by number

    def find_nowait(self, number: int) -> InodeAttrs | None:
        """Like `find`, but never blocks. None means "not cached"."""
        inode = self._inodes.get(number)
        if inode is not None:
            return InodeAttrs(number, inode.node, inode) if not is_pending(inode) else None
        directory = self._containing(number)
        entries = self.view.stored.entries_nowait(directory.tree_ref)
        return _at(directory, entries, number) if entries is not None else None

    async def find(self, number: int) -> InodeAttrs:
        """Return the attributes of an inode; StaleError if the kernel was to forget it."""
        cached = self.find_nowait(number)
        if cached is not None:
            return cached
        inode = self._inodes.get(number)
        if isinstance(inode, Inode):
            return await self._determined(inode)
        directory = self._containing(number)
        return _at(directory, await self.view.stored.entries(directory.tree_ref), number)

    async def _determined(self, pending: Inode) -> InodeAttrs:
        """Return a link that was listed before it was determined; StaleError if there is none."""
        found = await self.lookup(pending.parent, pending.entry.name)
        if found is None:
            raise StaleError(pending.number)
        return found

    def _containing(self, number: int) -> StoredDir:
        directory = self._directories.containing(number)
        if directory is None:
            raise StaleError(number)
        return directory

    def count_lookup(self, attrs: InodeAttrs) -> None:
        """Count a lookup: the kernel was given the inode."""
        self._table.count_lookup(attrs)

    def surplus(self) -> Iterator[tuple[int, bytes]]:
        """Yield (directory, name) of entries that the kernel is to drop: it caches too many."""
        return self._table.surplus()

    def forget(self, number: int, lookups: int) -> None:
        """Subtract `lookups` from an inode's count, and remove it at zero."""
        self._table.forget(number, lookups)

    # Names

    def is_cached(self, number: int) -> bool:
        """Return whether the entries of this directory are cached (lookups never block)."""
        directory = self._directories.get(number)
        return (
            directory is not None
            and self.view.stored.entries_nowait(directory.tree_ref) is not None
        )

    def is_immutable(self, number: int) -> bool:
        """Return whether the entries of this directory can never change; StaleError if unknown."""
        inode = self._inodes.get(number) or self._containing(number)
        return inode.immutable and not self.is_gone(inode)

    @staticmethod
    def is_generated(shown: InodeAttrs) -> bool:
        """Return whether an inode is a file of the status directory."""
        return isinstance(shown.holder, Inode) and isinstance(shown.holder.entry, GeneratedFile)

    def is_gone(self, holder: Inode | HardLinkInode | StoredDir) -> bool:
        """Return whether the snapshot of an inode was removed while its directories are open."""
        snapshot = snapshot_of(holder) if self._listed is not None else None
        return snapshot is not None and snapshot.id not in (self._listed or ())

    async def lookup(self, parent: int, name: bytes) -> InodeAttrs | None:
        """Return the inode of a name in a directory, without counting a lookup, or None."""
        above = self._inodes.get(parent)
        if not isinstance(above, Inode) or isinstance(above.entry, SnapshotEntry):
            directory, entries = await self._enter(parent)
            at = entries.position(name)
            if at is None:
                self._directories.evict(directory)
                return None
            shown = self.stored_attrs(directory, at, entries.listed[at])
            if shown.holder is not directory:
                self._directories.evict(directory)
            return shown
        if parent == ROOT and name == STATUS_DIRECTORY:  # even where the repository is gone
            return attrs_of(self._virtual_inode(above, self._status_directory))
        entry = self._across.directory(name) if parent == ROOT and self._across else None
        if above.entry is self._status_directory:
            entry = await self.status.file(name)
        elif entry is None:
            entry = await self.view.child(above.entry, name)
        return attrs_of(self._virtual_inode(above, entry)) if entry is not None else None

    async def _enter(self, number: int) -> tuple[StoredDir, DirEntries]:
        """Return the stored directory with this inode number, and its entries."""
        entered = self._enter_nowait(number)
        if entered is not None:
            return entered
        directory = self._directories.get(number)
        if directory is not None:
            tree_ref, backup = directory.tree_ref, directory.backup
        else:
            tree_ref, backup = self._place(await self.find(number))
        entries = await self.view.stored.entries(tree_ref)
        # Look the record up again: the kernel may have forgotten all of it while this task waited.
        return self._directories.add(number, tree_ref, backup, len(entries.listed)), entries

    def _enter_nowait(self, number: int) -> tuple[StoredDir, DirEntries] | None:
        """Like `_enter`, but never blocks. None means "not cached"."""
        directory = self._directories.get(number)
        if directory is not None:
            entries = self.view.stored.entries_nowait(directory.tree_ref)
            return (directory, entries) if entries is not None else None
        shown = self.find_nowait(number)
        if shown is None or not shown.holder.immutable:
            return None
        tree_ref, backup = self._place(shown)
        entries = self.view.stored.entries_nowait(tree_ref)
        if entries is None:
            return None
        return self._directories.add(number, tree_ref, backup, len(entries.listed)), entries

    @staticmethod
    def _place(shown: InodeAttrs) -> tuple[TreeRef, int]:
        """Return the tree of a stored directory, and the number of its backup."""
        number, row, holder = shown
        if isinstance(holder, Inode):
            assert isinstance(holder.entry, SnapshotEntry)
            return TreeRef.of(holder.entry), holder.backup
        if isinstance(holder, HardLinkInode) or not stat.S_ISDIR(row.mode):
            raise NotDirectoryError(f"Inode {number} is not a directory.")
        return TreeRef(holder.tree_ref.snapshot, row.subtree, False), holder.backup

    def stored_attrs(self, directory: StoredDir, at: int, entry: DirEntry) -> InodeAttrs:
        """Return the inode of the entry at position `at` of a stored directory."""
        if entry.link_id:
            return self._table.hard_link(directory, entry)
        return InodeAttrs(directory.first + at, entry, directory)

    def _virtual_inode(self, parent: Inode, entry: Entry) -> Inode:
        """Return the inode of an entry in a virtual directory, with its current attributes."""
        given = entry
        if self._secrets_owner:
            entry = for_owner_only(parent.entry, entry, *self._secrets_owner)
        return self._table.virtual(parent, entry, private=entry is not given)

    def removed(self, backups: Backups) -> list[tuple[int, bytes]]:
        """Return (directory, name) of entries the kernel knows that are not in `backups`."""
        self._listed = backups.snapshot_ids
        return [(i.parent, i.entry.name) for i in removed(self._inodes.values(), backups)]

    # Directories

    async def open_dir(self, number: int) -> int:
        """Record the entries of a directory as they are now; return a handle for `opened`."""
        inode = self._inodes.get(number)
        if not isinstance(inode, Inode) or isinstance(inode.entry, SnapshotEntry):
            return self._list(*await self._enter(number))
        if number == ROOT:
            entries = await self.view.listed_root()
        else:
            entries = await self.view.children(inode.entry)
        if number == ROOT and self._across:
            entries = {**entries, **self._across.listed()}
        return self._listings.add(
            DirHandle([(name, self._virtual_inode(inode, e)) for name, e in entries.items()])
        )

    def _prefetch_entries(self, tree: bytes) -> bool:
        """Decode a directory that will be requested; return whether its entries are cached."""
        try:
            return self.view.repository.listings.get_nowait(tree) is not None
        except Exception:  # noqa: BLE001 - the request gets the error; the mount continues
            _log.exception("Prefetching tree %s failed", tree.hex()[:8])
            return False

    def open_dir_nowait(self, number: int) -> int | None:
        """Like `open_dir` for a stored directory, but never blocks. None means "not cached"."""
        entered = self._enter_nowait(number)
        return self._list(*entered) if entered is not None else None

    def _list(self, directory: StoredDir, entries: DirEntries) -> int:
        directory.listings += 1
        if directory.tree_ref.tree is not None:
            below = [row.subtree for row in entries.listed if row.subtree is not None]
            self.prefetcher.opened(directory.tree_ref.tree, below)
        return self._listings.add(DirHandle(directory=directory, entries=entries.listed))

    def opened(self, handle: int) -> DirHandle:
        """Return the open directory of a handle."""
        return self._listings.get(handle)

    def virtual_entries(
        self, opened: DirHandle, start: int
    ) -> Iterator[tuple[int, bytes, InodeAttrs]]:
        """Yield (next position, name, inode) of a virtual directory from position `start`."""
        for at in range(start, len(opened.virtual)):
            name, inode = opened.virtual[at]
            # Another listing or lookup may have given the kernel an object for it since.
            known = self._inodes.get(inode.number)
            yield at + 1, name, attrs_of(inode if known is None else known)

    def close_dir(self, handle: int) -> None:
        """Release a handle of `open_dir`."""
        directory = self._listings.pop(handle).directory
        if directory is not None:
            directory.listings -= 1
            self._directories.evict(directory)

    # Files

    def node_ref_nowait(self, number: int) -> NodeRef | None:
        """Like `node_ref`, but never blocks. None means "not cached"."""
        shown = self.find_nowait(number)
        if shown is None:
            return None
        holder = shown.holder
        if isinstance(holder, Inode):
            return NodeRef(number, shown.node.size, holder.entry)
        tree = self.view.stored.tree_nowait(holder.tree_ref)
        return _node_ref(shown, holder, tree) if tree is not None else None

    async def node_ref(self, number: int) -> NodeRef:
        """Return an inode with its complete node; reads the directory's tree for a stored one."""
        shown = await self.find(number)
        holder = shown.holder
        if isinstance(holder, Inode):
            return NodeRef(number, shown.node.size, holder.entry)
        return _node_ref(shown, holder, await self.view.stored.tree(holder.tree_ref))

    async def open_inode(self, number: int) -> tuple[int, bool]:
        """Open an inode whose node is not cached; see `open_file`."""
        return await self.open_file(await self.node_ref(number))

    async def open_file(self, node_ref: NodeRef) -> tuple[int, bool]:
        """Open a regular file; return a handle, and whether the reported size is the true one.

        Raises IsDirectoryError, and what the repository raises for missing blobs.
        """
        entry = node_ref.entry
        if node_ref.siblings:
            self._neighbours.opened(node_ref.directory, node_ref.siblings, entry.node)
        content: Readable
        # Its content changes without a change of its inode.
        live = isinstance(entry, GeneratedFile)
        found = await self.view.content(entry)
        content = VirtualFileHandle(found.content) if isinstance(found, VirtualFile) else found
        handle = self._files.add(OpenFile(node_ref.number, content))
        self._open_counts[node_ref.number] += 1
        true_size = content.size == node_ref.size and not live
        if not true_size and isinstance(content, FileReader):
            _log.warning(
                "Inode %d was recorded with %d bytes but holds %d",
                node_ref.number, node_ref.size, content.size,
            )  # fmt: skip
        return handle, true_size

    async def read(self, handle: int, offset: int, size: int) -> bytes | memoryview:
        """Read from a handle of `open_file`."""
        return await self._files.get(handle).content.view(offset, size)

    async def small_file(self, handle: int) -> bytes:
        """Return the content of a small file that was just opened, for the page cache.

        Empty for a larger file, if the content is not cached, and if the inode has other handles:
        a page with a pending read is locked, so storing it would wait for our own reply.
        """
        number, content = self._files.get(handle)
        if not isinstance(content, FileReader) or self._open_counts[number] > 1:
            return b""
        if not 0 < content.size <= _SMALL_FILE:
            return b""
        if self.view.repository.is_remote and not content.is_cached:
            return b""
        try:
            return await content.read(0, content.size)
        except CesbrError:  # reported by the read
            return b""

    def close_file(self, handle: int) -> None:
        """Release a handle of `open_file`."""
        number = self._files.pop(handle).number
        self._open_counts[number] -= 1
        if not self._open_counts[number]:
            del self._open_counts[number]

    async def space(self) -> FilesystemSize:
        """Return the size of the repository."""
        index = await self.view.repository.index()
        return FilesystemSize(index.stored_bytes, len(index))

    @property
    def open_handles(self) -> int:
        """How many files and directories are open."""
        return len(self._files) + len(self._listings)

    def counters(self) -> dict[str, int]:
        """Return the current numbers of inodes, lookups and open handles."""
        lookups = sum(inode.lookups for inode in self._inodes.values())
        return {
            "lookups": lookups + sum(directory.lookups for directory in self._directories),
            "inodes": len(self._inodes),
            "stored_folders": len(self._directories),
            "open_files": len(self._files),
            "open_folders": len(self._listings),
        }


def _node_ref(shown: InodeAttrs, holder: HardLinkInode | StoredDir, tree: Tree) -> NodeRef:
    """Find the node of an inode in its directory's tree."""
    name = shown.node.name
    node = tree.nodes.get(name)
    if node is None:
        raise DamagedError(f"{show(name)!r} is not in its directory's tree. Run 'cesbr check'.")
    entry = SnapshotEntry(name, node, holder.tree_ref.snapshot)
    directory = holder.directory if isinstance(holder, HardLinkInode) else holder.number
    return NodeRef(shown.number, shown.node.size, entry, directory, tree.listed)


def _at(directory: StoredDir, entries: DirEntries, number: int) -> InodeAttrs:
    try:
        return InodeAttrs(number, entries.listed[number - directory.first], directory)
    except IndexError:
        raise StaleError(number) from None


def errno_of(error: Exception) -> int:
    """Return the errno that a process reading the mount gets for `error`."""
    return error.errno if isinstance(error, CesbrError) else errno.EIO
