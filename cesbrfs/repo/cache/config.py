"""Size limits of all caches of a process, and the directories of the caches on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT_MEMORY: Final = 32 << 20
MIN_MEMORY: Final = 4 << 20
"""Lower bound of `memory` when the limits of the other memory caches are derived from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """Size limits in bytes. Without a `directory`, nothing is cached on disk.

    `memory` limits the file content in memory; the limits of all other memory caches are
    proportional to it. `directory` is the cache directory. `data` limits the data blobs of a remote
    repository that are cached there. `restic` is the directory of restic's own caches, which are
    tried before the server.
    """

    memory: int = DEFAULT_MEMORY
    directory: Path | None = None
    data: int = 0
    restic: Path | None = None

    @property
    def _unit(self) -> int:
        return max(self.memory, MIN_MEMORY)

    @property
    def trees(self) -> int:
        """Parsed trees, which have the complete metadata of directories."""
        return 2 * self._unit

    @property
    def tree_blobs(self) -> int:
        """Tree blobs for opens that follow a listing."""
        return self._unit // 32

    @property
    def directories(self) -> int:
        """Directory entries as objects."""
        return self._unit

    @property
    def packed_directories(self) -> int:
        """Directory entries in packed form."""
        return self._unit // 2

    @property
    def directory_segments(self) -> int:
        """Decrypted segments of directory entries from the cache on disk."""
        return self._unit // 2

    @property
    def blocks(self) -> int:
        """Blocks of packs with trees."""
        return self._unit // 8

    @property
    def ranges(self) -> int:
        """Ranges of packs: responses of a remote storage, or read-ahead of a local one."""
        return self._unit // 2

    @property
    def merged_listings(self) -> int:
        """Names in the directories of many backups, in a mount."""
        return self._unit // 2

    @property
    def merged_directories(self) -> int:
        """Directories of many backups merged into one, in a mount."""
        return self._unit // 2

    @property
    def mount_total(self) -> int:
        """All caches in memory of a mount."""
        return (
            self.memory
            + self.trees
            + self.tree_blobs
            + self.directories
            + self.packed_directories
            + self.directory_segments
            + self.blocks
            + self.ranges
            + self.merged_listings
            + self.merged_directories
        )

    @property
    def history(self) -> int:
        """Names in the directories of many backups, in the shell."""
        return 4 * self._unit

    @property
    def names(self) -> int:
        """Sorted names for tab completion, in the shell."""
        return 4 * self._unit
