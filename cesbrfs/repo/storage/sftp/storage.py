"""A repository on an SFTP server, accessed with the system's ssh."""

from __future__ import annotations

import builtins
import logging
import os
import posixpath
import re
import stat
from collections.abc import Sequence
from functools import partial
from typing import Final

import trio

from cesbrfs.errors import FileMissingError, RepositoryUnreachableError, UsageError
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage.base import DIRECTORIES, FileInfo, FileType, is_file_name
from cesbrfs.repo.storage.sftp.errors import unusable
from cesbrfs.repo.storage.sftp.location import parse_sftp, ssh_command
from cesbrfs.repo.storage.sftp.protocol import SftpName
from cesbrfs.repo.storage.sftp.session import NotRegularError, SftpSession
from cesbrfs.util.tasks import gather

_log = logging.getLogger(__name__)

SESSIONS: Final = 4
"""Maximum number of connections: with 20 ms latency, one carries 80 MiB/s and four carry 160."""
TIMEOUT_SECONDS: Final = 30.0
"""Timeout in seconds, counted from the last byte received while a response is outstanding."""
_BUSY: Final = 256 << 10
"""Bytes outstanding on the least busy connection above which another one is started."""
_OPENING: Final = 128 << 10
"""Cost of opening the file first, in outstanding bytes, when a connection is selected."""
_NOT_AGAIN: Final = 60.0
"""Seconds without attempts to add connections after the server has refused one."""
_DIRECTORIES_AT_ONCE: Final = 64
_PACK_DIRECTORY: Final = re.compile(rb"[0-9a-f]{2}")
_OURS: Final = ("-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ConnectTimeout=30")
"""Options for ssh, unless sftp.command is set. They follow the user's: ssh uses the first value."""


class SftpStorage:
    """Reads a repository's files over a few connections, which are created on demand.

    The requests on a lost connection fail; the next request replaces the connection.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: str,
        display_url: str,
        *,
        sessions: int = SESSIONS,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        """Connect with `command` to the server that has the repository in `directory`.

        `sessions` is the maximum number of connections; `timeout` is described at
        `TIMEOUT_SECONDS`.
        """
        self.display_url = display_url
        self._command = command
        self._directory = os.fsencode(directory)
        self._most = sessions
        self._timeout = timeout
        self._sessions: list[SftpSession] = []
        self._suspects: set[bytes] = set()
        """Paths of FIFOs, devices and links, which are opened only after a STAT."""
        self._starting = trio.Lock()
        self._alone_until = -1.0
        self._closed = False

    @classmethod
    def from_access(cls, access: Access, *, timeout: float = TIMEOUT_SECONDS) -> SftpStorage:
        """Create the storage for `access`, without connecting.

        Raises UsageError for an invalid address or option.
        """
        address = parse_sftp(access.url)
        command = ssh_command(address, access.options)
        if not access.options.get("sftp.command"):
            command[-2:-2] = _OURS
        return cls(
            command,
            address.path,
            access.display_url,
            sessions=_connections(access),
            timeout=timeout,
        )

    # The protocol `Storage`

    async def list(self, kind: FileType) -> Sequence[FileInfo]:
        """List the files of one kind."""
        entries = await self._entries(os.fsencode(kind.value))
        files = _files(entries)
        if kind is FileType.PACK:
            directories = [b"data/" + entry.name for entry in entries if _is_pack_directory(entry)]
            work = [partial(self._entries, directory) for directory in directories]
            for inner in await gather(work, _DIRECTORIES_AT_ONCE):
                files += _files(inner)
        return files

    async def _entries(self, directory: bytes) -> Sequence[SftpName]:
        path = posixpath.join(self._directory, directory)
        try:
            entries = await (await self._session(path)).entries(path)
        except FileMissingError:
            return ()
        self._suspects.update(
            posixpath.join(path, entry.name) for entry in entries if _is_special(entry)
        )
        return entries

    async def other_entry(self) -> str | None:
        """Return the name of an entry that an empty repository does not have."""
        for entry in await self._entries(b""):
            name = os.fsdecode(entry.name)
            if name in (".", "..", "lost+found"):
                continue
            if name not in DIRECTORIES:
                return name
            for inner in await self._entries(entry.name):
                if not stat.S_ISDIR(inner.attributes.mode or stat.S_IFDIR):
                    return f"{name}/{os.fsdecode(inner.name)}"
        return None

    async def read(
        self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read a part of a file, or all of it."""
        path = self._path(kind, name)
        session = await self._session(path)
        if path in self._suspects:
            await session.check_regular(path)
            self._suspects.discard(path)
        try:
            if length is None and not offset:
                return await session.read_whole(path)
            return await session.read(path, offset, length)
        except NotRegularError:
            self._suspects.add(path)
            raise

    def _path(self, kind: FileType, name: str) -> bytes:
        parts: Sequence[str] = (kind.value, name)
        if kind is FileType.CONFIG:
            parts = ("config",)
        elif kind is FileType.PACK:
            parts = ("data", name[:2], name)
        return posixpath.join(self._directory, *(part.encode() for part in parts))

    async def aclose(self) -> None:
        """Close all connections; no process is left."""
        self._closed = True
        with trio.CancelScope(shield=True):
            async with self._starting:
                while self._sessions:
                    await self._sessions.pop().aclose()

    # Connections

    async def _session(self, path: bytes) -> SftpSession:
        """Return the connection with the least load; wait for one if none is ready."""
        while True:
            ready = await self._ready()
            if ready:
                best = min(ready, key=lambda s: s.load + (0 if s.holds(path) else _OPENING))
                if best.load > _BUSY and trio.current_time() >= self._alone_until:
                    await self._start()
                    if best.is_over:
                        continue
                return best
            if not self._sessions:
                await self._start()
            for session in self._sessions[:1]:
                await session.ready()

    async def _ready(self) -> builtins.list[SftpSession]:
        """Return the usable connections, and remove those that are over."""
        for session in self._sessions:
            session.look()
        ready = [s for s in self._sessions if s.is_ready and not s.is_over]
        for session in [s for s in self._sessions if s.is_over]:
            if not session.is_ready and not session.has_failed and not ready:
                continue  # the tasks that wait for it get its error
            if not session.is_ready and ready:
                _log.debug("%s accepts no more connections at the moment", self.display_url)
                self._alone_until = trio.current_time() + _NOT_AGAIN
            if session in self._sessions:
                self._sessions.remove(session)
                await session.aclose()
        return [session for session in ready if not session.is_over]

    async def _start(self) -> None:
        """Start a connection, unless one is being started or the maximum is reached."""
        async with self._starting:
            if self._closed:
                raise RepositoryUnreachableError(f"{self.display_url} was closed.")
            making = any(not session.is_ready for session in self._sessions)
            if making or len(self._sessions) >= self._most:
                return
            try:
                session = await SftpSession.start(self._command, self.display_url, self._timeout)
            except OSError as error:
                raise unusable(self._command[0], error, self.display_url) from error
            self._sessions.append(session)


def _connections(access: Access) -> int:
    """Return restic's option ``sftp.connections``, at most `SESSIONS`; UsageError if invalid."""
    given = access.options.get("sftp.connections")
    if given is None:
        return SESSIONS
    if not given.isascii() or not given.isdigit() or not int(given):
        raise UsageError(
            f"Invalid value {given!r} of the option sftp.connections. Use a number above 0."
        )
    return min(SESSIONS, int(given))


def _files(entries: Sequence[SftpName]) -> list[FileInfo]:
    """Return the repository's files among `entries`, without temporary ones."""
    named = ((entry.name.decode("ascii", "replace"), entry.attributes) for entry in entries)
    return [
        FileInfo(name, attributes.size or 0) for name, attributes in named if is_file_name(name)
    ]


def _is_pack_directory(entry: SftpName) -> bool:
    mode = entry.attributes.mode
    named = _PACK_DIRECTORY.fullmatch(entry.name) is not None
    return named and (mode is None or stat.S_ISDIR(mode))


def _is_special(entry: SftpName) -> bool:
    return stat.S_IFMT(entry.attributes.mode or 0) not in {0, stat.S_IFREG, stat.S_IFDIR}
