"""Metrics of the backups for monitoring, without a mount."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cesbr.commands import Command
from cesbrfs.config.layers import absolute_path
from cesbrfs.errors import CesbrError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cesbr.session import Context
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.catalog.metrics import BackupFigures
    from cesbrfs.vfs.tree import BackupTree

_MODE: Final = 0o644
"""The collector of the metrics runs as another user, and they contain no secrets."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", metavar="FILE", help="write them to FILE, atomically (default: to stdout)"
    )


async def _metrics(context: Context, arguments: argparse.Namespace) -> int:
    """Print or write the metrics; also if the repository cannot be read, which they then report."""
    from cesbrfs.catalog.metrics import backup_figures, backup_metrics, drill_metric
    from cesbrfs.util.openmetrics import render

    figures: BackupFigures | None = None
    damaged = 0
    dogus: Sequence[str] = ()
    drills: dict[str, float] = {}
    problem: CesbrError | None = None
    try:
        view = await context.view(may_init=False)
        figures = await backup_figures(view.reports, await view.backups())
        dogus = () if figures.latest is None else await view.dogus(figures.latest)
        damaged = len(view.repository.damaged)  # with what finding the dogus could not read
    except CesbrError as error:
        problem = error
    metrics = [*backup_metrics(figures, damaged, up=problem is None)]
    if problem is None:
        try:
            drills = _drills(context, view, dogus)
            metrics.append(drill_metric(drills))
        except CesbrError as error:  # without the metric: 0 would be "never"
            problem = error
    text = render(metrics)
    file = None if arguments.output is None else Path(absolute_path(arguments.output))
    if file is not None:
        _write(file, text)
    if file is None or context.out.as_json or not context.out.quiet:
        shown = text.decode() if file is None else f"The metrics were written to {file}.\n"
        await context.out.result({**_json(figures, damaged, file), "drills": drills}, shown)
    if problem is not None:
        raise problem
    return 0


def _drills(context: Context, view: BackupTree, dogus: Sequence[str]) -> dict[str, float]:
    """Return when each dogu was last restored without errors, 0 if never."""
    from cesbr.state.drills import read_drills
    from cesbr.state.state_dir import state_directory

    history = read_drills(state_directory(context.session.environ), view.repository.id)
    return {dogu: drill.time if (drill := history.valid(dogu)) else 0 for dogu in dogus}


def _write(file: Path, text: bytes) -> None:
    from cesbrfs.util.atomicfile import write_atomic

    try:
        write_atomic(file, text, mode=_MODE)
    except OSError as error:
        raise CesbrError(
            f"The metrics cannot be written to {file} ({error.strerror}). Check that its directory"
            " exists and is writable."
        ) from error


def _json(figures: BackupFigures | None, damaged: int, file: Path | None) -> dict[str, object]:
    if figures is None:
        return {"storage_up": False, "output": str(file) if file else None}
    return {
        "storage_up": True,
        "backups": {status.value: count for status, count in figures.by_status.items()},
        "last_complete": _backup_json(figures.last_complete),
        "latest": _backup_json(figures.latest),
        "size": figures.size,
        "damaged": damaged,
        "output": str(file) if file else None,
    }


def _backup_json(backup: Backup | None) -> dict[str, object] | None:
    from cesbrfs.repo.format.timestamps import format_time

    return {"id": backup.id, "time": format_time(backup.time_ns)} if backup else None


COMMANDS: Final = (
    Command(
        "metrics",
        "Print metrics of the backups in the OpenMetrics format, for Prometheus.",
        "metrics",
        _arguments,
        _metrics,
        "For the textfile collector of node_exporter, write them to its directory with --output"
        " FILE, whose name ends with .prom; 'schedule --metrics FILE' does so after each run.",
        all_backups=True,
    ),
)
