"""Addresses at which this user has opened a repository, noted in the cache."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

from cesbrfs.repo.kept import KeptFiles

_FOLDER: Final = "known"


def note_known(shown: str, cache_dir: Path, repository_id: str) -> None:
    """Note that there is a repository at the address `shown`, which holds no secrets."""
    if not is_known(shown, cache_dir):
        KeptFiles(cache_dir / _FOLDER).write(_name(shown), (repository_id.encode(), b"\n"))


def is_known(shown: str, cache_dir: Path) -> bool:
    """Tell whether a repository was opened at the address `shown` before."""
    return os.path.exists(cache_dir / _FOLDER / _name(shown))


def _name(shown: str) -> str:
    return hashlib.sha256(shown.encode(errors="surrogateescape")).hexdigest()
