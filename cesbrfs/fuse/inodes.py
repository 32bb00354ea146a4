"""The inode table: virtual entries, hard links, and directories stored in snapshots.

An inode number is computed from the position in the tree, so that it is the same in every mount of
a repository.
"""

from __future__ import annotations

import errno
import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from cesbrfs.catalog.backups import Backups
from cesbrfs.catalog.directory_names import DOGUS, SNAPSHOTS, STATUS_DIRECTORY, VERSIONS
from cesbrfs.errors import NotFoundError
from cesbrfs.repo.format.direntry import DirEntry
from cesbrfs.repo.format.model import Node, Snapshot
from cesbrfs.vfs.entries import Entry, MergedDir, PendingSymlink, SnapshotEntry, TreeRef, VirtualDir

POSITION_BITS: Final = 20
"""Low bits of an inode number that are a position. Larger directories take several ranges."""
NUMBER_BITS: Final = 62
"""Numbers with a higher bit belong to inodes with an object."""
RANGES: Final = 1 << (NUMBER_BITS - POSITION_BITS)
_GOLDEN: Final = 0x9E37_79B9_7F4A_7C15
_ALL_BITS: Final = (1 << 64) - 1


@dataclass(slots=True, eq=False)
class StoredDir:
    """A stored directory whose entries the kernel knows, without an object for each entry.

    A stored directory never changes, so the entry at position `i` of its tree has the inode number
    `first + i` (ADR 15). `number` is the directory's own inode, `backup` the inode of its backup's
    directory. `lookups` is the kernel's count over all entries, `listings` the number of open
    handles.
    """

    immutable: ClassVar[bool] = True
    private: ClassVar[bool] = False
    name_may_change: ClassVar[bool] = False

    number: int
    tree_ref: TreeRef
    backup: int
    first: int
    ranges: int
    lookups: int = 0
    listings: int = 0


class StoredDirs:
    """Stored directories by their inode number, and by the inode numbers of their entries."""

    def __init__(self) -> None:
        self._by_number: dict[int, StoredDir] = {}
        self._by_range: dict[int, StoredDir] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[StoredDir]:
        return iter(self._by_number.values())

    def get(self, number: int) -> StoredDir | None:
        """Return the directory with this inode number, if the kernel knows entries of it."""
        return self._by_number.get(number)

    def containing(self, number: int) -> StoredDir | None:
        """Return the directory that contains the inode of this number."""
        return self._by_range.get(number >> POSITION_BITS)

    def add(self, number: int, tree_ref: TreeRef, backup: int, size: int) -> StoredDir:
        """Return the record of a directory with `size` entries, creating it if necessary.

        The numbers of its entries are a hash of its inode number: equal in every mount.
        """
        directory = self._by_number.get(number)
        if directory is not None:
            return directory
        at = _preferred_range(number)
        ranges = max(1, -(-size >> POSITION_BITS))
        while not self._is_free(at, ranges):
            at = (at + 1) % RANGES
        directory = StoredDir(number, tree_ref, backup, at << POSITION_BITS, ranges)
        self._by_number[number] = directory
        for taken in _span(at, ranges):
            self._by_range[taken] = directory
        return directory

    def _is_free(self, at: int, ranges: int) -> bool:
        # The first range contains the lowest numbers, some of which are reserved.
        if not 0 < at <= RANGES - ranges:
            return False
        if ranges == 1:  # nearly always
            return at not in self._by_range
        return not any(taken in self._by_range for taken in _span(at, ranges))

    def evict(self, directory: StoredDir) -> None:
        """Remove a directory that has neither lookups nor open handles."""
        if directory.lookups > 0 or directory.listings > 0:
            return
        if self._by_number.pop(directory.number, None) is None:
            return
        for taken in _span(directory.first >> POSITION_BITS, directory.ranges):
            del self._by_range[taken]


def _preferred_range(number: int) -> int:
    """Return the range for a directory: Knuth's multiplicative hash of its number."""
    return (number * _GOLDEN & _ALL_BITS) >> (64 - RANGES.bit_length() + 1)


def _span(at: int, ranges: int) -> range:
    return range(at, at + ranges)


EPHEMERAL_MAX: Final = 8192
"""Inodes below ``_versions`` and ``_dogus`` that the kernel may cache; each takes about 1 KiB."""
ROOT: Final = 1
_OWN: Final = 1 << NUMBER_BITS
"""Set in the numbers of all inodes with an object, except the root."""


class StaleError(NotFoundError):
    """The kernel uses an inode that it was to forget."""

    errno = errno.ESTALE

    def __init__(self, number: int) -> None:
        super().__init__(f"Inode {number} is stale.")


@dataclass(slots=True, eq=False)
class Inode:
    """The inode of an entry in a virtual directory.

    `parent` is the inode of its directory, `backup` of its backup. `immutable` means
    that neither it nor anything below it can change. `lookups` is the kernel's lookup count.
    """

    name_may_change: ClassVar[bool] = True
    """Its name may refer to another object later."""

    number: int
    entry: Entry
    parent: int
    backup: int
    immutable: bool
    private: bool = False
    """Whether it contains secrets, which no option gives to another user."""
    lookups: int = 0
    ephemeral: bool = False
    """Whether it counts for `EPHEMERAL_MAX`."""

    @property
    def node(self) -> Node:
        """The attributes."""
        return self.entry.node


@dataclass(slots=True, eq=False)
class HardLinkInode:
    """The inode of a stored file with several names, shared by them within a backup.

    `directory` and `tree_ref` are the directory in which it was found last, `node` its entry there.
    """

    immutable: ClassVar[bool] = True
    private: ClassVar[bool] = False
    name_may_change: ClassVar[bool] = False

    number: int
    node: DirEntry
    directory: int
    tree_ref: TreeRef
    lookups: int = 0


class InodeAttrs(NamedTuple):
    """The attributes of an inode. `holder` counts its lookups and states what may change."""

    number: int
    node: Node | DirEntry
    holder: Inode | HardLinkInode | StoredDir


def hashed_number(seed: bytes) -> int:
    """Return the number of an inode with an object: a hash of `seed`."""
    digest = hashlib.blake2b(seed, digest_size=8).digest()
    return _OWN | int.from_bytes(digest, "big") >> (64 - NUMBER_BITS)


def snapshot_of(holder: Inode | HardLinkInode | StoredDir) -> Snapshot | None:
    """Return the snapshot that contains the inode, None for a virtual one."""
    if isinstance(holder, Inode):
        return holder.entry.snapshot if isinstance(holder.entry, SnapshotEntry) else None
    return holder.tree_ref.snapshot


def removed(inodes: Iterable[Inode | HardLinkInode], backups: Backups) -> list[Inode]:
    """Return the inodes of removed backups, and elsewhere those of removed snapshots.

    Entries stored below one of these are not included.
    """
    own = [inode for inode in inodes if isinstance(inode, Inode) and inode.number != ROOT]
    shown = {*backups.by_name, SNAPSHOTS, STATUS_DIRECTORY, DOGUS, VERSIONS}
    gone = {
        inode.number
        for inode in own
        if inode.parent == ROOT
        and isinstance(inode.entry, VirtualDir)
        and inode.entry.name not in shown
    }
    listed = backups.snapshot_ids
    return [
        inode
        for inode in own
        if inode.backup in gone
        or (isinstance(inode.entry, SnapshotEntry) and inode.entry.snapshot.id not in listed)
    ]


def is_pending(inode: Inode | HardLinkInode | StoredDir) -> bool:
    """Return whether the inode is a link that was listed before it was determined."""
    return isinstance(inode, Inode) and isinstance(inode.entry, PendingSymlink)


def attrs_of(inode: Inode | HardLinkInode) -> InodeAttrs:
    """Return the attributes of an inode with an object."""
    return InodeAttrs(inode.number, inode.node, inode)


def _is_ephemeral(parent: Entry, entry: Entry) -> bool:
    """Return whether the kernel is to cache few entries of this kind; directories are few."""
    return isinstance(parent, VirtualDir) and parent.ephemeral and not isinstance(entry, MergedDir)


class InodeTable:
    """All inodes that the kernel knows."""

    def __init__(self, root: Entry) -> None:
        self.objects: Final[dict[int, Inode | HardLinkInode]] = {
            ROOT: Inode(ROOT, root, ROOT, ROOT, False, lookups=1)
        }
        self.directories: Final = StoredDirs()
        self._ephemeral: OrderedDict[int, Inode] = OrderedDict()

    def count_lookup(self, attrs: InodeAttrs) -> None:
        """Count a lookup: the kernel was given the inode."""
        holder = attrs.holder
        holder.lookups += 1
        if not isinstance(holder, StoredDir):
            self.objects[holder.number] = holder
            if isinstance(holder, Inode) and holder.ephemeral:
                self._ephemeral[holder.number] = holder

    def surplus(self) -> Iterator[tuple[int, bytes]]:
        """Yield (directory, name) of the oldest ephemeral inodes above `EPHEMERAL_MAX`, once."""
        while len(self._ephemeral) > EPHEMERAL_MAX:
            _, inode = self._ephemeral.popitem(last=False)
            yield inode.parent, inode.entry.name

    def forget(self, number: int, lookups: int) -> None:
        """Subtract `lookups` from an inode's count, and remove it at zero."""
        inode = self.objects.get(number)
        if inode is not None:
            inode.lookups -= lookups
            if inode.lookups <= 0 and number != ROOT:
                del self.objects[number]
                self._ephemeral.pop(number, None)
            return
        directory = self.directories.containing(number)
        if directory is not None:
            directory.lookups -= lookups
            self.directories.evict(directory)

    def hard_link(self, directory: StoredDir, entry: DirEntry) -> InodeAttrs:
        """Return the inode of a stored file with several names, one for all names in a backup."""
        snapshot = directory.tree_ref.snapshot
        seed = (directory.backup, snapshot.id.encode(), entry.link_id)
        number = hashed_number(b"%d\0%s\0%d" % seed)
        inode = self.objects.get(number)
        if not isinstance(inode, HardLinkInode):
            return attrs_of(HardLinkInode(number, entry, directory.number, directory.tree_ref))
        inode.node, inode.directory, inode.tree_ref = entry, directory.number, directory.tree_ref
        return attrs_of(inode)

    def virtual(self, parent: Inode, entry: Entry, *, private: bool) -> Inode:
        """Return the inode of an entry in a virtual directory, with its current attributes."""
        if isinstance(entry, SnapshotEntry):
            # The name may refer to another snapshot later, which is another directory.
            seed = b"%d/%s\0%s" % (parent.number, entry.name, entry.snapshot.id.encode())
        else:
            seed = b"%d/%s" % (parent.number, entry.name)
        number = hashed_number(seed)
        inode = self.objects.get(number)
        if not isinstance(inode, Inode):
            backup = parent.backup if parent.number != ROOT else number
            return Inode(
                number,
                entry,
                parent.number,
                backup,
                immutable=isinstance(entry, SnapshotEntry) and not entry.unreadable,
                private=private,
                ephemeral=_is_ephemeral(parent.entry, entry),
            )
        if not inode.immutable:
            inode.entry = entry
        return inode
