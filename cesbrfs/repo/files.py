"""Whole files of the repository, listed and read: snapshots and indexes, checked by their names."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final, TypeVar

from cesbrfs.errors import (
    DamagedError,
    FileMissingError,
    RepositoryMissingError,
    StorageError,
)
from cesbrfs.repo.storage import FileType, ReadsAtOnce, Storage
from cesbrfs.tasks import gather

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


def genuine(raw: bytes, kind: FileType, name: str) -> bytes:
    """Return a whole file's content if its name is its SHA-256, as it must be; else DamagedError.

    A MAC alone does not tell one file of the repository from another.
    """
    if hashlib.sha256(raw).hexdigest() != name:
        raise DamagedError(
            f"{kind.value}/{name[:8]} does not hold what its name promises; run 'cesbr check'."
        )
    return raw


async def read_checked(
    storage: Storage, kind: FileType, name: str, check: Callable[[bytes], _T]
) -> _T:
    """Read a whole file and return what `check` makes of it, which raises DamagedError.

    What came through a network and is damaged is read once more: it may have been changed there.
    """
    try:
        return check(await storage.read(kind, name))
    except DamagedError as error:
        if not through_network(storage):
            raise
        _log.warning("%s Reading it once more.", error)
    return check(await storage.read(kind, name))


def through_network(storage: Storage) -> bool:
    """Tell whether what is read may be changed, or lost, on its way here."""
    return not isinstance(storage, ReadsAtOnce)


async def _no_confirmation() -> bool:
    """Trust what the storage lists."""
    return False


class Files:
    """Lists and loads files of one kind after another, and remembers which are damaged.

    `confirm` raises when the repository is gone, and returns True when another one has taken its
    place.  It is called when a listing lacks files that an earlier one had, and when it is empty: a
    storage without a repository lists nothing, too.
    """

    def __init__(
        self, storage: Storage, confirm: Callable[[], Awaitable[bool]] = _no_confirmation
    ) -> None:
        self.storage: Final = storage
        self._confirm: Final = confirm
        self._listed: dict[FileType, set[str]] = {}
        self.damaged: Final[dict[str, str]] = {}
        """Files that could not be read, as ``snapshots/<name>``, with the reason."""

    async def list(self, kind: FileType) -> set[str]:
        """Return the names of the files of one kind; what is gone is not damaged any more.

        Raises what `confirm` raises.
        """
        try:
            listed = await self._names(kind)
        except (FileMissingError, RepositoryMissingError):  # of rclone's server, of a bucket
            await self._confirm()
            raise
        before = self._listed.get(kind, set())
        # A repository mostly has no locks.
        doubtful = kind is not FileType.LOCK and (not listed or not before <= listed)
        if doubtful and (await self._confirm() or before):
            listed = await self._names(kind)  # the storage may have come back in between
        self._listed[kind] = listed
        for file in list(self.damaged):
            folder, _, name = file.partition("/")
            if folder == kind and name not in listed:
                del self.damaged[file]
        return listed

    async def _names(self, kind: FileType) -> set[str]:
        return {file.name for file in await self.storage.list(kind)}

    async def load(
        self,
        kind: FileType,
        names: Iterable[str],
        take: Callable[[str, bytes], Awaitable[None]],
    ) -> None:
        """Read files, a few at a time, and give each to `take`.

        One that is gone is passed over; one that is damaged, or that `take` finds to be so, is
        logged once and noted.  Raises what ends all reading, such as a refusal of the storage.
        """
        await gather([partial(self._load, kind, name, take) for name in names])

    async def _load(
        self, kind: FileType, name: str, take: Callable[[str, bytes], Awaitable[None]]
    ) -> None:
        file = f"{kind}/{name}"
        try:
            raw = await read_checked(
                self.storage, kind, name, partial(genuine, kind=kind, name=name)
            )
            await take(name, raw)
        except FileMissingError:
            pass  # removed since it was listed
        except (DamagedError, StorageError) as error:
            if file not in self.damaged:
                _log.warning("%s is left out: %s", file, error)
            self.damaged[file] = error.message
        else:
            self.damaged.pop(file, None)
