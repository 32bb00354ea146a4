"""The virtual tree as a file system needs it: inodes, lookups, open files.  Knows no FUSE library.

An inode's number comes from where it stands, so that it is the same in every mount of the same
repository.  Names of one file that was hard-linked share one inode within a backup.
"""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from cesbrfs.catalog.names import STATUS_FOLDER
from cesbrfs.entries import Document, Entry, Inside, Stored
from cesbrfs.errors import CesbrError, NotAFolderError, NotFoundError
from cesbrfs.fs.folders import StoredFolder, StoredFolders
from cesbrfs.fs.neighbours import Neighbours
from cesbrfs.fs.status import Live, Status
from cesbrfs.fs.walk import Walk
from cesbrfs.repo.model import Node, Tree
from cesbrfs.repo.repository import FileContent
from cesbrfs.view import View

_log = logging.getLogger(__name__)

ROOT: Final = 1
_NUMBER_BITS: Final = 62
_OWN: Final = 1 << _NUMBER_BITS
"""Set in all numbers but the root's and those that count through what a stored folder holds."""
_BLOCK: Final = 512


class StaleError(NotFoundError):
    """The kernel asks for an inode that was forgotten."""

    errno = errno.ESTALE

    def __init__(self, number: int) -> None:
        super().__init__(f"Inode {number} is not known (any more).")


@dataclass(slots=True, eq=False)
class Inode:
    """An inode with an object of its own: what we show ourselves, and files with several names.

    `backup` is the number of the backup's folder it lies in; `fixed` says that neither it nor
    anything below can ever change, `placed` that its name may come to stand for something else;
    `lookups` counts how often the kernel was told of it; `above` is the number of the stored folder
    it was last found in, and what that holds.
    """

    number: int
    entry: Entry
    backup: int
    fixed: bool
    placed: bool = True
    lookups: int = 0
    above: tuple[int, Inside] | None = None


class Shown(NamedTuple):
    """What the kernel is told of an inode.  `holder` counts that, and says what may change."""

    number: int
    node: Node
    holder: Inode | StoredFolder


class Readable(Protocol):
    """An open file's content; `size` in bytes."""

    @property
    def size(self) -> int:
        """All its bytes."""

    async def view(self, offset: int, size: int) -> bytes | memoryview:
        """Return up to `size` bytes from `offset`."""


@dataclass(frozen=True, slots=True)
class _Bytes:
    """A file of ours while it is open."""

    content: bytes

    @property
    def size(self) -> int:
        return len(self.content)

    async def view(self, offset: int, size: int) -> bytes | memoryview:
        return self.content[offset : offset + size]


@dataclass(frozen=True, slots=True)
class _Listing:
    """An open folder: what it held when it was opened."""

    own: Sequence[tuple[bytes, Inode]] = ()
    folder: StoredFolder | None = None
    nodes: Sequence[Node] = ()


@dataclass(frozen=True, slots=True)
class Space:
    """What statfs tells: bytes stored in the repository, and blobs as a number of files."""

    stored_bytes: int
    blobs: int


class VirtualTree:
    """Inodes over a `View`.  All methods run in the trio thread."""

    def __init__(self, view: View) -> None:
        self.view: Final = view
        self.status: Final = Status(view.repository, self.counters)
        self._inodes: dict[int, Inode] = {ROOT: Inode(ROOT, view.root, ROOT, False, lookups=1)}
        self._folders = StoredFolders()
        self._files: dict[int, Readable] = {}
        self._listings: dict[int, _Listing] = {}
        self._next_handle = 1
        self._neighbours = Neighbours(view.repository.blobs)
        self.walk: Final = Walk(lambda tree: view.repository.tree_at_hand(tree) is not None)
        self._status_folder: Final = self.status.folder(view.root.node)

    # Inodes by number

    def held(self, number: int) -> Shown | None:
        """Return an inode the kernel knows, if that needs no waiting; StaleError for another."""
        inode = self._inodes.get(number)
        if inode is not None:
            return Shown(number, inode.entry.node, inode)
        folder = self._holding(number)
        tree = self.view.tree_at_hand(folder.inside)
        return _at(folder, tree, number) if tree is not None else None

    async def find(self, number: int) -> Shown:
        """Return an inode the kernel knows; StaleError for another."""
        held = self.held(number)
        if held is not None:
            return held
        folder = self._holding(number)
        return _at(folder, await self.view.tree(folder.inside), number)

    def _holding(self, number: int) -> StoredFolder:
        folder = self._folders.holding(number)
        if folder is None:
            raise StaleError(number)
        return folder

    def remember(self, shown: Shown) -> None:
        """Count that the kernel was told of an inode once more."""
        holder = shown.holder
        holder.lookups += 1
        if isinstance(holder, Inode):
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
            self._folders.let_go(folder)

    # Names

    def is_known(self, number: int) -> bool:
        """Tell whether it is known what this folder holds, so that nothing has to be waited for."""
        folder = self._folders.get(number)
        return folder is not None and self.view.tree_at_hand(folder.inside) is not None

    def is_fixed(self, number: int) -> bool:
        """Tell whether what this folder holds can never change; StaleError if it is not known."""
        inode = self._inodes.get(number)
        return inode.fixed if inode is not None else self._holding(number).fixed

    async def lookup(self, parent: int, name: bytes) -> Shown | None:
        """Return the inode of one name in a folder, not yet counted; None without such a name."""
        above = self._inodes.get(parent)
        if above is None or isinstance(above.entry, Stored):
            folder, tree = await self._enter(parent)
            at = tree.position(name)
            if at is None:
                self._folders.let_go(folder)
                return None
            shown = self._shown(folder, at, tree.listed[at])
            if shown.holder is not folder:
                self._folders.let_go(folder)
            return shown
        entry = await self.view.child(above.entry, name)
        if entry is None and parent == ROOT and name == STATUS_FOLDER:
            entry = self._status_folder
        return self._of(self._own(above, entry)) if entry is not None else None

    async def _enter(self, number: int) -> tuple[StoredFolder, Tree]:
        """Return the stored folder with this inode number, and what it holds."""
        inside, backup = self._place(number, (await self.find(number)).node)
        tree = await self.view.tree(inside)
        # Not the record from before: the kernel may have forgotten all of it meanwhile.
        return self._folders.add(number, inside, backup, len(tree.listed)), tree

    def _enter_at_hand(self, number: int) -> tuple[StoredFolder, Tree] | None:
        """Return the same, if nothing has to be waited for."""
        folder = self._folders.get(number)
        if folder is not None:
            tree = self.view.tree_at_hand(folder.inside)
            return (folder, tree) if tree is not None else None
        shown = self.held(number)
        if shown is None or not self.is_fixed(number):
            return None
        inside, backup = self._place(number, shown.node)
        tree = self.view.tree_at_hand(inside)
        if tree is None:
            return None
        return self._folders.add(number, inside, backup, len(tree.listed)), tree

    def _place(self, number: int, node: Node) -> tuple[Inside, int]:
        """Return where to find what the stored folder `node` holds, and its backup's number."""
        inode = self._inodes.get(number)
        if inode is not None:
            assert isinstance(inode.entry, Stored)
            return Inside.of(inode.entry), inode.backup
        above = self._holding(number)
        if node.type != "dir":
            raise NotAFolderError(f"Inode {number} is not a folder.")
        return Inside(above.inside.snapshot, node.subtree, False), above.backup

    def _shown(self, folder: StoredFolder, at: int, node: Node) -> Shown:
        """Return the inode at one position of a stored folder."""
        if node.links > 1 and node.type != "dir" and node.inode:
            return self._of(self._linked(folder, node))
        return Shown(folder.first + at, node, folder)

    @staticmethod
    def _of(inode: Inode) -> Shown:
        return Shown(inode.number, inode.entry.node, inode)

    def _linked(self, folder: StoredFolder, node: Node) -> Inode:
        """Return the inode of a file that has several names: the known one, or a new one."""
        snapshot = folder.inside.snapshot
        seed = (folder.backup, snapshot.id.encode(), node.device_id, node.inode)
        number = _hash(b"%d\0%s\0%d\0%d" % seed)
        entry = Stored(node.name, node, snapshot)
        inode = self._inodes.get(number) or Inode(number, entry, folder.backup, True, False)
        inode.above = (folder.number, folder.inside)
        return inode

    def _own(self, parent: Inode, entry: Entry) -> Inode:
        """Return the inode for what a folder of ours shows: the known one brought up to date."""
        if isinstance(entry, Stored):
            # Another snapshot may come to be shown here, which is another folder.
            seed = b"%d/%s\0%s" % (parent.number, entry.name, entry.snapshot.id.encode())
        else:
            seed = b"%d/%s" % (parent.number, entry.name)
        number = _hash(seed)
        inode = self._inodes.get(number)
        if inode is None:
            backup = parent.backup if parent.number != ROOT else number
            return Inode(number, entry, backup, isinstance(entry, Stored))
        if not inode.fixed:
            inode.entry = entry
        return inode

    # Folders

    async def open_folder(self, number: int) -> int:
        """Take down what a folder holds now; return a handle for `list_folder`."""
        inode = self._inodes.get(number)
        if inode is None or isinstance(inode.entry, Stored):
            return self._list(*await self._enter(number))
        entries = await self.view.children(inode.entry)
        return self._keep(_Listing([(name, self._own(inode, e)) for name, e in entries.items()]))

    def open_at_hand(self, number: int) -> int | None:
        """Do the same with a stored folder, if nothing has to be waited for; else return None."""
        entered = self._enter_at_hand(number)
        return self._list(*entered) if entered is not None else None

    def _list(self, folder: StoredFolder, tree: Tree) -> int:
        folder.listings += 1
        if folder.inside.tree is not None:
            below = (node.subtree for node in tree.listed if node.subtree is not None)
            self.walk.opened(folder.inside.tree, below)
        return self._keep(_Listing(folder=folder, nodes=tree.listed))

    def _keep(self, listing: _Listing) -> int:
        handle = self._handle()
        self._listings[handle] = listing
        return handle

    def list_folder(self, handle: int, start: int) -> Iterator[tuple[int, bytes, Shown]]:
        """Yield (position of the next, name, inode) from position `start` on."""
        listing = self._listings[handle]
        folder, nodes = listing.folder, listing.nodes
        if folder is not None:
            first = folder.first
            for at in range(start, len(nodes)):
                node = nodes[at]
                if node.links > 1:
                    yield at + 1, node.name, self._shown(folder, at, node)
                else:
                    yield at + 1, node.name, Shown(first + at, node, folder)
            return
        for at in range(start, len(listing.own)):
            name, inode = listing.own[at]
            # Another listing or lookup may have told the kernel of it meanwhile.
            yield at + 1, name, self._of(self._inodes.get(inode.number, inode))

    def close_folder(self, handle: int) -> None:
        """Let a handle of `open_folder` go."""
        folder = self._listings.pop(handle).folder
        if folder is not None:
            folder.listings -= 1
            self._folders.let_go(folder)

    # Files

    async def open_file(self, number: int) -> tuple[int, bool]:
        """Open a regular file: a handle, and whether its attributes tell its true size.

        Raises IsAFolderError, and what the repository raises for missing blobs.
        """
        _, node, holder = await self.find(number)
        if isinstance(holder, Inode):
            entry, above = holder.entry, holder.above
        else:
            entry = Stored(node.name, node, holder.inside.snapshot)
            above = holder.number, holder.inside
        content: Readable
        if isinstance(entry, Live):
            content = _Bytes(entry.render())
        else:
            found = await self.view.content(entry)
            content = _Bytes(found.content) if isinstance(found, Document) else found
        if above is not None and (tree := self.view.held_tree(above[1])) is not None:
            self._neighbours.opened(above[0], tree.listed, node)
        handle = self._handle()
        self._files[handle] = content
        true_size = content.size == node.size and not isinstance(entry, Live)
        if not true_size and isinstance(content, FileContent):
            _log.warning(
                "Inode %d was recorded with %d bytes but holds %d", number, node.size, content.size
            )
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

    async def space(self) -> Space:
        """Tell how much the repository holds."""
        index = await self.view.repository.index()
        return Space(index.stored_bytes, len(index))

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


def _at(folder: StoredFolder, tree: Tree, number: int) -> Shown:
    try:
        return Shown(number, tree.listed[number - folder.first], folder)
    except IndexError:
        raise StaleError(number) from None


def _hash(seed: bytes) -> int:
    digest = hashlib.blake2b(seed, digest_size=8).digest()
    return _OWN | int.from_bytes(digest, "big") >> (64 - _NUMBER_BITS)


def blocks(size: int) -> int:
    """Return how many blocks of 512 bytes a file of `size` bytes takes."""
    return -(-size // _BLOCK)


def errno_of(error: Exception) -> int:
    """Return the errno by which a reader of the mount learns of `error`."""
    return error.errno if isinstance(error, CesbrError) else errno.EIO
