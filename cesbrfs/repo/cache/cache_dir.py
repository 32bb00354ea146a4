"""A best-effort cache directory: private (0700), atomic writes, never raises.

Files are written under temporary names and renamed, so that several processes can share the
directory. After the first failure (disk full, no permission, directory removed), which is logged,
nothing more is written.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import get_ident
from typing import Final, NamedTuple

_ABANDONED_NS: Final = 3600 * 10**9
"""Age in nanoseconds from which a temporary file counts as left behind by a dead process."""

_log = logging.getLogger(__name__)


class CachedFile(NamedTuple):
    """The name, size in bytes, and last use (nanoseconds since 1970) of a cached file."""

    name: str
    size: int
    used_ns: int


class CacheDir:
    """The files in `directory`, which is created with mode 0700 if it is missing."""

    def __init__(self, directory: Path) -> None:
        self.directory: Final = directory
        self._usable = True
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if directory.stat().st_mode & 0o077:
                directory.chmod(0o700)
        except OSError as error:
            self._usable = False
            _log.warning("The cache in %s cannot be used: %s.", directory, error.strerror)

    def read(self, name: str, offset: int = 0, length: int = -1) -> bytes | None:
        """Return `length` bytes of a file from `offset`; None if the file cannot be read.

        Returns fewer bytes at the end of the file. The `length` -1 means up to the end.
        """
        try:
            with (self.directory / name).open("rb", buffering=0) as file:
                file.seek(offset)
                return file.read(length)
        except OSError:
            return None

    def has(self, name: str) -> bool:
        """Return whether a file exists."""
        return (self.directory / name).exists()

    def write(
        self,
        name: str,
        parts: Iterable[bytes | memoryview],
        head: Callable[[], bytes] | None = None,
    ) -> bool:
        """Write a file atomically; return whether this succeeded.

        After all `parts`, the result of `head` is written over the beginning of the file.
        """
        if not self._usable:
            return False
        temporary = self.directory / f".{name}.{os.getpid()}.{get_ident()}"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(descriptor, "wb") as file:
                file.writelines(parts)
                if head is not None:
                    file.seek(0)
                    file.write(head())
            temporary.replace(self.directory / name)
        except OSError as error:
            self._usable = False
            _log.warning("Caching in %s is disabled: %s.", self.directory, error.strerror)
            with contextlib.suppress(OSError):
                temporary.unlink()
            return False
        return True

    def use(self, name: str) -> None:
        """Record in the mtime of a file that it was used now."""
        with contextlib.suppress(OSError):
            os.utime(self.directory / name)

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with contextlib.suppress(OSError):
            (self.directory / name).unlink()

    def files(self) -> list[CachedFile]:
        """Return the complete files, sorted by name.

        Removes temporary files that dead processes left behind.
        """
        complete: list[CachedFile] = []
        try:
            with os.scandir(self.directory) as entries:
                for entry in entries:
                    if not entry.is_file(follow_symlinks=False):
                        continue
                    with contextlib.suppress(OSError):  # another process removed it
                        status = entry.stat()
                        if entry.name.startswith("."):
                            if time.time_ns() - status.st_mtime_ns > _ABANDONED_NS:
                                os.unlink(entry)
                            continue
                        complete.append(CachedFile(entry.name, status.st_size, status.st_mtime_ns))
        except OSError:
            return []
        return sorted(complete)
