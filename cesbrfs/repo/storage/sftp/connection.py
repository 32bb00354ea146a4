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
"""What a request that carries no content counts as load."""
MOST_HANDLES: Final = 64
"""Maximum number of open files; the server may set a lower limit."""
_TICK: Final = 0.01
"""Seconds between two tries to send when ssh takes nothing; only a stalled one does that."""
_LAST_WORDS: Final = 2.0
"""Seconds for ssh to say why, once its output has ended."""

Late = Callable[[Packet], None]


class Asked:
    """A request: its response once it has arrived, or what to do with it if nobody waits."""

    __slots__ = ("cost", "late", "packet", "taken")

    def __init__(self, cost: int) -> None:
        self.cost = cost
        self.packet: Packet | None = None
        self.late: Late | None = None
        self.taken = False


class SftpConnection:
    """One connection.  Made by `start`; usable once `is_ready`."""

    def __init__(self, ssh: SshProcess, display_url: str, idle_timeout: float) -> None:
        self._ssh: Final = ssh
        self.display_url: Final = display_url
        self._timeout = idle_timeout
        self._incoming: Final = sftp.Incoming()
        self._outgoing: Final = bytearray()
        self._asked: Final[dict[int, Asked]] = {}
        self._number = 0
        self._version: Final = Asked(0)
        self._followers: Final[dict[trio.Event, Asked]] = {}
        self._listening = False
        self._at_end = False
        self._failure: CesbrError | None = None
        self._heard = trio.current_time()
        self.read_size = sftp.SMALLEST_READ
        self.most_handles = MOST_HANDLES
        self.load = 0
        """Bytes that were asked for and have not come yet."""
        self.is_ready = False

    @classmethod
    async def start(cls, command: Sequence[str], display_url: str, idle_timeout: float) -> Self:
        """Start `command` and greet the server, without waiting for its answer.

        `idle_timeout` is for how many seconds it may owe an answer without sending anything.
        Raises OSError when the command cannot be started.
        """
        made = cls(await SshProcess.start(command), display_url, idle_timeout)
        made._outgoing.extend(sftp.init())
        made._send()
        return made

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._ssh.pid

    @property
    def is_over(self) -> bool:
        """Whether it was lost or could not be established."""
        return self.has_failed or self._at_end or self._ssh.returncode is not None

    @property
    def has_failed(self) -> bool:
        """Whether it is over and those who waited for it were told why."""
        return self._failure is not None

    def look(self) -> None:
        """Read responses that have arrived, without blocking."""
        if not self._listening and not self.is_over:
            self._take()

    async def ready(self) -> None:
        """Wait until the server has answered the greeting; raises why it does not."""
        await self.answer(self._version)

    async def aclose(self) -> None:
        """Close it; tasks that wait for a response get an error."""
        self._fail(RepositoryUnreachableError(f"The connection to {self.display_url} was closed."))
        await self._ssh.aclose()

    # Asking and answering

    def ask(self, make: Callable[[int], bytes], cost: int = _COST) -> Asked:
        """Send a request; its answer has to be awaited or forgotten."""
        self._number = (self._number + 1) & 0xFFFFFFFF
        if not self._listening:  # else what came before it would count as its silence
            self._heard = trio.current_time()
        asked = self._asked[self._number] = Asked(cost)
        self.load += cost
        self._outgoing.extend(make(self._number))
        self._send()
        return asked

    def _send(self) -> None:
        if self._failure is None:
            self._ssh.write(self._outgoing)

    @contextmanager
    def asking(
        self, make: Callable[[int], bytes], cost: int = _COST, late: Late | None = None
    ) -> Iterator[Asked]:
        """Send a request; an answer that was not taken within the context goes to `late`."""
        asked = self.ask(make, cost)
        try:
            yield asked
        finally:
            self.forget(asked, late)

    @staticmethod
    def forget(asked: Asked, late: Late | None = None) -> None:
        """Abandon a response that was not taken; it is passed to `late` when it arrives."""
        if asked.taken:
            return
        if asked.packet is None:
            asked.late = late or drop
        elif late is not None:
            late(asked.packet)

    async def answer(self, asked: Asked) -> Packet:
        """Wait for a response; read those of the other tasks too if none of them does."""
        try:
            while asked.packet is None:
                if self._failure is not None:
                    raise fresh_copy(self._failure)
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

    async def _follow(self, asked: Asked) -> None:
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
            until = self._heard + self._timeout
            if self._outgoing:
                until = min(until, trio.current_time() + _TICK)
            with suppress(trio.ClosedResourceError), trio.CancelScope(deadline=until):
                await self._ssh.readable()
            if self._failure is None:  # otherwise it has been closed
                self._send()
                self._take()
            if not self._at_end and trio.current_time() >= self._heard + self._timeout:
                self._fail(timed_out(self._timeout, self.display_url))
        if self._at_end and self._failure is None:
            code = await self._ssh.ended(_LAST_WORDS)
            self._fail(ssh_failure(self._ssh.complaints, code, self.display_url))
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
                self._babble()
                if self.is_ready
                else not_sftp(error.start or chunk, self.display_url)
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
                self.ask(sftp.limits).late = self._take_limits
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
            self.read_size = min(limits.read, sftp.LARGEST // 2)
        if limits.handles:
            self.most_handles = max(1, min(MOST_HANDLES, limits.handles // 2))

    def _babble(self) -> CesbrError:
        return RepositoryUnreachableError(
            f"The server of the repository at {self.display_url} sent an invalid response; the"
            " connection was closed."
        )

    def _fail(self, failure: CesbrError) -> None:
        """Set the error that every current and future caller gets."""
        self._failure = self._failure or failure
        for event in self._followers:
            event.set()

    async def result(self, asked: Asked, path: bytes) -> Packet:
        """Return an answer that is no refusal; raises what a STATUS other than OK means."""
        packet = await self.answer(asked)
        if packet.kind == Kind.STATUS and (status := sftp.parse_status(packet)).code != Code.OK:
            raise refused(status, text_of(path), self.display_url)
        return packet

    @contextmanager
    def understood(self) -> Iterator[None]:
        """Take an answer that cannot be understood as the end of the connection."""
        try:
            yield
        except ProtocolError as error:
            self._fail(self._babble())
            raise self._babble() from error


def drop(_packet: Packet) -> None:
    """Do nothing with an answer that nobody waits for any more."""
