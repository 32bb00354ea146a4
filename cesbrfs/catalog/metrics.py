"""Figures of the backups for monitoring: how many there are, and how old the last complete one is.

The same metrics are in ``.cesbrfs/metrics`` of a mount and in the output of ``cesbr metrics``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from cesbrfs.catalog.backups import Backup, Backups
from cesbrfs.catalog.status import Reports, Status
from cesbrfs.util.openmetrics import Family, Kind, Metric, by_label, single
from cesbrfs.util.tasks import gather

_NS: Final = 1_000_000_000

LAST_COMPLETE: Final = Family(
    "cesbrfs_last_complete_backup_timestamp_seconds",
    Kind.GAUGE,
    "Start of the newest complete backup of the whole instance; 0 if there is none.",
)
LAST_COMPLETE_SIZE: Final = Family(
    "cesbrfs_last_complete_backup_size_bytes",
    Kind.GAUGE,
    "Size of the data in that backup.",
)
LATEST: Final = Family(
    "cesbrfs_latest_backup_timestamp_seconds",
    Kind.GAUGE,
    "Start of the backup that latest points to, which may be unverified; 0 if there is none.",
)
BACKUPS: Final = Family("cesbrfs_backups", Kind.GAUGE, "Backups by status.", ("status",))
DAMAGED: Final = Family(
    "cesbrfs_damaged_files",
    Kind.GAUGE,
    "Snapshot and index files, trees and manifests that cannot be read.",
)
STORAGE_UP: Final = Family(
    "cesbrfs_storage_up", Kind.GAUGE, "1 if the snapshots could be listed the last time, else 0."
)
LAST_DRILL: Final = Family(
    "cesbrfs_last_drill_timestamp_seconds",
    Kind.GAUGE,
    "Last time that 'cesbr drill' restored a dogu without errors; 0 if never, or not since it"
    " failed. Not in the metrics of a mount.",
    ("dogu",),
)
FAMILIES: Final = (STORAGE_UP, LAST_COMPLETE, LAST_COMPLETE_SIZE, LATEST, BACKUPS, DAMAGED)


@dataclass(frozen=True, slots=True)
class BackupFigures:
    """Backups by status, and the newest ones of the whole instance.

    `latest` is the backup that ``latest`` points to, `last_complete` the same if it is complete;
    `size` is the size of `last_complete` in bytes if it is recorded.
    """

    by_status: Mapping[Status, int] = field(default_factory=dict)
    latest: Backup | None = None
    last_complete: Backup | None = None
    size: int | None = None

    @property
    def last_complete_seconds(self) -> float:
        """Start of the last complete backup in seconds since the epoch; 0 if there is none."""
        return _seconds(self.last_complete)


async def backup_figures(reports: Reports, backups: Backups) -> BackupFigures:
    """Determine the status of all backups; reads the manifests that `reports` has not cached."""
    listed = list(backups.by_name.values())
    found = await gather([partial(reports.of, backup) for backup in listed])
    latest = await reports.latest(backups)
    report = await reports.of(latest) if latest is not None else None
    complete = latest is not None and report is not None and report.status is Status.COMPLETE
    return BackupFigures(
        Counter(one.status for one in found),
        latest,
        latest if complete else None,
        report.size(latest) if latest is not None and report is not None and complete else None,
    )


def backup_metrics(figures: BackupFigures | None, damaged: int, *, up: bool) -> Sequence[Metric]:
    """Return the metrics of the backups; None means that their figures are not known."""
    metrics = [single(STORAGE_UP, int(up))]
    if figures is None:
        return metrics
    metrics += [
        single(LAST_COMPLETE, figures.last_complete_seconds),
        *([single(LAST_COMPLETE_SIZE, figures.size)] if figures.size is not None else ()),
        single(LATEST, _seconds(figures.latest)),
        by_label(BACKUPS, {status: figures.by_status.get(status, 0) for status in Status}),
        single(DAMAGED, damaged),
    ]
    return metrics


def drill_metric(times: Mapping[str, float]) -> Metric:
    """Return the times of the last successful restore drills by dogu."""
    return by_label(LAST_DRILL, times)


def _seconds(backup: Backup | None) -> float:
    return 0 if backup is None else backup.time_ns / _NS
