"""Read the repository address, encryption key and credentials from ``/config/backup``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cesbrfs.ces.backup_config import PREFIX
from cesbrfs.ces.private_keys import PrivateKeys, read_secret
from cesbrfs.ces.redaction import masked_line
from cesbrfs.ces.registry import Registry
from cesbrfs.errors import UsageError
from cesbrfs.util.secret import Secret

S3_CONFIG: Final = f"{PREFIX}/s3_bucket_config"
ENCRYPTION_KEY: Final = f"{PREFIX}/encryption_key"

_ADDRESS_KEYS: Final[Mapping[str, str]] = {
    "local": "local_config/path",
    "sftp": "sftp_config/address",
    "s3": "s3_bucket_config/address",
}
_S3_CREDENTIAL_KEYS: Final[Mapping[str, str]] = {
    "AWS_ACCESS_KEY_ID": "access_key_id",
    "AWS_SECRET_ACCESS_KEY": "secret_access_key",
}


@dataclass(frozen=True, slots=True)
class ConfiguredRepository:
    """A repository address as restic writes it, and the registry key it was read from."""

    url: str = field(repr=False)
    key: str


async def configured_key(registry: Registry, keys: PrivateKeys) -> Secret | None:
    """Return the encryption key (the restic password); None if none is set."""
    value = await read_secret(registry, ENCRYPTION_KEY, keys)
    return Secret(value) if value else None


async def configured_repository(registry: Registry) -> ConfiguredRepository | None:
    """Return the repository configured in the registry; None if no ``backup_type`` is set.

    ``backup_type`` is case-insensitive, and the scheme of the address is optional, because real
    instances use all these forms. Raises UsageError, which names the key, for a missing or invalid
    value.
    """
    raw_type = ((await registry.get(f"{PREFIX}/backup_type")) or "").strip()
    kind = raw_type.lower()
    if not kind:
        return None
    if kind not in _ADDRESS_KEYS:
        raise UsageError(
            f"Invalid value '{masked_line('backup_type', raw_type)}' of {PREFIX}/backup_type in the"
            f" registry {registry.address}. Set it to local, SFTP or S3."
        )
    key = f"{PREFIX}/{_ADDRESS_KEYS[kind]}"
    address = ((await registry.get(key)) or "").strip()
    scheme, colon, rest = address.partition(":")
    if colon and scheme.lower() == kind:
        address = rest
    if not address:
        raise UsageError(
            f"No repository address in the registry {registry.address} for backup_type {raw_type}."
            f" Set {key}."
        )
    if kind == "local":
        if not address.startswith("/"):
            raise UsageError(
                f"Invalid value of {key} in the registry {registry.address}: not an absolute path."
                " Set it to an absolute path."
            )
        address = _absolute(address)
    return ConfiguredRepository(address if kind == "local" else f"{kind}:{address}", key)


async def configured_credentials(registry: Registry, keys: PrivateKeys) -> dict[str, str]:
    """Return the S3 credentials as ``AWS_*`` variables, without those that are not set.

    Raises UsageError, which names the key, for an invalid value.
    """
    environment = {}
    for variable, name in _S3_CREDENTIAL_KEYS.items():
        key = f"{S3_CONFIG}/{name}"
        value = ((await read_secret(registry, key, keys)) or b"").strip()
        if b"\0" in value:
            raise UsageError(
                f"Invalid value of {key} in the registry {registry.address}: it contains NUL bytes."
                " Set the value again."
            )
        if value:
            environment[variable] = os.fsdecode(value)
    return environment


def _absolute(path: str) -> str:
    return os.path.abspath(path)
