"""Examine all backups of a damaged repository."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from cesbrfs.catalog import directory_names
from cesbrfs.catalog.backups import Backup, tag_value
from cesbrfs.catalog.completeness import missing_points
from cesbrfs.damage.blob_check import BlobChecker, Fault
from cesbrfs.damage.findings import DamageWalk, Finding, Parts, Row, numbers, union
from cesbrfs.damage.scan import TreeKey, TreeScan, subtree_of
from cesbrfs.repo.format.index import Index
from cesbrfs.repo.format.model import Node, Snapshot
from cesbrfs.repo.storage import FileType
from cesbrfs.util.escape import show
from cesbrfs.vfs.tree import BackupTree

FINDINGS_MAX: Final = 10_000
"""Maximum number of damaged paths that are listed, each once per backup; the rest is counted."""
_ATTEMPTS: Final = 3
"""Examinations of a repository that another process changes at the same time."""
_ID: Final = re.compile(r"\b[0-9a-f]{8,64}\b")
_NO_OWNERS: Final = (directory_names.SNAPSHOTS, directory_names.BACKUP_JSON)


class Everything(Container[bytes]):
    """All packs as suspects."""

    def __contains__(self, _pack: object) -> bool:
        return True


@dataclass(slots=True)
class Slot:
    """A backup, or a snapshot of no backup (`id` None), and the owners of its data.

    Owners are directory names: dogus, and the instance.
    """

    id: str | None
    owners: set[bytes] = field(default_factory=set)
    damaged: set[bytes] = field(default_factory=set)
    is_damaged: bool = False

    @property
    def whole(self) -> list[bytes]:
        """The owners without a loss, sorted."""
        return sorted(self.owners - self.damaged)


@dataclass(frozen=True, slots=True)
class DamageReport:
    """The damage of a repository.

    `slots` are its backups, oldest first, and then the snapshots of no backup; bit masks in
    `findings` refer to them. `total` counts the damaged paths, each once per backup, those that
    are not in `findings` included. `unknown` are snapshot files (64 hex digits) that cannot be
    read and belong to no known backup.
    """

    slots: Sequence[Slot]
    findings: Sequence[Finding]
    total: int
    unknown: Sequence[str] = ()

    @property
    def listed(self) -> int:
        """Number of damaged paths in `findings`, each once per backup."""
        return sum(finding.backups.bit_count() for finding in self.findings)


async def lacks_snapshots(view: BackupTree) -> bool:
    """Return whether the manifest of a backup names a snapshot that does not exist any more."""
    for backup in (await view.backups()).by_name.values():
        manifest = (await view.reports.of(backup)).manifest
        if manifest and any(point.snapshot for point in missing_points(backup, manifest)):
            return True
    return False


async def suspected_packs(view: BackupTree, errors: Iterable[str]) -> frozenset[bytes]:
    """Return the packs whose IDs, or the beginnings of their IDs, occur in messages of restic."""
    packs = sorted(pack.hex() for pack in (await view.repository.index()).packs())
    found: set[bytes] = set()
    for name in {name for error in errors for name in _ID.findall(error)}:
        at = bisect_left(packs, name)
        if at < len(packs) and packs[at].startswith(name):
            found.add(bytes.fromhex(packs[at]))
    return frozenset(found)


async def examine(
    view: BackupTree,
    suspects: Container[bytes] = frozenset(),
    on_progress: Callable[[int], object] | None = None,
) -> DamageReport:
    """Find the damage of all backups; `suspects` are packs (IDs of 32 bytes) to read.

    `on_progress` is called with the number of directories read so far. `view` should have no caches
    from before. Raises RepositoryUnreachableError and other errors that concern the storage.
    """
    report = DamageReport((), (), 0)
    for _ in range(_ATTEMPTS):
        index = await view.repository.blobs.reload_index()
        report = await _Examination(view, suspects, on_progress).run(index)
        if not report.total or await view.repository.blobs.reload_index() is index:
            break
    return report


class _Examination:
    def __init__(
        self,
        view: BackupTree,
        suspects: Container[bytes],
        on_progress: Callable[[int], object] | None,
    ) -> None:
        self._view: Final = view
        self._repository: Final = view.repository
        self._suspects: Final = suspects
        self._on_progress: Final = on_progress
        self._slots: Final[list[Slot]] = []
        self._starts: Final[dict[Parts, dict[Row, int]]] = {}
        self._owner_of: Final[dict[tuple[Parts, int], bytes]] = {}
        self._unplaced: Final[list[tuple[Parts, int, TreeKey]]] = []
        self._points: Final[list[Finding]] = []
        self._named: Final[set[str]] = set()

    async def run(self, index: Index) -> DamageReport:
        backups = await self._view.backups(0)
        files = await self._repository.storage.list(FileType.PACK)
        sizes = {bytes.fromhex(file.name): file.size for file in files}
        checker = BlobChecker(self._repository, index, sizes, self._suspects)
        scan = TreeScan(self._repository, checker, self._on_progress)
        for backup in backups.by_name.values():
            await self._add_backup(scan, backup)
        for snapshot in backups.loose:
            self._slots.append(Slot(None))
            self._add_whole(snapshot)
        rows = (row for rows in self._starts.values() for row in rows)
        roots = [row.key for row in rows if row.key is not None]
        await scan.scan([*roots, *(key for _, _, key in self._unplaced)])
        return await self._report(scan)

    # Collect

    async def _add_backup(self, scan: TreeScan, backup: Backup) -> None:
        layout = await self._view.layout(backup)
        slot = Slot(backup.id)
        self._slots.append(slot)
        number = len(self._slots) - 1
        # Unreadable parts are reported with their snapshot, below.
        readable = {path: at for path, at in layout.placed.items() if not at.unreadable}
        for path, placement in readable.items():
            slot.owners.add(path[0])
            await self._add_start(scan, path, placement.node, placement.snapshot)
        placed = {placement.snapshot.id for placement in readable.values()}
        for snapshot in layout.whole:
            kind = tag_value(snapshot, "kind")
            if kind is None or snapshot.id in placed or snapshot in backup.superseded:
                self._add_whole(snapshot)
                continue
            path = directory_names.point_path(kind, tag_value(snapshot, "dogu"))
            slot.owners.add(path[0])
            self._unplaced.append((path, number, TreeKey(snapshot.tree, top=True)))
        if backup.manifest is not None:
            key = TreeKey(backup.manifest.tree, top=True)
            self._unplaced.append(((directory_names.BACKUP_JSON,), number, key))
        manifest = (await self._view.reports.of(backup)).manifest
        for point in missing_points(backup, manifest) if manifest else ():
            if point.snapshot:
                path = directory_names.point_path(point.kind, point.dogu)
                slot.owners.add(path[0])
                self._points.append(Finding(path, self._gone(point.snapshot), 1 << number))

    def _gone(self, snapshot: str) -> Fault:
        self._named.add(snapshot)
        what = "cannot be read" if f"snapshots/{snapshot}" in self._damaged else "is missing"
        return Fault(f"its snapshot {snapshot[:8]} {what}")

    @property
    def _damaged(self) -> dict[str, str]:
        return self._repository.damaged

    async def _add_start(self, scan: TreeScan, path: Parts, node: Node, snapshot: Snapshot) -> None:
        key = subtree_of(node)
        if key is None:
            row = Row(None, node.content, await scan.file(node))
        else:
            row = Row(TreeKey(snapshot.tree, top=True) if not node.name else key)
        self._add_row(path, row)

    def _add_whole(self, snapshot: Snapshot) -> None:
        """Add a snapshot that is shown unchanged."""
        path = (directory_names.SNAPSHOTS, snapshot.id[:8].encode())
        dogu = tag_value(snapshot, "dogu")
        if dogu:
            owner = directory_names.directory_name(dogu)
            self._owner_of[path, len(self._slots) - 1] = owner
            self._slots[-1].owners.add(owner)
        self._add_row(path, Row(TreeKey(snapshot.tree, top=True)))

    def _add_row(self, path: Parts, row: Row) -> None:
        """Add a row of the last slot."""
        rows = self._starts.setdefault(path, {})
        rows[row] = rows.get(row, 0) | 1 << (len(self._slots) - 1)

    # Report

    async def _report(self, scan: TreeScan) -> DamageReport:
        for path, number, key in self._unplaced:
            if not scan.is_whole(key):
                self._points.append(Finding(path, await _summary(scan, key), 1 << number))
        walk = DamageWalk(scan, self._starts)
        lost = {path: walk.lost_at(path) for path in self._starts}
        findings = list(self._points_with_alternatives(lost))
        total = walk.count() + len(findings)
        listed = len(findings)
        async with aclosing(walk.findings()) as found:
            async for finding in found:
                if listed >= FINDINGS_MAX:
                    break
                findings.append(finding)
                listed += finding.backups.bit_count()
        self._mark_damaged(lost)
        known = (name.partition("/") for name in sorted(self._damaged))
        unknown = [
            name for kind, _, name in known if kind == "snapshots" and name not in self._named
        ]
        return DamageReport(self._slots, findings, total, unknown)

    def _points_with_alternatives(self, lost: dict[Parts, int]) -> Iterator[Finding]:
        """Yield the lost points of data, with the backups that have the same point whole."""
        missing: dict[Parts, int] = {}
        for point in self._points:
            missing[point.parts] = missing.get(point.parts, 0) | point.backups
        for point in self._points:
            below = [path for path in lost if path[: len(point.parts)] == point.parts]
            there = union(mask for path in below for mask in self._starts[path].values())
            damaged = union(lost[path] for path in below) | missing[point.parts]
            yield Finding(point.parts, point.fault, point.backups, there & ~damaged)

    def _mark_damaged(self, lost: dict[Parts, int]) -> None:
        """Record the owners of lost data in their slots."""
        masks = [*lost.items(), *((point.parts, point.backups) for point in self._points)]
        for path, mask in masks:
            for number in numbers(mask):
                slot = self._slots[number]
                slot.is_damaged = True
                owner = self._owner_of.get((path, number), path[0])
                if owner not in _NO_OWNERS:
                    slot.damaged.add(owner)


async def _summary(scan: TreeScan, key: TreeKey) -> Fault:
    """Return the damage of a point of data that has no place in its backup because of it."""
    path, fault = await scan.first_loss(key)
    if not path:
        return fault
    return Fault(f"/{'/'.join(map(show, path))}: {fault.reason}")
