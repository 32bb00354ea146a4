"""How what was found looks.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from cesbr.ui import humanize
from cesbr.ui.table import hanging
from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.util.escape import for_json, printable, show

if TYPE_CHECKING:
    from cesbrfs.history.find import Match
    from cesbrfs.vfs.directory_index import IndexedEntry
    from cesbrfs.vfs.timeline import Parts, Timeline

_SIZE_CELLS: Final = 9
_TIME_CELLS: Final = 19
_WIDE: Final = 120
"""Columns of a terminal from which all columns of the table fit."""
_NARROW: Final = 72
"""Cells below which a Backup ID would leave no room for the path."""


def columns_of(line: Timeline, available: int | None) -> dict[str, str]:
    """Return the columns before the path, each with its alignment and width as format() has it.

    They do not depend on what is found, which comes only later.  A narrow terminal gets fewer.
    """
    wide = max((humanize.width(printable(moment.id)) for moment in line.moments), default=4)
    made = {
        "#": f">{len(str(len(line.moments)))}",
        "First": f"<{wide}",
        "Last": f"<{wide}",
        "Size": f">{_SIZE_CELLS}",
        "Modified": f"<{_TIME_CELLS}",
    }
    if available is not None and available < _WIDE:
        del made["First"], made["Modified"]
    if available is not None and available < _NARROW:
        del made["Last"]
    return made


def found_heading(columns: Mapping[str, str]) -> str:
    """Return the line above what is found."""
    return "".join(f"{name:{cells}}  " for name, cells in columns.items()) + "Path\n"


def found_line(
    line: Timeline, match: Match, columns: Mapping[str, str], available: int | None
) -> str:
    """Return the line for a match over several backups, or several lines if it is too long."""
    row = match.row
    cell_texts = {
        "#": str(match.moments.bit_count()),
        "First": printable(line.oldest(match.moments).id),
        "Last": printable(line.newest(match.moments).id),
        "Size": humanize.size(row.size) if row.type == "file" else "-",
        "Modified": humanize.local_time(line.time_of(row, match.moments)),
    }
    before = "".join(f"{cell_texts[name]:{cells}}  " for name, cells in columns.items())
    return hanging(before, _path(match.parts, row), available)


def _path(parts: Parts, row: IndexedEntry) -> str:
    return "/".join(map(show, parts)) + "/" * (row.type == "dir")


def shown(parts: Parts) -> str:
    """Return names from the root on as people see them."""
    return "/" + "/".join(map(show, parts))


def row_json(row: IndexedEntry, time_ns: int) -> dict[str, object]:
    """Return for programs what a row tells; it was modified at `time_ns`."""
    return {
        "type": row.type,
        "size": row.size,
        "mode": f"{row.mode & 0o7777:04o}",
        "uid": row.uid,
        "gid": row.gid,
        "mtime": format_time(time_ns),
    }


def found_json(line: Timeline, match: Match, *, each: bool) -> Iterable[dict[str, object]]:
    """Yield a match for programs; with `each` once for each backup that has it."""
    row, mask = match.row, match.moments
    fields = {**for_json(match.parts[-1]), **row_json(row, line.time_of(row, mask))}
    if each:
        for moment in line.of(mask):
            path = b"/" + b"/".join((*moment.parts, *match.parts))
            yield {**for_json(path, "path"), **fields, "backup": moment.id}
        return
    yield {
        **for_json(b"/".join(match.parts), "path"),
        **fields,
        "first": line.oldest(mask).id,
        "last": line.newest(mask).id,
        "count": mask.bit_count(),
    }
