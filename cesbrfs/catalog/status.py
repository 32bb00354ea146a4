"""Determine the status of a backup from its manifest and snapshots."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import trio

from cesbrfs.catalog.backups import REPAIRED, Backup, Backups, tag_value
from cesbrfs.catalog.completeness import is_complete, missing_points
from cesbrfs.catalog.directory_names import SNAPSHOTS
from cesbrfs.catalog.layout import Layout, Placement
from cesbrfs.catalog.manifest import FILE_NAME, Manifest, parse_manifest
from cesbrfs.errors import CesbrError, DamagedError, RepositoryUnreachableError
from cesbrfs.repo.format.index import Index
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.repo.repository import Repository
from cesbrfs.util.escape import show

RETRY_SECONDS: Final = 60.0
"""After how long data that could not be read is read again."""
_MANIFEST_MAX_BYTES: Final = 64 << 20


class Status(StrEnum):
    """Completeness of a backup; `unverified` means that it has no manifest to check."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    UNVERIFIED = "unverified"


@dataclass(frozen=True, slots=True)
class Report:
    """The status of a backup, and its manifest if there is a readable one.

    `problem` is why the status could not be determined; it is then ``incomplete``.
    """

    status: Status
    manifest: Manifest | None
    problem: str | None = None

    def size(self, backup: Backup) -> int | None:
        """Return the backed-up bytes from the manifest or restic's summaries, None if uncached."""
        if self.manifest is not None:
            return self.manifest.size
        sizes = [s.size for s in backup.snapshots]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def dogus_of(backup: Backup, report: Report) -> frozenset[str] | None:
    """Return the dogus of a partial backup; None for a backup of the whole instance.

    The source is the manifest, or the tags if there is none. A backup of another tool counts as
    whole: while it is being removed, the remaining snapshots contain fewer and fewer dogus.
    """
    if report.status is Status.UNVERIFIED:
        return None
    if report.manifest is not None:
        named = {point.dogu for point in report.manifest.points}
    else:
        named = {tag_value(snapshot, "dogu") for snapshot in backup.snapshots}
    dogus = frozenset(name for name in named if name is not None)
    return dogus if named == dogus and dogus else None


def may_be_latest(backup: Backup) -> bool:
    """Return whether `backup` can be the target of ``latest``, judging by its snapshots alone.

    Most of the time it then is, but its manifest and the index decide.
    """
    if backup.safety or backup.time_ns > time.time_ns():
        return False
    if any(snapshot.tree is None for snapshot in backup.snapshots):
        return False
    if backup.manifest is None:
        return not _lost(backup)
    tagged = [tag_value(snapshot, "dogu") for snapshot in backup.snapshots]
    return None in tagged or not tagged  # else it contains some dogus, but not the instance


def _lost(backup: Backup) -> bool:
    """Return whether a backup without a manifest is incomplete for that reason."""
    return backup.made_by_cesbr or any(REPAIRED in s.tags for s in backup.snapshots)


async def make_report(repository: Repository, backup: Backup) -> Report:
    """Determine the status of a backup; reads its manifest if it has one."""
    if backup.manifest is None:
        return Report(Status.INCOMPLETE if _lost(backup) else Status.UNVERIFIED, None)
    manifest = None
    try:
        manifest = await read_manifest(repository, backup.manifest)
        whole = await is_complete(repository, manifest, backup)
    except RepositoryUnreachableError:  # temporary: do not cache a status
        raise
    except CesbrError as error:
        return Report(Status.INCOMPLETE, manifest, error.message)
    return Report(Status.COMPLETE if whole else Status.INCOMPLETE, manifest)


async def read_manifest(repository: Repository, snapshot: Snapshot) -> Manifest:
    """Read the manifest from a manifest snapshot; raises DamagedError if it has none."""
    node = (await repository.trees.root(snapshot)).nodes.get(FILE_NAME.encode())
    if node is None or node.type != "file":
        raise DamagedError(f"Snapshot {snapshot.id[:8]} contains no {FILE_NAME}.")
    content = await repository.open_file(node)
    if content.size > _MANIFEST_MAX_BYTES:
        raise DamagedError(f"The {FILE_NAME} of snapshot {snapshot.id[:8]} is larger than 64 MiB.")
    return parse_manifest(await content.read(0, content.size))


Holds = Callable[[Backup, Report], Awaitable[bool]]
"""A predicate: whether a backup contains the requested data."""


@dataclass(frozen=True, slots=True)
class _Cached:
    """A report for the snapshots `identity`, and while the index is `index` unless that is None."""

    identity: frozenset[str]
    index: Index | None
    expires: float
    report: Report


class Reports:
    """A cache of reports, valid while the snapshots of a backup are the same.

    A status is determined again after a minute if that failed, or if a tree was in no index file.
    """

    def __init__(
        self, repository: Repository, clock: Callable[[], float] = trio.current_time
    ) -> None:
        self._repository = repository
        self._clock = clock
        self._cache: dict[str, _Cached] = {}

    @property
    def has_provisional(self) -> bool:
        """Whether a cached status is determined again after a minute."""
        return any(cached.expires < math.inf for cached in self._cache.values())

    def is_provisional(self, backup: Backup) -> bool:
        """Return whether the cached status of `backup` is determined again after a minute."""
        cached = self._cache.get(backup.id)
        return cached is not None and cached.expires < math.inf

    async def of(self, backup: Backup) -> Report:
        """Return the report of `backup`, cached if possible.

        A backup is incomplete while one of its snapshots has no tree in the index.
        """
        cached = self._cache.get(backup.id)
        if (
            cached is None
            or cached.identity != backup.identity
            or cached.expires <= self._clock()
            or cached.index not in (None, await self._repository.index())
        ):
            cached = await self._determine(backup)
            self._cache[backup.id] = cached
        return cached.report

    async def _determine(self, backup: Backup) -> _Cached:
        report = await make_report(self._repository, backup)
        if backup.manifest is not None:
            reason = report.problem and (
                f"Backup {show(backup.name)} counts as incomplete, because its manifest cannot be"
                f" checked: {report.problem}"
            )
            self._repository.damaged_files.note(f"manifests/{backup.manifest.id}", reason)
        index = None
        if await self._lacks_tree(backup):
            report = replace(report, status=Status.INCOMPLETE)
            index = await self._repository.index()
        lasts = report.problem is None and index is None
        expires = math.inf if lasts else self._clock() + RETRY_SECONDS
        return _Cached(backup.identity, index, expires, report)

    async def _lacks_tree(self, backup: Backup) -> bool:
        """Return whether a snapshot has no tree in an index file; those are noted as damaged."""
        trees = {snapshot.tree for snapshot in backup.snapshots if snapshot.tree is not None}
        missing = await self._repository.blobs.not_indexed(BlobType.TREE, trees)
        lacks = False
        for snapshot in backup.snapshots:
            reason = None
            if snapshot.tree is None or snapshot.tree in missing:
                lacks = True
                what = "it has no tree" if snapshot.tree is None else "its tree is not in the index"
                reason = f"{what} (backup {show(backup.name)}). Run 'cesbr check'."
            self._repository.damaged_files.note(f"trees/{snapshot.id}", reason)
        return lacks

    async def latest(self, backups: Backups) -> Backup | None:
        """Return the target of ``latest``, and evict reports of removed backups."""
        for removed in self._cache.keys() - {backup.id for backup in backups.by_name.values()}:
            del self._cache[removed]
        return await self.newest(list(backups.by_name.values()))

    async def newest(self, backups: Sequence[Backup], holds: Holds | None = None) -> Backup | None:
        """Return the newest complete backup, or else the newest unverified one.

        `backups` are in order, oldest first. Candidates are backups of the whole instance, or those
        that satisfy `holds`. Safety backups and backups with a time in the future are excluded.
        """
        unverified: Backup | None = None
        now_ns = time.time_ns()
        for backup in reversed(backups):
            if backup.safety or backup.time_ns > now_ns:
                continue
            report = await self.of(backup)
            if report.status is Status.INCOMPLETE or (unverified and not report.manifest):
                continue
            if not (await holds(backup, report) if holds else dogus_of(backup, report) is None):
                continue
            if report.status is Status.COMPLETE:
                return backup
            unverified = backup
        return unverified


def describe(backup: Backup, report: Report, layout: Layout | None = None) -> dict[str, object]:
    """Return the content of backup.json: id, time, status, size and the points of data.

    Times are RFC 3339 in UTC, sizes are bytes or null. ``safety`` marks a safety backup,
    ``protected`` a protected one; ``copies`` are further copies of the data in the same backup,
    ``not_searched`` snapshots with too many directories, ``unreadable`` snapshots of which a tree
    cannot be read.
    """
    manifest_points = report.manifest.points if report.manifest else []
    by_snapshot = {point.snapshot: point for point in manifest_points if point.snapshot}
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
        for point in (missing_points(backup, report.manifest) if report.manifest else ())
    ]
    return {
        "id": backup.id,
        "time": format_time(backup.time_ns),
        "status": report.status.value,
        "size": report.size(backup),
        "points": points,
        "missing": missing,
        **({"safety": True} if backup.safety else {}),
        **({"protected": True} if backup.protected else {}),
        **({"note": backup.note} if backup.note else {}),
        **({"not_searched": [_whole_path(s) for s in layout.cut]} if layout and layout.cut else {}),
        **(
            {"unreadable": [_whole_path(s) for s in backup.snapshots if s.id in layout.unreadable]}
            if layout and layout.unreadable
            else {}
        ),
        **({"copies": copies_json(layout.copies)} if layout and layout.copies else {}),
    }


def _whole_path(snapshot: Snapshot) -> str:
    """Return where a snapshot is shown whole, below its backup."""
    return f"{SNAPSHOTS.decode()}/{snapshot.id[:8]}"


def copies_json(copies: Sequence[Placement]) -> list[dict[str, object]]:
    """Return for each unplaced copy its target path, source path and snapshot ID."""
    return [
        {
            "path": "/".join(show(part) for part in copy.path),
            "source": show(os.fsencode(copy.source)),
            "snapshot": copy.snapshot.id,
        }
        for copy in copies
    ]
