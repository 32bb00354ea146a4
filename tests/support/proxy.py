"""A TCP proxy on loopback that makes a server far away, slow or faulty.

    with proxying(("127.0.0.1", 8333), round_trip=0.02) as proxy:
        client = connect(proxy.address)
        proxy.inject(Fault.RESET, after=50_000)

It runs in a thread of its own, so that it serves the test's process and others alike, and outlives
the loops of tests.  ``python -m tests.support.proxy --to HOST:PORT --round-trip 20ms`` is the same
as a program.  Bytes in flight travel side by side: a delay costs no throughput.  "Answers" are the
bytes from the server to the client.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import queue
import re
import signal
import socket
import struct
import threading
from collections.abc import Awaitable, Callable, Iterator
from enum import Enum, auto
from typing import Final

import trio

_CHUNK: Final = 256 << 10
_MOST_IN_FLIGHT: Final = 16 << 20
"""Bytes a direction of a connection may hold: beyond, the sender is made to wait."""
_SMOOTH_SECONDS: Final = 0.01
"""With a limited rate, no chunk takes longer than this."""
_QUEUED_SECONDS: Final = 0.1
"""With a limited rate, a connection queues at most this much."""
_TIMER_SECONDS: Final = 0.0005
"""By about this much the timers of the event loop, which count whole milliseconds, come late."""
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER that makes close() send a reset."""


class Fault(Enum):
    """What can happen to an answer on its way."""

    RESET = auto()
    TRUNCATE = auto()
    """The connection ends there, as if the server had closed it."""
    STALL = auto()
    """Nothing more comes, and the connection stays open."""
    CORRUPT = auto()
    """One bit of the next byte is flipped."""


class _Line:
    """What travels in one direction: chunks with the time at which they arrive."""

    def __init__(self) -> None:
        self.put, self.take = trio.open_memory_channel[tuple[float, bytes]](math.inf)
        self.held = 0
        self.taken = trio.Event()


class Proxy:
    """A proxy of the server at `to`; `round_trip` in seconds, `rate` of answers in bytes a second.

    Both may be changed while it runs.  The methods may be called from any thread.
    """

    def __init__(
        self,
        to: tuple[str, int],
        *,
        listen: tuple[str, int] = ("127.0.0.1", 0),
        round_trip: float = 0.0,
        rate: float = math.inf,
    ) -> None:
        self.to = to
        self.address = listen
        """Where it listens; the port is known once it runs."""
        self.round_trip = round_trip
        self.rate = rate
        self.accepted = 0
        """Connections so far."""
        self.open = 0
        """Connections now."""
        self.answered = 0
        """Bytes of answers so far."""
        self.injected = 0
        """Faults so far."""
        self._fault: Fault | None = None
        self._every = self._at = self._times = 0
        self._link_free = 0.0
        self._streams: set[trio.SocketStream] = set()
        self._listening: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None
        self._flowing = trio.Event()
        self._flowing.set()
        self._token: trio.lowlevel.TrioToken | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self.address[1]

    # Faults

    def inject(self, fault: Fault, *, after: int = 0, times: int | None = 1) -> None:
        """Have `fault` happen when `after` more bytes of answers have passed, and again after each.

        It happens `times` times, None: until `heal`.
        """

        async def change() -> None:
            self._fault, self._every = fault, after
            self._at = self.answered + after
            self._times = -1 if times is None else times

        self._do(change)

    def heal(self) -> None:
        """Let everything pass again; a connection that stalled never goes on."""

        async def change() -> None:
            self._fault = None
            self._flowing.set()

        self._do(change)

    def hold(self) -> None:
        """Let nothing pass in either direction; connections stay, and new ones are accepted."""

        async def change() -> None:
            if self._flowing.is_set():
                self._flowing = trio.Event()

        self._do(change)

    def refuse(self) -> None:
        """Reset all connections and refuse new ones."""

        async def change() -> None:
            if self._listening is not None:
                self._listening.cancel()
                while self._listening is not None:
                    await trio.lowlevel.checkpoint()
            for stream in list(self._streams):
                _reset(stream)

        self._do(change)

    def admit(self) -> None:
        """Accept connections again, on the same port."""

        async def change() -> None:
            if self._listening is None and self._nursery is not None:
                await self._nursery.start(self._listen)

        self._do(change)

    def _do(self, change: Callable[[], Awaitable[None]]) -> None:
        """Run `change` in the proxy's thread and wait until it is done."""
        assert self._token is not None
        trio.from_thread.run(change, trio_token=self._token)

    # Serving

    async def serve(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled; `ready` is called once it listens."""
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery:
            await self._nursery.start(self._listen)
            ready()
            await trio.sleep_forever()

    async def _listen(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        assert self._nursery is not None
        listener = trio.socket.socket()
        with listener, trio.CancelScope() as self._listening:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            await listener.bind(self.address)
            self.address = listener.getsockname()[:2]
            listener.listen(1024)
            task_status.started()
            while True:
                accepted, _ = await listener.accept()
                self.accepted += 1
                self._nursery.start_soon(self._connection, trio.SocketStream(accepted))
        self._listening = None

    async def _connection(self, client: trio.SocketStream) -> None:
        self.open += 1
        self._streams.add(client)
        try:
            await trio.sleep(self.round_trip)  # which a true handshake would have taken
            try:
                server = await trio.open_tcp_stream(*self.to)
            except OSError:  # nobody is there
                _reset(client)
                return
            self._streams.add(server)
            try:
                async with trio.open_nursery() as nursery:
                    scope = nursery.cancel_scope
                    nursery.start_soon(self._carry, client, server, scope, False)
                    nursery.start_soon(self._carry, server, client, scope, True)
            finally:
                self._streams.discard(server)
                await trio.aclose_forcefully(server)
        finally:
            self._streams.discard(client)
            self.open -= 1
            with trio.CancelScope(shield=True):
                await client.aclose()

    async def _carry(
        self,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        connection: trio.CancelScope,
        answers: bool,
    ) -> None:
        """Carry one direction of a connection to its end; a broken one ends the connection."""
        line = _Line()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._deliver, line, sink, answers)
                await self._receive(line, source, answers)
            if not answers:  # no client of ours closes only its half
                connection.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, _CutError):
            for stream in (source, sink):
                _reset(stream)
            connection.cancel()
        except* _TruncatedError:
            connection.cancel()

    async def _receive(self, line: _Line, source: trio.SocketStream, answers: bool) -> None:
        with line.put:
            while True:
                size = _CHUNK
                if answers and self.rate < math.inf:
                    size = max(1, min(_CHUNK, int(self.rate * _SMOOTH_SECONDS)))
                data = await source.receive_some(size)
                if not data:
                    return
                sent = trio.current_time()
                if answers:
                    sent = self._link_free = max(sent, self._link_free) + len(data) / self.rate
                line.held += len(data)
                line.put.send_nowait((sent + self.round_trip / 2, bytes(data)))
                while line.held > self._most_held(answers=answers):
                    line.taken = trio.Event()
                    await line.taken.wait()

    def _most_held(self, *, answers: bool) -> float:
        if answers and self.rate < math.inf:
            return min(_MOST_IN_FLIGHT, self.rate * (self.round_trip / 2 + _QUEUED_SECONDS))
        return _MOST_IN_FLIGHT

    async def _deliver(self, line: _Line, sink: trio.SocketStream, answers: bool) -> None:
        async for due, data in line.take:
            if due - _TIMER_SECONDS > trio.current_time():
                await trio.sleep_until(due - _TIMER_SECONDS)
            while not self._flowing.is_set():
                await self._flowing.wait()
            await (self._answer(sink, data) if answers else sink.send_all(data))
            line.held -= len(data)
            line.taken.set()
        await sink.send_eof()

    async def _answer(self, sink: trio.SocketStream, data: bytes) -> None:
        """Send a part of an answer, with the faults that fall on it."""
        while self._fault is not None and self._at < self.answered + len(data):
            fault, before = self._fault, max(self._at - self.answered, 0)
            self.injected += 1
            self._at += max(self._every, 1)
            self._times -= 1
            if self._times == 0:
                self._fault = None
            if fault is Fault.CORRUPT:
                data = data[:before] + bytes((data[before] ^ 0x10,)) + data[before + 1 :]
                continue
            self.answered += before
            self._at = self.answered + max(self._every, 1)
            await sink.send_all(data[:before])
            if fault is Fault.STALL:
                await trio.sleep_forever()
            raise _TruncatedError if fault is Fault.TRUNCATE else _CutError
        self.answered += len(data)
        await sink.send_all(data)


class _CutError(Exception):
    """A fault resets this connection."""


class _TruncatedError(Exception):
    """A fault closes this connection."""


def _reset(stream: trio.SocketStream) -> None:
    with contextlib.suppress(OSError):  # closed already
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    stream.socket.close()


@contextlib.contextmanager
def proxying(
    to: tuple[str, int], *, round_trip: float = 0.0, rate: float = math.inf
) -> Iterator[Proxy]:
    """Run a proxy of the server at `to` in a thread."""
    proxy = Proxy(to, round_trip=round_trip, rate=rate)
    started: queue.SimpleQueue[trio.CancelScope | BaseException] = queue.SimpleQueue()

    async def run() -> None:
        with trio.CancelScope() as scope:
            await proxy.serve(lambda: started.put(scope))

    def work() -> None:
        try:
            trio.run(run)
        except BaseException as error:  # noqa: BLE001 - raised again where the proxy was asked for
            started.put(error)

    thread = threading.Thread(target=work, name="proxy", daemon=True)
    thread.start()
    scope = started.get(timeout=10)
    if isinstance(scope, BaseException):
        raise scope
    try:
        yield proxy
    finally:
        assert proxy._token is not None
        proxy._token.run_sync_soon(scope.cancel)
        thread.join(10)
        assert not thread.is_alive()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host or "127.0.0.1", int(port)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)(ms|s)?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is no time; write 20ms or 0.02s")
    return float(match[1]) / (1000 if match[2] == "ms" else 1)


def _bytes(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)([kMG]?)(iB)?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text} is no rate; write 10MiB for 10 MiB a second")
    return float(match[1]) * 1024.0 ** " kMG".index(match[2] or " ")


def main() -> None:
    """Run as a program until SIGTERM or SIGINT; the first line of output tells the address."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.proxy", description=__doc__)
    parser.add_argument("--listen", type=_address, default=("127.0.0.1", 0), metavar="HOST:PORT")
    parser.add_argument("--to", type=_address, required=True, metavar="HOST:PORT")
    parser.add_argument("--round-trip", type=_seconds, default=0.0, metavar="20ms")
    parser.add_argument("--rate", type=_bytes, default=math.inf, metavar="10MiB")
    given = parser.parse_args()
    proxy = Proxy(given.to, listen=given.listen, round_trip=given.round_trip, rate=given.rate)

    def ready() -> None:
        print(f"{proxy.address[0]}:{proxy.port}", flush=True)

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proxy.serve, ready)
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as received:
                async for _ in received:
                    nursery.cancel_scope.cancel()
                    return

    trio.run(run)


if __name__ == "__main__":
    main()
