"""How far a backup can be trusted to be whole, told from its manifest and its snapshots."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from cesbrfs.catalog.backups import REPAIRED, Backup, Backups, tag_value
from cesbrfs.catalog.completeness import all_kept, missing_points
from cesbrfs.catalog.folder_names import SNAPSHOTS
from cesbrfs.catalog.layout import Layout, Placement
from cesbrfs.catalog.manifest import FILE_NAME, Manifest, parse_manifest
from cesbrfs.errors import CesbrError, DamagedError, RepositoryUnreachableError
from cesbrfs.repo.format.index import Index
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.repo.repository import Repository
from cesbrfs.util.escape import show

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


def dogus_of(backup: Backup, told: Report) -> frozenset[str] | None:
    """Return the dogus that were backed up by themselves; None for the whole instance.

    As the manifest tells, else the tags.  A backup of another tool counts as whole, as what is
    left of one tells less and less while it is removed.
    """
    if told.status is Status.UNVERIFIED:
        return None
    if told.manifest is not None:
        named = {point.dogu for point in told.manifest.points}
    else:
        named = {tag_value(snapshot, "dogu") for snapshot in backup.snapshots}
    dogus = frozenset(name for name in named if name is not None)
    return dogus if named == dogus and dogus else None


async def report(repository: Repository, backup: Backup) -> Report:
    """Tell a backup's status; reads its manifest, and nothing where there is none."""
    if backup.manifest is None:
        lost = backup.ours or any(REPAIRED in s.tags for s in backup.snapshots)
        return Report(Status.INCOMPLETE if lost else Status.UNVERIFIED, None)
    manifest = None
    try:
        manifest = await read_manifest(repository, backup.manifest)
        whole = await all_kept(repository, manifest, backup)
    except RepositoryUnreachableError:  # it may be back in a moment: nothing is settled
        raise
    except CesbrError as error:
        what = "A snapshot" if manifest else "The manifest"
        _log.warning("%s of backup %s cannot be read: %s", what, backup.id, error)
        return Report(Status.INCOMPLETE, manifest)
    return Report(Status.COMPLETE if whole else Status.INCOMPLETE, manifest)


async def read_manifest(repository: Repository, snapshot: Snapshot) -> Manifest:
    """Read the manifest that a manifest snapshot holds; DamagedError when it holds none."""
    node = (await repository.root(snapshot)).nodes.get(FILE_NAME.encode())
    if node is None or node.type != "file":
        raise DamagedError(f"Snapshot {snapshot.id[:8]} holds no {FILE_NAME}.")
    content = await repository.open_file(node)
    if content.size > _MANIFEST_MAX:
        raise DamagedError(f"The {FILE_NAME} of snapshot {snapshot.id[:8]} is over 64 MiB.")
    return parse_manifest(await content.read(0, content.size))


Holds = Callable[[Backup, Report], Awaitable[bool]]
"""Returns whether a backup holds what is asked for."""


class Reports:
    """Reports of backups, each made once for as long as the backup's snapshots stay the same."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._known: dict[str, tuple[frozenset[str], Index | None, Report]] = {}

    async def of(self, backup: Backup) -> Report:
        """Return the report of `backup`.

        A backup is incomplete when one of its snapshots has no tree, until an index names that.
        """
        known = self._known.get(backup.id)
        if (
            known is None
            or known[0] != backup.identity
            or known[1] not in (None, await self._repository.index())
        ):
            told = await report(self._repository, backup)
            index = None
            if await self._repository.without_tree(backup.snapshots, show(backup.name)):
                told = replace(told, status=Status.INCOMPLETE)
                index = await self._repository.index()
            known = (backup.identity, index, told)
            self._known[backup.id] = known
        return known[2]

    async def latest(self, backups: Backups) -> Backup | None:
        """Return the backup that ``latest`` stands for, as `newest` does."""
        for gone in self._known.keys() - {backup.id for backup in backups.by_name.values()}:
            del self._known[gone]
        return await self.newest(list(backups.by_name.values()))

    async def newest(self, backups: Sequence[Backup], holds: Holds | None = None) -> Backup | None:
        """Return the newest complete one of `backups`, oldest first, else the newest unverified.

        Of those of the whole instance, or of those that `holds` answers for.  Safety backups and
        those dated in the future never count.
        """
        unverified: Backup | None = None
        now_ns = time.time_ns()
        for backup in reversed(backups):
            if backup.safety or backup.time_ns > now_ns:
                continue
            told = await self.of(backup)
            if told.status is Status.INCOMPLETE or (unverified and not told.manifest):
                continue
            if not (await holds(backup, told) if holds else dogus_of(backup, told) is None):
                continue
            if told.status is Status.COMPLETE:
                return backup
            unverified = backup
        return unverified


def describe(backup: Backup, told: Report, layout: Layout | None = None) -> dict[str, object]:
    """Return what backup.json says: id, time, status, size, and the points of data.

    Times are RFC 3339 in UTC, sizes bytes or null.  A safety backup has ``safety``; ``copies`` are
    other copies of the data that is shown, ``not_searched`` snapshots with too many directories.
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
    missing = [
        {
            "kind": point.kind,
            "dogu": point.dogu,
            "snapshot": point.snapshot,
            "failed": [{"path": f.path, "error": f.error} for f in point.failed],
        }
        for point in (missing_points(backup, told.manifest) if told.manifest else ())
    ]
    return {
        "id": backup.id,
        "time": format_time(backup.time_ns),
        "status": told.status.value,
        "size": told.size(backup),
        "points": points,
        "missing": missing,
        **({"safety": True} if backup.safety else {}),
        **({"not_searched": [_whole_path(s) for s in layout.cut]} if layout and layout.cut else {}),
        **({"copies": copies_json(layout.copies)} if layout and layout.copies else {}),
    }


def _whole_path(snapshot: Snapshot) -> str:
    """Return where a snapshot is shown whole, below its backup."""
    return f"{SNAPSHOTS.decode()}/{snapshot.id[:8]}"


def copies_json(copies: Sequence[Placement]) -> list[dict[str, object]]:
    """Return, for each copy that is not placed, the place, its path in the snapshot, and that."""
    return [
        {
            "path": "/".join(show(part) for part in copy.path),
            "source": show(os.fsencode(copy.source)),
            "snapshot": copy.snapshot.id,
        }
        for copy in copies
    ]
