"""Addresses at which this user has opened a repository, noted in the cache."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from cesbrfs.repo.cache.cache_dir import CacheDir

_DIRECTORY: Final = "known"


def note_known(shown: str, cache_dir: Path, key_file: str) -> None:
    """Note that there is a repository at the address `shown`, which holds no secrets.

    `key_file` is the name of the key file that opened it.
    """
    if known_key_file(shown, cache_dir) != key_file:
        CacheDir(cache_dir / _DIRECTORY).write(_name(shown), (key_file.encode(),))


def known_key_file(shown: str, cache_dir: Path) -> str | None:
    """Return the name of the key file that opened the repository last, None if it is not known."""
    try:
        return (cache_dir / _DIRECTORY / _name(shown)).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None


def is_known(shown: str, cache_dir: Path) -> bool:
    """Return whether a repository was opened at the address `shown` before."""
    return os.path.exists(cache_dir / _DIRECTORY / _name(shown))


def _name(shown: str) -> str:
    return hashlib.sha256(shown.encode(errors="surrogateescape")).hexdigest()
