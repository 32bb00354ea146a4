"""Files while they are open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Readable(Protocol):
    """An open file's content; `size` in bytes."""

    @property
    def size(self) -> int:
        """All its bytes."""

    async def view(self, offset: int, size: int) -> bytes | memoryview:
        """Return up to `size` bytes from `offset`."""


@dataclass(frozen=True, slots=True)
class VirtualFileHandle:
    """A file of ours while it is open."""

    content: bytes

    @property
    def size(self) -> int:
        """All its bytes."""
        return len(self.content)

    async def view(self, offset: int, size: int) -> bytes | memoryview:
        """Return up to `size` bytes from `offset`."""
        return self.content[offset : offset + size]
