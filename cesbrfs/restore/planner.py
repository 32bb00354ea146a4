"""Plan a restore: find everything that it will do before it does any of it.

The plan is the tree to create below the target. Nodes are not kept, because a plan may have
millions of files; they are looked up again when the files are written.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import trio

from cesbrfs.errors import CesbrError, RestoreError
from cesbrfs.repo.format.model import Node, hard_link_id
from cesbrfs.repo.storage.local import LocalStorage
from cesbrfs.restore.dirfd import ForbiddenTargets, inspect
from cesbrfs.restore.journal import PreviousRun, key_of, node_key
from cesbrfs.restore.mirror import mark_complete, require_readable
from cesbrfs.restore.missing import lacking
from cesbrfs.restore.overwrite import Overwrite
from cesbrfs.restore.owners import OwnerNames
from cesbrfs.restore.patterns import Patterns
from cesbrfs.restore.plan import (
    FILE_MODE,
    HardLinks,
    Looks,
    PlannedDirectory,
    PlannedFile,
    RestorePlan,
)
from cesbrfs.restore.replaced import KeepPlan
from cesbrfs.restore.selection import Selection
from cesbrfs.restore.survey import survey
from cesbrfs.restore.targets import (
    InPlace,
    Refused,
    RestoreItems,
    Target,
    directory_of,
    fixed_parts,
    land,
)
from cesbrfs.util.tasks import gather
from cesbrfs.vfs.entries import Entry, SnapshotEntry
from cesbrfs.vfs.tree import BackupTree

_CHECKPOINT_DIRECTORIES: Final = 16
ENTRIES_MAX: Final = 10_000_000
"""Maximum number of entries of a plan. Each takes a few hundred bytes of memory."""


async def make_plan(
    view: BackupTree,
    selection: Selection,
    target: Target,
    overwrite: Overwrite = Overwrite.NEVER,
    *,
    suffix: str | None = None,
    past: PreviousRun | None = None,
    keep_out: Sequence[Path] = (),
    keep: KeepPlan | None = None,
    delete: bool = False,
    patterns: Patterns | None = None,
    owners: OwnerNames | None = None,
) -> RestorePlan:
    """Plan the restore of `selection`, each chosen name with `suffix`; nothing is written.

    Files that `past` records as restored are not written again. Replaced files are kept as `keep`
    says. With `delete`, what the backup does not have is deleted in the chosen directories.

    Raises UsageError if the target is in the repository, in a mount of backups or in a directory of
    `keep_out`, or if a chosen path has no place on an instance; NotFoundError if one does not exist
    any more; RestoreError if the target cannot be examined.
    """
    landings = await land(view, selection, target, suffix)
    top = directory_of(target)
    storage = view.repository.storage
    forbidden = {os.fspath(path): f"{path}, which is excluded" for path in keep_out}
    if isinstance(storage, LocalStorage):
        forbidden[storage.directory] = "the repository"
    guard = await trio.to_thread.run_sync(ForbiddenTargets.of, forbidden)
    state = await trio.to_thread.run_sync(inspect, top, guard)
    if isinstance(target, InPlace) and not state.exists:
        raise RestoreError(f"{top} does not exist. Set the instance's root with --root.")
    past = past or PreviousRun()
    patterns = patterns or Patterns()
    grower = _Grower(view, past, patterns, owners)
    root = await grower.grow(landings)
    planned = RestorePlan(top, overwrite, [root], landings.found, landings.left_out)
    planned.past, planned.guard, planned.keep = past, guard, keep
    if isinstance(target, InPlace):
        planned.fixed = frozenset(f for one in landings.found for f in fixed_parts(one.parts))
    planned.refused.extend(await lacking(view, selection, target))
    planned.refused.extend(grower.refused)
    planned.patterns, planned.owners, planned.delete = patterns, owners, delete
    if delete:
        require_readable(planned.refused)
        for item in landings.found:
            chosen = _directory_at(root, item.parts)
            if chosen is not None:
                await mark_complete(view, chosen, item)
    await trio.to_thread.run_sync(survey, planned, state)
    return planned


def _directory_at(root: PlannedDirectory, parts: tuple[bytes, ...]) -> PlannedDirectory | None:
    directory: PlannedDirectory | None = root
    for name in parts:
        directory = directory.directories.get(name) if directory else None
    return directory


class _Grower:
    """Builds the planned tree from the backup."""

    def __init__(
        self,
        view: BackupTree,
        past: PreviousRun,
        patterns: Patterns,
        owners: OwnerNames | None,
    ) -> None:
        self._patterns = patterns
        self._owners = owners
        self._view = view
        self._past = past
        self._links: dict[tuple[object, ...], HardLinks] = {}
        self._looks: dict[Looks, Looks] = {}
        self._entries = 0
        self._listed_count = 0
        self.refused: list[Refused] = []

    async def grow(self, landings: RestoreItems) -> PlannedDirectory:
        """Return the planned target directory with its content."""
        root = PlannedDirectory(b"", None, landings.root, dressed=False)
        level: list[PlannedDirectory] = []
        for landing in landings.found:
            directory = root
            for name, entry in zip(landing.parts[:-1], landing.entries[:-1], strict=True):
                directory = directory.directories.setdefault(
                    name, PlannedDirectory(name, directory, entry)
                )
            if landing.parts:
                leaf = landing.entries[-1]
                assert leaf is not None
                below = self._add(directory, landing.parts[-1], leaf)
                if below is None and landing.parts[-1] != landing.source[-1]:
                    directory.files[-1].entry = leaf
            else:
                below = root
            if below:
                below.chosen = True
                level.append(below)
        while level:
            level = await self._fill(level)
        if self._patterns.include:
            _prune(root, self._patterns)
        return root

    async def _fill(self, level: Sequence[PlannedDirectory]) -> list[PlannedDirectory]:
        """Add the content of these directories; return their subdirectories."""
        below = await gather([partial(self._listed, directory) for directory in level])
        return [child for children in below for child in children]

    async def _listed(self, directory: PlannedDirectory) -> list[PlannedDirectory]:
        self._listed_count += 1
        if self._listed_count % _CHECKPOINT_DIRECTORIES == 0:
            await trio.lowlevel.checkpoint()  # cached trees are returned without one
        return await self._children(directory)

    async def _children(self, directory: PlannedDirectory) -> list[PlannedDirectory]:
        assert directory.entry is not None
        try:
            children = await self._view.children(directory.entry)
            hostile = await self._view.refused(directory.entry)
        except CesbrError as error:
            if directory.parent is None:
                raise
            self.refused.append(Refused(directory.parts, error.message))
            del directory.parent.directories[directory.name]
            return []
        for what in hostile:
            reason = f"Cannot restore the entry {what}."
            self.refused.append(Refused(directory.parts, reason))
        below = [self._add(directory, name, entry) for name, entry in children.items()]
        return [child for child in below if child]

    def _add(
        self, directory: PlannedDirectory, name: bytes, entry: Entry
    ) -> PlannedDirectory | None:
        """Plan one entry; return it when it is a directory."""
        self._entries += 1
        if self._entries > ENTRIES_MAX:
            raise RestoreError(
                f"The chosen paths contain more than {ENTRIES_MAX:,} entries. Restore fewer at a"
                " time."
            )
        assert name not in (b"", b".", b"..")
        assert b"/" not in name
        assert b"\0" not in name
        node = entry.node
        if self._patterns:
            parts = (*directory.parts, name)
            if self._patterns.excludes(parts):
                return None
            if not stat.S_ISDIR(node.mode) and not self._patterns.includes(parts):
                return None
        if stat.S_ISDIR(node.mode):
            below = PlannedDirectory(name, directory, entry, chosen=True)
            directory.directories[name] = below
            return below
        size = node.size if node.type == "file" else 0
        if self._owners is not None:
            node = self._owners.apply(node)
        looks = _looks(entry, node)
        looks = self._looks.setdefault(looks, looks)
        file = PlannedFile(directory, name, node.type, size, node.mtime_ns, looks)
        if self._past.files and file.path in self._past.files:
            file.key = node_key(node) if self._owners is not None else key_of(entry)
        if isinstance(entry, SnapshotEntry) and (link := hard_link_id(node)):
            file.links = self._links.setdefault((entry.snapshot.id, link), HardLinks())
        directory.files.append(file)
        return None


def _prune(directory: PlannedDirectory, patterns: Patterns) -> bool:
    """Remove directories without anything that is included; return whether `directory` is empty."""
    for name, below in list(directory.directories.items()):
        if _prune(below, patterns) and not patterns.includes(below.parts):
            del directory.directories[name]
    return not (directory.files or directory.directories)


def _looks(entry: Entry, node: Node) -> Looks:
    if not isinstance(entry, SnapshotEntry):
        return Looks(FILE_MODE)
    return Looks(node.mode, (node.uid, node.gid), node.rdev, len(node.target), tuple(node.xattrs))
