"""A TCP proxy on loopback that adds latency, limits throughput and injects faults.

    with proxying(("127.0.0.1", 8333), round_trip=0.02) as proxy:
        client = connect(proxy.address)
        proxy.inject(Fault.RESET, after=50_000)

The proxy runs in a separate thread, so it is independent of the event loops of tests and serves
other processes as well. It is also a program: ``python -m tests.support.proxy --to HOST:PORT
--round-trip 20ms``. Latency does not reduce throughput. "Responses" are the bytes from the server
to the client.
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
"""Maximum bytes in flight in one direction of a connection; then the sender is blocked."""
_SMOOTH_SECONDS: Final = 0.01
"""With a limited rate, maximum transfer time of a chunk."""
_QUEUED_SECONDS: Final = 0.1
"""With a limited rate, maximum queue of a connection."""
_TIMER_SECONDS: Final = 0.0005
"""Average delay of the event loop's timers, which have a resolution of 1 ms."""
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER value that makes close() send RST."""


class Fault(Enum):
    """A fault to inject into responses."""

    RESET = auto()
    TRUNCATE = auto()
    """Close the connection, as the server would."""
    STALL = auto()
    """Send nothing more, but keep the connection open."""
    CORRUPT = auto()
    """Flip one bit of the next byte."""


class _Line:
    """Data in flight in one direction: chunks with their arrival times."""

    def __init__(self) -> None:
        self.put, self.take = trio.open_memory_channel[tuple[float, bytes]](math.inf)
        self.held = 0
        self.taken = trio.Event()


class Proxy:
    """A proxy for the server at `to`.

    `round_trip` is in seconds, `rate` limits responses in bytes per second. Both may be changed
    while the proxy runs. Methods may be called from any thread.
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
        """The address to connect to; the port is known once the proxy runs."""
        self.round_trip = round_trip
        self.rate = rate
        self.accepted = 0
        """Number of connections so far."""
        self.open = 0
        """Number of current connections."""
        self.answered = 0
        """Number of response bytes so far."""
        self.injected = 0
        """Number of faults so far."""
        self.held = 0
        """Number of connections on which `hold` holds something at present."""
        self._held_requests: bytes | None = None
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
        """The port of the proxy."""
        return self.address[1]

    # Faults

    def inject(self, fault: Fault, *, after: int = 0, times: int | None = 1) -> None:
        """Inject `fault` after every `after` response bytes.

        The fault occurs `times` times; None means until `heal`.
        """

        async def change() -> None:
            self._fault, self._every = fault, after
            self._at = self.answered + after
            self._times = -1 if times is None else times

        self._do(change)

    def heal(self) -> None:
        """Stop injecting faults; stalled connections do not recover."""

        async def change() -> None:
            self._fault = None
            self._flowing.set()

        self._do(change)

    def hold(self, requests: bytes | None = None) -> None:
        """Pass no data in either direction; connections stay open, new ones are accepted.

        With `requests`, hold only the requests that contain it and pass everything else.
        """

        async def change() -> None:
            self._held_requests = requests
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
        """Run `change` in the thread of the proxy and wait for it."""
        assert self._token is not None
        trio.from_thread.run(change, trio_token=self._token)

    # Serving

    async def serve(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until cancelled; call `ready` once the proxy is listening."""
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
            await trio.sleep(self.round_trip)  # duration of the TCP handshake
            try:
                server = await trio.open_tcp_stream(*self.to)
            except OSError:  # no listener
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
        """Forward one direction of a connection until EOF; an error closes the connection."""
        line = _Line()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._deliver, line, sink, answers)
                await self._receive(line, source, answers)
            if not answers:  # our clients never half-close
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
            while not self._flowing.is_set() and self._is_held(data, answers=answers):
                self.held += 1
                try:
                    await self._flowing.wait()
                finally:
                    self.held -= 1
            await (self._answer(sink, data) if answers else sink.send_all(data))
            line.held -= len(data)
            line.taken.set()
        await sink.send_eof()

    def _is_held(self, data: bytes, *, answers: bool) -> bool:
        return self._held_requests is None or (not answers and self._held_requests in data)

    async def _answer(self, sink: trio.SocketStream, data: bytes) -> None:
        """Send part of a response, with injected faults."""
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
    """A fault resets the connection."""


class _TruncatedError(Exception):
    """A fault closes the connection."""


def _reset(stream: trio.SocketStream) -> None:
    with contextlib.suppress(OSError):  # already closed
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    stream.socket.close()


@contextlib.contextmanager
def proxying(
    to: tuple[str, int], *, round_trip: float = 0.0, rate: float = math.inf
) -> Iterator[Proxy]:
    """Run a proxy for the server at `to` in a thread."""
    proxy = Proxy(to, round_trip=round_trip, rate=rate)
    started: queue.SimpleQueue[trio.CancelScope | BaseException] = queue.SimpleQueue()

    async def run() -> None:
        with trio.CancelScope() as scope:
            await proxy.serve(lambda: started.put(scope))

    def work() -> None:
        try:
            trio.run(run)
        except BaseException as error:  # noqa: BLE001 - re-raised in the calling thread
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
        raise argparse.ArgumentTypeError(f"invalid time {text!r}; write 20ms or 0.02s")
    return float(match[1]) / (1000 if match[2] == "ms" else 1)


def _bytes(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)([kMG]?)(iB)?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"invalid rate {text!r}; write 10MiB for 10 MiB/s")
    return float(match[1]) * 1024.0 ** " kMG".index(match[2] or " ")


def main() -> None:
    """Run until SIGTERM or SIGINT; print the address as the first line."""
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
