"""A repository in a local directory."""

from __future__ import annotations

import builtins
import contextlib
import errno
import math
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final

import trio

from cesbrfs.errors import (
    CesbrError,
    DamagedError,
    FileMissingError,
    RepositoryDeniedError,
    RepositoryUnreachableError,
    StorageError,
)
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage.base import (
    DIRECTORIES,
    SIZE_MAX,
    FileInfo,
    FileType,
    is_file_name,
)
from cesbrfs.repo.storage.counters import StorageCounters
from cesbrfs.repo.storage.location import parse_local

_THREAD_BYTES: Final = 256 << 10
_LARGE_READ: Final = 64 << 20
"""Above this, the size of the file is checked before memory is allocated."""
"""Largest read without a worker thread: switching to one takes 0.14 ms, longer than the read."""


class LocalStorage:
    """Reads a repository's files from `directory`.

    A cancelled read abandons a thread that hangs in the kernel, for example on a network file
    system. The thread shares no state and closes its own descriptors.
    """

    def __init__(self, directory: str) -> None:
        self.directory: Final = os.path.abspath(directory)
        self.display_url = self.directory
        self.counters: Final = StorageCounters()
        self._seen: Final[set[FileType]] = set()
        """The kinds of files whose directories existed."""

    @classmethod
    def from_access(cls, access: Access, *, timeout: float = math.inf) -> LocalStorage:  # noqa: ARG003 - of the protocol
        """Create the storage for `access`; local reads have no timeout."""
        return cls(parse_local(access.url).directory)

    def _path(self, kind: FileType, name: str) -> str:
        if kind is FileType.CONFIG:
            return os.path.join(self.directory, "config")
        if kind is FileType.PACK:
            return os.path.join(self.directory, "data", name[:2], name)
        return os.path.join(self.directory, kind.value, name)

    async def list(self, kind: FileType) -> Sequence[FileInfo]:
        """List the files of one kind."""
        try:
            found = await trio.to_thread.run_sync(self._list, kind, abandon_on_cancel=True)
        except CesbrError as error:
            self.counters.failed(error)
            raise
        self.counters.count(kind)
        return found

    def _list(self, kind: FileType) -> Sequence[FileInfo]:
        top = os.path.join(self.directory, kind.value)
        files: builtins.list[FileInfo] = []
        try:
            with os.scandir(top) as entries:
                for entry in entries:
                    if kind is FileType.PACK and _is_directory(entry):
                        files.extend(self._files(entry.path))
                    else:
                        files.extend(_file(entry))
        except FileNotFoundError as error:
            if self._is_lost(kind):
                raise StorageError(
                    f"{top} does not exist. Check what is mounted at the repository, or get the"
                    " directory from a copy of it."
                ) from error
            return []
        except OSError as error:
            raise self._translate(error, top) from error
        self._seen.add(kind)
        return files

    def _is_lost(self, kind: FileType) -> bool:
        """Return whether a directory is missing that the repository had.

        No command removes a directory. One without snapshots keeps its index files until a prune.
        """
        if not os.path.exists(self._path(FileType.CONFIG, "")):
            return False
        if kind is FileType.SNAPSHOT and self._files(os.path.join(self.directory, "index")):
            return True
        return kind in self._seen

    @staticmethod
    def _files(directory: str) -> Sequence[FileInfo]:
        try:
            with os.scandir(directory) as entries:
                return [file for entry in entries for file in _file(entry)]
        except (FileNotFoundError, NotADirectoryError):
            return ()

    async def other_entry(self) -> str | None:
        """Return the name of an entry that an empty repository does not have."""
        return await trio.to_thread.run_sync(self._other_entry, abandon_on_cancel=True)

    def _other_entry(self) -> str | None:
        try:
            names = sorted(os.listdir(self.directory))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._translate(error, self.directory) from error
        for name in names:
            path = os.path.join(self.directory, name)
            if name == "lost+found":  # exists in every empty ext4 file system
                continue
            if name not in DIRECTORIES or not os.path.isdir(path):
                return name
            for directory, _, files in os.walk(path):
                for file in files:
                    return os.path.relpath(os.path.join(directory, file), self.directory)
        return None

    async def read(
        self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read a part of a file, or all of it."""
        path = self._path(kind, name)
        try:
            if length is not None and length <= _THREAD_BYTES:
                await trio.lowlevel.checkpoint_if_cancelled()
                data = self._read(path, offset, length)
            else:
                data = await trio.to_thread.run_sync(
                    self._read, path, offset, length, SIZE_MAX[kind], abandon_on_cancel=True
                )
        except CesbrError as error:
            self.counters.failed(error)
            raise
        self.counters.count(kind, len(data))
        return data

    def read_into(self, kind: FileType, name: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` of a file, in the calling thread."""
        try:
            self._read_into(self._path(kind, name), offset, buffer)
        except CesbrError as error:
            self.counters.failed(error)
            raise
        self.counters.count(kind, len(buffer))

    def _read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        with self._opened(path) as descriptor:
            done = 0
            while done < len(buffer):
                more = os.preadv(descriptor, [buffer[done:]], offset + done)
                if not more:
                    raise _too_short(path, offset + done)
                done += more

    def will_read(self, kind: FileType, name: str, offset: int, length: int) -> None:
        """Start read-ahead of a range of a file in the kernel."""
        with contextlib.suppress(CesbrError), self._opened(self._path(kind, name)) as descriptor:
            os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_WILLNEED)

    def _read(
        self, path: str, offset: int, length: int | None, size_max: int = SIZE_MAX[FileType.PACK]
    ) -> bytes:
        with self._opened(path) as descriptor:
            if length is None or length > _LARGE_READ:
                size = os.fstat(descriptor).st_size
                if length is None and size > size_max:
                    raise DamagedError(f"{path} is too large: {size:,} bytes. Run 'cesbr check'.")
                rest = max(0, size - offset)
                length = rest if length is None else min(length, rest)
            data = os.pread(descriptor, length, offset)
            while len(data) < length:
                more = os.pread(descriptor, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        return data

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        try:
            # Without O_NONBLOCK, opening a named pipe would wait for a writer.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise StorageError(f"{path} is not a regular file. Run 'cesbr check'.")
                yield descriptor
            finally:
                os.close(descriptor)
        except OSError as error:
            raise self._translate(error, path) from error

    def _translate(self, error: OSError, path: str) -> CesbrError:
        reason = os.strerror(error.errno or errno.EIO)
        if error.errno == errno.ENOENT:
            return FileMissingError(f"{path} does not exist.")
        if error.errno in (errno.EACCES, errno.EPERM):
            return RepositoryDeniedError(
                f"Permission denied for the repository at {self.display_url}: {path}. Run this"
                " command as the owner of the repository, or as root."
            )
        if error.errno == errno.ENOTDIR:
            return RepositoryUnreachableError(
                f"A component of {path} is not a directory. Correct the repository's address."
            )
        if error.errno in (errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ESTALE):
            return RepositoryUnreachableError(
                f"The file system of the repository at {self.display_url} does not respond:"
                f" {reason}. Check what is mounted there."
            )
        return StorageError(f"Cannot read {path}: {reason}. Check its disk.")

    async def aclose(self) -> None:
        """Do nothing: each read closes its descriptor."""


def _file(entry: os.DirEntry[str]) -> Sequence[FileInfo]:
    """Return the file for `entry`; empty if it is not a repository file or has been removed."""
    if not is_file_name(entry.name):
        return ()
    try:
        return (FileInfo(entry.name, entry.stat().st_size),)
    except FileNotFoundError:
        return ()
    except OSError:  # for example a symlink loop: reading the file raises the error
        return (FileInfo(entry.name, 0),)


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _too_short(path: str, end: int) -> DamagedError:
    return DamagedError(f"{path} is truncated at byte {end}. Run 'cesbr check'.")
