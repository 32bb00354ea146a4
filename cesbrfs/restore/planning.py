"""The plan: everything that a restore will do, known before it does any of it.

What is planned is a tree as it will lie below the target.  A file keeps only what the plan needs to
know; its node is looked up again when it is written, for a plan may be of millions of files.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path

import trio

from cesbrfs.errors import CesbrError, RestoreError
from cesbrfs.paths import for_json
from cesbrfs.repo.model import NodeType
from cesbrfs.repo.storage.local import LocalStorage
from cesbrfs.restore.ground import (
    Descent,
    Guard,
    TargetState,
    inspect,
    lookup,
    obstacle,
    open_target,
    tell,
)
from cesbrfs.restore.landing import InPlace, Landing, Landings, Refused, Target, folder_of, land
from cesbrfs.restore.selection import Selection
from cesbrfs.tasks import gather
from cesbrfs.view import Entry, Stored, View


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
    """What will be done about one file: `REFUSE` means that it cannot be done, and fails."""

    CREATE = "create"
    OVERWRITE = "overwrite"
    SKIP = "skip"
    REFUSE = "refuse"


@dataclass(slots=True, eq=False)
class HardLinks:
    """The names of one file: `leader` is written, the others are linked to it.

    `written` is the leader's (device, inode) in the target once it is there.
    """

    leader: PlannedFile | None = None
    written: tuple[int, int] | None = None


@dataclass(slots=True, eq=False)
class PlannedFile:
    """Anything but a folder; `size` is in bytes, `links` set when it had several names.

    `there` is what lies in its place: size in bytes and modification time in ns.  `entry` is set
    where it gets another name than it has in the backup.
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

    @property
    def path(self) -> bytes:
        """The path below the target."""
        return b"/".join((*self.folder.parts, self.name))

    @property
    def writes(self) -> bool:
        """Whether the plan is to put it there."""
        return self.action in (Action.CREATE, Action.OVERWRITE)

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
    fail, `left_out` is no part of a restore in place.  `order` holds all folders, each after the
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
            "refused": [{**for_json(r.path, "path"), "error": r.reason} for r in self.refused],
            "left_out": [{**for_json(r.path, "path"), "reason": r.reason} for r in self.left_out],
        }


async def plan(
    view: View,
    selection: Selection,
    target: Target,
    overwrite: Overwrite = Overwrite.NEVER,
    *,
    suffix: str | None = None,
    keep_out: Sequence[Path] = (),
) -> RestorePlan:
    """Plan the restore of `selection`, each chosen name with `suffix`; nothing is written.

    The target may not lie in the repository, in a mount of backups, or in a folder of `keep_out`.
    Raises UsageError when it does, or when a choice has no place on an instance, NotFoundError when
    one is gone, RestoreError when the target cannot be looked at.
    """
    landings = await land(view, selection, target, suffix)
    top = folder_of(target)
    storage = view.repository.storage
    forbidden = {os.fspath(path): f"{path}, which is kept out of" for path in keep_out}
    if isinstance(storage, LocalStorage):
        forbidden[storage.folder] = "the repository"
    guard = await trio.to_thread.run_sync(Guard.of, forbidden)
    state = await trio.to_thread.run_sync(inspect, top, guard)
    if isinstance(target, InPlace) and not state.exists:
        raise RestoreError(f"{top} does not exist; set the instance's root with --root.")
    grower = _Grower(view)
    root = await grower.grow(landings)
    planned = RestorePlan(top, overwrite, [root], landings.found, landings.left_out, state.free)
    planned.refused.extend(grower.refused)
    await trio.to_thread.run_sync(_survey, planned, state, guard)
    return planned


class _Grower:
    """Makes the planned tree of what the backup holds."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._links: dict[tuple[object, ...], HardLinks] = {}
        self.refused: list[Refused] = []

    async def grow(self, landings: Landings) -> PlannedFolder:
        """Return the folder that stands for the target, with all that will lie in it."""
        root = PlannedFolder(b"", None, landings.root, exists=True, dressed=False)
        level: list[PlannedFolder] = []
        for landing in landings.found:
            folder = root
            for name, entry in zip(landing.parts[:-1], landing.entries[:-1], strict=True):
                folder = folder.folders.setdefault(name, PlannedFolder(name, folder, entry))
            if landing.parts:
                leaf = landing.entries[-1]
                assert leaf is not None
                below = self._add(folder, landing.parts[-1], leaf)
                if below is None and landing.parts[-1] != landing.source[-1]:
                    folder.files[-1].entry = leaf
            else:
                below = root
            if below:
                below.chosen = True
                level.append(below)
        while level:
            level = await self._fill(level)
        return root

    async def _fill(self, level: Sequence[PlannedFolder]) -> list[PlannedFolder]:
        """Give these folders what they hold; return the folders in them."""
        below = await gather([partial(self._listed, folder) for folder in level])
        return [child for children in below for child in children]

    async def _listed(self, folder: PlannedFolder) -> list[PlannedFolder]:
        await trio.lowlevel.checkpoint()  # what is in memory comes without one
        return await self._children(folder)

    async def _children(self, folder: PlannedFolder) -> list[PlannedFolder]:
        assert folder.entry is not None
        try:
            children = await self._view.children(folder.entry)
            hostile = await self._view.refused(folder.entry)
        except CesbrError as error:
            if folder.parent is None:
                raise
            self.refused.append(Refused(folder.parts, error.message))
            del folder.parent.folders[folder.name]
            return []
        for what in hostile:
            reason = f"Something in this folder cannot be restored, {what}."
            self.refused.append(Refused(folder.parts, reason))
        below = [self._add(folder, name, entry) for name, entry in children.items()]
        return [child for child in below if child]

    def _add(self, folder: PlannedFolder, name: bytes, entry: Entry) -> PlannedFolder | None:
        """Plan one entry; return it when it is a folder."""
        assert name not in (b"", b".", b"..")
        assert not any(byte in name for byte in b"/\0")
        node = entry.node
        if stat.S_ISDIR(node.mode):
            below = PlannedFolder(name, folder, entry, chosen=True)
            folder.folders[name] = below
            return below
        size = node.size if node.type == "file" else 0
        file = PlannedFile(folder, name, node.type, size, node.mtime_ns)
        if isinstance(entry, Stored) and node.links > 1 and node.inode:
            # Beside the inode all that must be the same: old snapshots know no devices.
            key = (entry.snapshot.id, node.device_id, node.inode, node.type)
            same = (node.content, node.target, node.rdev)
            file.links = self._links.setdefault((*key, *same), HardLinks())
        folder.files.append(file)
        return None


def _survey(planned: RestorePlan, state: TargetState, guard: Guard) -> None:
    """Hold the planned tree against what lies in the target: actions, order and totals."""
    waiting = planned.order
    planned.order = []
    root = waiting[0]
    root.exists = state.exists
    descriptor = open_target(planned.target, create=False) if state.exists else -1
    try:
        with Descent(descriptor) as descent:
            while waiting:
                trio.from_thread.check_cancelled()
                folder = waiting.pop()
                try:
                    if folder.exists:
                        _compare(planned, folder, descent.open(folder.parts), guard)
                except OSError as error:
                    planned.refused.append(Refused(folder.parts, tell(error)))
                    continue
                except RestoreError as error:
                    planned.refused.append(Refused(folder.parts, error.message))
                    continue
                planned.order.append(folder)
                _count(planned, folder)
                waiting += list(folder.folders.values())[::-1]
    finally:
        if state.exists:
            os.close(descriptor)


def _compare(planned: RestorePlan, folder: PlannedFolder, opened: int, guard: Guard) -> None:
    """Decide about what is planned in a folder that exists."""
    if what := guard.against(os.stat(opened)):
        raise RestoreError(f"This folder is {what}; choose a target outside of it.")
    for file in folder.files:
        try:
            status = lookup(opened, file.name)
        except OSError as error:
            file.action = Action.REFUSE
            planned.refused.append(Refused((*folder.parts, file.name), tell(error)))
            continue
        if status is None:
            continue
        planned.existing += 1
        file.there = (status.st_size, status.st_mtime_ns)
        if reason := obstacle(status, to_folder=False):
            file.action = Action.REFUSE
            planned.refused.append(Refused((*folder.parts, file.name), reason))
        elif planned.overwrite.replaces(status.st_mtime_ns, file.mtime_ns):
            file.action = Action.OVERWRITE
        else:
            file.action = Action.SKIP
    for below in list(folder.folders.values()):
        status = lookup(opened, below.name)
        if status is None:
            continue
        if reason := obstacle(status, to_folder=True):
            planned.refused.append(Refused(below.parts, reason))
            del folder.folders[below.name]
            continue
        below.exists = True
        replaced = below.entry is not None and planned.overwrite.replaces(
            status.st_mtime_ns, below.entry.node.mtime_ns
        )
        below.dressed = replaced and below.chosen and not below.ours


def _count(planned: RestorePlan, folder: PlannedFolder) -> None:
    """Add a folder to the totals, and choose which of several names of a file is written."""
    if folder.parent is not None and not folder.exists:
        planned.folders += 1
    for file in folder.files:
        if file.type == "socket" and file.writes:
            file.action = Action.SKIP
            planned.sockets += 1
        planned.will_skip += file.action is Action.SKIP
        planned.will_overwrite += file.action is Action.OVERWRITE
        if file.writes:
            planned.files += 1
            if file.links is not None and file.links.leader is None:
                file.links.leader = file
            if not file.follows:
                planned.bytes += file.size
