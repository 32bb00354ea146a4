"""One connection to an SFTP server, and the requests of many readers on it at once.

There is no task behind it: of those who wait for answers one reads for all, and hands that on when
it has its own answer or is cancelled.  What a cancelled reader has asked for is dropped when it
arrives, whoever reads then; so a reader can be cancelled anywhere and the connection stays good,
even while it is being made.
"""

from __future__ import annotations

import posixpath
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Final

import trio

from cesbrfs.errors import CesbrError, DamagedError, RepositoryUnreachableError, StorageError
from cesbrfs.repo.storage import sftp_protocol as sftp
from cesbrfs.repo.storage.sftp_errors import not_sftp, refused, ssh_failure, timed_out
from cesbrfs.repo.storage.sftp_protocol import Code, Entry, Kind, Packet, ProtocolError
from cesbrfs.repo.storage.ssh import SshProcess

_WINDOW: Final = 4 << 20
"""Bytes that one reader asks for ahead: what a line of 100 MiB/s and 40 ms holds."""
_FOLDER_AHEAD: Final = 8
"""Parts of a folder that are asked for ahead."""
_COST: Final = 4 << 10
"""What a request that carries no content counts as load."""
_MOST_HANDLES: Final = 64
_HANDLE_AGE: Final = 300.0
"""Seconds after which a file is opened anew: somebody may have put a whole one in its place."""
_TICK: Final = 0.01
"""Seconds between two tries to send when ssh takes nothing; only a stalled one does that."""
_LAST_WORDS: Final = 2.0
"""Seconds for ssh to say why, once its output has ended."""

_Late = Callable[[Packet], None]


class _Asked:
    """One request: its answer once it is there, or what to do with it when nobody waits."""

    __slots__ = ("cost", "late", "packet", "taken")

    def __init__(self, cost: int) -> None:
        self.cost = cost
        self.packet: Packet | None = None
        self.late: _Late | None = None
        self.taken = False


class _Handle:
    """An open file on the server, and its size in bytes."""

    __slots__ = ("opened", "raw", "size", "users")

    def __init__(self, raw: bytes, size: int) -> None:
        self.raw = raw
        self.size = size
        self.users = 0
        self.opened = trio.current_time()


class SftpSession:
    """One connection.  Made by `SftpSession.start`; usable once `is_ready`."""

    def __init__(self, ssh: SshProcess, shown: str, silence: float) -> None:
        self._ssh: Final = ssh
        self._shown: Final = shown
        self._silence = silence
        self._incoming: Final = sftp.Incoming()
        self._outgoing: Final = bytearray()
        self._asked: Final[dict[int, _Asked]] = {}
        self._number = 0
        self._version: Final = _Asked(0)
        self._followers: Final[dict[trio.Event, _Asked]] = {}
        self._listening = False
        self._at_end = False
        self._failure: CesbrError | None = None
        self._heard = trio.current_time()
        self._read_size = sftp.SMALLEST_READ
        self._most_handles = _MOST_HANDLES
        self._handles: Final[OrderedDict[bytes, _Handle]] = OrderedDict()
        self.load = 0
        """Bytes that were asked for and have not come yet."""
        self.is_ready = False

    @classmethod
    async def start(cls, command: Sequence[str], shown: str, silence: float) -> SftpSession:
        """Start `command` and greet the server, without waiting for its answer.

        `silence` is for how many seconds it may owe an answer without sending anything.  Raises
        OSError when the command cannot be started.
        """
        session = cls(await SshProcess.start(command), shown, silence)
        session._outgoing.extend(sftp.init())
        session._send()
        return session

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._ssh.pid

    @property
    def is_over(self) -> bool:
        """Whether it was lost, or never came to be."""
        return self.has_failed or self._at_end or self._ssh.returncode is not None

    @property
    def has_failed(self) -> bool:
        """Whether it is over and those who waited for it were told why."""
        return self._failure is not None

    def look(self) -> None:
        """Take what has come meanwhile, without waiting."""
        if not self._listening and not self.is_over:
            self._take()

    async def ready(self) -> None:
        """Wait until the server has answered the greeting; raises why it does not."""
        await self._answer(self._version)

    async def aclose(self) -> None:
        """End it; who still waits for an answer gets an error."""
        self._fail(
            RepositoryUnreachableError(f"The connection to {self._shown} was closed meanwhile.")
        )
        await self._ssh.aclose()

    # Asking and answering

    def _ask(self, make: Callable[[int], bytes], cost: int = _COST) -> _Asked:
        """Send a request; its answer has to be awaited or forgotten."""
        self._number = (self._number + 1) & 0xFFFFFFFF
        if not self._listening:  # else what came before it would count as its silence
            self._heard = trio.current_time()
        asked = self._asked[self._number] = _Asked(cost)
        self.load += cost
        self._outgoing.extend(make(self._number))
        self._send()
        return asked

    def _send(self) -> None:
        if self._failure is None:
            self._ssh.write(self._outgoing)

    @contextmanager
    def _asking(
        self, make: Callable[[int], bytes], cost: int = _COST, late: _Late | None = None
    ) -> Iterator[_Asked]:
        """Send a request; an answer that was not taken within the context goes to `late`."""
        asked = self._ask(make, cost)
        try:
            yield asked
        finally:
            self._forget(asked, late)

    @staticmethod
    def _forget(asked: _Asked, late: _Late | None = None) -> None:
        if asked.taken:
            return
        if asked.packet is None:
            asked.late = late or _drop
        elif late is not None:
            late(asked.packet)

    async def _answer(self, asked: _Asked) -> Packet:
        """Wait for an answer, and read for all the others meanwhile where nobody does."""
        try:
            while asked.packet is None:
                if self._failure is not None:
                    raise type(self._failure)(*self._failure.args)
                if self._listening:
                    await self._follow(asked)
                else:
                    self._listening = True
                    try:
                        await self._listen()
                    finally:
                        self._listening = False
        finally:
            if not self._listening:
                self._hand_on()
        asked.taken = True
        return asked.packet

    async def _follow(self, asked: _Asked) -> None:
        event = trio.Event()
        self._followers[event] = asked
        try:
            await event.wait()
        finally:
            del self._followers[event]

    def _hand_on(self) -> None:
        """Wake one of those who still wait: it will read now."""
        for event, asked in self._followers.items():
            if asked.packet is None:
                event.set()
                return

    async def _listen(self) -> None:
        """Wait until something has come, and take it; or find out why nothing will."""
        if not self._at_end:
            until = self._heard + self._silence
            if self._outgoing:
                until = min(until, trio.current_time() + _TICK)
            with suppress(trio.ClosedResourceError), trio.CancelScope(deadline=until):
                await self._ssh.readable()
            if self._failure is None:  # else it was closed meanwhile
                self._send()
                self._take()
            if not self._at_end and trio.current_time() >= self._heard + self._silence:
                self._fail(timed_out(self._silence, self._shown))
        if self._at_end and self._failure is None:
            code = await self._ssh.ended(_LAST_WORDS)
            self._fail(ssh_failure(self._ssh.complaints, code, self._shown))
        if self._failure is not None:
            await self._ssh.aclose()

    def _take(self) -> None:
        """Take one chunk of what has come."""
        chunk = self._ssh.read()
        if chunk is None:
            return
        if not chunk:
            self._at_end = True
            return
        self._heard = trio.current_time()
        try:
            for packet in self._incoming.feed(chunk):
                self._dispatch(packet)
        except ProtocolError as error:
            self._fail(
                self._babble() if self.is_ready else not_sftp(error.start or chunk, self._shown)
            )
        for event, asked in self._followers.items():
            if asked.packet is not None:
                event.set()

    def _dispatch(self, packet: Packet) -> None:
        if packet.kind == Kind.VERSION and not self.is_ready:
            extensions = sftp.parse_version(packet)
            self._version.packet = packet
            self.is_ready = True
            if sftp.LIMITS in extensions:  # its answer comes before those to all later requests
                self._ask(sftp.limits).late = self._take_limits
            return
        asked = self._asked.pop(packet.number, None)
        if asked is None:
            raise ProtocolError(packet.body[:200])
        self.load -= asked.cost
        if asked.late is not None:
            asked.late(packet)
        else:
            asked.packet = packet

    def _take_limits(self, packet: Packet) -> None:
        if packet.kind != Kind.EXTENDED_REPLY:
            return
        limits = sftp.parse_limits(packet)
        if limits.read:
            self._read_size = min(limits.read, sftp.LARGEST // 2)
        if limits.handles:
            self._most_handles = max(1, min(_MOST_HANDLES, limits.handles // 2))

    def _babble(self) -> CesbrError:
        return RepositoryUnreachableError(
            f"The server of the repository at {self._shown} sent what is no answer; the connection"
            " was ended."
        )

    def _fail(self, failure: CesbrError) -> None:
        """Let everybody who waits, and will wait, know that the connection is over."""
        self._failure = self._failure or failure
        for event in self._followers:
            event.set()

    async def _result(self, asked: _Asked, path: bytes) -> Packet:
        """Return an answer that is no refusal; raises what a STATUS other than OK means."""
        packet = await self._answer(asked)
        if packet.kind == Kind.STATUS and (status := sftp.parse_status(packet)).code != Code.OK:
            raise refused(status, _text(path), self._shown)
        return packet

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Take an answer that cannot be understood as the end of the connection."""
        try:
            yield
        except ProtocolError as error:
            self._fail(self._babble())
            raise self._babble() from error

    # Files

    def holds(self, path: bytes) -> bool:
        """Tell whether the file is open here."""
        return path in self._handles

    async def read(self, path: bytes, offset: int, length: int | None) -> bytes:
        """Read a part of a file, or what follows `offset`; it is kept open for the next part.

        Raises FileMissingError, DamagedError where the file ends before, and what `_answer` does.
        """
        with self._understood():
            async with self._kept_open(path) as handle:
                if length is None:
                    length = max(0, handle.size - offset)
                if offset + length > handle.size:
                    raise self._too_short(path, handle.size)
                return await self._span(handle.raw, path, offset, length)

    async def read_whole(self, path: bytes) -> bytes:
        """Read a file that will not be read again; raises what `read` does."""
        with self._understood():
            handle = await self._open(path)
            try:
                return await self._span(handle.raw, path, 0, handle.size)
            finally:
                self._close(handle.raw)

    async def _open(self, path: bytes) -> _Handle:
        with (
            self._asking(partial(sftp.stat, path=path)) as sizing,
            self._asking(partial(sftp.open_file, path=path), late=self._close_late) as opening,
        ):
            size = sftp.parse_attributes(await self._result(sizing, path)).size
            raw = sftp.parse_handle(await self._result(opening, path))
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
            if self._handles.get(path) is handle:  # the next reader opens it anew
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
        excess = len(self._handles) - self._most_handles
        if excess > 0:
            unused = [path for path, handle in self._handles.items() if not handle.users]
            for path in unused[:excess]:
                self._close(self._handles.pop(path).raw)

    def _close(self, handle: bytes) -> None:
        """Close a file or folder; does not wait, so a cancelled reader can do it, too."""
        if self._failure is None:
            self._ask(partial(sftp.close, handle=handle)).late = _drop

    def _close_late(self, packet: Packet) -> None:
        if packet.kind == Kind.HANDLE:
            self._close(sftp.parse_handle(packet))

    async def _span(self, handle: bytes, path: bytes, offset: int, length: int) -> bytes:
        """Read with as many requests under way as the window holds; answers keep their order."""
        end = offset + length
        ahead = offset
        most = max(2, _WINDOW // self._read_size)
        asked: deque[tuple[_Asked, int]] = deque()
        parts: list[bytes] = []
        try:
            while offset < end:
                while ahead < end and len(asked) < most:
                    size = min(self._read_size, end - ahead)
                    asked.append((self._ask_part(handle, ahead, size), size))
                    ahead += size
                part, size = asked[0]
                packet = await self._answer(part)
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
                self._forget(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _ask_part(self, handle: bytes, offset: int, size: int) -> _Asked:
        return self._ask(partial(sftp.read, handle=handle, offset=offset, length=size), size)

    def _data(self, packet: Packet, path: bytes, offset: int) -> bytes:
        if packet.kind != Kind.STATUS:
            return sftp.parse_data(packet)
        status = sftp.parse_status(packet)
        if status.code == Code.EOF:
            raise self._too_short(path, offset)
        if status.code == Code.NO_SUCH_FILE:  # it was open: this says that the handle is gone
            status = status._replace(code=Code.FAILURE)
        raise refused(status, _text(path), self._shown)

    def _too_short(self, path: bytes, size: int) -> DamagedError:
        return DamagedError(
            f"{_text(path)} in {self._shown} ends at byte {size}, before its content does; run"
            " 'cesbr check'."
        )

    # Folders

    async def entries(self, path: bytes) -> list[Entry]:
        """List a folder; raises FileMissingError where there is none, and what `_answer` does."""
        with (
            self._understood(),
            self._asking(partial(sftp.open_folder, path=path), late=self._close_late) as opening,
        ):
            handle = sftp.parse_handle(await self._result(opening, path))
            try:
                return await self._all_names(handle, path)
            finally:
                self._close(handle)

    async def _all_names(self, handle: bytes, path: bytes) -> list[Entry]:
        found: list[Entry] = []
        asked: deque[_Asked] = deque()
        most = 2  # the names of a small folder, and its end
        try:
            while True:
                while len(asked) < most:
                    asked.append(self._ask(partial(sftp.read_folder, handle=handle)))
                packet = await self._answer(asked[0])
                asked.popleft()
                if packet.kind == Kind.STATUS:
                    status = sftp.parse_status(packet)
                    if status.code == Code.EOF:
                        return found
                    raise refused(status, _text(path), self._shown)
                found += sftp.parse_names(packet)
                most = _FOLDER_AHEAD
        finally:
            for part in asked:
                self._forget(part)


def _drop(_packet: Packet) -> None:
    """Do nothing with an answer that nobody waits for any more."""


def _text(path: bytes) -> str:
    return posixpath.normpath(path.decode("utf-8", "backslashreplace"))
