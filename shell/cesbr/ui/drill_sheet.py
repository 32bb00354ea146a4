"""What `drill` prints."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cesbr.ui import humanize
from cesbr.ui.table import fitted
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    from cesbr.state.drills import Drill, DrillHistory


def share_text(share: float) -> str:
    """Return which part of the files was restored."""
    return "all files" if share >= 1 else f"{share * 100:g}% of the files"


def result_text(
    results: Sequence[tuple[str, bool, int, int]],
    backup: str,
    share: float,
    available: int | None,
) -> str:
    """Return the table of a drill, of (dogu, whether it passed, files, bytes)."""
    rows = [
        (dogu, "restored" if passed else "failed", f"{files:,}", humanize.size(size))
        for dogu, passed, files, size in results
    ]
    headings = ("Dogu", "Result", "Files", "Size")
    table = fitted(rows, headings, available, right=headings[2:])
    return f"Backup {show(os.fsencode(backup))}, {share_text(share)}:\n{table}"


def drills_text(history: DrillHistory, dogus: Sequence[str], available: int | None) -> str:
    """Return the table of the last drills."""
    if not dogus:
        return "No drill is recorded. Run 'cesbr drill'.\n"
    rows = [
        (dogu, _when(history.passed.get(dogu)), _when(history.failed.get(dogu))) for dogu in dogus
    ]
    return fitted(rows, ("Dogu", "Restored", "Failed"), available)


def _when(drill: Drill | None) -> str:
    if drill is None:
        return "-"
    age = humanize.age(max(0, time.time() - drill.time))
    return f"{age} ago, {share_text(drill.share)} of {show(os.fsencode(drill.backup))}"
