"""List and read whole files of the repository (snapshots, indexes), verified by their names."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final, TypeVar

from cesbrfs.errors import (
    CesbrError,
    DamagedError,
    FileMissingError,
    RepositoryMissingError,
    StorageError,
)
from cesbrfs.repo.read.damaged_files import DamagedFiles
from cesbrfs.repo.storage import SIZE_MAX, FileInfo, FileType, Storage, SyncReadable
from cesbrfs.util.tasks import gather

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


def verify_name(raw: bytes, kind: FileType, name: str) -> bytes:
    """Return a whole file's content if its name is its SHA-256, as it must be; else DamagedError.

    A MAC alone does not tell one file of the repository from another.
    """
    if hashlib.sha256(raw).hexdigest() != name:
        raise DamagedError(
            f"{kind.value}/{name[:8]} is damaged: its SHA-256 does not match its name. Run"
            " 'cesbr check'."
        )
    return raw


async def read_checked(
    storage: Storage, kind: FileType, name: str, check: Callable[[bytes], _T]
) -> _T:
    """Read a whole file and return the result of `check`, which raises DamagedError.

    A damaged file from a remote storage is read again: it may have been damaged on the network.
    """
    try:
        return check(await storage.read(kind, name))
    except DamagedError as error:
        if not through_network(storage):
            raise
        _log.warning("%s Reading it again.", error)
    return check(await storage.read(kind, name))


def through_network(storage: Storage) -> bool:
    """Return whether data may be changed or lost on its way from the storage."""
    return not isinstance(storage, SyncReadable)


async def _no_confirmation() -> bool:
    """Trust what the storage lists."""
    return False


def raise_if_too_large(kind: FileType, file: FileInfo) -> None:
    """Raise DamagedError for a file that is listed with more bytes than any of its kind has."""
    if file.size > SIZE_MAX[kind]:
        raise DamagedError(
            f"{kind.value}/{file.name[:8]} is too large: {file.size:,} bytes. Run 'cesbr check'."
        )


class UnpackedFiles:
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
        self._too_large: dict[str, FileInfo] = {}
        self.damaged: Final = DamagedFiles()

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
        for file in list(self.damaged.all):
            directory, _, name = file.partition("/")
            if directory == kind and name not in listed:
                self.damaged.remove(file)
        return listed

    async def _names(self, kind: FileType) -> set[str]:
        listed = await self.storage.list(kind)
        large = {f"{kind}/{file.name}": file for file in listed if file.size > SIZE_MAX[kind]}
        for file in [file for file in self._too_large if file.startswith(f"{kind}/")]:
            del self._too_large[file]
        self._too_large |= large
        return {file.name for file in listed}

    async def load(
        self,
        kind: FileType,
        names: Iterable[str],
        take: Callable[[str, bytes], Awaitable[None]],
    ) -> set[str]:
        """Read files, a few at a time, and give each to `take`; return the names of those gone.

        One that is damaged, or with which `take` fails, is logged once and noted.  Raises what ends
        all reading, such as a refusal of the storage.
        """
        names = list(names)
        found = await gather([partial(self._load, kind, name, take) for name in names])
        return {name for name, was_there in zip(names, found, strict=True) if not was_there}

    async def _load(
        self, kind: FileType, name: str, take: Callable[[str, bytes], Awaitable[None]]
    ) -> bool:
        """Load one file; return False when it is gone."""
        file = f"{kind}/{name}"
        try:
            if file in self._too_large:
                raise_if_too_large(kind, self._too_large[file])
            raw = await read_checked(
                self.storage, kind, name, partial(verify_name, kind=kind, name=name)
            )
            await take(name, raw)
        except FileMissingError:  # removed since it was listed
            return False
        except (DamagedError, StorageError) as error:
            self.damaged.add(file, error.message)
        except CesbrError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this file's alone
            self.damaged.add(file, unforeseen(error))
        else:
            self.damaged.note(file, None)
        return True


def unforeseen(error: Exception) -> str:
    """Return the message for a record that failed with an unforeseen exception."""
    what = str(error) or "no reason given"
    return f"Unexpected error ({type(error).__name__}: {what}). Run 'cesbr check'."
