"""The tree as a file system needs it: inodes, lookups, open files.  Knows no FUSE library."""

from __future__ import annotations

import errno
import logging
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cesbrfs.catalog.backups import Backups
from cesbrfs.catalog.folder_names import STATUS_FOLDER
from cesbrfs.errors import CesbrError, DamagedError, NotAFolderError
from cesbrfs.fuse.access import for_owner_only
from cesbrfs.fuse.handles import Readable, VirtualFileHandle
from cesbrfs.fuse.inodes import (
    ROOT,
    HardLinkInode,
    Inode,
    InodeAttrs,
    StaleError,
    StoredDir,
    StoredDirs,
    own_number,
    removed,
    snapshot_of,
)
from cesbrfs.fuse.prefetch import SiblingPrefetcher, SubtreePrefetcher
from cesbrfs.fuse.status import GeneratedFile, MountStatus
from cesbrfs.repo.format.direntry import DirEntries, DirEntry
from cesbrfs.repo.format.model import Node, Tree
from cesbrfs.repo.repository import FileReader
from cesbrfs.util.escape import show
from cesbrfs.vfs.entries import Entry, SnapshotEntry, TreeRef, VirtualFile
from cesbrfs.vfs.tree import BackupTree

_log = logging.getLogger(__name__)

_BLOCK: Final = 512


class DirHandle(NamedTuple):
    """An open folder, with what it held when it was opened: entries of ours, or stored ones."""

    own: Sequence[tuple[bytes, Inode]] = ()
    folder: StoredDir | None = None
    rows: Sequence[DirEntry] = ()


@dataclass(frozen=True, slots=True)
class FilesystemSize:
    """What statfs tells: bytes stored in the repository, and blobs as a number of files."""

    stored_bytes: int
    blobs: int


class NodeRef(NamedTuple):
    """An inode with all that is known of it.

    `size` is what the kernel was told; `beside` is what lies in its folder, which has the number
    `folder`, where it is stored.
    """

    number: int
    size: int
    entry: Entry
    folder: int = 0
    beside: Sequence[Node] = ()


class InodeFileSystem:
    """Inodes over a `BackupTree`.  All methods run in the trio thread.

    `secrets_owner` is the user and group to whom alone secrets are shown where other users reach
    the mount.
    """

    def __init__(self, view: BackupTree, *, secrets_owner: tuple[int, int] | None = None) -> None:
        self.view: Final = view
        self._secrets_owner = secrets_owner
        self.status: Final = MountStatus(view.repository, self.counters)
        self._inodes: dict[int, Inode | HardLinkInode] = {
            ROOT: Inode(ROOT, view.root, ROOT, ROOT, False, lookups=1)
        }
        self._folders = StoredDirs()
        self._listed: frozenset[str] | None = None
        """The snapshots at the last change; None before the first."""
        self._files: dict[int, Readable] = {}
        self._listings: dict[int, DirHandle] = {}
        self._next_handle = 1
        self._neighbours = SiblingPrefetcher(view.repository.blobs)
        self.walk: Final = SubtreePrefetcher(self._look_ahead)
        self._status_folder: Final = self.status.folder(view.root.node)

    # Inodes by number

    def held(self, number: int) -> InodeAttrs | None:
        """Return an inode the kernel knows, if that needs no waiting; StaleError for another."""
        inode = self._inodes.get(number)
        if inode is not None:
            return InodeAttrs(number, inode.node, inode)
        folder = self._holding(number)
        rows = self.view.stored.entries_nowait(folder.inside)
        return _at(folder, rows, number) if rows is not None else None

    async def find(self, number: int) -> InodeAttrs:
        """Return an inode the kernel knows; StaleError for another."""
        held = self.held(number)
        if held is not None:
            return held
        folder = self._holding(number)
        return _at(folder, await self.view.stored.rows(folder.inside), number)

    def _holding(self, number: int) -> StoredDir:
        folder = self._folders.holding(number)
        if folder is None:
            raise StaleError(number)
        return folder

    def remember(self, shown: InodeAttrs) -> None:
        """Count that the kernel was told of an inode once more."""
        holder = shown.holder
        holder.lookups += 1
        if not isinstance(holder, StoredDir):
            self._inodes[holder.number] = holder

    def forget(self, number: int, lookups: int) -> None:
        """Take back `lookups` counts; what has none any more is let go."""
        inode = self._inodes.get(number)
        if inode is not None:
            inode.lookups -= lookups
            if inode.lookups <= 0 and number != ROOT:
                del self._inodes[number]
            return
        folder = self._folders.holding(number)
        if folder is not None:
            folder.lookups -= lookups
            self._folders.evict(folder)

    # Names

    def is_known(self, number: int) -> bool:
        """Tell whether it is known what this folder holds, so that nothing has to be waited for."""
        folder = self._folders.get(number)
        return folder is not None and self.view.stored.entries_nowait(folder.inside) is not None

    def is_fixed(self, number: int) -> bool:
        """Tell whether what this folder holds can never change; StaleError if it is not known."""
        inode = self._inodes.get(number) or self._holding(number)
        return inode.fixed and not self.is_gone(inode)

    def is_gone(self, holder: Inode | HardLinkInode | StoredDir) -> bool:
        """Tell whether a snapshot was removed whose directories somebody still has open."""
        snapshot = snapshot_of(holder) if self._listed is not None else None
        return snapshot is not None and snapshot.id not in (self._listed or ())

    async def lookup(self, parent: int, name: bytes) -> InodeAttrs | None:
        """Return the inode of one name in a folder, not yet counted; None without such a name."""
        above = self._inodes.get(parent)
        if not isinstance(above, Inode) or isinstance(above.entry, SnapshotEntry):
            folder, rows = await self._enter(parent)
            at = rows.position(name)
            if at is None:
                self._folders.evict(folder)
                return None
            row = rows.listed[at]
            shown = (
                self.linked(folder, row)
                if row.link_id
                else InodeAttrs(folder.first + at, row, folder)
            )
            if shown.holder is not folder:
                self._folders.evict(folder)
            return shown
        if parent == ROOT and name == STATUS_FOLDER:  # even where the repository is gone
            return self._of(self._own(above, self._status_folder))
        entry = await self.view.child(above.entry, name)
        return self._of(self._own(above, entry)) if entry is not None else None

    async def _enter(self, number: int) -> tuple[StoredDir, DirEntries]:
        """Return the stored folder with this inode number, and what it holds."""
        entered = self._enter_nowait(number)
        if entered is not None:
            return entered
        folder = self._folders.get(number)
        if folder is not None:
            inside, backup = folder.inside, folder.backup
        else:
            inside, backup = self._place(await self.find(number))
        rows = await self.view.stored.rows(inside)
        # Not the record from before: the kernel may have forgotten all of it meanwhile.
        return self._folders.add(number, inside, backup, len(rows.listed)), rows

    def _enter_nowait(self, number: int) -> tuple[StoredDir, DirEntries] | None:
        """Return the same, if nothing has to be waited for."""
        folder = self._folders.get(number)
        if folder is not None:
            rows = self.view.stored.entries_nowait(folder.inside)
            return (folder, rows) if rows is not None else None
        shown = self.held(number)
        if shown is None or not shown.holder.fixed:
            return None
        inside, backup = self._place(shown)
        rows = self.view.stored.entries_nowait(inside)
        if rows is None:
            return None
        return self._folders.add(number, inside, backup, len(rows.listed)), rows

    @staticmethod
    def _place(shown: InodeAttrs) -> tuple[TreeRef, int]:
        """Return where to find what a stored folder holds, and its backup's number."""
        number, row, holder = shown
        if isinstance(holder, Inode):
            assert isinstance(holder.entry, SnapshotEntry)
            return TreeRef.of(holder.entry), holder.backup
        if isinstance(holder, HardLinkInode) or not stat.S_ISDIR(row.mode):
            raise NotAFolderError(f"Inode {number} is not a folder.")
        return TreeRef(holder.inside.snapshot, row.subtree, False), holder.backup

    @staticmethod
    def _of(inode: Inode | HardLinkInode) -> InodeAttrs:
        return InodeAttrs(inode.number, inode.node, inode)

    def linked(self, folder: StoredDir, row: DirEntry) -> InodeAttrs:
        """Return the inode of a file that has several names: the known one, or a new one."""
        snapshot = folder.inside.snapshot
        number = own_number(b"%d\0%s\0%d" % (folder.backup, snapshot.id.encode(), row.link_id))
        inode = self._inodes.get(number)
        if not isinstance(inode, HardLinkInode):
            return self._of(HardLinkInode(number, row, folder.number, folder.inside))
        inode.node, inode.folder, inode.inside = row, folder.number, folder.inside
        return self._of(inode)

    def _own(self, parent: Inode, entry: Entry) -> Inode:
        """Return the inode for what a folder of ours shows: the known one brought up to date."""
        given = entry
        if self._secrets_owner:
            entry = for_owner_only(parent.entry, entry, *self._secrets_owner)
        if isinstance(entry, SnapshotEntry):
            # Another snapshot may come to be shown here, which is another folder.
            seed = b"%d/%s\0%s" % (parent.number, entry.name, entry.snapshot.id.encode())
        else:
            seed = b"%d/%s" % (parent.number, entry.name)
        number = own_number(seed)
        inode = self._inodes.get(number)
        if not isinstance(inode, Inode):
            backup = parent.backup if parent.number != ROOT else number
            fixed, private = isinstance(entry, SnapshotEntry), entry is not given
            return Inode(number, entry, parent.number, backup, fixed, private=private)
        if not inode.fixed:
            inode.entry = entry
        return inode

    def removed(self, backups: Backups) -> list[tuple[int, bytes]]:
        """Return (folder, name) of what the kernel knows and `backups` no longer has."""
        self._listed = backups.snapshot_ids
        return [(i.parent, i.entry.name) for i in removed(self._inodes.values(), backups)]

    # Folders

    async def open_dir(self, number: int) -> int:
        """Take down what a folder holds now; return a handle for `list_folder`."""
        inode = self._inodes.get(number)
        if not isinstance(inode, Inode) or isinstance(inode.entry, SnapshotEntry):
            return self._list(*await self._enter(number))
        entries = await self.view.children(inode.entry)
        return self._keep(DirHandle([(name, self._own(inode, e)) for name, e in entries.items()]))

    def _look_ahead(self, tree: bytes) -> bool:
        """Have the rows of a folder at hand that will be asked for; tell whether they are."""
        try:
            return self.view.repository.listings.get_nowait(tree) is not None
        except Exception:  # noqa: BLE001 - who asks for it gets the error; the mount lives on
            _log.exception("Looking ahead at tree %s failed", tree.hex()[:8])
            return False

    def open_dir_nowait(self, number: int) -> int | None:
        """Do the same with a stored folder, if nothing has to be waited for; else return None."""
        entered = self._enter_nowait(number)
        return self._list(*entered) if entered is not None else None

    def _list(self, folder: StoredDir, rows: DirEntries) -> int:
        folder.listings += 1
        if folder.inside.tree is not None:
            below = [row.subtree for row in rows.listed if row.subtree is not None]
            self.walk.opened(folder.inside.tree, below)
        return self._keep(DirHandle(folder=folder, rows=rows.listed))

    def _keep(self, listing: DirHandle) -> int:
        handle = self._handle()
        self._listings[handle] = listing
        return handle

    def opened(self, handle: int) -> DirHandle:
        """Return what a handle of `open_dir` stands for."""
        return self._listings[handle]

    def own_entries(self, opened: DirHandle, start: int) -> Iterator[tuple[int, bytes, InodeAttrs]]:
        """Yield (position of the next, name, inode) of a folder of ours from `start` on."""
        for at in range(start, len(opened.own)):
            name, inode = opened.own[at]
            # Another listing or lookup may have told the kernel of it meanwhile.
            known = self._inodes.get(inode.number)
            yield at + 1, name, self._of(inode if known is None else known)

    def close_dir(self, handle: int) -> None:
        """Let a handle of `open_dir` go."""
        folder = self._listings.pop(handle).folder
        if folder is not None:
            folder.listings -= 1
            self._folders.evict(folder)

    # Files

    def node_ref_nowait(self, number: int) -> NodeRef | None:
        """Return what `node_ref` would, if nothing has to be waited for; None does not say that."""
        shown = self.held(number)
        if shown is None:
            return None
        holder = shown.holder
        if isinstance(holder, Inode):
            return NodeRef(number, shown.node.size, holder.entry)
        tree = self.view.stored.tree_nowait(holder.inside)
        return _recorded(shown, holder, tree) if tree is not None else None

    async def node_ref(self, number: int) -> NodeRef:
        """Return all that is recorded of an inode; of a stored one, its folder's tree is read."""
        shown = await self.find(number)
        holder = shown.holder
        if isinstance(holder, Inode):
            return NodeRef(number, shown.node.size, holder.entry)
        return _recorded(shown, holder, await self.view.stored.tree(holder.inside))

    async def open_inode(self, number: int) -> tuple[int, bool]:
        """Do what `open_file` does with an inode of which not all is at hand."""
        return await self.open_file(await self.node_ref(number))

    async def open_file(self, recorded: NodeRef) -> tuple[int, bool]:
        """Open a regular file: a handle, and whether its attributes tell its true size.

        Raises IsAFolderError, and what the repository raises for missing blobs.
        """
        entry = recorded.entry
        if recorded.beside:
            self._neighbours.opened(recorded.folder, recorded.beside, entry.node)
        content: Readable
        live = isinstance(entry, GeneratedFile)
        if isinstance(entry, GeneratedFile):
            content = VirtualFileHandle(entry.render())
        else:
            found = await self.view.content(entry)
            content = VirtualFileHandle(found.content) if isinstance(found, VirtualFile) else found
        handle = self._handle()
        self._files[handle] = content
        true_size = content.size == recorded.size and not live
        if not true_size and isinstance(content, FileReader):
            _log.warning(
                "Inode %d was recorded with %d bytes but holds %d",
                recorded.number, recorded.size, content.size,
            )  # fmt: skip
        return handle, true_size

    async def read(self, handle: int, offset: int, size: int) -> bytes | memoryview:
        """Read from a handle of `open_file`."""
        return await self._files[handle].view(offset, size)

    def close_file(self, handle: int) -> None:
        """Let a handle of `open_file` go."""
        del self._files[handle]

    def _handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    async def space(self) -> FilesystemSize:
        """Tell how much the repository holds."""
        index = await self.view.repository.index()
        return FilesystemSize(index.stored_bytes, len(index))

    def counters(self) -> dict[str, int]:
        """Return what is held now: `lookups` is how often the kernel was told of them."""
        lookups = sum(inode.lookups for inode in self._inodes.values())
        return {
            "lookups": lookups + sum(folder.lookups for folder in self._folders),
            "inodes": len(self._inodes),
            "stored_folders": len(self._folders),
            "open_files": len(self._files),
            "open_folders": len(self._listings),
        }


def _recorded(shown: InodeAttrs, holder: HardLinkInode | StoredDir, tree: Tree) -> NodeRef:
    """Find in its folder's tree what is recorded of an inode."""
    name = shown.node.name
    node = tree.nodes.get(name)
    if node is None:
        raise DamagedError(f"What {show(name)!r} holds is not recorded; run 'cesbr check'.")
    entry = SnapshotEntry(name, node, holder.inside.snapshot)
    folder = holder.folder if isinstance(holder, HardLinkInode) else holder.number
    return NodeRef(shown.number, shown.node.size, entry, folder, tree.listed)


def _at(folder: StoredDir, rows: DirEntries, number: int) -> InodeAttrs:
    try:
        return InodeAttrs(number, rows.listed[number - folder.first], folder)
    except IndexError:
        raise StaleError(number) from None


def blocks(size: int) -> int:
    """Return how many blocks of 512 bytes a file of `size` bytes takes."""
    return -(-size // _BLOCK)


def errno_of(error: Exception) -> int:
    """Return the errno by which a reader of the mount learns of `error`."""
    return error.errno if isinstance(error, CesbrError) else errno.EIO
