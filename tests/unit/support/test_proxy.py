"""The test proxy injects exactly the configured faults."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.proxy import Fault, Proxy, proxying

_MiB = 1 << 20
_CONTENT = bytes(range(251)) * (2 * _MiB // 251)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    """A server that responds to each received byte with `_CONTENT`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while connection.recv(1):
                connection.sendall(_CONTENT)

    def accept() -> None:
        with contextlib.suppress(OSError):  # `shutdown` below ends `accept`
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=[connection], daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


@pytest.fixture
def proxy(server: tuple[str, int]) -> Iterator[Proxy]:
    """A proxy of that server."""
    with proxying(server) as made:
        yield made


def _connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(proxy.address, timeout=10)


def _ask(connection: socket.socket, size: int = len(_CONTENT)) -> bytes:
    """Request the content; return what was received until `size` bytes, the end or an error."""
    connection.sendall(b"?")
    got = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while len(got) < size and (more := connection.recv(_MiB)):
            got += more
    return bytes(got)


def test_everything_passes_unchanged(proxy: Proxy) -> None:
    """Without faults the content is unchanged, also over several connections at once."""
    with _connect(proxy) as first, _connect(proxy) as second:
        assert _ask(first) == _ask(second) == _CONTENT
    assert proxy.accepted == 2
    assert proxy.answered == 2 * len(_CONTENT)


def test_delay_costs_a_round_trip_not_throughput(proxy: Proxy) -> None:
    """The first byte takes one round trip; the other 2 MiB arrive at full rate."""
    proxy.round_trip = 0.2
    with _connect(proxy) as connection:
        _ask(connection)
        started = time.monotonic()
        assert _ask(connection) == _CONTENT
        took = time.monotonic() - started
    assert 0.19 <= took < 0.6


def test_rate_is_shared_by_all_connections(proxy: Proxy) -> None:
    """2 MiB at 8 MiB/s take a quarter of a second."""
    proxy.rate = 8 * _MiB
    with _connect(proxy) as connection:
        started = time.monotonic()
        assert _ask(connection) == _CONTENT
        assert time.monotonic() - started >= 0.2


def test_reset_and_truncate_cut_the_answer_where_they_should(proxy: Proxy) -> None:
    """At most the given number of bytes arrives; another connection works."""
    for fault in (Fault.RESET, Fault.TRUNCATE):
        proxy.inject(fault, after=300_000)
        with _connect(proxy) as connection:
            got = _ask(connection)
        assert got == _CONTENT[: len(got)]
        assert len(got) == 300_000 or (fault is Fault.RESET and len(got) < 300_000)
        with _connect(proxy) as connection:
            assert _ask(connection) == _CONTENT
    assert proxy.injected == 2


def test_corrupt_flips_one_bit_of_one_byte(proxy: Proxy) -> None:
    """The byte at the given offset differs, repeatedly if configured."""
    proxy.inject(Fault.CORRUPT, after=1_000_000, times=2)
    with _connect(proxy) as connection:
        got = _ask(connection)
    differ = [at for at, byte in enumerate(got) if byte != _CONTENT[at]]
    assert differ == [1_000_000, 2_000_000]


def test_stall_stops_one_connection(proxy: Proxy) -> None:
    """A stalled connection sends no more data; other connections continue."""
    proxy.inject(Fault.STALL, after=1000)
    with _connect(proxy) as stalled, _connect(proxy) as other:
        assert _ask(stalled, 1000) == _CONTENT[:1000]
        assert _ask(other) == _CONTENT
        stalled.settimeout(0.05)
        with pytest.raises(TimeoutError):
            stalled.recv(1)


def test_refuse_and_admit(proxy: Proxy) -> None:
    """Open connections are reset and new ones refused, until they are admitted again."""
    with _connect(proxy) as connection:
        _ask(connection)
        proxy.refuse()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        with pytest.raises(ConnectionRefusedError):
            _connect(proxy)
    proxy.admit()
    with _connect(proxy) as connection:
        assert _ask(connection) == _CONTENT


def test_hold_and_heal(proxy: Proxy) -> None:
    """No data arrives while the proxy holds it; afterwards all data arrives."""
    with _connect(proxy) as connection:
        _ask(connection)
        proxy.hold()
        connection.sendall(b"?")
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        proxy.heal()
        connection.settimeout(10)
        assert connection.recv(1) == _CONTENT[:1]
