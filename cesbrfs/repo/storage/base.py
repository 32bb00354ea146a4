"""The storage protocol: a repository's files by type and name, read-only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, runtime_checkable

from cesbrfs.errors import DamagedError

_NAME: Final = re.compile(r"[0-9a-f]{64}")


class FileType(StrEnum):
    """The file types of a repository; the value is the directory's name (``config`` is a file)."""

    CONFIG = "config"
    KEY = "keys"
    SNAPSHOT = "snapshots"
    INDEX = "index"
    PACK = "data"
    LOCK = "locks"


SIZE_MAX: Final = {
    FileType.CONFIG: 1 << 20,
    FileType.KEY: 1 << 20,
    FileType.SNAPSHOT: 16 << 20,
    FileType.INDEX: 256 << 20,
    FileType.LOCK: 1 << 20,
    FileType.PACK: 1 << 32,
}
"""Bytes of a file at most; restic's own are far smaller.  Others are not read."""


class FileInfo(NamedTuple):
    """One file: its name (64 hex digits) and its size in bytes."""

    name: str
    size: int


def is_file_name(name: str) -> bool:
    """Return whether a name is one that restic gives its files; temporary files have others."""
    return _NAME.fullmatch(name) is not None


class Storage(Protocol):
    """Reads the files of one repository.

    Every method may raise RepositoryDeniedError, RepositoryUnreachableError or StorageError, and
    can be cancelled at any time.
    """

    display_url: str
    """The repository's address as it may be shown: without secrets."""

    async def list(self, kind: FileType) -> Sequence[FileInfo]:
        """List the files of one kind by their proper names; [] if their directory is missing."""

    async def read(
        self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read `length` bytes from `offset` of a file, or all of it.

        Raises FileMissingError when it does not exist and DamagedError when it is too short.
        """

    async def aclose(self) -> None:
        """Close connections and descriptors."""


class ShortReadError(DamagedError):
    """A file ends before what was asked for does; `rest` is all that it has from there on."""

    def __init__(self, message: str, rest: bytes) -> None:
        super().__init__(message)
        self.rest = rest


async def read_up_to(
    storage: Storage, kind: FileType, name: str, offset: int, length: int
) -> bytes:
    """Read `length` bytes from `offset` of a file, less only where the file ends before that.

    That costs a second request only where the storage's refusal does not bring the rest with it.
    """
    try:
        return await storage.read(kind, name, offset, length)
    except ShortReadError as error:
        return error.rest
    except DamagedError:
        return await storage.read(kind, name, offset)


@runtime_checkable
class SyncReadable(Protocol):
    """A storage without network access, which a worker thread can read from directly."""

    def read_into(self, kind: FileType, name: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` of a file, in the calling thread.

        Raises what `Storage.read` raises.
        """

    def will_read(self, kind: FileType, name: str, offset: int, length: int) -> None:
        """Have the kernel read a part of a file that will be asked for; raises nothing."""


DIRECTORIES: Final = frozenset(kind.value for kind in FileType if kind is not FileType.CONFIG)
"""The directories of a repository; restic makes all of them before it writes the first file."""


@runtime_checkable
class MayHoldOthers(Protocol):
    """A storage that can be asked for files that are not a repository's."""

    async def other_entry(self) -> str | None:
        """Return the name of an entry at the address that an empty repository does not have.

        None where there is none, or where it cannot be found out.  For addresses without a config
        and without files of the repository's kinds.
        """


@runtime_checkable
class HasAvailability(Protocol):
    """A storage that knows whether its server answers."""

    @property
    def is_offline(self) -> bool:
        """Whether the server left the last request without an answer."""
