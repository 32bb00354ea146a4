"""Write paths of backups to a tar or zip archive."""

from __future__ import annotations

import argparse
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cesbr.archive_file import BufferedSink, archive_file
from cesbr.commands import Command
from cesbr.commands.navigate import add_backup_flag, choose_backup, locate_some
from cesbr.state.resume import absolute
from cesbr.ui import humanize
from cesbr.ui.errors import report_soon
from cesbrfs.archive.export import Counts, Export
from cesbrfs.archive.members import chosen
from cesbrfs.archive.tar_writer import TarWriter
from cesbrfs.archive.zip_writer import ZipWriter
from cesbrfs.errors import CesbrError, PartialError, UsageError
from cesbrfs.restore import ToDirectory, select
from cesbrfs.restore.missing import lacking
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    from cesbr.archive_file import Write
    from cesbr.session import Context
    from cesbrfs.vfs.entries import ResolvedPath

_FORMATS: Final = ("tar", "zip")
_COMPRESSED: Final = {".gz": "gzip", ".tgz": "gzip", ".xz": "xz", ".zst": "zstd", ".bz2": "bzip2"}


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "paths",
        metavar="PATH",
        nargs="*",
        help="what to export, with wildcards (default with --backup: all of that backup)",
    )
    add("-o", "--output", metavar="FILE", help="write to this file (default: standard output)")
    add(
        "--format",
        choices=_FORMATS,
        help="the format (default: zip for a FILE that ends with .zip, else tar)",
    )
    add(
        "-S",
        "--sparse",
        action="store_true",
        help="tar: leave holes of files out, for GNU tar and bsdtar",
    )
    add_backup_flag(parser)


def _format(arguments: argparse.Namespace) -> str:
    """Return the format; UsageError for options that conflict."""
    suffix = Path(arguments.output or "").suffix.lower()
    given: str | None = arguments.format
    if program := _COMPRESSED.get(suffix):
        raise UsageError(
            f"export does not compress tar archives. Use 'cesbr export … | {program} > FILE'."
        )
    chosen_format = given or ("zip" if suffix == ".zip" else "tar")
    if arguments.sparse and chosen_format != "tar":
        raise UsageError("--sparse needs --format tar.")
    return chosen_format


async def _export(context: Context, arguments: argparse.Namespace) -> int:
    archive_format = _format(arguments)
    to_file = arguments.output not in (None, "-")
    if not to_file and context.out.terminal:
        raise UsageError(
            "An archive would confuse the terminal. Redirect it with > or |, or pass -o FILE."
        )
    if not arguments.paths and arguments.backup is None:
        raise UsageError("Export what? Name paths, or a whole backup with --backup ID.")
    backup = await choose_backup(context, arguments.backup, arguments.paths)
    located, missing = await locate_some(context, arguments.paths or ["."], backup)
    run = _Run(context, chosen(place for _, place in located))
    await run.name_lacking()
    async with AsyncExitStack() as stack:
        sink: Write = context.out.data
        if to_file:
            target = absolute(arguments.output)
            sink = await stack.enter_async_context(archive_file(target))
        counts, size = await run.write(BufferedSink(sink), archive_format, arguments.sparse)
    if counts.sockets:
        context.out.note(
            f"{humanize.count(counts.sockets, 'socket')} left out; the programs that listen on"
            " them create them again."
        )
    if to_file:
        entries, written = humanize.count(counts.entries, "entry", "entries"), humanize.size(size)
        await context.out.result(
            {
                "target": str(target),
                "format": archive_format,
                "entries": counts.entries,
                "bytes": counts.bytes,
                "failed": [{"path": path, "error": reason} for path, reason in run.failed],
            },
            f"Exported {entries}, {written}, to {show(bytes(target))}.\n",
        )
    return PartialError.exit_code if run.failed else missing


class _Run:
    """One export, and what failed: escaped paths and reasons."""

    def __init__(self, context: Context, places: list[ResolvedPath]) -> None:
        self._context: Final = context
        self._places: Final = places
        self.failed: Final[list[tuple[str, str]]] = []

    def fail(self, path: str, error: CesbrError) -> None:
        """Report what is not in the archive as it should be."""
        self.failed.append((path, error.message))
        report_soon(CesbrError(f"{path}: {error.message}"), self._context.out)

    async def name_lacking(self) -> None:
        """Report what the backups lack of the chosen paths."""
        view = await self._context.view()
        for lost in await lacking(view, select(self._places), ToDirectory(Path("/"))):
            self.fail(show(lost.path), CesbrError(lost.reason))

    async def write(
        self, sink: BufferedSink, archive_format: str, sparse: bool
    ) -> tuple[Counts, int]:
        """Write the archive; return the counts, and its size in bytes."""
        view = await self._context.view()
        make = ZipWriter if archive_format == "zip" else TarWriter
        with self._context.out.progress("Exporting", results=True) as progress:

            def show_counts(counts: Counts) -> None:
                progress.update(files=counts.entries, bytes=counts.bytes)

            export = Export(view, make(sink.write), self.fail, show_counts, sparse=sparse)
            await export.run(self._places)
            await sink.flush()
        return export.counts, sink.written


COMMANDS: Final = (
    Command(
        "export",
        "Write files and directories to a tar or zip archive.",
        "export --backup latest redmine/volumes/files -o /tmp/files.tar",
        _arguments,
        _export,
        "A tar archive has what a restore writes: owners, modes, times, extended attributes, ACLs,"
        " links and special files.  A zip archive has modes, times and symlinks.  What cannot be"
        " read, or what zip cannot contain, is named, and the exit code is 3.",
    ),
)
