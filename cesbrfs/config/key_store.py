"""Where a configured encryption key is stored, to replace it there."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import trio

from cesbrfs.config.password import read_text
from cesbrfs.errors import CesbrError, UsageError
from cesbrfs.util.atomicfile import write_atomic
from cesbrfs.util.escape import show
from cesbrfs.util.secret import Secret

if TYPE_CHECKING:
    from cesbrfs.ces.private_keys import PrivateKeys
    from cesbrfs.ces.registry import Registry
    from cesbrfs.config.settings import Settings


class KeyStore(Protocol):
    """A place that stores the encryption key. `location` names it in messages."""

    @property
    def location(self) -> str:
        """Where it is."""
        ...

    async def read(self) -> Secret:
        """Return the stored key."""
        ...

    async def write(self, key: Secret) -> None:
        """Replace the stored key atomically; raises CesbrError."""
        ...


@dataclass(frozen=True, slots=True)
class FileKeyStore:
    """A password file. It keeps its owner and mode; a symlink to it stays."""

    file: Path

    @property
    def location(self) -> str:
        """The path of the file."""
        return show(os.fsencode(self.file))

    async def read(self) -> Secret:
        """Return the stored key."""
        return Secret(await trio.to_thread.run_sync(read_text, self.file, "password file"))

    async def write(self, key: Secret) -> None:
        """Replace the file."""
        await trio.to_thread.run_sync(self._write, key)

    def _write(self, key: Secret) -> None:
        try:
            file = self.file.resolve(strict=True)
            status = file.stat()
            owner = (status.st_uid, status.st_gid)
            write_atomic(file, key.value + b"\n", mode=stat.S_IMODE(status.st_mode), owner=owner)
        except OSError as error:
            raise CesbrError(f"Cannot write {self.location}: {error.strerror}.") from error


@dataclass(frozen=True, slots=True)
class RegistryKeyStore:
    """The key in the registry, encrypted or not."""

    registry: Registry
    keys: PrivateKeys

    @property
    def location(self) -> str:
        """The registry key with the address of the registry."""
        from cesbrfs.ces.repository_config import ENCRYPTION_KEY

        return f"{ENCRYPTION_KEY} in the registry {self.registry.address}"

    async def read(self) -> Secret:
        """Return the stored key."""
        from cesbrfs.ces.repository_config import configured_key

        return await configured_key(self.registry, self.keys) or Secret(b"")

    async def write(self, key: Secret) -> None:
        """Replace the value, encrypted as it is now."""
        from cesbrfs.ces.private_keys import replace_secret
        from cesbrfs.ces.repository_config import ENCRYPTION_KEY

        if not await replace_secret(self.registry, ENCRYPTION_KEY, self.keys, key.value):
            raise CesbrError(
                f"{self.location} was changed by another program. Run the command again."
            )


def key_store(settings: Settings) -> KeyStore:
    """Return where the key in use is stored; UsageError if it cannot be replaced there.

    `settings` are not resolved, so a key that they do not have is the registry's.
    """
    password = settings.password
    if password is None:
        from cesbrfs.ces.private_keys import PrivateKeys

        keys = PrivateKeys(settings.root, settings.private_key)
        return RegistryKeyStore(settings.open_registry(), keys)
    if password.file is not None and password.file.is_file():
        return FileKeyStore(password.file)
    raise UsageError(
        f"The encryption key comes from {settings.sources['password']}, where it cannot be"
        " replaced. Run 'cesbr key add', set the new key there, then remove the old one with"
        " 'cesbr key remove'."
    )
