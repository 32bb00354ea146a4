"""The texts of the panes: help, metadata, content, differences.  Pure."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from cesbr.browser.messages import LineStyle, TextLine
from cesbr.ui import humanize
from cesbr.ui.diff import for_terminal
from cesbr.ui.file_content import looks_binary
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    from cesbr.commands.navigate import DescribedBackup
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.repo.format.model import Node

PREVIEW_BYTES: Final = 64 << 10
"""The beginning of a file that is read for a preview."""
_HEX_BYTES: Final = 2 << 10
_HEX_COLUMNS: Final = 8
_DIFF_NAMES: Final = 2
"""Lines of a unified diff that name both sides."""

_KEYS: Final = (
    ("↑ ↓, j k", "move the cursor; PageUp, PageDown, Home, End"),
    ("Enter, →", "open a directory; for a file, go to the right pane"),
    ("←, Backspace", "go up, or back to the list"),
    ("Tab", "change between the list and the right pane"),
    ("Space", "select what the cursor is on for a restore, or deselect it"),
    ("p", "preview: metadata and the beginning of the content"),
    ("v", "versions in all backups; in the right pane, Enter goes to one"),
    ("d", "differences from the instance"),
    ("/", "show only names that contain a text; Esc shows all"),
    ("r", "plan a restore of the selection; Enter there leaves and restores"),
    ("F5", "read the directory again"),
    ("?", "this help"),
    ("q, ^C", "quit; the selection is kept"),
    ("mouse", "click to move, click again to open, wheel to scroll"),
)
HELP: Final = (
    *(TextLine(f"{keys:<14}{meaning}") for keys, meaning in _KEYS),
    TextLine(""),
    TextLine("* selected   + inside of a selected directory"),
)


def metadata(node: Node, name: bytes) -> list[TextLine]:
    """Return the lines that describe an entry."""
    user, group = humanize.owner(node)
    kind = {"dir": "directory", "symlink": "symbolic link"}.get(node.type, node.type)
    size = f"{humanize.size(node.size)}  " if node.type == "file" else ""
    lines = [
        TextLine(show(name), "title"),
        TextLine(f"{kind}  {size}{stat.filemode(node.mode)}  {user}:{group}", "faint"),
        TextLine(f"modified {humanize.local_time(node.mtime_ns)}", "faint"),
    ]
    if node.type == "symlink":
        lines.append(TextLine(f"-> {show(node.target)}"))
    return lines


def backup_lines(backup: Backup, described: DescribedBackup, status: str) -> list[TextLine]:
    """Return the lines that describe a backup."""
    rows = {
        "Time": humanize.local_time(backup.time_ns),
        "Status": status,
        "Size": humanize.size(described.size),
        "Host": described.host,
        "Note": described.note or "",
        "Dogus": ", ".join(described.dogus),
    }
    lines = [TextLine(f"{name + ':':<8} {value}") for name, value in rows.items() if value]
    return [TextLine(show(os.fsencode(backup.id)), "title"), *lines]


def content(data: bytes, size: int) -> list[TextLine]:
    """Return the lines of a preview of `data`, the beginning of a file of `size` bytes."""
    if not size:
        return [TextLine("The file is empty.", "faint")]
    if looks_binary(data):
        shown = data[:_HEX_BYTES]
        lines = [TextLine(line) for line in _hex(shown)]
    else:
        shown = data
        text = data.decode("utf-8", "replace").removesuffix("\n")
        lines = [TextLine(line.removesuffix("\r").expandtabs()) for line in text.split("\n")]
    if size > len(shown):
        rest = humanize.size(size - len(shown))
        lines.append(TextLine(f"({rest} more; 'cesbr less' shows all)", "faint"))
    return lines


def _hex(data: bytes) -> Iterator[str]:
    """Yield lines of offset, bytes in hex, and characters."""
    for at in range(0, len(data), _HEX_COLUMNS):
        part = data[at : at + _HEX_COLUMNS]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)  # noqa: PLR2004 - ASCII
        yield f"{at:08x}  {part.hex(' '):<{_HEX_COLUMNS * 3}} {text}"


def unified_diff(text: str) -> list[TextLine]:
    """Return the lines of a unified diff, or of the reason why there is none."""
    styles: Sequence[tuple[str, LineStyle]] = (
        ("@@", "hunk"), ("-", "removed"), ("+", "added"), ("\\ ", "faint"),
    )  # fmt: skip
    lines = []
    shown = for_terminal(text.removesuffix("\n"), colours=False)
    for number, line in enumerate(shown.split("\n")):
        style: LineStyle = next((style for begin, style in styles if line.startswith(begin)), "")
        if number < _DIFF_NAMES and text.startswith("---"):
            style = "title"
        lines.append(TextLine(line.expandtabs(), style))
    return lines
