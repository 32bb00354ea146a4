"""What lies inside stored folders, as the kernel knows it: inodes without an object for each.

A walk over old backups makes the kernel hold a million inodes.  A stored folder never changes, so
the entry at position `i` of its tree has the inode number `first + i`: one small record for each
folder is kept, until the kernel has forgotten all that lies in it.  The nodes themselves are in the
repository's cache of trees, which has a bound, and are read again where that let them go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from cesbrfs.entries import Inside

POSITION_BITS: Final = 20
"""The bits of a number that are a position; a folder with more entries takes several ranges."""
NUMBER_BITS: Final = 62
"""Numbers with a higher bit are those of other inodes."""
RANGES: Final = 1 << (NUMBER_BITS - POSITION_BITS)
_GOLDEN: Final = 0x9E37_79B9_7F4A_7C15
_ALL_BITS: Final = (1 << 64) - 1


@dataclass(slots=True, eq=False)
class StoredFolder:
    """One stored folder of which the kernel knows entries, or is about to.

    `number` is its own inode's, `first` that of its first entry; `backup` that of the backup's
    folder it lies in.  `lookups` counts how often the kernel was told of its entries, `listings`
    who reads it now.
    """

    fixed: ClassVar[bool] = True
    private: ClassVar[bool] = False
    placed: ClassVar[bool] = False

    number: int
    inside: Inside
    backup: int
    first: int
    ranges: int
    lookups: int = 0
    listings: int = 0


class StoredFolders:
    """The stored folders by their own number, and by the numbers of their entries."""

    def __init__(self) -> None:
        self._by_number: dict[int, StoredFolder] = {}
        self._by_range: dict[int, StoredFolder] = {}

    def __len__(self) -> int:
        return len(self._by_number)

    def __iter__(self) -> Iterator[StoredFolder]:
        return iter(self._by_number.values())

    def get(self, number: int) -> StoredFolder | None:
        """Return the folder with this inode number, if something in it is known."""
        return self._by_number.get(number)

    def holding(self, number: int) -> StoredFolder | None:
        """Return the folder in which the inode of this number lies."""
        return self._by_range.get(number >> POSITION_BITS)

    def add(self, number: int, inside: Inside, backup: int, size: int) -> StoredFolder:
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
        folder = StoredFolder(number, inside, backup, at << POSITION_BITS, ranges)
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

    def let_go(self, folder: StoredFolder) -> None:
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
