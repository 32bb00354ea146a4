"""What the kernel knows by a number: what we show ourselves, and what lies in stored folders.

A number comes from where its inode stands, so that it is the same in every mount of the same
repository.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from cesbrfs.catalog.backups import Backups
from cesbrfs.catalog.folder_names import SNAPSHOTS, STATUS_FOLDER
from cesbrfs.errors import NotFoundError
from cesbrfs.repo.format.direntry import DirEntry
from cesbrfs.repo.format.model import Node, Snapshot
from cesbrfs.vfs.entries import Entry, SnapshotEntry, TreeRef, VirtualDir

POSITION_BITS: Final = 20
"""The bits of a number that are a position; a folder with more entries takes several ranges."""
NUMBER_BITS: Final = 62
"""Numbers with a higher bit are those of other inodes."""
RANGES: Final = 1 << (NUMBER_BITS - POSITION_BITS)
_GOLDEN: Final = 0x9E37_79B9_7F4A_7C15
_ALL_BITS: Final = (1 << 64) - 1


@dataclass(slots=True, eq=False)
class StoredDir:
    """One stored folder of which the kernel knows entries, or is about to.

    `number` is its own inode's, `first` that of its first entry; `backup` that of the backup's
    folder it lies in.  `lookups` counts how often the kernel was told of its entries, `listings`
    who reads it now.
    """

    fixed: ClassVar[bool] = True
    private: ClassVar[bool] = False
    placed: ClassVar[bool] = False

    number: int
    inside: TreeRef
    backup: int
    first: int
    ranges: int
    lookups: int = 0
    listings: int = 0


class StoredDirs:
    """The stored folders by their own number, and by the numbers of their entries."""

    def __init__(self) -> None:
        self._by_number: dict[int, StoredDir] = {}
        self._by_range: dict[int, StoredDir] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[StoredDir]:
        return iter(self._by_number.values())

    def get(self, number: int) -> StoredDir | None:
        """Return the folder with this inode number, if something in it is known."""
        return self._by_number.get(number)

    def holding(self, number: int) -> StoredDir | None:
        """Return the folder in which the inode of this number lies."""
        return self._by_range.get(number >> POSITION_BITS)

    def add(self, number: int, inside: TreeRef, backup: int, size: int) -> StoredDir:
        """Return the record of a folder of `size` entries: the one there is, or a new one.

        Its entries' numbers are a hash of its own, so that they are the same in every mount.
        """
        folder = self._by_number.get(number)
        if folder is not None:
            return folder
        at = _preferred_range(number)
        ranges = max(1, -(-size >> POSITION_BITS))
        while not self._is_free(at, ranges):
            at = (at + 1) % RANGES
        folder = StoredDir(number, inside, backup, at << POSITION_BITS, ranges)
        self._by_number[number] = folder
        for taken in _span(at, ranges):
            self._by_range[taken] = folder
        return folder

    def _is_free(self, at: int, ranges: int) -> bool:
        # The first range has the lowest numbers, among them those with a meaning of their own.
        if not 0 < at <= RANGES - ranges:
            return False
        if ranges == 1:  # as it nearly always is
            return at not in self._by_range
        return not any(taken in self._by_range for taken in _span(at, ranges))

    def evict(self, folder: StoredDir) -> None:
        """Forget a folder of which nothing is known any more."""
        if folder.lookups > 0 or folder.listings > 0:
            return
        if self._by_number.pop(folder.number, None) is None:
            return
        for taken in _span(folder.first >> POSITION_BITS, folder.ranges):
            del self._by_range[taken]


def _preferred_range(number: int) -> int:
    """Return a hash of a folder's number (Knuth's multiplicative one), which is a range."""
    return (number * _GOLDEN & _ALL_BITS) >> (64 - RANGES.bit_length() + 1)


def _span(at: int, ranges: int) -> range:
    return range(at, at + ranges)


ROOT: Final = 1
_OWN: Final = 1 << NUMBER_BITS
"""Set in all numbers but the root's and those that count through what a stored folder holds."""


class StaleError(NotFoundError):
    """The kernel asks for an inode that was forgotten."""

    errno = errno.ESTALE

    def __init__(self, number: int) -> None:
        super().__init__(f"Inode {number} is not known (any more).")


@dataclass(slots=True, eq=False)
class Inode:
    """The inode of something that we show ourselves, or that stands in a folder of ours.

    `parent` is the number of its folder, `backup` that of the backup's folder it lies in; `fixed`
    says that neither it nor anything below can ever change; `lookups` counts how often the kernel
    was told of it.
    """

    placed: ClassVar[bool] = True
    """Its name may come to stand for something else."""

    number: int
    entry: Entry
    parent: int
    backup: int
    fixed: bool
    private: bool = False
    """Whether it holds secrets: no option gives it to another user."""
    lookups: int = 0

    @property
    def node(self) -> Node:
        """Its attributes."""
        return self.entry.node


@dataclass(slots=True, eq=False)
class HardLinkInode:
    """The inode of a stored file with several names, which share it within a backup.

    `folder` is the number of the folder in which it was last found, which is stored `inside`, as
    `node`.
    """

    fixed: ClassVar[bool] = True
    private: ClassVar[bool] = False
    placed: ClassVar[bool] = False

    number: int
    node: DirEntry
    folder: int
    inside: TreeRef
    lookups: int = 0


class InodeAttrs(NamedTuple):
    """What the kernel is told of an inode.  `holder` counts that, and says what may change."""

    number: int
    node: Node | DirEntry
    holder: Inode | HardLinkInode | StoredDir


def own_number(seed: bytes) -> int:
    """Return the number of an inode that has an object of its own, told from `seed`."""
    digest = hashlib.blake2b(seed, digest_size=8).digest()
    return _OWN | int.from_bytes(digest, "big") >> (64 - NUMBER_BITS)


def snapshot_of(holder: Inode | HardLinkInode | StoredDir) -> Snapshot | None:
    """Return the snapshot that holds what is shown, None for what is ours."""
    if isinstance(holder, Inode):
        return holder.entry.snapshot if isinstance(holder.entry, SnapshotEntry) else None
    return holder.inside.snapshot


def removed(inodes: Iterable[Inode | HardLinkInode], backups: Backups) -> list[Inode]:
    """Return the inodes of removed backups, and elsewhere those of removed snapshots.

    What is stored below one of these is not among them.
    """
    own = [inode for inode in inodes if isinstance(inode, Inode) and inode.number != ROOT]
    shown = {*backups.by_name, SNAPSHOTS, STATUS_FOLDER}
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
