"""Messages to the service manager on a real datagram socket."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from cesbrfs.fuse.systemd import ServiceManager


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(30)
        yield made


def test_messages(listener: socket.socket) -> None:
    """Each state is one message; an unchanged status is not sent again."""
    manager = ServiceManager(listener.getsockname())
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    manager.ready()
    manager.reloading()
    manager.status("2 backups")
    manager.status("2 backups")
    manager.stopping()
    assert listener.recv(100) == b"READY=1"
    reloading = re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=(\d+)", listener.recv(100))
    assert reloading is not None
    assert before <= int(reloading[1]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert listener.recv(100) == b"STATUS=2 backups"
    assert listener.recv(100) == b"STOPPING=1"


def test_abstract_address(tmp_path: Path) -> None:
    """An address with a leading ``@`` is an abstract one."""
    name = f"cesbrfs-test-{os.getpid()}-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(30)
        ServiceManager(f"@{name}").ready()
        assert listener.recv(100) == b"READY=1"


def test_a_lost_status_is_sent_again(listener: socket.socket, tmp_path: Path) -> None:
    """While nobody listens or the queue is full, messages are lost without an error or a wait."""
    ServiceManager(str(tmp_path / "nobody")).ready()
    manager = ServiceManager(listener.getsockname())
    sent = 0
    while manager._send("X=1"):
        sent += 1
    manager.status("lost")
    for _ in range(sent):
        listener.recv(100)
    manager.status("lost")
    assert listener.recv(100) == b"STATUS=lost"


@pytest.mark.parametrize(
    ("pid", "seconds"),
    [(str(os.getpid()), 30.0), ("", 30.0), ("1", None)],
    ids=["own", "any", "other"],
)
def test_environment(pid: str, seconds: float | None) -> None:
    """The watchdog concerns WATCHDOG_PID only; children do not inherit the variables."""
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "PATH": "/bin"}
    if pid:
        environ["WATCHDOG_PID"] = pid
    manager = ServiceManager.from_environment(environ)
    assert manager.watchdog_seconds == seconds
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize("microseconds", ["0", "", "-1", "soon"])
def test_invalid_intervals_mean_no_watchdog(microseconds: str) -> None:
    """As in sd_watchdog_enabled(3)."""
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": microseconds}
    assert ServiceManager.from_environment(environ).watchdog_seconds is None


async def test_watchdog_at_half_of_its_interval(
    listener: socket.socket, autojump_clock: trio.abc.Clock, nursery: trio.Nursery
) -> None:
    """WATCHDOG=1 is sent twice per interval, and the status when it changes."""
    status = "one"
    nursery.start_soon(ServiceManager(listener.getsockname(), 8.0).run, lambda: status)
    await trio.sleep(4.5)
    status = "two"
    await trio.sleep(4)
    listener.setblocking(False)
    received = [listener.recv(100) for _ in range(5)]
    assert received == [
        b"WATCHDOG=1", b"STATUS=one", b"WATCHDOG=1", b"WATCHDOG=1", b"STATUS=two",
    ]  # fmt: skip
    with pytest.raises(BlockingIOError):
        listener.recv(100)
