"""What the panes show, read from the backups and compared with the instance."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, cast

from cesbr.browser.messages import LineStyle, Parts, TextLine
from cesbr.browser.texts import PREVIEW_BYTES, content, metadata, unified_diff
from cesbr.cli.arguments import command_parser
from cesbr.commands import find_command
from cesbr.commands.diff import compare_live
from cesbr.commands.history import version_rows, which_are_live
from cesbr.session import Context
from cesbr.ui import humanize
from cesbr.ui.diff import change_line, summary
from cesbr.ui.output import Output
from cesbr.ui.table import fitted
from cesbrfs.catalog import directory_names
from cesbrfs.errors import UsageError
from cesbrfs.history.versions import versions
from cesbrfs.util.escape import show
from cesbrfs.vfs.entries import VirtualFile
from cesbrfs.vfs.timeline import of_backups

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from cesbrfs.history.diff import Change, Mark
    from cesbrfs.vfs.timeline import ReadError

_NAMES: Final = 200
"""Names of a directory in its preview."""
_CHANGES: Final = 500
"""Differences of a directory that are shown."""
_TIME: Final = len("2026-11-28 07:15")
_MARK_STYLES: Final[Mapping[str, LineStyle]] = {"+": "added", "-": "removed"}


async def preview_lines(context: Context, parts: Parts) -> list[TextLine]:
    """Return the metadata of an entry, and the beginning of its content."""
    view = await context.view()
    entry = await view.at(parts)
    node = entry.node
    lines = [*metadata(node, parts[-1]), TextLine("")]
    if node.type == "dir":
        names = sorted((await view.children(entry)).items())
        lines.append(TextLine(humanize.count(len(names), "entry", "entries"), "faint"))
        lines += [
            TextLine(show(name) + "/" * (below.node.type == "dir"))
            for name, below in names[:_NAMES]
        ]
        if len(names) > _NAMES:
            lines.append(TextLine(f"and {len(names) - _NAMES:,} more", "faint"))
    elif node.type == "file":
        file = await view.content(entry)
        if isinstance(file, VirtualFile):
            lines += content(file.content[:PREVIEW_BYTES], len(file.content))
        else:
            lines += content(await file.read(0, PREVIEW_BYTES), file.size)
    return lines


async def version_lines(context: Context, parts: Parts) -> list[TextLine]:
    """Return the versions of a file over all backups; each line leads to the newest one with it."""
    if len(parts) == 1 or parts[0] == directory_names.SNAPSHOTS:
        raise UsageError("Only files in a backup have versions. Open a backup first.")
    view = await context.view()
    every = (await view.backups()).by_name.values()
    line = await of_backups(view, context.session.memo(view), every)
    path = parts[1:]
    found = await versions(line, path)
    if any(version.row.type == "dir" for version in found.versions):
        raise UsageError("Only files have versions. Open the directory and choose a file.")
    live = await which_are_live(context, line, path, found)
    await line.index.save()
    rows = version_rows(line, found, live)
    table = fitted(
        [(count, last, size, time[:_TIME], marks) for count, _, last, size, time, marks in rows],
        ("#", "Last", "Size", "Modified", ""),
        None,
        right=("#", "Size"),
    ).splitlines()
    lines = [TextLine(f"Versions of {show(path[-1])}", "title"), TextLine(table[0], "faint")]
    for text, version in zip(table[1:], found.versions, strict=True):
        lines.append(TextLine(text, "", (*line.newest(version.moments).parts, *path)))
    if found.events[-1].what == "vanished":
        backup = found.events[-1].moment.id
        lines.append(TextLine(f"It no longer exists as of backup {backup}.", "faint"))
    if live and not any(live) and live[0] is not None:
        lines.append(TextLine("None of them equals the content on the instance.", "faint"))
    return [*lines, *_troubles(line.troubles)]


async def diff_lines(context: Context, parts: Parts) -> list[TextLine]:
    """Return the differences of the instance from an entry of a backup."""
    if parts[0] == directory_names.SNAPSHOTS:
        raise UsageError("A snapshot of no backup cannot be compared with the instance.")
    view = await context.view()
    backup = (await view.backups()).by_name[parts[0]]
    line = await of_backups(view, context.session.memo(view), [backup])
    comparison = await compare_live(context, line, parts[1:])
    is_directory = (await view.at(parts)).node.type == "dir"
    lines = [TextLine(f"{show(parts[-1])}: changes on the instance", "title")]
    marks: Counter[Mark] = Counter()
    # A generator that is left before its end must be closed.
    closing = aclosing(cast("AsyncGenerator[Change, None]", comparison.changes))
    async with closing as changes:
        async for change in changes:
            if marks.total() == _CHANGES:
                lines.append(TextLine("and more; 'cesbr diff' shows all of them", "faint"))
                break
            marks[change.mark] += 1
            shown = change_line(change, None).rstrip("\n")
            lines.append(TextLine(shown, _MARK_STYLES.get(change.mark, "")))
            if not is_directory and (text := await comparison.content(change)):
                lines += unified_diff(text)
    await line.index.save()
    ground = comparison.ground
    assert ground is not None
    if marks or not ground.left_out:
        lines.append(TextLine(summary(marks), "faint"))
    for left in ground.left_out:
        name = "/".join(map(show, left.parts))
        lines.append(TextLine(f"Not compared: {name}: {left.reason}", "faint"))
    for uncovered in comparison.remarks.uncovered:
        name = "/".join(map(show, uncovered))
        lines.append(TextLine(f"Not compared: only one side covers {name}.", "faint"))
    return [*lines, *_troubles(comparison.troubles)]


def _troubles(troubles: Iterable[ReadError]) -> list[TextLine]:
    return [TextLine(trouble.message, "error") for trouble in troubles]


# The plan of a restore


async def plan_lines(context: Context, *, in_place: bool) -> list[TextLine]:
    """Return what ``cesbr plan`` prints for the selection."""
    out = _Transcript()
    command = find_command("plan")
    arguments = command_parser(command).parse_args(["--in-place"] * in_place)
    await command.run(Context(context.session, out, no_init=True), arguments)
    return out.lines


class _Transcript(Output):
    """Keeps what a command prints: the terminal belongs to the browser."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.lines: list[TextLine] = []

    async def text(self, text: str, *, painted: bool = False) -> None:  # noqa: ARG002 - not painted
        """Keep the lines of a result."""
        self.lines += map(TextLine, text.rstrip("\n").split("\n"))

    def event(self, name: str, fields: Mapping[str, object], text: str) -> None:  # noqa: ARG002 - for JSON
        """Keep a note."""
        self.lines += [TextLine(line, "faint") for line in text.rstrip("\n").split("\n")]
