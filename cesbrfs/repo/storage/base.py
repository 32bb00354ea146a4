"""The storage protocol: a repository's files by type and name, read-only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, runtime_checkable

from cesbrfs.errors import DamagedError

_NAME: Final = re.compile(r"[0-9a-f]{64}")


class FileType(StrEnum):
    """The file types of a repository; the value is the directory name (``config`` is a file)."""

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
"""Maximum file sizes in bytes; larger files are not read. Those of restic are far smaller."""


class FileInfo(NamedTuple):
    """The name (64 hex digits) and the size in bytes of a file."""

    name: str
    size: int


def is_file_name(name: str) -> bool:
    """Return whether `name` is 64 hex digits, unlike the names of temporary files."""
    return _NAME.fullmatch(name) is not None


class Storage(Protocol):
    """Reads the files of one repository.

    Every method may raise RepositoryDeniedError, RepositoryUnreachableError or StorageError, and
    can be cancelled at any time.
    """

    display_url: str
    """The repository's address without secrets, for messages."""

    async def list(self, kind: FileType) -> Sequence[FileInfo]:
        """List the files of one kind, except temporary ones; [] if the directory is missing."""

    async def read(
        self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read up to `length` bytes of a file from `offset`, by default all; fewer only at its end.

        Raises FileMissingError if the file does not exist.
        """

    async def aclose(self) -> None:
        """Close connections and descriptors."""


async def read_exactly(
    storage: Storage, kind: FileType, name: str, offset: int, length: int
) -> bytes:
    """Read `length` bytes of a file from `offset`; DamagedError if the file ends before."""
    data = await storage.read(kind, name, offset, length)
    if len(data) < length:
        raise DamagedError(
            f"{kind.value}/{name} in {storage.display_url} is truncated. Run 'cesbr check'."
        )
    return data


@runtime_checkable
class SyncReadable(Protocol):
    """A storage without network access, from which worker threads can read directly."""

    def read_into(self, kind: FileType, name: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` of a file, in the calling thread.

        Raises what `Storage.read` raises.
        """

    def will_read(self, kind: FileType, name: str, offset: int, length: int) -> None:
        """Start read-ahead of a range of a file in the kernel; never raises."""


DIRECTORIES: Final = frozenset(kind.value for kind in FileType if kind is not FileType.CONFIG)
"""The directories of a repository; restic creates them before it writes the first file."""


@runtime_checkable
class MayHoldOthers(Protocol):
    """A storage that can detect files that do not belong to a repository."""

    async def other_entry(self) -> str | None:
        """Return the name of an entry at the address that an empty repository does not have.

        None if there is none, or if this cannot be determined. Call it only if the address has no
        config and no files of a repository.
        """


@runtime_checkable
class HasServerClock(Protocol):
    """A storage whose server sends its time."""

    @property
    def clock_difference(self) -> float | None:
        """Seconds by which the server's clock is ahead of this machine's; None if unknown."""


@runtime_checkable
class HasAvailability(Protocol):
    """A storage that records whether its server responds."""

    @property
    def is_offline(self) -> bool:
        """Whether the server did not respond to the last request."""
