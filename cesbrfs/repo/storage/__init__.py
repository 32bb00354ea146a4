"""Storage backends for the files of a repository: one protocol, several implementations."""

from __future__ import annotations

from typing import Final

from cesbrfs.repo.location import Access
from cesbrfs.repo.storage.base import (
    SIZE_MAX,
    FileInfo,
    FileType,
    HasAvailability,
    HasServerClock,
    MayHoldOthers,
    Storage,
    SyncReadable,
    is_file_name,
    read_exactly,
)
from cesbrfs.repo.storage.counters import HasCounters, StorageCounters
from cesbrfs.repo.storage.registry import storage_type

__all__ = [
    "SIZE_MAX",
    "FileInfo",
    "FileType",
    "HasAvailability",
    "HasCounters",
    "HasServerClock",
    "MayHoldOthers",
    "Storage",
    "StorageCounters",
    "SyncReadable",
    "is_file_name",
    "open_storage",
    "read_exactly",
]

_REQUEST_TIMEOUT_SECONDS: Final = 20.0
"""Default timeout of a request, used unless `Access.patience` is shorter."""


def open_storage(access: Access) -> Storage:
    """Return the storage for `access`, with retries if it is remote.

    Does not connect. Raises UsageError for an unsupported or invalid address.
    """
    timeout = min(access.patience or _REQUEST_TIMEOUT_SECONDS, _REQUEST_TIMEOUT_SECONDS)
    storage = storage_type(access.url).load().from_access(access, timeout=timeout)
    if isinstance(storage, SyncReadable):
        return storage
    from cesbrfs.repo.storage.retry import RetryingStorage

    return RetryingStorage(storage, access.patience)
