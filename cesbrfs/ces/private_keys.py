"""Read and replace secrets in a registry, and decrypt them with the private keys of the instance.

Which dogu's key CES uses to encrypt the values below ``/config/backup`` is not documented. All keys
of the instance are tried, unless one is configured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from cesbrfs.ces.encryption import (
    PROVIDERS,
    EncryptedValue,
    InvalidCiphertextError,
    decrypt,
    encrypt,
    parse_encrypted,
)
from cesbrfs.ces.redaction import masked_line
from cesbrfs.ces.registry import Registry
from cesbrfs.errors import UsageError

if TYPE_CHECKING:  # imported on demand, as few values are encrypted
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_KEY_PROVIDER: Final = "/config/_global/key_provider"
_KEY_FILES: Final = "var/lib/ces/*/volumes/_private/private.pem"


@dataclass(frozen=True, slots=True)
class PrivateKeys:
    """All private keys of the instance at `root`, or only the one in `file`."""

    root: Path
    file: Path | None = None

    @property
    def location(self) -> str:
        """Path or glob pattern of the keys, for messages."""
        return str(self.file or self.root / _KEY_FILES)

    def load(self) -> Iterator[RSAPrivateKey]:
        """Yield the keys, skipping files that are not valid keys.

        Raises UsageError if the configured `file` is not a valid key.
        """
        if self.file is not None:
            try:
                yield _read(self.file)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise UsageError(
                    f"Cannot use the private key {self.file}: {reason}. Correct the setting"
                    " private_key."
                ) from None
            return
        for file in sorted(self.root.glob(_KEY_FILES)):
            try:
                yield _read(file)
            except (OSError, ValueError):
                continue


async def read_secret(registry: Registry, key: str, keys: PrivateKeys) -> bytes | None:
    """Return the value of `key`, decrypted if necessary; None if it is missing or empty.

    Raises UsageError if it cannot be decrypted.
    """
    value = await registry.get(key)
    if not value:
        return None
    try:
        encrypted = parse_encrypted(value)
        if encrypted is None:
            return value.encode()
        provider = await _provider(registry)
        plaintext = await trio.to_thread.run_sync(_decrypt_with_any, encrypted, keys, provider)
    except InvalidCiphertextError as error:
        raise UsageError(
            f"Invalid encrypted value of {key} in the registry {registry.address}: {error}. Set the"
            " value again."
        ) from None
    if plaintext is None:
        raise UsageError(
            f"Cannot decrypt the value of {key} in the registry {registry.address} ({provider}): no"
            f" matching private key in {keys.location}. Set private_key to the file of the right"
            " key, or pass the value in another way if it is not encrypted."
        )
    return plaintext


async def replace_secret(registry: Registry, key: str, new: bytes, keys: PrivateKeys) -> None:
    """Replace the value of `key`, encrypted for the same private key if it was encrypted.

    Raises UsageError if that is impossible, or if the value was changed by someone else.
    """
    old = await registry.get(key)
    encrypted = parse_encrypted(old) if old else None
    value = encoded_secret(new, key)
    if encrypted is not None:
        provider = await _provider(registry)
        value = await trio.to_thread.run_sync(_encrypt_alike, encrypted, new, keys, provider)
    if not await registry.compare_and_set(key, value, old):
        raise UsageError(
            f"{key} in the registry {registry.address} was modified by another program. Run the"
            " command again."
        )


def encoded_secret(value: bytes, key: str) -> str:
    """Return `value` as plain text of the registry; UsageError if it would be read differently."""
    try:
        text = value.decode()
        if parse_encrypted(text) is None:
            return text
    except ValueError:  # not UTF-8, or a malformed encrypted value
        pass
    raise UsageError(
        f"The new value of {key} is not UTF-8, or looks encrypted. Choose another one."
    )


def _encrypt_alike(
    encrypted: EncryptedValue, value: bytes, keys: PrivateKeys, provider: str
) -> str:
    for private in keys.load():
        if decrypt(encrypted, private, provider) is not None:
            return encrypt(value, private.public_key(), provider)
    raise UsageError(f"No private key in {keys.location} decrypts the current value. Set it again.")


async def _provider(registry: Registry) -> str:
    raw = ((await registry.get(_KEY_PROVIDER)) or "").strip()
    provider = raw.lower() or PROVIDERS[0]
    if provider not in PROVIDERS:
        raise UsageError(
            f"Invalid value '{masked_line(_KEY_PROVIDER, raw)}' of {_KEY_PROVIDER} in the registry"
            f" {registry.address}. Set it to {' or '.join(PROVIDERS)}."
        )
    return provider


def _decrypt_with_any(encrypted: EncryptedValue, keys: PrivateKeys, provider: str) -> bytes | None:
    for key in keys.load():
        plaintext = decrypt(encrypted, key, provider)
        if plaintext is not None:
            return plaintext
    return None


def _read(file: Path) -> RSAPrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = file.read_bytes()
    try:
        # Only root can write these files, and validating a key takes longer than decrypting.
        key = load_pem_private_key(data, None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("not an unencrypted RSA key in PEM format")  # noqa: TRY004 - invalid data
    return key
