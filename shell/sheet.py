"""A restore as people read it: the sheet before it, the report after it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from cesbrfs.paths import show
from cesbrfs.restore.sheet import fate, shares, there_already
from shell import render
from shell.table import fitted, pairs

if TYPE_CHECKING:
    from cesbrfs.restore import Refused, RestorePlan, RestoreReport
    from cesbrfs.restore.sheet import Share

_SHOWN: Final = 20
"""Lines of one kind that are shown; --json has them all."""


def plan_text(planned: RestorePlan, available: int | None) -> str:
    """Return the sheet: the chosen paths, what lies there already, and the totals.

    `available` is the width of the terminal, None where nobody looks.
    """
    parts = [part(planned, available) for part in (_chosen, _there, _totals)]
    return "\n".join(filter(None, parts))


def denied_text(denied: str | None) -> str:
    """Return the line below a sheet that tells why the restore itself would be denied."""
    return "" if denied is None else f"Denied: {denied}\n"


def _chosen(planned: RestorePlan, available: int | None) -> str:
    """Return a line for each chosen path: from where, how much, where to, what becomes of it."""
    found = shares(planned)
    rows = [
        (
            show(share.source[0]),
            f"{share.files:,}",
            render.size(share.bytes),
            f"{share.new:,}",
            f"{share.replaced:,}",
            f"{share.kept:,}",
            _from_to(share),
        )
        for share in found[:_SHOWN]
    ]
    headings = ("Backup", "Files", "Size", "New", "Replaced", "Kept", "Path")
    text = fitted(
        rows, headings, available, right=headings[1:6], spare=("Files", "Size", "New", "Kept")
    )
    return text + _more(len(found))


def _from_to(share: Share) -> str:
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
            f"{render.size(file.there[0])} of {render.local_time(file.there[1])}",
            f"{render.size(file.size)} of {render.local_time(file.mtime_ns)}",
            show(file.path),
        )
        for file in islice(there_already(planned), _SHOWN)
        if file.there is not None
    ]
    if not rows:
        return ""
    headings = ("", "What is there", "In the backup", "Path")
    text = fitted(rows, headings, available, spare=("In the backup", "What is there"))
    return text + _more(planned.existing)


def _more(number: int) -> str:
    return f"and {number - _SHOWN:,} more\n" if number > _SHOWN else ""


def _totals(planned: RestorePlan, available: int | None) -> str:
    files = render.count(planned.files, "file")
    folders = render.count(planned.folders, "folder")
    rows = [
        ("To:", show(os.fsencode(planned.target))),
        ("Writes:", f"{files}, {folders}, {render.size(planned.bytes)}"),
    ]
    if planned.done:
        rows.append(
            (
                "Done already:",
                f"{render.count(planned.done, 'file')}, {render.size(planned.done_bytes)}",
            )
        )
    if planned.free is not None:
        rows.append(("Free there:", render.size(planned.free)))
    if planned.will_overwrite:
        rows.append(("Replaces:", render.count(planned.will_overwrite, "existing file")))
    if planned.will_skip:
        rows.append(("Skips:", f"{render.count(planned.will_skip, 'file')} (see --overwrite)"))
    rows += _listed("Cannot:", [f"{show(r.path)}: {r.reason}" for r in planned.refused])
    rows += _listed("Leaves out:", _grouped(planned.left_out))
    return pairs(rows, available)


def _grouped(left_out: Sequence[Refused]) -> list[str]:
    """Return one line for each reason, with the first path that it is true of."""
    paths: dict[str, list[str]] = {}
    for refused in left_out:
        paths.setdefault(refused.reason, []).append(show(refused.path))
    return [
        f"{found[0]}{f' and {len(found) - 1:,} more' if found[1:] else ''}: {reason}"
        for reason, found in paths.items()
    ]


def _listed(heading: str, lines: list[str]) -> list[tuple[str, str]]:
    rows = [("" if number else heading, line) for number, line in enumerate(lines[:_SHOWN])]
    if len(lines) > _SHOWN:
        rows.append(("", f"and {len(lines) - _SHOWN:,} more"))
    return rows


def report_text(report: RestoreReport) -> str:
    """Return what was done, and what was not."""
    done = f"{render.count(report.files, 'file')}, {render.size(report.bytes)}"
    lines = [f"Restored {done}, to {show(os.fsencode(report.target))}."]
    if report.done:
        lines.append(f"Restored before: {render.count(report.done, 'file')}.")
    if report.skipped:
        lines.append(f"Left as they are: {render.count(report.skipped, 'file')}; see --overwrite.")
    lines += [f"warning: {warning}" for warning in report.warnings]
    lines += [f"left out: {line}" for line in _grouped(report.left_out)]
    lines += [f"failed: {show(failure.path)}: {failure.error}" for failure in report.failed]
    return "".join(f"{line}\n" for line in lines)
