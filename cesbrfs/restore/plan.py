"""What a plan is made of: a tree as it will lie below the target, and its totals.  Pure."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from cesbrfs.repo.format.model import NodeType
from cesbrfs.restore.dirfd import ForbiddenTargets, Room
from cesbrfs.restore.journal import PreviousRun
from cesbrfs.restore.overwrite import Action, Overwrite
from cesbrfs.restore.targets import Refused, RestoreItem
from cesbrfs.util.escape import for_json, show
from cesbrfs.vfs.entries import Entry, SnapshotEntry

Parts = tuple[bytes, ...]
"""Names below a target."""
FILE_MODE: Final = stat.S_IFREG | 0o644
"""The mode of files that only we know."""


class Looks(NamedTuple):
    """What is compared of a file beside its size and time; most files of a backup share one.

    `mode` includes the type, `owner` is (user, group) or None where nobody recorded it,
    `target_bytes` the length of a symlink's target.
    """

    mode: int
    owner: tuple[int, int] | None = None
    rdev: int = 0
    target_bytes: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


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

    `there` is what lies in its place: size in bytes and modification time in ns; `same` tells that
    it looks like this.  `entry` is set where it gets another name than it has in the
    backup, `key` where an earlier run restored it.
    """

    folder: PlannedFolder
    name: bytes
    type: NodeType
    size: int
    mtime_ns: int
    looks: Looks
    links: HardLinks | None = None
    action: Action = Action.CREATE
    there: tuple[int, int] | None = None
    same: bool = False
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
    mode, owner, attributes and times, `lost` that it could not be made.  `device` is the file
    system's, `closed_mode` the mode that it gets back after it was opened to be written to.
    """

    name: bytes
    parent: PlannedFolder | None
    entry: Entry | None
    chosen: bool = False
    exists: bool = False
    dressed: bool = True
    lost: bool = False
    device: int = -1
    closed_mode: int | None = None
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
        return not isinstance(self.entry, SnapshotEntry) or self.entry.top


@dataclass(slots=True)
class RestorePlan:
    """What will be done below `target`.

    `files` and `bytes` will be written (hard links of one file count their bytes once), `folders`
    made, for the chosen paths in `landings`.  `existing` files lie there already, of which
    `will_overwrite` are replaced and `will_skip` are not; sockets are skipped, too.  `refused` will
    fail, `done` files of `done_bytes` were restored by an earlier run, as the journal's `past`
    knows, `unchanged` files look as they would be restored, as do `will_look_same` of those that
    are replaced nevertheless.  `left_out` is no part of a restore in
    place.  `order` holds all folders, each after the one it lies in; the first is the target.  What
    is in `closed` folders, which their owner cannot search, is planned when they are opened.
    `rooms` are the file systems by device.  The names in `fixed` belong to the instance, symlinks
    there lead to the folders in `followed`; nothing is written into what `guard` knows.
    """

    target: Path
    overwrite: Overwrite
    order: list[PlannedFolder]
    landings: tuple[RestoreItem, ...] = ()
    left_out: tuple[Refused, ...] = ()
    files: int = 0
    folders: int = 0
    bytes: int = 0
    existing: int = 0
    will_overwrite: int = 0
    will_skip: int = 0
    sockets: int = 0
    unchanged: int = 0
    will_look_same: int = 0
    done: int = 0
    done_bytes: int = 0
    past: PreviousRun = field(default_factory=PreviousRun)
    refused: list[Refused] = field(default_factory=list)
    closed: list[PlannedFolder] = field(default_factory=list)
    rooms: dict[int, Room] = field(default_factory=dict)
    fixed: frozenset[Parts] = frozenset()
    followed: dict[Parts, tuple[int, int]] = field(default_factory=dict)
    guard: ForbiddenTargets = field(default_factory=ForbiddenTargets)

    @property
    def free(self) -> int | None:
        """The bytes free where the target is, None when unknown."""
        room = next(iter(self.rooms.values()), None)
        return room.free if room else None

    @property
    def warnings(self) -> list[str]:
        """What may go wrong, a sentence each."""
        return [
            f"The target is too small: up to {room.needed:,} bytes are to be written to"
            f" {show(room.path)}, where {room.free:,} are free. Make room there first."
            for room in self.rooms.values()
            if room.too_small
        ]

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
            "unchanged": self.unchanged,
            "done": self.done,
            "free": self.free,
            "warnings": self.warnings,
            "closed": [for_json(folder.path, "path") for folder in self.closed],
            "refused": [{**for_json(r.path, "path"), "error": r.reason} for r in self.refused],
            "left_out": [{**for_json(r.path, "path"), "reason": r.reason} for r in self.left_out],
        }
