"""How differences look.  Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from cesbr.ui.table import hanging
from cesbrfs.history.diff import Change, Mark
from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.util.escape import for_json, show


def change_line(change: Change, available: int | None, indent: str = "") -> str:
    """Return a difference as a line: its mark and its path, a directory's with a slash.

    On a terminal with `available` columns, a long path continues on the next line.
    """
    row = change.after or change.before
    assert row is not None
    path = "/".join(map(show, change.parts)) + "/" * (row.type == "dir")
    return hanging(f"{indent}{change.mark}  ", path, available)


def change_json(change: Change) -> dict[str, object]:
    """Return a difference for programs; null for what neither side has."""
    fields: dict[str, object] = {
        **for_json(b"/".join(change.parts), "path"),
        "change": change.mark,
    }
    for side, row in (("before", change.before), ("after", change.after)):
        fields[side] = row and {
            "type": row.type,
            "size": row.size,
            "mode": f"{row.mode & 0o7777:04o}",
            "uid": row.uid,
            "gid": row.gid,
            "mtime": None if row.mtime_ns is None else format_time(row.mtime_ns),
        }
    return fields


_COLOURS: Final = (("@@", "36"), ("-", "31"), ("+", "32"), ("\\ ", "2"))
"""What the lines of a unified diff begin with, and how git paints them."""
_NAMES: Final = 2
"""The lines at its begin that name both sides."""
_CONTROL: Final = {
    code: f"^{chr(code ^ 0x40)}" for code in (*range(32), 0x7F) if chr(code) not in "\t\n"
}
_CONTROL.update({code: f"\\x{code:02x}" for code in range(0x80, 0xA0)})


def for_terminal(text: str, *, colours: bool) -> str:
    """Return a unified diff as a terminal may get it: ``^M`` and ``^[`` are seen and do nothing."""
    text = text.translate(_CONTROL)
    if not colours or not text.startswith("---"):  # or why there is none
        return text
    lines = text.split("\n")
    painted = [f"\x1b[1m{line}\x1b[0m" for line in lines[:_NAMES]]
    return "\n".join([*painted, *map(_painted, lines[_NAMES:])])


def _painted(line: str) -> str:
    code = next((code for begin, code in _COLOURS if line.startswith(begin)), None)
    return line if code is None else f"\x1b[{code}m{line}\x1b[0m"


def summary(marks: Mapping[Mark, int]) -> str:
    """Return how many of each mark there are, in a sentence."""
    words: dict[Mark, str] = {"+": "added", "-": "removed", "M": "changed", "T": "of another type"}
    words["U"] = "with other metadata"
    counted = [f"{marks[mark]:,} {word}" for mark, word in words.items() if marks.get(mark)]
    return ", ".join(counted) + "." if counted else "No differences."
