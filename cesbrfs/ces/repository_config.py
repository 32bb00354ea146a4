"""What the keys under ``/config/backup`` say about the repository of an instance's backups."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cesbrfs.ces.backup_config import FOLDER
from cesbrfs.ces.private_keys import PrivateKeys, read_secret
from cesbrfs.ces.redaction import masked_line
from cesbrfs.ces.registry import Registry
from cesbrfs.errors import UsageError
from cesbrfs.util.secret import Secret

S3_FOLDER: Final = f"{FOLDER}/s3_bucket_config"
KEY: Final = f"{FOLDER}/encryption_key"

_ADDRESSES: Final[Mapping[str, str]] = {
    "local": "local_config/path",
    "sftp": "sftp_config/address",
    "s3": "s3_bucket_config/address",
}
_S3_SECRETS: Final[Mapping[str, str]] = {
    "AWS_ACCESS_KEY_ID": "access_key_id",
    "AWS_SECRET_ACCESS_KEY": "secret_access_key",
}


@dataclass(frozen=True, slots=True)
class ConfiguredRepository:
    """An address in restic's form, and the registry key that said it."""

    url: str = field(repr=False)
    key: str


async def configured_key(registry: Registry, keys: PrivateKeys) -> Secret | None:
    """Return the encryption key, byte for byte; None when the registry has none."""
    value = await read_secret(registry, KEY, keys)
    return Secret(value) if value else None


async def configured_repository(registry: Registry) -> ConfiguredRepository | None:
    """Return the repository that the registry names, None when it names no type of one.

    The type may be in any case and the address with or without its scheme, as both are met in the
    wild.  UsageError names a key that is missing or wrong.
    """
    written = ((await registry.get(f"{FOLDER}/backup_type")) or "").strip()
    kind = written.lower()
    if not kind:
        return None
    if kind not in _ADDRESSES:
        raise UsageError(
            f"{FOLDER}/backup_type in the registry {registry.address} is"
            f" '{masked_line('backup_type', written)}'; set it to local, SFTP or S3."
        )
    key = f"{FOLDER}/{_ADDRESSES[kind]}"
    address = ((await registry.get(key)) or "").strip()
    scheme, colon, rest = address.partition(":")
    if colon and scheme.lower() == kind:
        address = rest
    if not address:
        raise UsageError(
            f"The registry {registry.address} has the backup_type {written} but no address; "
            f"set {key}."
        )
    if kind == "local":
        if not address.startswith("/"):
            raise UsageError(
                f"{key} in the registry {registry.address} is not an absolute path; set one."
            )
        address = _absolute(address)
    return ConfiguredRepository(address if kind == "local" else f"{kind}:{address}", key)


async def configured_credentials(registry: Registry, keys: PrivateKeys) -> dict[str, str]:
    """Return the variables with which the registry opens its S3 storage, none where it has none.

    UsageError names a key that cannot be used.
    """
    environment = {}
    for variable, name in _S3_SECRETS.items():
        secret = f"{S3_FOLDER}/{name}"
        value = ((await read_secret(registry, secret, keys)) or b"").strip()
        if b"\0" in value:
            raise UsageError(
                f"The value of {secret} in the registry {registry.address} is no text; set it "
                "again."
            )
        if value:
            environment[variable] = os.fsdecode(value)
    return environment


def _absolute(path: str) -> str:
    return os.path.abspath(path)
