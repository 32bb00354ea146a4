"""How far a backup can be trusted to be whole, told from its manifest and its snapshots."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cesbrfs.catalog.backups import Backup, Backups, tag_value
from cesbrfs.catalog.manifest import FILE_NAME, Manifest, parse_manifest
from cesbrfs.catalog.placing import Layout
from cesbrfs.errors import CesbrError, DamagedError, RepositoryUnreachableError
from cesbrfs.paths import show
from cesbrfs.repo.model import Snapshot
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.times import format_time

_log = logging.getLogger(__name__)

_MANIFEST_MAX: Final = 64 << 20


class Status(StrEnum):
    """`complete`: all there; `incomplete`: something is missing; `unverified`: nothing tells."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    UNVERIFIED = "unverified"


@dataclass(frozen=True, slots=True)
class Report:
    """A backup's status and the manifest it was told from, if there is a readable one."""

    status: Status
    manifest: Manifest | None

    def size(self, backup: Backup) -> int | None:
        """Bytes backed up, from the manifest or restic's summaries; None when neither tells."""
        if self.manifest is not None:
            return self.manifest.size
        sizes = [s.size for s in backup.snapshots]
        return None if None in sizes else sum(size for size in sizes if size is not None)


async def report(repository: Repository, backup: Backup) -> Report:
    """Tell a backup's status; reads its manifest, and nothing where there is none."""
    if backup.manifest is None:
        return Report(Status.INCOMPLETE if backup.ours else Status.UNVERIFIED, None)
    try:
        manifest = await read_manifest(repository, backup.manifest)
    except RepositoryUnreachableError:  # it may be back in a moment: nothing is settled
        raise
    except CesbrError as error:
        _log.warning("The manifest of backup %s cannot be read: %s", backup.id, error)
        return Report(Status.INCOMPLETE, None)
    return Report(judge(manifest, backup), manifest)


def judge(manifest: Manifest, backup: Backup) -> Status:
    """Compare what the manifest promises with the snapshots that are there."""
    there = _there(backup)
    whole = all(point.snapshot in there and not point.failed for point in manifest.points)
    return Status.COMPLETE if whole else Status.INCOMPLETE


def _there(backup: Backup) -> set[str]:
    """Return the IDs by which a manifest may name the snapshots that are there."""
    return {name for s in backup.snapshots for name in (s.id, s.original) if name}


async def read_manifest(repository: Repository, snapshot: Snapshot) -> Manifest:
    """Read the manifest that a manifest snapshot holds; DamagedError when it holds none."""
    node = (await repository.root(snapshot)).nodes.get(FILE_NAME.encode())
    if node is None or node.type != "file":
        raise DamagedError(f"Snapshot {snapshot.id[:8]} holds no {FILE_NAME}.")
    content = await repository.open_file(node)
    if content.size > _MANIFEST_MAX:
        raise DamagedError(f"The {FILE_NAME} of snapshot {snapshot.id[:8]} is over 64 MiB.")
    return parse_manifest(await content.read(0, content.size))


class Reports:
    """Reports of backups, each made once for as long as the backup's snapshots stay the same."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._known: dict[str, tuple[frozenset[str], Report]] = {}

    async def of(self, backup: Backup) -> Report:
        """Return the report of `backup`."""
        known = self._known.get(backup.id)
        if known is None or known[0] != backup.identity:
            known = (backup.identity, await report(self._repository, backup))
            self._known[backup.id] = known
        return known[1]

    async def latest(self, backups: Backups) -> Backup | None:
        """Return the newest complete backup, else the newest unverified one, else None."""
        for gone in self._known.keys() - {backup.id for backup in backups.by_name.values()}:
            del self._known[gone]
        return await self.newest(list(backups.by_name.values()))

    async def newest(self, backups: Sequence[Backup]) -> Backup | None:
        """Return the newest complete one of `backups`, oldest first, else as `latest` does."""
        unverified: Backup | None = None
        for backup in reversed(backups):
            status = (await self.of(backup)).status
            if status is Status.COMPLETE:
                return backup
            if status is Status.UNVERIFIED and unverified is None:
                unverified = backup
        return unverified


def describe(backup: Backup, told: Report, layout: Layout | None = None) -> dict[str, object]:
    """Return what backup.json says: id, time, status, size, and the points of data.

    Times are RFC 3339 in UTC, sizes bytes or null.
    """
    promised = told.manifest.points if told.manifest else []
    by_snapshot = {point.snapshot: point for point in promised if point.snapshot}
    where: dict[str, list[str]] = {}
    for path, placement in layout.placed.items() if layout else ():
        shown = "/".join(show(part) for part in path)
        where.setdefault(placement.snapshot.id, []).append(shown)
    points: list[dict[str, object]] = []
    for snapshot in backup.snapshots:
        point = by_snapshot.get(snapshot.id) or by_snapshot.get(snapshot.original or "")
        points.append(
            {
                "kind": tag_value(snapshot, "kind"),
                "dogu": tag_value(snapshot, "dogu"),
                "snapshot": snapshot.id,
                "time": format_time(snapshot.time_ns),
                "size": point.bytes if point else snapshot.size,
                "paths": list(snapshot.paths),
                "shown": sorted(where.get(snapshot.id, [])),
                "failed": [{"path": f.path, "error": f.error} for f in point.failed]
                if point
                else [],
            }
        )
    there = _there(backup)
    missing = [
        {
            "kind": point.kind,
            "dogu": point.dogu,
            "snapshot": point.snapshot,
            "failed": [{"path": f.path, "error": f.error} for f in point.failed],
        }
        for point in promised
        if point.snapshot not in there
    ]
    return {
        "id": backup.id,
        "time": format_time(backup.time_ns),
        "status": told.status.value,
        "size": told.size(backup),
        "points": points,
        "missing": missing,
    }
