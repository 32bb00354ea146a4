"""Keep files before a restore replaces or deletes them, and log what it creates. Blocking.

A file that will be replaced gets a second name in the directory for replaced files, by a hard link,
before the new one is renamed over it. So there is no moment without the file. Runs in threads of
the main process and in worker processes alike.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from cesbrfs.restore.dirfd import lookup
from cesbrfs.restore.metadata import Warnings
from cesbrfs.restore.move import link_or_move, move
from cesbrfs.restore.replaced import CHANGED, REPLACED, descend, free_name, mount_id
from cesbrfs.restore.undo_log import UndoLog, attributes_of
from cesbrfs.util.escape import show

Parts = tuple[bytes, ...]


class Keeper:
    """Keeps files in `places`, one directory for each mount."""

    def __init__(self, log: UndoLog, places: dict[int, int], warnings: Warnings) -> None:
        self.log: Final = log
        self.places: Final = places
        """Descriptors of the directories for replaced files by mount ID."""
        self._warnings: Final = warnings

    def files(self, files: Iterable[tuple[bytes, os.stat_result, bool]]) -> None:
        """Log files (path, status, whether created) that are about to get their names."""
        self.log.files(files)

    def directory(self, path: bytes, opened: int, mode: int | None = None) -> None:
        """Log the attributes of an existing directory, with its original `mode` if that differs."""
        self.log.add(("directory", show(path), attributes_of(opened, mode)))

    def created(self, path: bytes) -> None:
        """Log a directory that is about to be created."""
        self.log.add(("directory", show(path), None))

    def keep(self, directory: int, parts: Parts, name: bytes) -> None:
        """Keep the file `name` of an open directory, which will be replaced; raises OSError."""
        status = lookup(directory, name)
        if status is None:
            return
        place = self._place(directory)
        kept = descend(place, (REPLACED, *parts), create=True)
        try:
            found = lookup(kept, name)
            if found is None:
                link_or_move(directory, name, kept, name, self._warnings)
            elif not os.path.samestat(found, status):
                self._keep_changed(place, directory, parts, name)
        finally:
            os.close(kept)

    def _keep_changed(self, place: int, directory: int, parts: Parts, name: bytes) -> None:
        """Keep a file that was changed after an interrupted restore, which a later one replaces."""
        changed = descend(place, (CHANGED, *parts), create=True)
        try:
            link_or_move(directory, name, changed, free_name(changed, name), self._warnings)
        finally:
            os.close(changed)

    def take(self, directory: int, parts: Parts, name: bytes) -> None:
        """Move the file `name` of an open directory, which is to be deleted; raises OSError."""
        place = self._place(directory)
        kept = descend(place, (REPLACED, *parts), create=True)
        try:
            if lookup(kept, name) is None:
                move(directory, name, kept, name, self._warnings)
                return
        finally:
            os.close(kept)
        changed = descend(place, (CHANGED, *parts), create=True)
        try:
            move(directory, name, changed, free_name(changed, name), self._warnings)
        finally:
            os.close(changed)

    def _place(self, directory: int) -> int:
        """Return the directory for files of an open directory: on its mount, or the first one."""
        place = self.places.get(mount_id(directory))
        return place if place is not None else next(iter(self.places.values()))
