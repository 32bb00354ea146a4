"""Open the key files and the config of a repository, or report why they are missing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import trio

from cesbrfs.errors import (
    NO_REPOSITORY,
    WRONG_KEY,
    CesbrError,
    DamagedError,
    FileMissingError,
    RepositoryDamagedError,
    RepositoryMissingError,
    StorageError,
    WrongKeyError,
)
from cesbrfs.repo.format.crypto import (
    BadMacError,
    Keys,
    keys_from_bytes,
    open_master_key,
    open_record,
)
from cesbrfs.repo.format.model import Config, KeyFile, parse_config, parse_key_file
from cesbrfs.repo.kdf import ALL_WORK_MAX, USUAL_WORK, derived, work_of
from cesbrfs.repo.read.unpacked import raise_if_too_large, read_checked, unforeseen, verify_name
from cesbrfs.repo.storage import FileInfo, FileType, Storage
from cesbrfs.util.secret import Secret

_log = logging.getLogger(__name__)


async def open_keys(
    storage: Storage,
    password: Secret,
    keep: Callable[[str, bytes], None] | None = None,
    hints: Sequence[str] = (),
) -> Keys:
    """Find the key file that `password` decrypts, and return the master key.

    `keep` is called with the name and content of that file. Files whose names begin with one of
    `hints` are tried first, because each attempt with another key file costs half a second.

    Raises RepositoryMissingError or RepositoryDamagedError if the config or all key files are
    missing, and WrongKeyError if the password decrypts none of them. If a key file could not be
    read or tried, its error is raised instead of WrongKeyError.
    """
    if not await _has_config(storage):
        await raise_no_config(storage)
    files = await storage.list(FileType.KEY)
    if not files:
        raise RepositoryDamagedError(
            f"The repository at {storage.display_url} is damaged: no key files. Restore 'keys'"
            " from a copy of the repository."
        )
    beginnings = tuple(hint for hint in hints if hint)
    ordered = sorted(files, key=lambda file: not file.name.startswith(beginnings))
    trial = _Trial(storage, password)
    for file in ordered:
        keys = await trial.read(file, at_once=file.name.startswith(beginnings))
        if keys is None and file is ordered[-1]:
            keys = await trial.costly()
        if keys is not None:
            if keep is not None:
                await trio.to_thread.run_sync(keep, trial.name, trial.raw)
            return keys
    raise trial.failure()


class _Trial:
    """Tries a password on one key file after another, up to a total of `ALL_WORK_MAX`."""

    def __init__(self, storage: Storage, password: Secret) -> None:
        self._storage = storage
        self._password = password
        self._costly: list[tuple[int, str, bytes, KeyFile]] = []
        self._spent = 0
        self._unreadable: CesbrError | None = None
        self.name = ""
        """Name of the key file that was tried last; `raw` is its content."""
        self.raw = b""

    async def read(self, file: FileInfo, *, at_once: bool) -> Keys | None:
        """Read a key file and try the password on it; return None if this does not succeed.

        Unless `at_once` is set, a file with more than `USUAL_WORK` is postponed to `costly`.
        """
        check = partial(verify_name, kind=FileType.KEY, name=file.name)
        try:
            raise_if_too_large(FileType.KEY, file)
            raw = await read_checked(self._storage, FileType.KEY, file.name, check)
            key_file = parse_key_file(raw, f"key file {file.name[:8]}")
        except (DamagedError, StorageError) as error:
            self._note(error)
            return None
        work = work_of(key_file)
        if work > USUAL_WORK and not at_once:
            self._costly.append((work, file.name, raw, key_file))
            return None
        return await self._try(work, file.name, raw, key_file)

    async def costly(self) -> Keys | None:
        """Try the postponed key files in order of increasing work."""
        for work, name, raw, key_file in sorted(self._costly, key=lambda one: one[:2]):
            keys = await self._try(work, name, raw, key_file)
            if keys is not None:
                return keys
        return None

    async def _try(self, work: int, name: str, raw: bytes, key_file: KeyFile) -> Keys | None:
        if self._spent and self._spent + work > ALL_WORK_MAX:
            self._note(
                DamagedError(
                    f"Key file {name[:8]} was not tried: the limit for key derivation is reached."
                    " Set RESTIC_KEY_HINT to the ID of the key."
                )
            )
            return None
        self._spent += work
        self.name, self.raw = name, raw
        try:
            return await trio.to_thread.run_sync(
                _open_master_key, key_file, self._password.value, abandon_on_cancel=True
            )
        except BadMacError:
            return None
        except CesbrError as error:
            self._note(error)
        except Exception as error:  # noqa: BLE001 - must not prevent trying the other key files
            self._note(DamagedError(f"Key file {name[:8]}: {unforeseen(error)}"))
        return None

    def _note(self, error: CesbrError) -> None:
        _log.warning("%s", error)
        self._unreadable = error

    def failure(self) -> CesbrError:
        """Return the error for a password that decrypts none of the key files."""
        if self._unreadable is not None:
            return self._unreadable
        return WrongKeyError(WRONG_KEY.format(display_url=self._storage.display_url))


def _open_master_key(key_file: KeyFile, password: bytes) -> Keys:
    return open_master_key(keys_from_bytes(derived(password, key_file)), key_file)


async def _has_config(storage: Storage) -> bool:
    try:
        await storage.read(FileType.CONFIG)
    except FileMissingError:
        return False
    return True


async def raise_no_config(storage: Storage) -> None:
    """Raise the error for a missing config.

    This is RepositoryDamagedError if the repository has other files, else RepositoryMissingError.
    """
    for kind in (FileType.KEY, FileType.SNAPSHOT, FileType.INDEX, FileType.PACK):
        if await storage.list(kind):
            raise RepositoryDamagedError(
                f"The repository at {storage.display_url} is damaged: 'config' is missing, but"
                f" '{kind.value}' is not empty. Restore 'config' from a copy of the repository."
            )
    raise RepositoryMissingError(NO_REPOSITORY.format(display_url=storage.display_url))


async def open_config(storage: Storage, keys: Keys) -> Config:
    """Read the config; RepositoryDamagedError if it is damaged or its version is unknown."""
    try:
        config = await read_checked(
            storage, FileType.CONFIG, "", lambda raw: parse_config(open_record(keys, raw))
        )
    except DamagedError as error:
        raise RepositoryDamagedError(
            f"The repository at {storage.display_url} is damaged: 'config' is invalid. Restore"
            " 'config' from a copy of the repository."
        ) from error
    if config.version not in (1, 2):
        raise RepositoryDamagedError(
            f"Unsupported repository version {config.version} at {storage.display_url}. Update"
            " cesbrfs."
        )
    return config
