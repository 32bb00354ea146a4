"""Where a repository's files are: one small protocol, and the storages that speak it."""

from __future__ import annotations

from typing import Final

from cesbrfs.repo.location import Access
from cesbrfs.repo.storage.base import (
    SIZE_MAX,
    FileInfo,
    FileType,
    HasAvailability,
    MayHoldOthers,
    Storage,
    SyncReadable,
    is_file_name,
    read_up_to,
)
from cesbrfs.repo.storage.location import LocalAddress, RestAddress, S3Address, parse
from cesbrfs.repo.storage.sftp.location import SftpAddress

__all__ = [
    "SIZE_MAX",
    "FileInfo",
    "FileType",
    "HasAvailability",
    "MayHoldOthers",
    "Storage",
    "SyncReadable",
    "is_file_name",
    "open_storage",
    "read_up_to",
]

_SILENCE: Final = 20.0
"""Seconds that a server may keep silent within one request, unless the patience is less."""


def open_storage(access: Access) -> Storage:
    """Return the storage that `access` names, patient if it is behind a network.

    Nothing is contacted yet.  Raises UsageError for an address of a kind that cannot be read.
    """
    storage = _open(access)
    if isinstance(storage, SyncReadable):
        return storage
    from cesbrfs.repo.storage.retry import RetryingStorage

    return RetryingStorage(storage, access.patience)


def _open(access: Access) -> Storage:
    address = parse(access.url)
    silence = min(access.patience or _SILENCE, _SILENCE)
    # Each is imported only where it is used: HTTP alone takes longer than a listing.
    if isinstance(address, LocalAddress):
        from cesbrfs.repo.storage.local import LocalStorage

        return LocalStorage(address.folder)
    if isinstance(address, S3Address):
        from cesbrfs.repo.storage.s3.storage import S3Storage

        return S3Storage.of(access, patience=silence)
    if isinstance(address, RestAddress):
        from cesbrfs.repo.storage.rest import RestStorage

        return RestStorage.of(access, patience=silence)
    if isinstance(address, SftpAddress):
        from cesbrfs.repo.storage.sftp.storage import SftpStorage

        return SftpStorage.of(access, silence=silence)
    from cesbrfs.repo.storage.rclone import RcloneStorage

    return RcloneStorage.of(access)
