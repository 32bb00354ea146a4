"""Write a tar archive to a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from cesbrfs.archive import tar_headers
from cesbrfs.archive.members import Member
from cesbrfs.archive.tar_headers import Segment
from cesbrfs.errors import CesbrError

Write = Callable[[bytes], Awaitable[None]]


class TarWriter:
    """Writes members in the order in which they are added."""

    def __init__(self, write: Write) -> None:
        self._write: Final = write

    def refusal(self, member: Member) -> CesbrError | None:
        """Return why the archive cannot contain a member, None if it can."""
        if tar_headers.is_storable(member.node):
            return None
        return CesbrError(f"tar cannot contain a {member.node.type}.")

    async def add(self, member: Member) -> None:
        """Add anything but a file with content."""
        await self._write(tar_headers.header(member.name, member.node))

    async def add_link(self, member: Member, first: bytes) -> None:
        """Add another name of the file that is the member `first`."""
        await self._write(tar_headers.header(member.name, member.node, link=first))

    async def add_file(self, member: Member, size: int, data: AsyncIterator[bytes]) -> None:
        """Add a file of `size` bytes."""
        await self._write(tar_headers.header(member.name, member.node, size))
        await self._write_data(size, data)

    async def add_sparse(
        self, member: Member, size: int, segments: Sequence[Segment], data: AsyncIterator[bytes]
    ) -> None:
        """Add a file of `size` bytes whose segments are `data`."""
        await self._write(tar_headers.sparse_header(member.name, member.node, size, segments))
        await self._write_data(sum(segment.size for segment in segments), data)

    async def _write_data(self, size: int, data: AsyncIterator[bytes]) -> None:
        async for part in data:
            await self._write(part)
        if rest := tar_headers.padding(size):
            await self._write(rest)

    async def finish(self) -> None:
        """Write the end of the archive."""
        await self._write(tar_headers.END)
