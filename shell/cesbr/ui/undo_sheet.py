"""An undo as people read it: the plan before it, the report after it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from cesbr.ui import humanize
from cesbr.ui.table import pairs
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    from cesbrfs.restore.report import Failure
    from cesbrfs.restore.undo_report import UndoPlan, UndoReport

_SHOWN: Final = 20
"""Lines of one kind that are shown; --json has them all."""


def plan_text(planned: UndoPlan, available: int | None) -> str:
    """Return the sheet; `available` is the width of the terminal, None where nobody looks."""
    record = planned.record
    put_back = f"{humanize.count(len(planned.put_back), 'file')}, {humanize.size(planned.size)}"
    rows = [
        ("Restore:", f"{record.id} of backup {show(os.fsencode(record.backup))}"),
        ("In:", show(os.fsencode(record.target))),
        ("Puts back:", put_back),
    ]
    if planned.recreate:
        rows.append(("", _directories(len(planned.recreate))))
    if planned.remove:
        rows.append(("Removes:", f"{humanize.count(len(planned.remove), 'file')} it created"))
    if planned.directories:
        rows.append(
            (
                "" if planned.remove else "Removes:",
                f"{_directories(len(planned.directories))} it created, if empty",
            )
        )
    rows += _listed("Changed:", planned.changed, "changed after the restore; kept separately")
    rows += _listed("Leaves:", planned.left, "replaced by another program after the restore")
    rows += [
        ("Cannot:" if not number else "", f"{show(failure.path)}: {failure.error}")
        for number, failure in enumerate(planned.failed[:_SHOWN])
    ]
    rows += [("Warning:", warning) for warning in planned.warnings]
    return pairs(rows, available)


def _directories(number: int) -> str:
    return humanize.count(number, "directory", "directories")


def _listed(heading: str, paths: Sequence[tuple[bytes, ...]], what: str) -> list[tuple[str, str]]:
    rows = [
        ("" if number else heading, f"{show(b'/'.join(parts))}: {what}")
        for number, parts in enumerate(paths[:_SHOWN])
    ]
    if len(paths) > _SHOWN:
        rows.append(("", f"and {len(paths) - _SHOWN:,} more"))
    return rows


def report_text(report: UndoReport) -> str:
    """Return what was put back and removed."""
    lines = [f"Put back {humanize.count(report.files, 'file')}."]
    if report.removed:
        lines.append(f"Removed: {humanize.count(report.removed, 'file')} that the restore created.")
    lines += [
        f"Changed files are kept in {show(os.fsencode(path))}; 'cesbr undo --remove {path.name}'"
        " deletes them."
        for path in report.kept
    ]
    return humanize.lines(lines)


def troubles_text(report: UndoReport) -> str:
    """Return the warnings and failures."""
    lines = [f"warning: {warning}" for warning in report.warnings]
    lines += [_failure(failure) for failure in report.failed[:_SHOWN]]
    if report.failed:
        lines.append(
            f"Failed: {humanize.count(len(report.failed), 'path')} in total. Run 'cesbr undo' again"
            " when the cause is corrected."
        )
    return humanize.lines(lines)


def _failure(failure: Failure) -> str:
    return f"failed: {show(failure.path)}: {failure.error}"
