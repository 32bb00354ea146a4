"""Record in the cache at which addresses this user has opened a repository."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from cesbrfs.repo.cache.cache_dir import CacheDir

_DIRECTORY: Final = "known"


def note_known(shown: str, cache_dir: Path, key_file: str) -> None:
    """Record that a repository exists at `shown`, an address without secrets.

    `key_file` is the name of the key file that opened it.
    """
    if known_key_file(shown, cache_dir) != key_file:
        CacheDir(cache_dir / _DIRECTORY).write(_name(shown), (key_file.encode(),))


def known_key_file(shown: str, cache_dir: Path) -> str | None:
    """Return the name of the key file that last opened the repository; None if unknown."""
    try:
        return (cache_dir / _DIRECTORY / _name(shown)).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None


def is_known(shown: str, cache_dir: Path) -> bool:
    """Return whether a repository has been opened at the address `shown` before.

    Raises OSError if that cannot be determined.
    """
    try:
        os.stat(cache_dir / _DIRECTORY / _name(shown))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    return True


def _name(shown: str) -> str:
    return hashlib.sha256(shown.encode(errors="surrogateescape")).hexdigest()
