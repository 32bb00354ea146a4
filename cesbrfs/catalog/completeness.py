"""Check the snapshots of a backup, or their successors, against its manifest."""

from __future__ import annotations

from cesbrfs.catalog.backups import REPAIRED, Backup
from cesbrfs.catalog.manifest import Manifest, Point
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.repo.repository import Repository


async def is_complete(repository: Repository, manifest: Manifest, backup: Backup) -> bool:
    """Return whether the snapshots contain every point of `manifest` and no path failed."""
    if any(point.failed for point in manifest.points):
        return False
    by_id = snapshots_by_id(backup)
    promised = [(point, by_id.get(point.snapshot or "")) for point in manifest.points]
    if any(found is None for _, found in promised):
        return False
    sizes: dict[bytes, int] = {}
    for point, found in promised:
        if found is not None and not await _holds_point(repository, point, found, backup, sizes):
            return False
    return True


def missing_points(backup: Backup, manifest: Manifest) -> list[Point]:
    """Return the points of the manifest that no snapshot of the backup contains."""
    by_id = snapshots_by_id(backup)
    return [point for point in manifest.points if (point.snapshot or "") not in by_id]


async def repaired_points(
    repository: Repository, backup: Backup, manifest: Manifest
) -> list[Point]:
    """Return the points that lost content in a repair or rewrite."""
    by_id, sizes = snapshots_by_id(backup), dict[bytes, int]()
    found = [(point, by_id.get(point.snapshot or "")) for point in manifest.points]
    return [
        point
        for point, snapshot in found
        if snapshot and not await _holds_point(repository, point, snapshot, backup, sizes)
    ]


def snapshots_by_id(backup: Backup) -> dict[str, Snapshot]:
    """Return the snapshots by their current and former IDs; rewriting changes the ID."""
    found: dict[str, Snapshot] = {}
    originals = {s.id: s.original for s in backup.superseded}
    for snapshot in backup.snapshots:
        former = snapshot.original
        while former and former not in found:
            found[former] = snapshot
            former = originals.get(former)
    return found | {snapshot.id: snapshot for snapshot in backup.snapshots}


async def _holds_point(
    repository: Repository, point: Point, found: Snapshot, backup: Backup, sizes: dict[bytes, int]
) -> bool:
    """Return whether `found` contains everything that was backed up for `point`.

    Its tree must equal the tree in the manifest, or that of the original snapshot. If neither is
    known, its size must be at least the size in the manifest.
    """
    if found.id == point.snapshot:
        return True
    original = next((s for s in backup.superseded if s.id == point.snapshot), None)
    if isinstance(point.tree, str):
        return found.tree is not None and found.tree.hex() == point.tree
    if original is not None:
        return found.tree == original.tree
    if REPAIRED in found.tags or found.tree is None:
        return False
    return point.bytes is None or await _bytes_in(repository, found, sizes) >= point.bytes


async def _bytes_in(repository: Repository, snapshot: Snapshot, sizes: dict[bytes, int]) -> int:
    """Return the total file size of a snapshot; `sizes` caches subtree totals by tree ID."""
    top = (await repository.trees.root(snapshot)).nodes.values()
    pending: list[tuple[bytes | None, list[bytes], int]]
    pending = [(None, [n.subtree for n in top if n.subtree], sum(n.size for n in top))]
    while True:
        tree, below, own = pending[-1]
        missing = next((sub for sub in below if sub not in sizes), None)
        if missing is not None:
            nodes = (await repository.trees.get(missing)).nodes.values()
            subtrees = [node.subtree for node in nodes if node.subtree]
            pending.append((missing, subtrees, sum(node.size for node in nodes)))
            continue
        pending.pop()
        total = own + sum(sizes[sub] for sub in below)
        if tree is None:
            return total
        sizes[tree] = total
