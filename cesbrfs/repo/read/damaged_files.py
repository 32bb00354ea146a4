"""The files of a repository that could not be read, and why."""

from __future__ import annotations

import logging
from typing import Final

_log = logging.getLogger(__name__)


class DamagedFiles:
    """Files as ``snapshots/<name>``, with the reason why they cannot be read.

    `current` are those whose last attempt failed. `all` also has those that could be read again
    since the last `drop_readable`: what was determined in between may lack their data.
    """

    def __init__(self) -> None:
        self.current: Final[dict[str, str]] = {}
        self.all: Final[dict[str, str]] = {}

    def add(self, file: str, reason: str) -> None:
        """Add a file that cannot be read; the first time, it is logged."""
        if file not in self.current:
            _log.warning("Cannot read %s: %s", file, reason)
        self.current[file] = self.all[file] = reason

    def note(self, file: str, reason: str | None) -> None:
        """Add a file; with None, note that it could be read."""
        if reason is None:
            self.current.pop(file, None)
        else:
            self.add(file, reason)

    def remove(self, file: str) -> None:
        """Forget a file that the repository does not contain any more."""
        self.current.pop(file, None)
        self.all.pop(file, None)

    def drop_readable(self) -> None:
        """Forget the files that could be read again."""
        self.all.clear()
        self.all.update(self.current)

    def clear(self) -> None:
        """Forget all files."""
        self.current.clear()
        self.all.clear()
