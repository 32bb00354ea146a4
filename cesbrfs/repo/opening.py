"""Opening a repository: its key files, its config, and why there may be none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

import trio

from cesbrfs.access import Secret
from cesbrfs.errors import (
    CesbrError,
    DamagedError,
    FileMissingError,
    RepositoryDamagedError,
    RepositoryMissingError,
    WrongKeyError,
)
from cesbrfs.repo.ahead import derived
from cesbrfs.repo.crypto import BadMacError, Keys, open_master_key, open_record
from cesbrfs.repo.files import genuine, read_checked
from cesbrfs.repo.model import Config, parse_config, parse_key_file
from cesbrfs.repo.storage import FileType, Storage

_log = logging.getLogger(__name__)


async def open_keys(
    storage: Storage,
    password: Secret,
    keep: Callable[[str, bytes], None] | None = None,
    hints: Sequence[str] = (),
) -> Keys:
    """Find the key file that `password` opens, and return the master key.

    `keep` gets the name and the content of that file.  Files whose names begin with one of `hints`
    are tried first: each that does not fit costs half a second.

    Raises RepositoryMissingError or RepositoryDamagedError where there is no config, WrongKeyError
    when no key file is opened by the password.
    """
    if not await _has_config(storage):
        await raise_no_config(storage)
    files = await storage.list(FileType.KEY)
    if not files:
        raise RepositoryDamagedError(
            f"The repository at {storage.shown} has lost its key files; restore the folder 'keys'"
            " from a copy of the repository."
        )
    unreadable: CesbrError | None = None
    beginnings = tuple(hint for hint in hints if hint)
    for file in sorted(files, key=lambda file: not file.name.startswith(beginnings)):
        try:
            raw = await read_checked(
                storage,
                FileType.KEY,
                file.name,
                partial(genuine, kind=FileType.KEY, name=file.name),
            )
            key_file = parse_key_file(raw, f"key file {file.name[:8]}")
            keys = await trio.to_thread.run_sync(open_master_key, key_file, password.value, derived)
        except BadMacError:
            continue
        except (DamagedError, FileMissingError) as error:
            _log.warning("%s", error)
            unreadable = error
        else:
            if keep is not None:
                await trio.to_thread.run_sync(keep, file.name, raw)
            return keys
    if unreadable is not None:
        raise unreadable
    tried = "its only key is not" if len(files) == 1 else f"none of its {len(files)} keys is"
    raise WrongKeyError(
        f"The encryption key is wrong for the repository at {storage.shown}: {tried} opened by it;"
        " set the key this repository was made with."
    )


async def _has_config(storage: Storage) -> bool:
    try:
        await storage.read(FileType.CONFIG)
    except FileMissingError:
        return False
    return True


async def raise_no_config(storage: Storage) -> None:
    """Tell why there is no config: raise RepositoryMissingError or RepositoryDamagedError.

    Only where no key, snapshot, index or pack is left was there never a repository: a new config
    beside such files would lock what they hold away for ever.
    """
    for kind in (FileType.KEY, FileType.SNAPSHOT, FileType.INDEX, FileType.PACK):
        if await storage.list(kind):
            raise RepositoryDamagedError(
                f"The repository at {storage.shown} is damaged: its file 'config' is gone but"
                f" '{kind.value}' holds files; put 'config' back from a copy of the repository."
                " It was not initialised again."
            )
    raise RepositoryMissingError(
        f"There is no repository at {storage.shown}; create it with 'cesbr init' or correct the"
        " address."
    )


async def open_config(storage: Storage, keys: Keys) -> Config:
    """Open the config; RepositoryDamagedError when it is damaged or of an unknown format."""
    try:
        config = await read_checked(
            storage, FileType.CONFIG, "", lambda raw: parse_config(open_record(keys, raw))
        )
    except DamagedError as error:
        raise RepositoryDamagedError(
            f"The config of the repository at {storage.shown} is damaged; put it back from a"
            " copy of the repository."
        ) from error
    if config.version not in (1, 2):
        raise RepositoryDamagedError(
            f"The repository at {storage.shown} has format {config.version}, of which nothing"
            " is known; a newer version of this program may read it."
        )
    return config
