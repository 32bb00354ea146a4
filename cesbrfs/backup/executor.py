"""Carry out a backup plan: one snapshot per point of data, several at once, then the manifest."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from cesbrfs.backup.dumps import DIRECTORY, save_dump
from cesbrfs.backup.links import mangled_links
from cesbrfs.backup.plan import (
    BackupPlan,
    BackupResult,
    DumpCommand,
    Failure,
    Kind,
    PointResult,
    PointStep,
)
from cesbrfs.backup.planner import REGISTRY_JSON, registry_data
from cesbrfs.catalog.backups import SnapshotList
from cesbrfs.catalog.manifest import FILE_NAME, FORMAT, FailedPath, Manifest, Point, write_manifest
from cesbrfs.ces.backup_lock import backup_lock
from cesbrfs.ces.instance import FQDN, Instance, RegistryData
from cesbrfs.errors import (
    NotFoundError,
    RegistryError,
    RegistryUnreachableError,
    ResticError,
    ScriptError,
    UsageError,
)
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.restic import Event, Restic
from cesbrfs.restic.events import as_restic_shows
from cesbrfs.util.escape import for_json, show
from cesbrfs.util.tasks import gather

_FULL_ID: Final = 64
"""Hex digits of a whole snapshot ID; older restics report only the first eight."""


@dataclass(frozen=True, slots=True)
class Step:
    """Progress: point `number` of `total` begins, continues (`event` is restic's) or has ended.

    The manifest is the last point.
    """

    number: int
    total: int
    kind: Kind
    dogu: str | None
    event: Event | None = None
    result: PointResult | None = None


def new_backup_id(time_ns: int) -> str:
    """Return an ID for the backup that begins at `time_ns`, such as 20261122T213000Z-7f3a9c."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time_ns // 1_000_000_000))
    return f"{stamp}-{secrets.token_hex(3)}"


async def run_backup(
    plan: BackupPlan,
    *,
    instance: Instance,
    restic: Restic,
    repository: SnapshotList,
    on_progress: Callable[[Step], None] | None = None,
    prepare: Callable[[str], Awaitable[BackupPlan]] | None = None,
    safety: bool = False,
    workers: int | None = None,
) -> BackupResult:
    """Carry out `plan` under a new Backup ID; `safety` marks a safety backup.

    Up to `workers` restic processes run at once, by default one per core: each spends most of a
    second deriving the key.

    `prepare` is called with the ID while no other backup can run, and returns the final plan;
    its exceptions end the backup before it begins. A point that fails makes the backup
    incomplete.

    Raises BackupRunningError when another one runs, RepositoryError if all others would fail
    too (wrong key, gone, denied, unreachable, locked, full), and ResticError if there is no
    snapshot at all. If it is stopped by an error or cancelled, its snapshots stay without a
    manifest, and it counts as incomplete.
    """
    started = time.time_ns()
    backup_id = new_backup_id(started)
    with backup_lock(instance.root, backup_id, format_time(started)):
        host, unknown = await _host(instance)
        run = _Run(instance, restic, backup_id, host, on_progress, safety=safety)
        if prepare is not None:
            plan = await prepare(backup_id)
        total = len(plan.steps) + 1
        work = [partial(run.point, step, n, total) for n, step in enumerate(plan.steps, 1)]
        done: dict[int, PointResult] = {}
        # Small ones first, one at a time: restic processes that create their cache directory at
        # the same time can fail.
        order = sorted(range(len(work)), key=lambda n: bool(plan.steps[n].paths))
        while order and not any(point.snapshot for point in done.values()):
            number = order.pop(0)
            done[number] = await work[number]()
        order.sort(key=lambda n: not plan.steps[n].paths)  # volumes may take long: start them first
        limit = len(os.sched_getaffinity(0)) if workers is None else workers
        results = await gather([work[n] for n in order], max(limit, 1))
        done.update(zip(order, results, strict=True))
        points = [done[n] for n in range(len(work))]
        if not any(point.snapshot for point in points):
            raise ResticError(_nothing(points))
        points = _confirm(plan.steps, points, backup_id, await repository.snapshots())
        if unknown:
            points[0] = _with_failures(points[0], [Path(FQDN)], unknown)
        manifest = await run.manifest(started, points)
        failed = [failure for point in (*points, manifest) for failure in point.failed]
        return BackupResult(backup_id, tuple(points), tuple(failed))


async def _host(instance: Instance) -> tuple[str, str]:
    """Return the host name for the snapshots, and why it may be another one than usual."""
    try:
        return await instance.fqdn() or socket.gethostname(), ""
    except RegistryError as error:
        host = socket.gethostname()
        return (
            host,
            f"the backup counts as one of the host {show(os.fsencode(host))}: {error.message}",
        )


def _nothing(points: Sequence[PointResult]) -> str:
    failures = [failure for point in points for failure in point.failed]
    if not failures:
        return "Nothing was backed up, as there is nothing to back up."
    first = failures[0]
    return f"Nothing was backed up; the first failure: {show(first.path)}: {first.error}"


@dataclass(frozen=True, slots=True)
class _Run:
    """One run: everything its snapshots have in common."""

    instance: Instance
    restic: Restic
    backup_id: str
    host: str
    on_progress: Callable[[Step], None] | None
    safety: bool = False

    def tell(self, step: Step) -> None:
        if self.on_progress:
            self.on_progress(step)

    async def point(self, step: PointStep, number: int, total: int) -> PointResult:
        """Back up one point of data and report its progress."""
        progress = Step(number, total, step.kind, step.dogu)
        self.tell(progress)
        if step.paths:
            result = await self._directories(step, progress)
        elif step.dump is not None:
            result = await self._dump(step, step.dump, progress)
        elif step.kind == "registry":
            result = await self._registry(step, progress)
        elif step.document is not None:
            result = await self._snapshot(step, progress, (), (step.document, step.content or b""))
        else:
            result = PointResult(step.kind, step.dogu, failed=step.failed)
        self.tell(replace(progress, result=result))
        return result

    async def _directories(self, step: PointStep, progress: Step) -> PointResult:
        """Back up directories; those that vanish or are stored wrongly are failures."""
        result = await self._snapshot(step, progress, step.paths, None)
        if result.snapshot:
            links = await mangled_links(self.restic.version, step.paths)
            result = replace(result, failed=(*result.failed, *links))
        failed_paths = {failure.path for failure in result.failed}
        gone = [p for p in _missing(step.paths) if os.fsencode(p) not in failed_paths]
        return _with_failures(result, gone, "it vanished while the backup ran")

    async def _registry(self, step: PointStep, progress: Step) -> PointResult:
        """Back up the current registry data, not that of the time of planning."""
        try:
            data = await registry_data(self.instance, step.dogu)
        except RegistryUnreachableError as error:  # the other points are backed up all the same
            data = RegistryData({}, ((REGISTRY_JSON, error.message),))
        failed = tuple(Failure(key.encode(), error) for key, error in data.failed)
        step = replace(step, failed=failed)
        if not data.values and step.document is not None and not failed:
            failed = (Failure(REGISTRY_JSON.encode(), "its keys vanished while the backup ran"),)
        if not data.values and failed:
            return PointResult(step.kind, step.dogu, failed=failed)
        return await self._snapshot(step, progress, (), (REGISTRY_JSON, data.to_json()))

    async def _dump(self, step: PointStep, dump: DumpCommand, progress: Step) -> PointResult:
        """Back up the output of a command, or nothing if it fails."""
        document = step.document or ""
        path = Path(DIRECTORY, document)

        async def save(reader: int, end: Callable[[], None]) -> PointResult:
            return await self._snapshot(step, progress, (), (document, reader), end)

        try:
            result = await save_dump(self.instance, step.dogu or "", dump, save)
        except (ScriptError, RegistryError, UsageError) as error:  # of the account or the command
            return _with_failures(PointResult(step.kind, step.dogu), [path], error.message)
        if result.snapshot and not result.bytes:
            return _with_failures(result, [path], f"the dump by {dump.provider} is empty")
        return result

    async def _snapshot(
        self,
        step: PointStep,
        progress: Step,
        paths: Sequence[Path],
        stdin: tuple[str, bytes | int] | None,
        on_interrupt: Callable[[], None] | None = None,
    ) -> PointResult:
        try:
            summary = await self.restic.backup(
                [os.fsencode(path) for path in paths],
                tags=step.tags(self.backup_id, safety=self.safety),
                host=self.host,
                stdin=stdin,
                on_event=lambda event: self.tell(replace(progress, event=event)),
                on_interrupt=on_interrupt,
            )
        except (ResticError, NotFoundError) as error:  # all others would meet the next point, too
            whole = [os.fsencode(path) for path in paths] or [(stdin or ("",))[0].encode()]
            failed = tuple(Failure(path, error.message) for path in whole)
            return PointResult(step.kind, step.dogu, failed=(*step.failed, *failed))
        errors = [Failure(error.path, error.message) for error in summary.errors]
        return PointResult(
            step.kind,
            step.dogu,
            snapshot=summary.snapshot_id,
            files=summary.totals.total_files_processed,
            bytes=summary.totals.total_bytes_processed,
            added=summary.totals.data_added,
            failed=(*step.failed, *errors),
        )

    async def manifest(self, started: int, points: Sequence[PointResult]) -> PointResult:
        """Write the manifest, which describes all points."""
        content = write_manifest(
            Manifest(
                format=FORMAT,
                id=self.backup_id,
                time=format_time(started),
                host=self.host,
                # A point without a snapshot and without a failure has no data.
                points=[_manifest_point(p) for p in points if p.snapshot or p.failed],
            )
        )
        total = len(points) + 1
        step = PointStep("manifest", None, document=FILE_NAME, content=content)
        return await self.point(step, total, total)


def _missing(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if not path.is_dir()]


def _with_failures(result: PointResult, paths: Iterable[Path], error: str) -> PointResult:
    more = [Failure(os.fsencode(path), error) for path in paths]
    return replace(result, failed=(*result.failed, *more))


def _confirm(
    steps: Sequence[PointStep],
    points: Sequence[PointResult],
    backup_id: str,
    snapshots: Iterable[Snapshot],
) -> list[PointResult]:
    """Compare restic's reports with the snapshots in the repository.

    Sets the complete ID of each snapshot. A snapshot, or a directory of it, that the repository
    does not list is a failure.
    """
    ours = [snapshot for snapshot in snapshots if backup_id in snapshot.tags]
    confirmed = []
    for step, point in zip(steps, points, strict=True):
        if point.snapshot is None:
            confirmed.append(point)
            continue
        reported = point.snapshot
        found = next((s for s in ours if s.id.startswith(reported)), None)
        if found is None:
            lost = step.paths or [Path(step.document or REGISTRY_JSON)]
            error = f"the repository does not list its snapshot {reported}"
            known = reported if len(reported) == _FULL_ID else None
            confirmed.append(_with_failures(replace(point, snapshot=known), lost, error))
            continue
        failed_paths = {failure.path for failure in point.failed}
        lacking = [
            path
            for path in step.paths
            if as_restic_shows(os.fsencode(path)) not in found.paths
            and os.fsencode(path) not in failed_paths
        ]
        tree = found.tree.hex() if found.tree else None
        result = replace(point, snapshot=found.id, tree=tree)
        confirmed.append(_with_failures(result, lacking, f"snapshot {found.id[:8]} lacks it"))
    return confirmed


def _manifest_point(point: PointResult) -> Point:
    return Point(
        kind=point.kind,
        dogu=point.dogu,
        snapshot=point.snapshot,
        bytes=point.bytes if point.snapshot else None,
        tree=point.tree or msgspec.UNSET,
        failed=[
            FailedPath(error=failure.error, **for_json(failure.path, "path"))
            for failure in point.failed
        ],
    )
