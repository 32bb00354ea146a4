"""The secret values of a registry, and the private keys that open those which are encrypted.

Which dogu's key CES encrypts the values below ``/config/backup`` with is not documented, so every
key of the instance is tried, unless one is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from cesbrfs.ces.encryption import PROVIDERS, BrokenValueError, Sealed, parse_sealed, unseal
from cesbrfs.ces.redaction import masked_line
from cesbrfs.ces.registry import Registry
from cesbrfs.errors import UsageError

if TYPE_CHECKING:  # few values are encrypted, so few need it
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_PROVIDER: Final = "/config/_global/key_provider"
_PATTERN: Final = "var/lib/ces/*/volumes/_private/private.pem"


@dataclass(frozen=True, slots=True)
class PrivateKeys:
    """The private keys of the instance at `root`, or the one in `file` alone."""

    root: Path
    file: Path | None = None

    @property
    def place(self) -> str:
        """Where they are, as people are told."""
        return str(self.file or self.root / _PATTERN)

    def load(self) -> Iterator[RSAPrivateKey]:
        """Read one after the other; UsageError when the one that was named is none.

        Of the others those that cannot be used are passed over.
        """
        if self.file is not None:
            try:
                yield _read(self.file)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise UsageError(
                    f"The private key {self.file} cannot be used: {reason}; correct "
                    "the setting private_key."
                ) from None
            return
        for file in sorted(self.root.glob(_PATTERN)):
            try:
                yield _read(file)
            except (OSError, ValueError):
                continue


async def read_secret(registry: Registry, key: str, keys: PrivateKeys) -> bytes | None:
    """Return the secret that `key` holds, byte for byte; None when there is none, or an empty one.

    An encrypted one is decrypted; UsageError when that cannot be done.
    """
    value = await registry.get(key)
    if not value:
        return None
    try:
        sealed = parse_sealed(value)
        if sealed is None:
            return value.encode()
        provider = await _provider(registry)
        found = await trio.to_thread.run_sync(_open, sealed, keys, provider)
    except BrokenValueError as error:
        raise UsageError(
            f"The encrypted value of {key} in the registry {registry.address} is broken: {error}; "
            "set it again."
        ) from None
    if found is None:
        raise UsageError(
            f"The value of {key} in the registry {registry.address} has the form of an encrypted "
            f"one ({provider}), and no private key that can be read at {keys.place} opens it; set "
            "private_key to the file of its key, or say a plain value of this form elsewhere."
        )
    return found


async def _provider(registry: Registry) -> str:
    written = ((await registry.get(_PROVIDER)) or "").strip()
    provider = written.lower() or PROVIDERS[0]
    if provider not in PROVIDERS:
        raise UsageError(
            f"{_PROVIDER} in the registry {registry.address} is"
            f" '{masked_line(_PROVIDER, written)}'; set it to {' or '.join(PROVIDERS)}."
        )
    return provider


def _open(sealed: Sealed, keys: PrivateKeys, provider: str) -> bytes | None:
    for key in keys.load():
        found = unseal(sealed, key, provider)
        if found is not None:
            return found
    return None


def _read(file: Path) -> RSAPrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = file.read_bytes()
    try:
        # Nobody but root writes there, and checking each key takes longer than using it.
        key = load_pem_private_key(data, None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("it holds no RSA key in PEM without a password")  # noqa: TRY004 - it is data
    return key
