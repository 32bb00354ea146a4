"""How much may be held of what was read, and where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT_MEMORY: Final = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Bounds in bytes, and folders; a folder that is None is done without.

    Below `folder` lies what makes the next opening fast.  `data` bounds the data blobs kept there
    of a repository behind a network.  `restic` is where restic keeps its own caches, which are
    read where the network would have to be.
    """

    memory: int = DEFAULT_MEMORY
    folder: Path | None = None
    data: int = 0
    restic: Path | None = None
