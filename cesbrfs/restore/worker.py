"""The worker process of a restore: decode blobs and write files, in one thread.

Started as ``python -m cesbrfs.restore.worker SOCKET`` with the descriptor of a socket. It ends when
the socket is closed. Interrupts are left to the restore that started it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
from dataclasses import replace
from typing import Final

import msgspec

from cesbrfs.errors import CesbrError
from cesbrfs.repo.format.crypto import Keys
from cesbrfs.repo.read.blob_reader import BlobReader
from cesbrfs.restore.dirfd import DirFd
from cesbrfs.restore.files import Done, RestoreContext, WriteJob, write_files
from cesbrfs.restore.journal import JournalWriter
from cesbrfs.restore.keeper import Keeper
from cesbrfs.restore.metadata import Warnings
from cesbrfs.restore.undo_log import UndoLog
from cesbrfs.restore.worker_protocol import (
    LENGTH,
    Reply,
    Request,
    Setup,
    WireBlob,
    WireError,
    WriteFiles,
    WriteRange,
    encode,
)
from cesbrfs.restore.writer import raise_if_different, write_at
from cesbrfs.util.heap import steady_heap

_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SPARE_BYTES: Final = 32 << 20
"""More than the largest blobs, sealed, decrypted and decompressed."""


class Worker:
    """Serves the requests of one restore."""

    def __init__(self, setup: Setup) -> None:
        self._context = RestoreContext(
            target=setup.target,
            overwrite=setup.overwrite,
            warnings=Warnings(),
            journal=None if setup.journal is None else JournalWriter(setup.journal),
            from_disk=setup.from_disk,
            followed=dict(setup.followed),
            tag=setup.tag,
        )
        if setup.undo_log is not None:
            keeper = Keeper(UndoLog(setup.undo_log), setup.places, self._context.warnings)
            self._context = replace(self._context, keeper=keeper)
        keys = Keys(setup.encrypt, setup.mac_k, setup.mac_r)
        self._blobs = BlobReader(setup.directory, keys)
        self._directories = DirFd(setup.target, self._context.followed)

    def serve(self, request: Request) -> Reply:
        """Carry out a request."""
        if isinstance(request, WriteFiles):
            reply = self._write_files(request)
        else:
            reply = self._write_range(request)
        reply.warnings = self._context.warnings.drain()
        return reply

    def _write_files(self, request: WriteFiles) -> Reply:
        reply = Reply(request.number)
        written: list[tuple[int, int]] = []
        jobs: list[tuple[WriteJob, list[bytes]]] = []
        for position, file in enumerate(request.files):
            content = file.content
            if content is None:
                try:
                    content = self._read(file.blobs, request.packs)
                except Exception:  # noqa: BLE001 - the restore reads it again and reports the error
                    reply.unread.append(position)
                    continue
            written.append((position, sum(map(len, content))))
            jobs.append((file.job, content))
        results = write_files(self._context, self._directories, jobs)
        for (position, size), result in zip(written, results, strict=True):
            reply.add(position, result)
            if result.outcome is Done.WRITTEN:
                reply.written_bytes += size
        return reply

    def _read(self, blobs: list[WireBlob], packs: list[bytes]) -> list[bytes]:
        return [self._blobs.read(blob.blob, blob.location(packs)) for blob in blobs]

    def _write_range(self, request: WriteRange) -> Reply:
        reply = Reply(request.number)
        try:
            directory = self._directories.open(request.directory)
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(request.name, flags, dir_fd=directory)
        except OSError as error:
            reply.failed[0] = WireError.of(error)
            return reply
        try:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) != request.identity:
                reply.unread.append(0)
                return reply
            offset = request.offset
            located = [(blob.blob, blob.location(request.packs)) for blob in request.blobs]
            self._blobs.will_read(location for _, location in located)
            for blob, location in located:
                try:
                    data = self._blobs.read(blob, location)
                except Exception:  # noqa: BLE001 - as above
                    reply.unread.append(0)
                    return reply
                write_at(descriptor, data, offset)
                _verify(descriptor, data, offset)
                offset += len(data)
            reply.written_bytes = offset - request.offset
        except (OSError, CesbrError) as error:
            reply.failed[0] = WireError.of(error)
        finally:
            os.close(descriptor)
        return reply


def _verify(descriptor: int, data: bytes, offset: int) -> None:
    """Compare written content; zeros at the end of the file may not be written yet."""
    if os.fstat(descriptor).st_size < offset + len(data):
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, offset + len(data))
    raise_if_different(descriptor, data, offset)


def _receive(connection: socket.socket) -> bytes | None:
    """Return the next message, None at the end of the connection."""
    head = _receive_exactly(connection, LENGTH.size)
    return None if head is None else _receive_exactly(connection, LENGTH.unpack(head)[0])


def _receive_exactly(connection: socket.socket, count: int) -> bytes | None:
    parts: list[bytes] = []
    while count:
        part = connection.recv(count)
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def main(descriptor: int) -> None:
    """Serve requests until the socket is closed."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    steady_heap(_SPARE_BYTES)
    gc.disable()  # requests and results form no cycles
    connection = socket.socket(fileno=descriptor)
    first = _receive(connection)
    if first is None:
        return
    worker = Worker(msgspec.msgpack.decode(first, type=Setup))
    decoder = msgspec.msgpack.Decoder(Request)
    with contextlib.suppress(ConnectionError):  # the restore has ended
        while (message := _receive(connection)) is not None:
            connection.sendall(encode(worker.serve(decoder.decode(message))))


if __name__ == "__main__":
    main(int(sys.argv[1]))
