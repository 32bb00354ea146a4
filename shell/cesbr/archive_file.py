"""Where an archive goes: standard output, or a file that appears under its name when complete."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Final

import trio

from cesbrfs.errors import CesbrError
from cesbrfs.util.escape import show

_BUFFER_BYTES: Final = 512 << 10
_NAME_CHARACTERS: Final = 60

Write = Callable[[bytes], Awaitable[None]]


class BufferedSink:
    """Collects small writes; `write` passes on what was collected, `flush` the rest."""

    def __init__(self, sink: Write) -> None:
        self._sink: Final = sink
        self._parts: list[bytes] = []
        self._size = 0
        self.written = 0
        """Number of bytes that were written."""

    async def write(self, data: bytes) -> None:
        """Write `data`, now or with what follows."""
        self._parts.append(data)
        self._size += len(data)
        self.written += len(data)
        if self._size >= _BUFFER_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write what was collected."""
        parts, self._parts, self._size = self._parts, [], 0
        if parts:
            await self._sink(b"".join(parts))


class ArchiveFile:
    """A file that is written under a temporary name, and renamed by `commit`. Blocking.

    It is readable only for its owner, or has the mode of the file that it replaces. A device or a
    named pipe is written directly. Methods raise OSError.
    """

    def __init__(self, path: Path) -> None:
        self._path: Final = Path(os.path.realpath(path))
        self._temporary: Path | None = None
        if self._path.exists() and not self._path.is_file():  # for a directory, an error
            self._file: BinaryIO = self._path.open("wb")
            return
        mode = stat.S_IMODE(self._path.stat().st_mode) if self._path.exists() else 0o600
        descriptor, name = tempfile.mkstemp(
            prefix=f".{self._path.name[:_NAME_CHARACTERS]}.", dir=self._path.parent
        )
        self._file = open(descriptor, "wb")  # noqa: SIM115 - closed by `commit` and `discard`
        self._temporary = Path(name)
        os.fchmod(descriptor, mode)

    def write(self, data: bytes) -> None:
        """Append to the file."""
        self._file.write(data)

    def commit(self) -> None:
        """Write the file to the disk, and give it its name."""
        self._file.flush()
        if self._temporary is not None:
            os.fsync(self._file.fileno())
            self._temporary.replace(self._path)
            self._temporary = None
        self._file.close()

    def discard(self) -> None:
        """Remove the file unless it was committed; never raises."""
        with contextlib.suppress(OSError):
            self._file.close()
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                self._temporary.unlink()


@asynccontextmanager
async def archive_file(path: Path) -> AsyncGenerator[Write, None]:
    """Write an `ArchiveFile`, and commit it at the end of the block.

    Raises CesbrError if the file cannot be written.
    """
    with _write_errors(path):
        file = await trio.to_thread.run_sync(ArchiveFile, path)

    async def write(data: bytes) -> None:
        with _write_errors(path):
            await trio.to_thread.run_sync(file.write, data)

    try:
        yield write
        with _write_errors(path):
            await trio.to_thread.run_sync(file.commit)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(file.discard)


@contextlib.contextmanager
def _write_errors(path: Path) -> Generator[None, None, None]:
    """Turn an OSError, which has the temporary name or none, into an error that names `path`."""
    try:
        yield
    except OSError as error:
        raise CesbrError(
            f"Cannot write {show(bytes(path))}: {error.strerror}. Pass another file with -o."
        ) from error
