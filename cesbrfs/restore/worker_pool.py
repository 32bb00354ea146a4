"""Start the worker processes of a restore and send them requests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec
import trio

from cesbrfs.repo.format.crypto import Keys
from cesbrfs.restore.files import RestoreContext
from cesbrfs.restore.worker_protocol import LENGTH, Reply, Request, Setup, encode

FILES_PER_WORKER: Final = 1000
BYTES_PER_WORKER: Final = 64 << 20
"""A restore of fewer files and bytes is done before a process has started."""
_ENVIRONMENT: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
"""Variables passed on to workers. The others may contain passwords."""
_RECEIVE_BYTES: Final = 64 << 10
_EXIT_SECONDS: Final = 10.0
"""How long a worker may take to finish its file when the restore ends."""


class WorkerDiedError(Exception):
    """A worker process ended before it had replied."""


def worker_count(files: int, size: int, limit: int | None) -> int:
    """Return how many workers to start for this many files and bytes; `limit` is the setting."""
    wanted = max(files // FILES_PER_WORKER, size // BYTES_PER_WORKER)
    return min(wanted, len(os.sched_getaffinity(0)) if limit is None else limit)


@dataclass(slots=True)
class _Pending:
    replied: trio.Event = field(default_factory=trio.Event)
    reply: Reply | None = None


class WorkerProcess:
    """One worker; several requests may be outstanding, and are served in order."""

    def __init__(self, process: trio.Process, stream: trio.SocketStream, tag: bytes) -> None:
        self.tag: Final = tag
        """Begins its temporary names."""
        self.is_dead = False
        """Whether it has ended or been closed: further requests fail."""
        self._process: Final = process
        self._stream: Final = stream
        self._send_lock: Final = trio.Lock()
        self._pending: Final[dict[int, _Pending]] = {}
        self._number = 0
        self._decoder: Final = msgspec.msgpack.Decoder(Reply)

    async def request(self, request: Request) -> Reply:
        """Send a request and return its reply; raises WorkerDiedError."""
        if self.is_dead:
            raise WorkerDiedError
        self._number += 1
        request.number = self._number
        pending = self._pending[request.number] = _Pending()
        try:
            async with self._send_lock:
                await self._stream.send_all(encode(request))
        except trio.BrokenResourceError:
            self._die()
        await pending.replied.wait()
        del self._pending[request.number]
        if pending.reply is None:
            raise WorkerDiedError
        return pending.reply

    async def set_up(self, setup: Setup) -> None:
        """Send the first message. If the worker died, the first request reports it."""
        with suppress(trio.BrokenResourceError):
            await self._stream.send_all(encode(setup))

    async def receive_replies(self) -> None:
        """Pass replies to the tasks that wait for them, until the worker ends."""
        data = bytearray()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while part := await self._stream.receive_some(_RECEIVE_BYTES):
                data += part
                while len(data) >= LENGTH.size:
                    end = LENGTH.size + LENGTH.unpack_from(data)[0]
                    if len(data) < end:
                        break
                    reply = self._decoder.decode(bytes(data[LENGTH.size : end]))
                    del data[:end]
                    pending = self._pending[reply.number]
                    pending.reply = reply
                    pending.replied.set()
        self._die()

    def _die(self) -> None:
        self.is_dead = True
        for pending in self._pending.values():
            pending.replied.set()

    async def aclose(self) -> None:
        """Close the connection, and wait until the process has finished its file and ended."""
        self.is_dead = True
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            self._stream.socket.shutdown(socket.SHUT_WR)
        with trio.move_on_after(_EXIT_SECONDS) as waiting:
            await self._process.wait()
        if waiting.cancelled_caught:
            self._process.kill()
            await self._process.wait()
        await self._stream.aclose()


@asynccontextmanager
async def open_workers(
    count: int, context: RestoreContext, keys: Keys, directory: str
) -> AsyncGenerator[list[WorkerProcess], None]:
    """Start `count` workers for the repository in `directory`; end them on exit."""
    workers: list[WorkerProcess] = []
    async with trio.open_nursery() as nursery:
        try:
            for number in range(count):
                with suppress(OSError):  # no more processes: the threads of this one do the work
                    workers.append(await _start(context, keys, directory, number))
                    nursery.start_soon(workers[-1].receive_replies)
            yield workers
        finally:
            with trio.CancelScope(shield=True):
                for worker in workers:
                    await worker.aclose()
            nursery.cancel_scope.cancel()


async def _start(context: RestoreContext, keys: Keys, directory: str, number: int) -> WorkerProcess:
    ours, theirs = socket.socketpair()
    journal = context.journal.descriptor if context.journal else None
    undo_log = context.keeper.log.descriptor if context.keeper else None
    places = dict(context.keeper.places) if context.keeper else {}
    given = (number for number in (journal, undo_log) if number is not None)
    inherited = [theirs.fileno(), context.target, *given, *places.values()]
    try:
        with theirs:
            process = await trio.lowlevel.open_process(
                # -P: no module is imported from the current directory.
                [sys.executable, "-P", "-m", "cesbrfs.restore.worker", str(theirs.fileno())],
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
    except BaseException:
        ours.close()
        raise
    tag = b"-".join(filter(None, (context.tag, b"w%d" % number)))
    worker = WorkerProcess(process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)), tag)
    setup = Setup(
        directory=directory,
        encrypt=keys.encrypt,
        mac_k=keys.mac_k,
        mac_r=keys.mac_r,
        target=context.target,
        journal=journal,
        overwrite=context.overwrite,
        from_disk=context.from_disk,
        tag=tag,
        followed=list((context.followed or {}).items()),
        undo_log=undo_log,
        places=places,
    )
    await worker.set_up(setup)
    return worker
