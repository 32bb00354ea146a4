"""Count what a storage reads, and which errors it has."""

from __future__ import annotations

import threading
from typing import Final, Protocol, runtime_checkable

from cesbrfs.errors import (
    CesbrError,
    DamagedError,
    FileMissingError,
    RepositoryDeniedError,
    RepositoryUnreachableError,
    RepositoryUntrustedError,
)
from cesbrfs.repo.storage.base import FileType

_ERRORS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (FileMissingError, "missing"),
    (RepositoryUnreachableError, "unreachable"),
    (RepositoryDeniedError, "denied"),
    (RepositoryUntrustedError, "untrusted"),
)
_OTHER: Final = "failed"
ERRORS: Final = (*(name for _, name in _ERRORS), _OTHER)
"""All kinds of errors."""


class StorageCounters:
    """Requests and bytes by file type, and errors by kind; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self.requests: Final = dict.fromkeys(map(str, FileType), 0)
        self.bytes: Final = dict.fromkeys(map(str, FileType), 0)
        self.errors: Final = dict.fromkeys(ERRORS, 0)

    def count(self, kind: FileType, length: int = 0) -> None:
        """Count a request for files of this type, whose answer had `length` bytes of content."""
        with self._lock:
            self.requests[kind] += 1
            self.bytes[kind] += length

    def failed(self, error: CesbrError) -> None:
        """Count a failed request, unless the storage answered and the file is damaged."""
        if isinstance(error, DamagedError):
            return
        name = next((name for kind, name in _ERRORS if isinstance(error, kind)), _OTHER)
        with self._lock:
            self.errors[name] += 1


@runtime_checkable
class HasCounters(Protocol):
    """A storage that counts its requests."""

    @property
    def counters(self) -> StorageCounters:
        """Requests, bytes and errors so far."""
