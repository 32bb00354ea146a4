"""The plan of a restore: the tree to create below the target, and its totals. Pure."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from cesbrfs.repo.format.model import NodeType
from cesbrfs.restore.dirfd import ForbiddenTargets, Room, space_warnings
from cesbrfs.restore.journal import PreviousRun
from cesbrfs.restore.overwrite import Action, Overwrite
from cesbrfs.restore.owners import OwnerNames
from cesbrfs.restore.patterns import Patterns
from cesbrfs.restore.replaced import KeepPlan
from cesbrfs.restore.targets import Refused, RestoreItem
from cesbrfs.util.escape import for_json, show
from cesbrfs.vfs.entries import Entry, SnapshotEntry

Parts = tuple[bytes, ...]
"""Names below a target."""
LISTED_MAX: Final = 10_000
"""Maximum number of paths to delete that JSON lists."""
FILE_MODE: Final = stat.S_IFREG | 0o644
"""The mode of generated files."""


class Looks(NamedTuple):
    """Metadata that is compared in addition to size and time; many files share one object.

    `mode` includes the type, `owner` is (user, group) or None if none is recorded, `target_bytes`
    is the length of a symlink's target.
    """

    mode: int
    owner: tuple[int, int] | None = None
    rdev: int = 0
    target_bytes: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(slots=True, eq=False)
class HardLinks:
    """The names of one file: `leader` is written, the others are linked to it.

    `written` is the leader's (device, inode) in the target once it is written, `key` its key in the
    journal.
    """

    leader: PlannedFile | None = None
    written: tuple[int, int] | None = None
    key: str = ""


@dataclass(slots=True, eq=False)
class PlannedFile:
    """Anything but a directory; `size` is in bytes, `links` is set if it has several names.

    `there` is the existing file: size in bytes and modification time in ns; `same`: its size, time
    and metadata are equal. `entry` is set if the target name differs from the name in the backup,
    `key` if an earlier run restored it.
    """

    directory: PlannedDirectory
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
        return b"/".join((*self.directory.parts, self.name))

    @property
    def writes(self) -> bool:
        """Whether it is to be written."""
        return self.action in (Action.CREATE, Action.OVERWRITE, Action.REDO)

    @property
    def follows(self) -> bool:
        """Whether it becomes a hard link to another planned file."""
        return self.links is not None and self.links.leader not in (None, self)


@dataclass(slots=True, eq=False)
class PlannedDirectory:
    """A directory; `chosen` with all its content, otherwise a parent of something chosen.

    `entry` is None for directories that are in no backup. `dressed`: it gets the recorded metadata.
    `lost`: it could not be created. `device` is that of its file system, `closed_mode` the mode to
    set again after it was made writable. `complete`: it was backed up itself, except for these
    patterns of restic; None if it is a parent of what was. `deletes`: something in it is deleted.
    """

    name: bytes
    parent: PlannedDirectory | None
    entry: Entry | None
    chosen: bool = False
    exists: bool = False
    dressed: bool = True
    lost: bool = False
    device: int = -1
    closed_mode: int | None = None
    complete: tuple[str, ...] | None = None
    deletes: bool = False
    files: list[PlannedFile] = field(default_factory=list)
    directories: dict[bytes, PlannedDirectory] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[bytes, ...]:
        """The names below the target."""
        names: list[bytes] = []
        directory = self
        while directory.parent is not None:
            names.append(directory.name)
            directory = directory.parent
        return tuple(reversed(names))

    @property
    def path(self) -> bytes:
        """The path below the target."""
        return b"/".join(self.parts)

    @property
    def ours(self) -> bool:
        """Whether no backup recorded its mode and owner."""
        return not isinstance(self.entry, SnapshotEntry) or self.entry.top


class Extra(NamedTuple):
    """Something that the backup does not have: its names below the target, and bytes of a file."""

    parts: Parts
    size: int
    is_directory: bool

    @property
    def path(self) -> bytes:
        """The names joined."""
        return b"/".join(self.parts)


@dataclass(slots=True)
class RestorePlan:
    """Everything that will be done below `target`.

    `files` with `bytes` will be written (hard links of one file count once) and `directories`
    created for the chosen paths in `landings`. Of the `existing` files, `will_overwrite` are
    replaced and `will_skip` are not; sockets are skipped, too. `refused` will fail. `done` files
    with `done_bytes` were restored by an earlier run, according to the journal (`past`).
    `unchanged` files are equal by size, time and metadata, and so are `will_look_same` of those
    that are replaced. `left_out` is not restored in place. `order` contains all directories, each
    after its parent; the first is the target. The content of `closed` directories, which are not
    searchable, is planned after they are made searchable. `rooms` are the file systems by device.
    The names in `fixed` belong to the instance, and symlinks there point to the directories in
    `followed`. Nothing is written to what `guard` forbids. `keep` says where replaced files are
    kept, None if they are not; `keep_device` is the device of its directory, -1 if each mount has
    one. With `delete`, `extras` are deleted after everything was restored. `patterns` restrict
    both; `owners` restores owners by name.
    """

    target: Path
    overwrite: Overwrite
    order: list[PlannedDirectory]
    landings: tuple[RestoreItem, ...] = ()
    left_out: tuple[Refused, ...] = ()
    files: int = 0
    directories: int = 0
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
    closed: list[PlannedDirectory] = field(default_factory=list)
    rooms: dict[int, Room] = field(default_factory=dict)
    fixed: frozenset[Parts] = frozenset()
    followed: dict[Parts, tuple[int, int]] = field(default_factory=dict)
    guard: ForbiddenTargets = field(default_factory=ForbiddenTargets)
    keep: KeepPlan | None = None
    keep_device: int = -1
    delete: bool = False
    extras: list[Extra] = field(default_factory=list)
    patterns: Patterns = field(default_factory=Patterns)
    owners: OwnerNames | None = None

    @property
    def free(self) -> int | None:
        """The free space of the target in bytes, None if unknown."""
        room = next(iter(self.rooms.values()), None)
        return room.free if room else None

    @property
    def warnings(self) -> list[str]:
        """Warnings, one sentence each."""
        return space_warnings(self.rooms.values())

    def items(self) -> Iterator[PlannedDirectory | PlannedFile]:
        """Yield each planned directory, followed by its files."""
        for at, directory in enumerate(self.order):
            if at:
                yield directory
            yield from directory.files

    def as_json(self) -> dict[str, object]:
        """Return the plan's figures as ``--dry-run --json`` prints them."""
        return {
            "target": os.fspath(self.target),
            "files": self.files,
            "folders": self.directories,
            "bytes": self.bytes,
            "existing": self.existing,
            "overwritten": self.will_overwrite,
            "skipped": self.will_skip,
            "unchanged": self.unchanged,
            "done": self.done,
            "free": self.free,
            "kept": None
            if self.keep is None
            else {
                "files": self.keep.files,
                "bytes": self.keep.size,
                "directories": [show(path) for path in self.keep.shown(self.target)],
            },
            "warnings": self.warnings,
            "closed": [for_json(directory.path, "path") for directory in self.closed],
            "deleted": {
                "files": sum(not extra.is_directory for extra in self.extras),
                "folders": sum(extra.is_directory for extra in self.extras),
                "bytes": sum(extra.size for extra in self.extras),
                "paths": [for_json(e.path, "path") for e in self.extras[:LISTED_MAX]],
            },
            "refused": [{**for_json(r.path, "path"), "error": r.reason} for r in self.refused],
            "left_out": [{**for_json(r.path, "path"), "reason": r.reason} for r in self.left_out],
        }
