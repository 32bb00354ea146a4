"""Read files and directories of an SFTP server, concurrently over one connection."""

from __future__ import annotations

import stat
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from cesbrfs.errors import DamagedError, RepositoryUnreachableError, StorageError
from cesbrfs.repo.storage.sftp import protocol as sftp
from cesbrfs.repo.storage.sftp.connection import Request, SftpConnection, drop
from cesbrfs.repo.storage.sftp.errors import refused, text_of
from cesbrfs.repo.storage.sftp.protocol import (
    Attributes,
    Code,
    Kind,
    Packet,
    ProtocolError,
    SftpName,
)
from cesbrfs.repo.storage.sftp.ssh import SshProcess

_WINDOW: Final = 4 << 20
"""Outstanding bytes per reader: the bandwidth-delay product of 100 MiB/s and 40 ms."""
_DIRECTORY_AHEAD: Final = 8
"""Number of outstanding requests for parts of a large directory."""
_HANDLE_AGE: Final = 300.0
"""Seconds after which a file is reopened, because it may have been replaced."""


class NotRegularError(DamagedError):
    """A directory, FIFO, socket or device is in the place of a file."""


class _Handle:
    """An open file on the server, and its size in bytes."""

    __slots__ = ("opened", "raw", "size", "users")

    def __init__(self, raw: bytes, size: int) -> None:
        self.raw = raw
        self.size = size
        self.users = 0
        self.opened = trio.current_time()


class SftpSession(SftpConnection):
    """A connection that reads files and keeps them open for the next read. Created by `start`."""

    def __init__(self, ssh: SshProcess, display_url: str, timeout: float) -> None:
        super().__init__(ssh, display_url, timeout)
        self._handles: Final[OrderedDict[bytes, _Handle]] = OrderedDict()

    def holds(self, path: bytes) -> bool:
        """Return whether the file is open in this session."""
        return path in self._handles

    async def read(self, path: bytes, offset: int, length: int | None) -> bytes:
        """Read up to `length` bytes from `offset`, by default all, and keep the file open.

        Raises FileMissingError, DamagedError if the file has become shorter, and the errors of
        `answer`.
        """
        with self.understood():
            async with self._kept_open(path) as handle:
                rest = max(0, handle.size - offset)
                length = rest if length is None else min(length, rest)
                return await self._span(handle.raw, path, offset, length)

    async def read_whole(self, path: bytes) -> bytes:
        """Read a file that will not be read again, and close it; raises like `read`."""
        with self.understood():
            handle = await self._open(path)
            try:
                return await self._span(handle.raw, path, 0, handle.size)
            finally:
                self._close(handle.raw)

    async def check_regular(self, path: bytes) -> None:
        """Raise NotRegularError for anything but a regular file, without opening it."""
        with self.understood(), self.asking(partial(sftp.stat, path=path)) as sizing:
            attributes = sftp.parse_attributes(await self.result(sizing, path))
            if not _is_regular(attributes):
                raise self._not_regular(path)

    async def _open(self, path: bytes) -> _Handle:
        """Open a file; raises NotRegularError, and then closes the connection if it is blocked.

        STAT and OPEN are sent together, which saves a round trip. But a server that opens a FIFO
        waits for a writer, and answers no other request.
        """
        with (
            self.asking(partial(sftp.stat, path=path)) as sizing,
            self.asking(partial(sftp.open_file, path=path), late=self._close_late) as opening,
        ):
            attributes = sftp.parse_attributes(await self.result(sizing, path))
            if not _is_regular(attributes):
                if not stat.S_ISDIR(attributes.mode or 0):
                    self._fail(RepositoryUnreachableError(f"{self.display_url} is blocked."))
                    await self._ssh.aclose()
                raise self._not_regular(path)
            raw = sftp.parse_handle(await self.result(opening, path))
        if attributes.size is None:
            self._close(raw)
            raise ProtocolError(b"")
        return _Handle(raw, attributes.size)

    @asynccontextmanager
    async def _kept_open(self, path: bytes) -> AsyncIterator[_Handle]:
        handle = self._handles.get(path)
        if handle is not None and not handle.users and self._is_old(handle):
            self._close(self._handles.pop(path).raw)
            handle = None
        if handle is None:
            handle = await self._open(path)
            if path in self._handles:  # another task has opened it at the same time
                self._close(handle.raw)
            handle = self._handles.setdefault(path, handle)
        self._handles.move_to_end(path)
        handle.users += 1
        try:
            self._close_unused()
            yield handle
        except (DamagedError, StorageError):
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
        """Close the least recently used files if more than the maximum are open."""
        excess = len(self._handles) - self.most_handles
        if excess > 0:
            unused = [path for path, handle in self._handles.items() if not handle.users]
            for path in unused[:excess]:
                self._close(self._handles.pop(path).raw)

    def _close(self, handle: bytes) -> None:
        """Close a file or directory; never blocks, so that a cancelled reader can call it."""
        if not self.has_failed:
            self.ask(partial(sftp.close, handle=handle)).late = drop

    def _close_late(self, packet: Packet) -> None:
        if packet.kind == Kind.HANDLE:
            self._close(sftp.parse_handle(packet))

    async def _span(self, handle: bytes, path: bytes, offset: int, length: int) -> bytes:
        """Read a range with as many outstanding requests as fit into the window, in order."""
        end = offset + length
        ahead = offset
        most = max(2, _WINDOW // self.read_size)
        requests: deque[tuple[Request, int]] = deque()
        parts: list[bytes] = []
        try:
            while offset < end:
                while ahead < end and len(requests) < most:
                    size = min(self.read_size, end - ahead)
                    requests.append((self._ask_part(handle, ahead, size), size))
                    ahead += size
                part, size = requests[0]
                packet = await self.answer(part)
                requests.popleft()
                data = self._data(packet, path, offset)
                if not data or len(data) > size:
                    raise ProtocolError(packet.body[:200])
                parts.append(data)
                offset += len(data)
                if len(data) < size:  # a limit of the server: request the rest next
                    rest = size - len(data)
                    requests.appendleft((self._ask_part(handle, offset, rest), rest))
        finally:
            for part, _ in requests:
                self.forget(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _ask_part(self, handle: bytes, offset: int, size: int) -> Request:
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
            f"{text_of(path)} in {self.display_url} is truncated at byte {size}. Run 'cesbr check'."
        )

    def _not_regular(self, path: bytes) -> NotRegularError:
        return NotRegularError(
            f"{text_of(path)} in {self.display_url} is not a regular file. Run 'cesbr check'."
        )

    # Directories

    async def entries(self, path: bytes) -> list[SftpName]:
        """List a directory; FileMissingError if it does not exist, and the errors of `answer`."""
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
        names: list[SftpName] = []
        requests: deque[Request] = deque()
        most = 2  # enough for a small directory: its names, and EOF
        try:
            while True:
                while len(requests) < most:
                    requests.append(self.ask(partial(sftp.read_directory, handle=handle)))
                packet = await self.answer(requests[0])
                requests.popleft()
                if packet.kind == Kind.STATUS:
                    status = sftp.parse_status(packet)
                    if status.code == Code.EOF:
                        return names
                    raise refused(status, text_of(path), self.display_url)
                names += sftp.parse_names(packet)
                most = _DIRECTORY_AHEAD
        finally:
            for part in requests:
                self.forget(part)


def _is_regular(attributes: Attributes) -> bool:
    """Return whether it is a regular file; True if the server does not report the type."""
    return stat.S_IFMT(attributes.mode or 0) in {0, stat.S_IFREG}
