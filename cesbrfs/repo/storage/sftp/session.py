"""The files and directories of an SFTP server, read over one connection by many at once."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from cesbrfs.errors import DamagedError, StorageError
from cesbrfs.repo.storage.sftp import protocol as sftp
from cesbrfs.repo.storage.sftp.connection import Asked, SftpConnection, drop
from cesbrfs.repo.storage.sftp.errors import refused, text_of
from cesbrfs.repo.storage.sftp.protocol import Code, Kind, Packet, ProtocolError, SftpName
from cesbrfs.repo.storage.sftp.ssh import SshProcess

_WINDOW: Final = 4 << 20
"""Bytes that one reader asks for ahead: what a line of 100 MiB/s and 40 ms holds."""
_DIRECTORY_AHEAD: Final = 8
"""Parts of a directory that are asked for ahead."""
_HANDLE_AGE: Final = 300.0
"""Seconds after which a file is opened again, because it may have been replaced."""


class _Handle:
    """An open file on the server, and its size in bytes."""

    __slots__ = ("opened", "raw", "size", "users")

    def __init__(self, raw: bytes, size: int) -> None:
        self.raw = raw
        self.size = size
        self.users = 0
        self.opened = trio.current_time()


class SftpSession(SftpConnection):
    """A connection on which files are read, and kept open for the next part.  Made by `start`."""

    def __init__(self, ssh: SshProcess, display_url: str, timeout: float) -> None:
        super().__init__(ssh, display_url, timeout)
        self._handles: Final[OrderedDict[bytes, _Handle]] = OrderedDict()

    def holds(self, path: bytes) -> bool:
        """Return whether the file is open in this session."""
        return path in self._handles

    async def read(self, path: bytes, offset: int, length: int | None) -> bytes:
        """Read a part of a file, or what follows `offset`; it is kept open for the next part.

        Raises FileMissingError, DamagedError where the file ends before, and what `answer` does.
        """
        with self.understood():
            async with self._kept_open(path) as handle:
                if length is None:
                    length = max(0, handle.size - offset)
                if offset + length > handle.size:
                    raise self._too_short(path, handle.size)
                return await self._span(handle.raw, path, offset, length)

    async def read_whole(self, path: bytes) -> bytes:
        """Read a file that will not be read again; raises what `read` does."""
        with self.understood():
            handle = await self._open(path)
            try:
                return await self._span(handle.raw, path, 0, handle.size)
            finally:
                self._close(handle.raw)

    async def _open(self, path: bytes) -> _Handle:
        with (
            self.asking(partial(sftp.stat, path=path)) as sizing,
            self.asking(partial(sftp.open_file, path=path), late=self._close_late) as opening,
        ):
            size = sftp.parse_attributes(await self.result(sizing, path)).size
            raw = sftp.parse_handle(await self.result(opening, path))
        if size is None:
            self._close(raw)
            raise ProtocolError(b"")
        return _Handle(raw, size)

    @asynccontextmanager
    async def _kept_open(self, path: bytes) -> AsyncIterator[_Handle]:
        handle = self._handles.get(path)
        if handle is not None and not handle.users and self._is_old(handle):
            self._close(self._handles.pop(path).raw)
            handle = None
        if handle is None:
            handle = await self._open(path)
            if path in self._handles:  # somebody else has opened it at the same time
                self._close(handle.raw)
            handle = self._handles.setdefault(path, handle)
        self._handles.move_to_end(path)
        handle.users += 1
        try:
            self._close_unused()
            yield handle
        except StorageError:
            if self._handles.get(path) is handle:  # the next reader opens it again
                del self._handles[path]
            raise
        finally:
            handle.users -= 1
            if not handle.users and self._handles.get(path) is not handle:
                self._close(handle.raw)

    @staticmethod
    def _is_old(handle: _Handle) -> bool:
        return trio.current_time() - handle.opened > _HANDLE_AGE

    def _close_unused(self) -> None:
        """Close the files that were not read for longest, beyond as many as may be open."""
        excess = len(self._handles) - self.most_handles
        if excess > 0:
            unused = [path for path, handle in self._handles.items() if not handle.users]
            for path in unused[:excess]:
                self._close(self._handles.pop(path).raw)

    def _close(self, handle: bytes) -> None:
        """Close a file or directory; does not wait, so a cancelled reader can do it, too."""
        if not self.has_failed:
            self.ask(partial(sftp.close, handle=handle)).late = drop

    def _close_late(self, packet: Packet) -> None:
        if packet.kind == Kind.HANDLE:
            self._close(sftp.parse_handle(packet))

    async def _span(self, handle: bytes, path: bytes, offset: int, length: int) -> bytes:
        """Read with as many requests under way as the window holds; answers keep their order."""
        end = offset + length
        ahead = offset
        most = max(2, _WINDOW // self.read_size)
        asked: deque[tuple[Asked, int]] = deque()
        parts: list[bytes] = []
        try:
            while offset < end:
                while ahead < end and len(asked) < most:
                    size = min(self.read_size, end - ahead)
                    asked.append((self._ask_part(handle, ahead, size), size))
                    ahead += size
                part, size = asked[0]
                packet = await self.answer(part)
                asked.popleft()
                data = self._data(packet, path, offset)
                if not data or len(data) > size:
                    raise ProtocolError(packet.body[:200])
                parts.append(data)
                offset += len(data)
                if len(data) < size:  # the server's own limit: ask for the rest, first
                    rest = size - len(data)
                    asked.appendleft((self._ask_part(handle, offset, rest), rest))
        finally:
            for part, _ in asked:
                self.forget(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _ask_part(self, handle: bytes, offset: int, size: int) -> Asked:
        return self.ask(partial(sftp.read, handle=handle, offset=offset, length=size), size)

    def _data(self, packet: Packet, path: bytes, offset: int) -> bytes:
        if packet.kind != Kind.STATUS:
            return sftp.parse_data(packet)
        status = sftp.parse_status(packet)
        if status.code == Code.EOF:
            raise self._too_short(path, offset)
        if status.code == Code.NO_SUCH_FILE:  # it was open: the handle has become invalid
            status = status._replace(code=Code.FAILURE)
        raise refused(status, text_of(path), self.display_url)

    def _too_short(self, path: bytes, size: int) -> DamagedError:
        return DamagedError(
            f"{text_of(path)} in {self.display_url} ends at byte {size}, before its content"
            " does; run 'cesbr check'."
        )

    # Directories

    async def entries(self, path: bytes) -> list[SftpName]:
        """List a directory; raises FileMissingError where there is none, and what `answer` does."""
        with (
            self.understood(),
            self.asking(partial(sftp.open_directory, path=path), late=self._close_late) as opening,
        ):
            handle = sftp.parse_handle(await self.result(opening, path))
            try:
                return await self._all_names(handle, path)
            finally:
                self._close(handle)

    async def _all_names(self, handle: bytes, path: bytes) -> list[SftpName]:
        found: list[SftpName] = []
        asked: deque[Asked] = deque()
        most = 2  # the names of a small directory, and its end
        try:
            while True:
                while len(asked) < most:
                    asked.append(self.ask(partial(sftp.read_directory, handle=handle)))
                packet = await self.answer(asked[0])
                asked.popleft()
                if packet.kind == Kind.STATUS:
                    status = sftp.parse_status(packet)
                    if status.code == Code.EOF:
                        return found
                    raise refused(status, text_of(path), self.display_url)
                found += sftp.parse_names(packet)
                most = _DIRECTORY_AHEAD
        finally:
            for part in asked:
                self.forget(part)
