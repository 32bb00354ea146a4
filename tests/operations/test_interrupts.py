"""A request ends with EINTR if its caller has a pending fatal signal."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pyfuse3
import pytest
import trio

from cesbrfs.fuse.interrupts import is_interrupted
from cesbrfs.fuse.operations import Operations
from cesbrfs.repo.read.local_packs import LocalPacks
from tests.operations.conftest import walk


@pytest.fixture
def stopped(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A stopped process: signals sent to it stay pending."""
    script = (
        f"import signal, time\n{getattr(request, 'param', '')}\nprint(flush=True)\ntime.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        yield child
        child.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_pending_fatal_signal_is_detected(stopped: subprocess.Popen[bytes], number: int) -> None:
    """SIGCHLD does not interrupt a request; SIGINT, SIGTERM and SIGHUP do."""
    assert not is_interrupted(stopped.pid)
    stopped.send_signal(signal.SIGCHLD)
    assert not is_interrupted(stopped.pid)
    stopped.send_signal(number)
    assert is_interrupted(stopped.pid)


@pytest.mark.parametrize("stopped", ["signal.signal(signal.SIGINT, signal.SIG_IGN)"], indirect=True)
def test_an_ignored_signal_does_not_interrupt(stopped: subprocess.Popen[bytes]) -> None:
    """A background job of a shell ignores Ctrl-C and continues to wait."""
    stopped.send_signal(signal.SIGINT)
    assert not is_interrupted(stopped.pid)


def test_pid_zero_is_never_interrupted() -> None:
    """The kernel reports PID 0 for a caller in another PID namespace."""
    assert not is_interrupted(0)


async def test_an_interrupted_lookup_ends_with_eintr(
    operations: Operations, stopped: subprocess.Popen[bytes], nursery: trio.Nursery
) -> None:
    """The same lookup by another caller continues and succeeds."""
    nursery.start_soon(operations.interrupts.run)
    root = await walk(operations)
    go, waiting = trio.Event(), trio.Event()
    found = operations.tree.lookup

    async def slowly(parent: int, name: bytes) -> Any:
        waiting.set()
        await go.wait()
        return await found(parent, name)

    operations.tree.lookup = slowly  # type: ignore[method-assign]

    def caller(pid: int) -> pyfuse3.RequestContext:
        return cast("pyfuse3.RequestContext", SimpleNamespace(pid=pid))

    other: list[pyfuse3.EntryAttributes] = []

    async def look_up() -> None:
        other.append(await operations.lookup(root.st_ino, b"b1", caller(os.getpid())))

    async with trio.open_nursery() as callers:
        callers.start_soon(look_up)
        await waiting.wait()
        stopped.send_signal(signal.SIGINT)
        with pytest.raises(pyfuse3.FUSEError) as raised:
            await operations.lookup(root.st_ino, b"b1", caller(stopped.pid))
        assert raised.value.errno == errno.EINTR
        go.set()
    assert other[0].st_ino


async def test_an_interrupted_open_ends_with_eintr(
    operations: Operations, stopped: subprocess.Popen[bytes], nursery: trio.Nursery
) -> None:
    """The attributes are cached, but loading the content waits for an unresponsive server."""
    nursery.start_soon(operations.interrupts.run)
    note = await walk(operations, b"b1", b"redmine", b"volumes", b"files", b"note.txt")
    repository = operations.tree.view.repository
    repository.trees.cache.drop(lambda _tree: True)
    packs = repository.blobs._packs
    assert isinstance(packs, LocalPacks)
    packs._blocks._blocks.drop(lambda _block: True)
    repository.blobs._trees.drop(lambda _tree: True)

    async def silent(*_: Any) -> Any:
        await trio.sleep_forever()

    repository.blobs.load = silent  # type: ignore[method-assign,assignment]  # a dead server
    stopped.send_signal(signal.SIGINT)
    context = cast("pyfuse3.RequestContext", SimpleNamespace(pid=stopped.pid))
    with trio.fail_after(30), pytest.raises(pyfuse3.FUSEError) as raised:
        await operations.open(note.st_ino, os.O_RDONLY, context)
    assert raised.value.errno == errno.EINTR
