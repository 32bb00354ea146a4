"""What the kernel knows by a number: what we show ourselves, and what lies in stored folders.

A number comes from where its inode stands, so that it is the same in every mount of the same
repository.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, NamedTuple

from cesbrfs.catalog.backups import Backups
from cesbrfs.catalog.names import SNAPSHOTS, STATUS_FOLDER
from cesbrfs.entries import Entry, Folder, Inside, Stored
from cesbrfs.errors import NotFoundError
from cesbrfs.fs.folders import NUMBER_BITS, StoredFolder
from cesbrfs.repo.model import Node, Snapshot
from cesbrfs.repo.rows import Row

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
class Linked:
    """The inode of a stored file with several names, which share it within a backup.

    `folder` is the number of the folder in which it was last found, which is stored `inside`, as
    `node`.
    """

    fixed: ClassVar[bool] = True
    private: ClassVar[bool] = False
    placed: ClassVar[bool] = False

    number: int
    node: Row
    folder: int
    inside: Inside
    lookups: int = 0


class Shown(NamedTuple):
    """What the kernel is told of an inode.  `holder` counts that, and says what may change."""

    number: int
    node: Node | Row
    holder: Inode | Linked | StoredFolder


def own_number(seed: bytes) -> int:
    """Return the number of an inode that has an object of its own, told from `seed`."""
    digest = hashlib.blake2b(seed, digest_size=8).digest()
    return _OWN | int.from_bytes(digest, "big") >> (64 - NUMBER_BITS)


def snapshot_of(holder: Inode | Linked | StoredFolder) -> Snapshot | None:
    """Return the snapshot that holds what is shown, None for what is ours."""
    if isinstance(holder, Inode):
        return holder.entry.snapshot if isinstance(holder.entry, Stored) else None
    return holder.inside.snapshot


def removed(inodes: Iterable[Inode | Linked], backups: Backups) -> list[Inode]:
    """Return the inodes of removed backups, and elsewhere those of removed snapshots.

    What is stored below one of these is not among them.
    """
    own = [inode for inode in inodes if isinstance(inode, Inode) and inode.number != ROOT]
    shown = {*backups.by_name, SNAPSHOTS, STATUS_FOLDER}
    gone = {
        inode.number
        for inode in own
        if inode.parent == ROOT
        and isinstance(inode.entry, Folder)
        and inode.entry.name not in shown
    }
    listed = backups.snapshot_ids
    return [
        inode
        for inode in own
        if inode.backup in gone
        or (isinstance(inode.entry, Stored) and inode.entry.snapshot.id not in listed)
    ]
