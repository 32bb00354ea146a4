"""What an undo will do, and what it has done. Pure."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cesbrfs.errors import PartialError
from cesbrfs.restore.dirfd import Room, space_warnings
from cesbrfs.restore.report import Failure
from cesbrfs.restore.undo_log import UndoRecord
from cesbrfs.util.escape import for_json, show

Parts = tuple[bytes, ...]


class PutBack(NamedTuple):
    """A file to put back: `place` is the number of the directory that contains it.

    `changed`: the file that is now in its place is not as the restore wrote it, and is kept.
    """

    parts: Parts
    place: int
    size: int
    changed: bool


class Remove(NamedTuple):
    """A created file to remove; `changed`: its content was changed since, and it is kept."""

    parts: Parts
    changed: bool


@dataclass(slots=True)
class UndoPlan:
    """Everything that an undo will do.

    `left` are created files that another program has replaced since; they stay. `recreate` are the
    deleted directories, `directories` the created ones, which are removed if they are empty.
    """

    record: UndoRecord
    put_back: list[PutBack] = field(default_factory=list)
    remove: list[Remove] = field(default_factory=list)
    left: list[Parts] = field(default_factory=list)
    recreate: list[Parts] = field(default_factory=list)
    directories: list[Parts] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    rooms: dict[int, Room] = field(default_factory=dict)
    """The file systems, by device, to which files are copied because they are kept elsewhere."""

    @property
    def warnings(self) -> list[str]:
        """Warnings, one or two sentences each."""
        return space_warnings(self.rooms.values())

    @property
    def size(self) -> int:
        """The size of what is put back, in bytes."""
        return sum(one.size for one in self.put_back)

    @property
    def changed(self) -> list[Parts]:
        """The files that were changed after the restore, and are kept."""
        put_back = [one.parts for one in self.put_back if one.changed]
        return put_back + [one.parts for one in self.remove if one.changed]

    def as_json(self) -> dict[str, object]:
        """Return the figures as ``--dry-run --json`` prints them."""
        return {
            "id": self.record.id,
            "target": show(os.fsencode(self.record.target)),
            "backup": self.record.backup,
            "files": len(self.put_back),
            "bytes": self.size,
            "removed": len(self.remove),
            "directories": len(self.directories),
            "changed": [for_json(b"/".join(parts), "path") for parts in self.changed],
            "left": [for_json(b"/".join(parts), "path") for parts in self.left],
            "failed": [{**for_json(f.path, "path"), "error": f.error} for f in self.failed],
            "warnings": self.warnings,
        }


@dataclass(slots=True)
class UndoReport:
    """What an undo has done; `kept` are the directories that still contain changed files."""

    files: int = 0
    removed: int = 0
    failed: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or 3 when something failed."""
        return PartialError.exit_code if self.failed else 0

    def as_json(self) -> dict[str, object]:
        """Return the report as ``--json`` prints it."""
        return {
            "files": self.files,
            "removed": self.removed,
            "failed": [{**for_json(f.path, "path"), "error": f.error} for f in self.failed],
            "warnings": self.warnings,
            "kept": [show(os.fsencode(path)) for path in self.kept],
        }
