"""What a plan is made of: a tree as it will lie below the target, and its totals.  Pure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from cesbrfs.entries import Entry, Stored
from cesbrfs.paths import for_json
from cesbrfs.repo.model import NodeType
from cesbrfs.restore.journal import Past
from cesbrfs.restore.landing import Landing, Refused


class Overwrite(StrEnum):
    """What happens to files that exist: kept, replaced, or replaced by newer ones.

    It goes for what is not a folder.  A folder that exists takes the recorded mode, owner and
    times where a file in its place would be replaced, and is never emptied.
    """

    NEVER = "never"
    ALWAYS = "always"
    IF_NEWER = "if-newer"

    def replaces(self, existing_ns: int, backup_ns: int) -> bool:
        """Tell whether what was modified at `existing_ns` gives way to what was at `backup_ns`."""
        return self is Overwrite.ALWAYS or (self is Overwrite.IF_NEWER and backup_ns > existing_ns)


class Action(StrEnum):
    """What will be done about one file: `REFUSE` means that it cannot be done, and fails.

    `DONE` was restored by an earlier run, `REDO` too, but perhaps not all of it is there.
    """

    CREATE = "create"
    OVERWRITE = "overwrite"
    DONE = "done"
    REDO = "redo"
    SKIP = "skip"
    REFUSE = "refuse"


@dataclass(slots=True, eq=False)
class HardLinks:
    """The names of one file: `leader` is written, the others are linked to it.

    `written` is the leader's (device, inode) in the target once it is there, `key` that of the
    journal.
    """

    leader: PlannedFile | None = None
    written: tuple[int, int] | None = None
    key: str = ""


@dataclass(slots=True, eq=False)
class PlannedFile:
    """Anything but a folder; `size` is in bytes, `links` set when it had several names.

    `there` is what lies in its place: size in bytes and modification time in ns.  `entry` is set
    where it gets another name than it has in the backup, `key` where an earlier run restored it.
    """

    folder: PlannedFolder
    name: bytes
    type: NodeType
    size: int
    mtime_ns: int
    links: HardLinks | None = None
    action: Action = Action.CREATE
    there: tuple[int, int] | None = None
    entry: Entry | None = None
    key: str | None = None

    @property
    def path(self) -> bytes:
        """The path below the target."""
        return b"/".join((*self.folder.parts, self.name))

    @property
    def writes(self) -> bool:
        """Whether the plan is to put it there."""
        return self.action in (Action.CREATE, Action.OVERWRITE, Action.REDO)

    @property
    def follows(self) -> bool:
        """Whether it becomes a hard link to another planned file."""
        return self.links is not None and self.links.leader not in (None, self)


@dataclass(slots=True, eq=False)
class PlannedFolder:
    """A folder; `chosen` with all it holds, else it is there for what lies in it.

    `entry` is None for folders that are in no backup.  `dressed` tells that it takes the recorded
    mode, owner, attributes and times, `lost` that it could not be made.
    """

    name: bytes
    parent: PlannedFolder | None
    entry: Entry | None
    chosen: bool = False
    exists: bool = False
    dressed: bool = True
    lost: bool = False
    files: list[PlannedFile] = field(default_factory=list)
    folders: dict[bytes, PlannedFolder] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[bytes, ...]:
        """The names below the target."""
        names: list[bytes] = []
        folder = self
        while folder.parent is not None:
            names.append(folder.name)
            folder = folder.parent
        return tuple(reversed(names))

    @property
    def path(self) -> bytes:
        """The path below the target."""
        return b"/".join(self.parts)

    @property
    def ours(self) -> bool:
        """Whether no backup recorded its mode and owner."""
        return not isinstance(self.entry, Stored) or self.entry.top


@dataclass(slots=True)
class RestorePlan:
    """What will be done below `target`.

    `files` and `bytes` will be written (hard links of one file count their bytes once), `folders`
    made, for the chosen paths in `landings`.  `existing` files lie there already, of which
    `will_overwrite` are replaced and `will_skip` are not; sockets are skipped, too.  `refused` will
    fail, `done` files of `done_bytes` were restored by an earlier run, as the journal's `past`
    knows.  `left_out` is no part of a restore in place.  `order` holds all folders, each after the
    one it lies in; the first is the target.  `free` is the room there in bytes, None when unknown.
    """

    target: Path
    overwrite: Overwrite
    order: list[PlannedFolder]
    landings: tuple[Landing, ...] = ()
    left_out: tuple[Refused, ...] = ()
    free: int | None = None
    files: int = 0
    folders: int = 0
    bytes: int = 0
    existing: int = 0
    will_overwrite: int = 0
    will_skip: int = 0
    sockets: int = 0
    done: int = 0
    done_bytes: int = 0
    past: Past = field(default_factory=Past)
    refused: list[Refused] = field(default_factory=list)

    def items(self) -> Iterator[PlannedFolder | PlannedFile]:
        """Yield everything planned: each folder, and then the files in it."""
        for at, folder in enumerate(self.order):
            if at:
                yield folder
            yield from folder.files

    def as_json(self) -> dict[str, object]:
        """Return the plan's figures as ``--dry-run --json`` prints them."""
        return {
            "target": os.fspath(self.target),
            "files": self.files,
            "folders": self.folders,
            "bytes": self.bytes,
            "existing": self.existing,
            "overwritten": self.will_overwrite,
            "skipped": self.will_skip,
            "done": self.done,
            "refused": [{**for_json(r.path, "path"), "error": r.reason} for r in self.refused],
            "left_out": [{**for_json(r.path, "path"), "reason": r.reason} for r in self.left_out],
        }
