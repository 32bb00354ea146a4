"""The storages that the reader supports, by the prefix of their addresses.

The steps to add one are in ``docs/architecture.md``. The conformance tests
(``tests/servers/test_storages.py``) fail for a storage without a test fixture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Final, Protocol, cast

from cesbrfs.errors import UsageError
from cesbrfs.repo.location import Access, kind_of
from cesbrfs.repo.storage.base import Storage
from cesbrfs.repo.storage.location import (
    LocalAddress,
    RcloneAddress,
    RestAddress,
    S3Address,
    parse_local,
    parse_rclone,
    parse_rest,
    parse_s3,
)
from cesbrfs.repo.storage.sftp.location import SftpAddress, parse_sftp
from cesbrfs.util.secret import redact

Address = LocalAddress | S3Address | RestAddress | RcloneAddress | SftpAddress


class StorageClass(Protocol):
    """The constructor that every storage class provides."""

    def from_access(self, access: Access, *, timeout: float = ...) -> Storage:
        """Create the storage for `access`, without connecting.

        A request fails after `timeout` seconds without data. Raises UsageError for an invalid
        address or option.
        """


@dataclass(frozen=True, slots=True)
class StorageType:
    """A kind of storage: its address parser, and its class as ``module:name``.

    The class is imported on first use, because importing HTTP takes longer than a listing.
    """

    parse: Callable[[str], Address]
    path: str

    def load(self) -> StorageClass:
        """Import the storage class."""
        module, _, name = self.path.partition(":")
        return cast("StorageClass", getattr(import_module(f"{__package__}.{module}"), name))


STORAGES: Final[Mapping[str, StorageType]] = {
    "local": StorageType(parse_local, "local:LocalStorage"),
    "s3": StorageType(parse_s3, "s3.storage:S3Storage"),
    "rest": StorageType(parse_rest, "rest:RestStorage"),
    "sftp": StorageType(parse_sftp, "sftp.storage:SftpStorage"),
    "rclone": StorageType(parse_rclone, "rclone:RcloneStorage"),
}


def is_supported(url: str) -> bool:
    """Return whether the reader supports the address; some kinds only restic supports."""
    return kind_of(url) in STORAGES


def storage_type(url: str) -> StorageType:
    """Return the kind of storage of an address; raises UsageError for an unsupported one."""
    kind = kind_of(url)
    if kind not in STORAGES:
        raise UsageError(
            f"Unsupported kind of repository {kind!r} in {redact(url)}. Use rclone instead"
            " (rclone:remote:path)."
        )
    return STORAGES[kind]


def parse(url: str) -> Address:
    """Parse a repository address; raises UsageError, whose message contains no password."""
    return storage_type(url).parse(url)
