"""One connection to an SFTP server: requests of many tasks, and their responses.

There is no background task: one of the waiting tasks reads for all, and passes this on when it has
its own response or is cancelled. The response to a cancelled request is dropped when it arrives. A
task can therefore be cancelled anywhere, and the connection stays usable, even while it is being
established.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Self

import trio

from cesbrfs.errors import CesbrError, RepositoryUnreachableError, fresh_copy
from cesbrfs.repo.storage.sftp import protocol as sftp
from cesbrfs.repo.storage.sftp.errors import not_sftp, refused, ssh_failure, text_of, timed_out
from cesbrfs.repo.storage.sftp.protocol import Code, Kind, Packet, ProtocolError
from cesbrfs.repo.storage.sftp.ssh import SshProcess

_COST: Final = 4 << 10
"""Load of a request without content, in bytes."""
MOST_HANDLES: Final = 64
"""Maximum number of open files; the server may set a lower limit."""
_TICK: Final = 0.01
"""Seconds between attempts to send while ssh accepts no input, which only a stalled ssh does."""
_LAST_WORDS: Final = 2.0
"""Seconds for ssh to exit with an error message after its output has ended."""

Late = Callable[[Packet], None]


class Request:
    """A request that was sent: its response, or the function `late` that will handle it.

    `late` is set when no task waits for the response any more.
    """

    __slots__ = ("cost", "late", "packet", "taken")

    def __init__(self, cost: int) -> None:
        self.cost = cost
        self.packet: Packet | None = None
        self.late: Late | None = None
        self.taken = False


class SftpConnection:
    """One connection. Created by `start`; usable once `is_ready` is true."""

    def __init__(self, ssh: SshProcess, display_url: str, idle_timeout: float) -> None:
        self._ssh: Final = ssh
        self.display_url: Final = display_url
        self._timeout = idle_timeout
        self._incoming: Final = sftp.Incoming()
        self._outgoing: Final = bytearray()
        self._pending: Final[dict[int, Request]] = {}
        self._number = 0
        self._version: Final = Request(0)
        self._followers: Final[dict[trio.Event, Request]] = {}
        self._listening = False
        self._at_end = False
        self._failure: CesbrError | None = None
        self._last_received = trio.current_time()
        self.read_size = sftp.SMALLEST_READ
        self.most_handles = MOST_HANDLES
        self.load = 0
        """Bytes that were requested and have not arrived yet."""
        self.is_ready = False

    @classmethod
    async def start(cls, command: Sequence[str], display_url: str, idle_timeout: float) -> Self:
        """Start `command` and send the first packet, without waiting for the response.

        The connection fails if nothing is received for `idle_timeout` seconds while a response is
        outstanding. Raises OSError if the command cannot be started.
        """
        made = cls(await SshProcess.start(command), display_url, idle_timeout)
        made._outgoing.extend(sftp.init())
        made._send()
        return made

    @property
    def is_over(self) -> bool:
        """Whether it was lost or could not be established."""
        return self.has_failed or self._at_end or self._ssh.returncode is not None

    @property
    def has_failed(self) -> bool:
        """Whether it is over and its error is known; all callers get this error."""
        return self._failure is not None

    def look(self) -> None:
        """Read responses that have arrived, without blocking."""
        if not self._listening and not self.is_over:
            self._take()

    async def ready(self) -> None:
        """Wait until the connection is established; raises like `answer`."""
        await self.answer(self._version)

    async def aclose(self) -> None:
        """Close it; tasks that wait for a response get an error."""
        self._fail(RepositoryUnreachableError(f"The connection to {self.display_url} was closed."))
        await self._ssh.aclose()

    # Requests and responses

    def ask(self, make: Callable[[int], bytes], cost: int = _COST) -> Request:
        """Send a request; the caller must pass the result to `answer` or to `forget`."""
        self._number = (self._number + 1) & 0xFFFFFFFF
        if not self._listening:  # idle time before the request does not count for the timeout
            self._last_received = trio.current_time()
        request = self._pending[self._number] = Request(cost)
        self.load += cost
        self._outgoing.extend(make(self._number))
        self._send()
        return request

    def _send(self) -> None:
        if self._failure is None:
            self._ssh.write(self._outgoing)

    @contextmanager
    def asking(
        self, make: Callable[[int], bytes], cost: int = _COST, late: Late | None = None
    ) -> Iterator[Request]:
        """Send a request; a response that was not taken within the context is passed to `late`."""
        request = self.ask(make, cost)
        try:
            yield request
        finally:
            self.forget(request, late)

    @staticmethod
    def forget(request: Request, late: Late | None = None) -> None:
        """Abandon a response that was not taken; it is passed to `late` when it arrives."""
        if request.taken:
            return
        if request.packet is None:
            request.late = late or drop
        elif late is not None:
            late(request.packet)

    async def answer(self, request: Request) -> Packet:
        """Return a response; while no other task reads, read the responses of all tasks.

        Raises the error of the connection if it has failed.
        """
        try:
            while request.packet is None:
                if self._failure is not None:
                    raise fresh_copy(self._failure)
                if self._listening:
                    await self._follow(request)
                else:
                    self._listening = True
                    try:
                        await self._listen()
                    finally:
                        self._listening = False
        finally:
            if not self._listening:
                self._hand_on()
        request.taken = True
        return request.packet

    async def _follow(self, request: Request) -> None:
        event = trio.Event()
        self._followers[event] = request
        try:
            await event.wait()
        finally:
            del self._followers[event]

    def _hand_on(self) -> None:
        """Wake one of the waiting tasks, which then reads for all."""
        for event, request in self._followers.items():
            if request.packet is None:
                event.set()
                return

    async def _listen(self) -> None:
        """Wait for data and process it; at the end of the output, set the error."""
        if not self._at_end:
            until = self._last_received + self._timeout
            if self._outgoing:
                until = min(until, trio.current_time() + _TICK)
            with suppress(trio.ClosedResourceError), trio.CancelScope(deadline=until):
                await self._ssh.readable()
            if self._failure is None:  # otherwise it has been closed
                self._send()
                self._take()
            if not self._at_end and trio.current_time() >= self._last_received + self._timeout:
                self._fail(timed_out(self._timeout, self.display_url))
        if self._at_end and self._failure is None:
            code = await self._ssh.ended(_LAST_WORDS)
            self._fail(ssh_failure(self._ssh.complaints, code, self.display_url))
        if self._failure is not None:
            await self._ssh.aclose()

    def _take(self) -> None:
        """Read and process one chunk of data, without blocking."""
        chunk = self._ssh.read()
        if chunk is None:
            return
        if not chunk:
            self._at_end = True
            return
        self._last_received = trio.current_time()
        try:
            for packet in self._incoming.feed(chunk):
                self._dispatch(packet)
        except ProtocolError as error:
            self._fail(
                self._babble()
                if self.is_ready
                else not_sftp(error.start or chunk, self.display_url)
            )
        for event, request in self._followers.items():
            if request.packet is not None:
                event.set()

    def _dispatch(self, packet: Packet) -> None:
        if packet.kind == Kind.VERSION and not self.is_ready:
            extensions = sftp.parse_version(packet)
            self._version.packet = packet
            self.is_ready = True
            if sftp.LIMITS in extensions:  # the response arrives before those to later requests
                self.ask(sftp.limits).late = self._take_limits
            return
        request = self._pending.pop(packet.number, None)
        if request is None:
            raise ProtocolError(packet.body[:200])
        self.load -= request.cost
        if request.late is not None:
            request.late(packet)
        else:
            request.packet = packet

    def _take_limits(self, packet: Packet) -> None:
        if packet.kind != Kind.EXTENDED_REPLY:
            return
        limits = sftp.parse_limits(packet)
        if limits.read:
            self.read_size = min(limits.read, sftp.LARGEST // 2)
        if limits.handles:
            self.most_handles = max(1, min(MOST_HANDLES, limits.handles // 2))

    def _babble(self) -> CesbrError:
        return RepositoryUnreachableError(
            f"The server of {self.display_url} sent an invalid response. The connection was closed."
        )

    def _fail(self, failure: CesbrError) -> None:
        """Set the error that every current and future caller gets."""
        self._failure = self._failure or failure
        for event in self._followers:
            event.set()

    async def result(self, request: Request, path: bytes) -> Packet:
        """Return a response; a STATUS other than OK raises the error of `refused`."""
        packet = await self.answer(request)
        if packet.kind == Kind.STATUS and (status := sftp.parse_status(packet)).code != Code.OK:
            raise refused(status, text_of(path), self.display_url)
        return packet

    @contextmanager
    def understood(self) -> Iterator[None]:
        """Treat an invalid response within the context as a failure of the connection."""
        try:
            yield
        except ProtocolError as error:
            self._fail(self._babble())
            raise self._babble() from error


def drop(_packet: Packet) -> None:
    """Ignore a response that no task waits for any more."""
