"""Open files and directories, by file handle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from cesbrfs.fuse.inodes import Inode, StoredDir
from cesbrfs.repo.format.direntry import DirEntry

_T = TypeVar("_T")


class HandleTable(Generic[_T]):
    """Open objects by file handle. A handle is never used twice."""

    def __init__(self) -> None:
        self._objects: dict[int, _T] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._objects)

    def add(self, opened: _T) -> int:
        """Store an open object and return its handle."""
        self._last += 1
        self._objects[self._last] = opened
        return self._last

    def get(self, handle: int) -> _T:
        """Return the open object of a handle."""
        return self._objects[handle]

    def pop(self, handle: int) -> _T:
        """Remove a handle and return its object."""
        return self._objects.pop(handle)


class DirHandle(NamedTuple):
    """An open directory with its entries at the time of opening, either virtual or stored ones."""

    virtual: Sequence[tuple[bytes, Inode]] = ()
    directory: StoredDir | None = None
    entries: Sequence[DirEntry] = ()


class Readable(Protocol):
    """The content of an open file."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    async def view(self, offset: int, size: int) -> bytes | memoryview:
        """Return up to `size` bytes from `offset`."""


class OpenFile(NamedTuple):
    """An open file: its inode number and content."""

    number: int
    content: Readable


@dataclass(frozen=True, slots=True)
class VirtualFileHandle:
    """An open virtual file."""

    content: bytes

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return len(self.content)

    async def view(self, offset: int, size: int) -> bytes | memoryview:
        """Return up to `size` bytes from `offset`."""
        return self.content[offset : offset + size]
