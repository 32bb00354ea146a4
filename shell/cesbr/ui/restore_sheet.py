"""A restore as people read it: the sheet before it, the report after it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from cesbr.ui import humanize
from cesbr.ui.table import fitted, pairs
from cesbrfs.restore.overwrite import Action, Overwrite
from cesbrfs.restore.summary import fate, shares, there_already
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    from cesbrfs.restore import PlannedDirectory, PlannedFile, Refused, RestorePlan, RestoreReport
    from cesbrfs.restore.report import LostRange
    from cesbrfs.restore.summary import PlanShare

_SHOWN: Final = 20
"""Lines of one kind that are shown; --json has them all."""
_RANGES: Final = 8
"""Lost ranges of a file that are shown."""


def plan_text(planned: RestorePlan, available: int | None) -> str:
    """Return the sheet: the chosen paths, existing files, and the totals.

    `available` is the width of the terminal, None where nobody looks.
    """
    parts = [part(planned, available) for part in (_chosen, _there, _totals)]
    return "\n".join(filter(None, parts))


def denied_text(denied: str | None) -> str:
    """Return a line with the reason why the restore itself would be denied."""
    return "" if denied is None else humanize.lines([f"Denied: {denied}"])


def _chosen(planned: RestorePlan, available: int | None) -> str:
    """Return a line for each chosen path: from where, how much, where to, what becomes of it."""
    chosen = shares(planned)
    rows = [
        (
            show(share.source[0]),
            f"{share.files:,}",
            humanize.size(share.bytes),
            f"{share.new:,}",
            f"{share.replaced:,}",
            f"{share.kept:,}",
            _from_to(share),
        )
        for share in chosen[:_SHOWN]
    ]
    headings = ("Backup", "Files", "Size", "New", "Replaced", "Kept", "Path")
    text = fitted(
        rows, headings, available, right=headings[1:6], spare=("Files", "Size", "New", "Kept")
    )
    return text + _more(len(chosen))


def _from_to(share: PlanShare) -> str:
    """Return the path, and its new name where it gets one."""
    path = "/".join(map(show, share.source[1:])) or "/"
    if share.parts[-1:] == share.source[-1:] or not share.parts:
        return path
    return f"{path} -> {show(share.parts[-1])}"


def _there(planned: RestorePlan, available: int | None) -> str:
    """Return a line for each file in whose place something lies."""
    rows = [
        (
            fate(planned, file),
            f"{humanize.size(file.there[0])} of {humanize.local_time(file.there[1])}",
            f"{humanize.size(file.size)} of {humanize.local_time(file.mtime_ns)}",
            show(file.path),
        )
        for file in islice(_worth_showing(planned), _SHOWN)
        if file.there is not None
    ]
    if not rows:
        return ""
    headings = ("", "Existing", "In the backup", "Path")
    text = fitted(rows, headings, available, spare=("In the backup", "Existing"))
    return text + _more(planned.existing - planned.unchanged)


def _worth_showing(planned: RestorePlan) -> Iterator[PlannedFile]:
    return (f for f in there_already(planned) if f.action is not Action.UNCHANGED)


def _more(number: int) -> str:
    return f"and {number - _SHOWN:,} more\n" if number > _SHOWN else ""


def _totals(planned: RestorePlan, available: int | None) -> str:
    files = humanize.count(planned.files, "file")
    directories = humanize.count(planned.directories, "directory", "directories")
    rows = [
        ("To:", show(os.fsencode(planned.target))),
        ("Writes:", f"{files}, {directories}, {humanize.size(planned.bytes)}"),
    ]
    if planned.done:
        rows.append(
            (
                "Already done:",
                f"{humanize.count(planned.done, 'file')}, {humanize.size(planned.done_bytes)}",
            )
        )
    rows += _rooms(planned)
    if planned.will_overwrite:
        same = planned.overwrite is not Overwrite.IF_CHANGED and planned.will_look_same
        more = f", {same:,} of them unchanged" if same else ""
        rows.append(("Replaces:", humanize.count(planned.will_overwrite, "existing file") + more))
    rows += _deletions(planned)
    if planned.keep is not None and planned.keep.files:
        where = ", ".join(show(path) for path in planned.keep.shown(planned.target))
        kept = f"{humanize.count(planned.keep.files, 'file')}, {humanize.size(planned.keep.size)}"
        rows.append(("Keeps:", f"{kept} in {where}, for 'cesbr undo'"))
    if planned.unchanged:
        rows.append(("Unchanged:", f"{humanize.count(planned.unchanged, 'file')}, left unchanged"))
    if planned.will_skip:
        rows.append(("Skips:", f"{humanize.count(planned.will_skip, 'file')} (see --overwrite)"))
    rows += _listed("Cannot:", [f"{show(r.path)}: {r.reason}" for r in planned.refused])
    rows += _listed("Closed:", [_closed(directory) for directory in planned.closed])
    rows += _listed("Left out:", _grouped(planned.left_out))
    rows += _listed("Warning:", planned.warnings)
    return pairs(rows, available)


def _deletions(planned: RestorePlan) -> list[tuple[str, str]]:
    """Return what is deleted: the number and size, then the paths of directories and files."""
    extras = planned.extras
    if not extras:
        return []
    files = sum(not extra.is_directory for extra in extras)
    total = (
        f"{humanize.count(files, 'file')},"
        f" {humanize.count(len(extras) - files, 'directory', 'directories')},"
        f" {humanize.size(sum(extra.size for extra in extras))} that the backup does not have"
    )
    paths = [show(extra.path) + "/" * extra.is_directory for extra in extras]
    return _listed("Deletes:", [total, *paths])


def _rooms(planned: RestorePlan) -> list[tuple[str, str]]:
    """Return how much is free at the target, and elsewhere where the restore writes, too."""
    if planned.free is None:
        return []
    _, *others = planned.rooms.values()
    shown = [f"{humanize.size(r.free)} in {show(r.path)}" for r in others if r.needed]
    return [("Free space:", ", ".join([humanize.size(planned.free), *shown]))]


def _closed(directory: PlannedDirectory) -> str:
    return f"{show(directory.path)}: not accessible to its owner; opened during the restore"


def _grouped(left_out: Sequence[Refused]) -> list[str]:
    """Return one line for each reason, with the first path that it is true of."""
    paths: dict[str, list[str]] = {}
    for refused in left_out:
        paths.setdefault(refused.reason, []).append(show(refused.path))
    return [
        f"{names[0]}{f' and {len(names) - 1:,} more' if names[1:] else ''}: {reason}"
        for reason, names in paths.items()
    ]


def _listed(heading: str, lines: list[str]) -> list[tuple[str, str]]:
    rows = [("" if number else heading, line) for number, line in enumerate(lines[:_SHOWN])]
    if len(lines) > _SHOWN:
        rows.append(("", f"and {len(lines) - _SHOWN:,} more"))
    return rows


def report_text(report: RestoreReport) -> str:
    """Return what was done, and what was not."""
    done = f"{humanize.count(report.files, 'file')}, {humanize.size(report.bytes)}"
    lines = [f"Restored {done} to {show(os.fsencode(report.target))}."]
    if report.done:
        lines.append(f"Restored before: {humanize.count(report.done, 'file')}.")
    if report.unchanged:
        lines.append(f"Unchanged: {humanize.count(report.unchanged, 'file')}.")
    if report.deleted or report.deleted_directories:
        directories = humanize.count(report.deleted_directories, "directory", "directories")
        lines.append(f"Deleted {humanize.count(report.deleted, 'file')}, {directories}.")
    if report.skipped:
        lines.append(f"Skipped: {humanize.count(report.skipped, 'file')} (see --overwrite).")
    lines += [f"left out: {line}" for line in _grouped(report.left_out)]
    return humanize.lines(lines)


def troubles_text(report: RestoreReport) -> str:
    """Return what went wrong: warnings, then the failures by their reason, and how many."""
    lines = [f"warning: {warning}" for warning in report.warnings]
    reasons: dict[str, list[bytes]] = {}
    for failure in report.failed:
        reasons.setdefault(failure.error, []).append(failure.path)
    for reason, paths in reasons.items():
        if len(paths) == 1:
            lines.append(f"failed: {show(paths[0])}: {reason}")
            continue
        lines.append(f"failed: {humanize.count(len(paths), 'path')}: {reason}")
        lines += [f"  {show(path)}" for path in paths[:_SHOWN]]
        if len(paths) > _SHOWN:
            lines.append(f"  and {len(paths) - _SHOWN:,} more (--json lists all of them)")
    if report.failed:
        lines.append(f"Failed: {humanize.count(len(report.failed), 'path')} in total.")
    return humanize.lines(lines)


def salvaged_text(report: RestoreReport) -> str:
    """Return what was salvaged of damaged files, and the ranges that are lost."""
    lines: list[str] = []
    for salvaged in report.salvaged[:_SHOWN]:
        intact = humanize.size(salvaged.size - salvaged.lost_bytes)
        lines.append(
            f"salvaged: {show(salvaged.saved_as)}: {intact} of {humanize.size(salvaged.size)};"
            f" lost {_ranges(salvaged.lost)}"
        )
    if len(report.salvaged) > _SHOWN:
        more = humanize.count(len(report.salvaged) - _SHOWN, "file")
        lines.append(f"and {more} more (--json lists all of them)")
    return humanize.lines(lines)


def _ranges(lost: Sequence[LostRange]) -> str:
    """Return ranges of bytes, the first and last byte of each."""
    text = ", ".join(f"{at.offset}-{at.offset + at.length - 1}" for at in lost[:_RANGES])
    more = len(lost) - _RANGES
    return f"bytes {text}" + (f" and {humanize.count(more, 'range')} more" if more > 0 else "")
