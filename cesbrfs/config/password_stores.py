"""Where the repository's password is stored, and how it is replaced there.

These are all password files that flags, environment and settings file name, and the registry; the
first one is usually in use, but another program or another call may use any of them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import trio

from cesbrfs.ces.private_keys import PrivateKeys, encoded_secret, read_secret, replace_secret
from cesbrfs.ces.registry import Registry
from cesbrfs.ces.repository_config import ENCRYPTION_KEY
from cesbrfs.config.layers import ConfigLayers, Flags
from cesbrfs.config.password import read_text
from cesbrfs.config.settings import Settings
from cesbrfs.errors import CesbrError, RegistryUnreachableError
from cesbrfs.util.atomicfile import remove_temporary, write_atomic
from cesbrfs.util.secret import Secret

_TEMPORARY_PREFIX: Final = ".cesbr-password-"


class PasswordStore(Protocol):
    """A place where a password is stored."""

    @property
    def name(self) -> str:
        """The place, for messages."""
        ...

    async def read(self) -> Secret | None:
        """Return the password as it is used from here; None if there is none."""
        ...

    async def check(self, new: Secret) -> None:
        """Raise CesbrError if the password cannot be replaced by `new`; changes nothing."""
        ...

    async def replace(self, new: Secret) -> None:
        """Replace the password atomically; raises CesbrError."""
        ...


@dataclass(frozen=True, slots=True)
class PasswordFile:
    """A password file; symbolic links to it stay."""

    path: Path

    @property
    def name(self) -> str:
        """The path of the file."""
        return str(self.path)

    async def read(self) -> Secret | None:
        """Return the content as restic reads it; None for a missing file."""
        if not await trio.to_thread.run_sync(os.path.lexists, self.path):
            return None
        return Secret(await trio.to_thread.run_sync(read_text, self.path, "password file"))

    async def check(self, new: Secret) -> None:
        """Check type, owner and permissions; a temporary file is created next to the file."""
        del new
        await trio.to_thread.run_sync(self._check)

    async def replace(self, new: Secret) -> None:
        """Write the file through a temporary file of mode 0600, and keep its owner and mode."""
        await trio.to_thread.run_sync(self._replace, new)

    def _check(self) -> None:
        file, status = self._real()
        if not stat.S_ISREG(status.st_mode):
            raise self._failed("it is not a regular file")
        user = os.geteuid()
        if user not in (0, status.st_uid):
            raise self._failed("it belongs to another user")
        if not os.access(file.parent, os.W_OK | os.X_OK):
            raise self._failed(f"{file.parent} is not writable")

    def _replace(self, new: Secret) -> None:
        try:
            file, status = self._real()
            remove_temporary(file.parent, _TEMPORARY_PREFIX)
            write_atomic(
                file,
                new.value + b"\n",
                mode=stat.S_IMODE(status.st_mode),
                owner=(status.st_uid, status.st_gid),
                prefix=_TEMPORARY_PREFIX,
            )
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from error

    def _real(self) -> tuple[Path, os.stat_result]:
        try:
            # Path.resolve raises RuntimeError for a loop of symlinks.
            file = Path(os.path.realpath(self.path, strict=True))
            return file, file.stat()
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from error

    def _failed(self, reason: str) -> CesbrError:
        return CesbrError(
            f"The password file {self.path} cannot be replaced: {reason}. Correct this, and run the"
            " command again."
        )


@dataclass(frozen=True, slots=True)
class RegistryPassword:
    """The encryption key in the registry, plain or encrypted by CES."""

    registry: Registry
    keys: PrivateKeys

    @property
    def name(self) -> str:
        """The key and the address of the registry."""
        return f"{ENCRYPTION_KEY} in the registry {self.registry.address}"

    async def read(self) -> Secret | None:
        """Return the decrypted value; None if it is not set."""
        value = await read_secret(self.registry, ENCRYPTION_KEY, self.keys)
        return Secret(value) if value else None

    async def check(self, new: Secret) -> None:
        """Check that the value would be read as it is written."""
        encoded_secret(new.value, ENCRYPTION_KEY)

    async def replace(self, new: Secret) -> None:
        """Set the value, encrypted if the current one is."""
        await replace_secret(self.registry, ENCRYPTION_KEY, new.value, self.keys)


async def password_stores(
    settings: Settings, flags: Flags, environ: Mapping[str, str]
) -> list[PasswordStore]:
    """Return all places that can contain a password of the repository.

    An unreachable registry is left out, unless the password in use comes from it.
    """
    stores: list[PasswordStore] = []
    for file in _password_files(ConfigLayers(flags, environ)):
        if not any(_same(file, other.path) for other in stores if isinstance(other, PasswordFile)):
            stores.append(PasswordFile(file))
    registry = RegistryPassword(
        settings.open_registry(), PrivateKeys(settings.root, settings.private_key)
    )
    try:
        if await registry.registry.get(ENCRYPTION_KEY):
            stores.append(registry)
    except RegistryUnreachableError:
        if settings.sources.get("password", "").startswith("registry "):
            raise
    return stores


def manual_source(settings: Settings) -> str | None:
    """Return what must be set by hand because the password in use comes from there, else None."""
    password, source = settings.password, settings.sources.get("password", "")
    if password is None or password.file is not None or source.startswith("registry "):
        return None
    if password.command is not None:
        return f"the output of the password command ({source})"
    return source.removeprefix("environment ")


def _password_files(layers: ConfigLayers) -> list[Path]:
    given = (
        layers.from_flag("password_file"),
        layers.from_environment("CESBR_PASSWORD_FILE"),
        layers.from_environment("RESTIC_PASSWORD_FILE"),
        layers.from_file("password_file"),
    )
    return [one.path() for one in given if one is not None]


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return one == other
