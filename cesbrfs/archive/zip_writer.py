"""Write a zip archive to a stream.

zip has modes, modification times and symlinks, but no owners, attributes and hard links. Times are
those of MS-DOS, in local time, and in an extra field in UTC to the second.
"""

from __future__ import annotations

import io
import stat
import struct
import time
import zipfile
from collections.abc import AsyncIterator
from typing import Final

import trio

from cesbrfs.archive.members import Member
from cesbrfs.archive.tar_writer import Write
from cesbrfs.errors import CesbrError

_NS: Final = 10**9
_TIMESTAMP: Final = 0x5455
_YEARS: Final = (1980, 2107)
_UNIX: Final = 3
_WRITE_BYTES: Final = 64 << 10


class _Buffer(io.RawIOBase):
    """A stream that cannot seek, and keeps what was written until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]  # any buffer
        self._parts.append(part)
        self.size += len(part)
        return len(part)

    def take(self) -> bytes:
        parts, self._parts, self.size = self._parts, [], 0
        return b"".join(parts)


class ZipWriter:
    """Writes members in the order in which they are added."""

    def __init__(self, write: Write) -> None:
        self._write: Final = write
        self._buffer: Final = _Buffer()
        self._zip: Final = zipfile.ZipFile(self._buffer, "w", zipfile.ZIP_DEFLATED)

    def refusal(self, member: Member) -> CesbrError | None:
        """Return why the archive cannot contain a member, None if it can."""
        kind = member.node.type
        if kind not in ("file", "dir", "symlink"):
            what = {"dev": "device", "chardev": "device"}.get(kind, kind)
            return CesbrError(f"zip cannot contain a {what}. Export it with --format tar.")
        try:
            member.name.decode()
        except UnicodeDecodeError:
            return CesbrError(
                "zip cannot contain a name that is not UTF-8. Export it with --format tar."
            )
        return None

    async def add(self, member: Member) -> None:
        """Add anything but a file with content."""
        self._zip.writestr(_info(member), member.node.target)
        await self._drain()

    async def add_file(self, member: Member, size: int, data: AsyncIterator[bytes]) -> None:
        """Add a file of `size` bytes."""
        info = _info(member)
        info.compress_type = zipfile.ZIP_DEFLATED
        info.file_size = size
        with self._zip.open(info, "w") as file:
            async for part in data:
                if len(part) > _WRITE_BYTES:
                    await trio.to_thread.run_sync(file.write, part)
                else:
                    file.write(part)
                if self._buffer.size > _WRITE_BYTES:
                    await self._drain()
        await self._drain()

    async def finish(self) -> None:
        """Write the central directory."""
        self._zip.close()
        await self._drain()

    async def _drain(self) -> None:
        if data := self._buffer.take():
            await self._write(data)


def _info(member: Member) -> zipfile.ZipInfo:
    node = member.node
    seconds = node.mtime_ns // _NS
    local = time.localtime(max(0, min(seconds, 1 << 32)))
    date = local[:6] if local.tm_year >= _YEARS[0] else (_YEARS[0], 1, 1, 0, 0, 0)
    is_directory = stat.S_ISDIR(node.mode)
    info = zipfile.ZipInfo(member.name.decode() + "/" * is_directory, date)
    info.create_system = _UNIX
    info.external_attr = (node.mode & 0xFFFF) << 16 | (0x10 if is_directory else 0)
    if -(1 << 31) <= seconds < 1 << 31:
        info.extra = struct.pack("<HHBi", _TIMESTAMP, 5, 1, seconds)
    return info
