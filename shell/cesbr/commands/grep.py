"""Search the content of files in one, several or all backups."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from cesbr.commands import Command
from cesbr.commands.history import tell_troubles
from cesbr.criteria import add_backup_options, add_file_options, criteria, period
from cesbr.damage import damaged_files
from cesbr.paths import scope
from cesbr.portal import in_front
from cesbr.ui.grep_lines import GrepLines
from cesbr.ui.stream import LineStream
from cesbrfs.errors import PartialError, UsageError
from cesbrfs.history.grep import Counts, Grep
from cesbrfs.history.line_search import LineSearch, Output, SearchOptions
from cesbrfs.history.search_memo import SearchMemo
from cesbrfs.vfs.content_reader import ContentReader

if TYPE_CHECKING:
    from cesbr.paths import PathScope
    from cesbr.session import Context
    from cesbr.ui.progress import Progress
    from cesbrfs.history.find import Criteria, Match
    from cesbrfs.history.line_search import SearchResult
    from cesbrfs.vfs.timeline import Timeline

_NOTHING_FOUND: Final = 1
_FLUSH_SECONDS: Final = 0.1
_SAVE_SECONDS: Final = 5.0
"""Time to save the results of an interrupted search."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument

    def switch(*names: str, text: str) -> None:
        add(*names, action="store_true", help=text)

    add("pattern", metavar="PATTERN", help="a regular expression of Python, or a text with -F")
    add("paths", metavar="PATH", nargs="*", help="files and directories (default: here)")
    switch("-F", "--fixed-strings", text="the pattern is a text")
    switch("-E", "--extended-regexp", text="it is a regular expression (default)")
    switch("-i", "--ignore-case", text="ignore the case of ASCII letters")
    switch("-w", "--word-regexp", text="match whole words only")
    switch("-v", "--invert-match", text="print the lines that do not match")
    switch("-l", "--files-with-matches", text="print only the paths of files with a match")
    switch("-c", "--count", text="print only the number of matching lines of each file")
    switch("-n", "--line-number", text="print line numbers")
    add("-m", "--max-count", metavar="NUM", type=int, help="stop after NUM lines of a file")
    add("-C", "--context", metavar="NUM", type=int, default=0, help="print NUM lines around each")
    switch("-a", "--text", text="search binary files like text")
    switch("-r", "-R", "--recursive", text="accepted for compatibility: it always is")
    add_backup_options(parser)
    add_file_options(parser)


def _options(arguments: argparse.Namespace, *, numbers: bool) -> SearchOptions:
    for name, value in (("-m", arguments.max_count), ("-C", arguments.context)):
        if value is not None and value < 0:
            raise UsageError(f"{name} requires a number that is not negative.")
    if arguments.fixed_strings and arguments.extended_regexp:
        raise UsageError("-F and -E cannot be combined.")
    output: Output = "lines"
    if arguments.count:
        output = "count"
    if arguments.files_with_matches:
        output = "files"
    lines = output == "lines"
    return SearchOptions(
        pattern=os.fsencode(arguments.pattern),
        fixed=arguments.fixed_strings,
        ignore_case=arguments.ignore_case,
        words=arguments.word_regexp,
        invert=arguments.invert_match,
        output=output,
        max_count=arguments.max_count,
        context=arguments.context if lines else 0,
        text=arguments.text,
        numbers=lines and (numbers or arguments.line_number or arguments.context > 0),
    )


async def _grep(context: Context, arguments: argparse.Namespace) -> int:
    out = context.out
    search = LineSearch(_options(arguments, numbers=out.as_json))
    wanted, between = replace(criteria(arguments), types=frozenset({"file"})), period(arguments)
    view = await context.view()
    run = _Run(context, search, SearchMemo(view.repository, search.options))
    with out.progress("Searching", results=True) as progress:
        await run.memo.load()
        try:
            async with (
                ContentReader.open(view.repository) as reader,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(run.flush_regularly)
                for path in arguments.paths or ["."]:
                    everywhere = arguments.all or between is not None
                    where = await scope(
                        context, path, arguments.backup, everywhere=everywhere, between=between
                    )
                    await run.search(where, wanted, reader, progress, arguments.line_number)
                nursery.cancel_scope.cancel()
        finally:  # an interrupted search continues where it was
            with trio.move_on_after(_SAVE_SECONDS, shield=True):
                await run.memo.save()
                await context.session.memo(view).save()
        await run.lines.flush()
    code = 0
    for line in run.timelines:
        code = await tell_troubles(context, line) or code
    if damaged_files(view.repository.damaged_files.all):  # reported after the command
        code = PartialError.exit_code
    return code or (0 if run.matched else _NOTHING_FOUND)


class _Run:
    """One search: its cached results, its output, and whether anything was found."""

    def __init__(self, context: Context, search: LineSearch, memo: SearchMemo) -> None:
        self._out: Final = context.out
        self._search: Final = search
        self._headed = not context.out.terminal or context.out.as_json
        self._files = 0
        self.memo: Final = memo
        self.lines: Final = LineStream(context.out)
        self.timelines: Final[list[Timeline]] = []
        self.matched = False

    async def flush_regularly(self) -> None:
        """Print lines while the search continues without results."""
        while True:
            await trio.sleep(_FLUSH_SECONDS)
            await self.lines.flush()

    async def search(
        self,
        where: PathScope,
        wanted: Criteria,
        reader: ContentReader,
        progress: Progress,
        numbered: bool,
    ) -> None:
        """Search the files of one path."""
        formatted = GrepLines(where.timeline, self._search.options, numbered=numbered)
        self.timelines.append(where.timeline)

        async def found(match: Match, result: SearchResult) -> None:
            self.matched = self.matched or result.count > 0
            if self._out.as_json:
                for fields in formatted.json(match, result):
                    await self.lines.add(self._out.json(fields) + "\n")
                return
            for line in formatted.text(match, result):
                if not self._headed:
                    self._headed = True
                    await self.lines.add(formatted.heading())
                await self.lines.add(line, painted=True)

        def show(counts: Counts) -> None:
            progress.update(files=counts.files, bytes=counts.bytes)

        grep = Grep(
            where.timeline,
            self._search,
            self.memo,
            reader,
            interruptibly=in_front,
            found=found,
            progress=show,
        )
        for path in where.paths:
            await grep.run(path, wanted)


COMMANDS: Final = (
    Command(
        "grep",
        "Search the content of files in one, several or all backups.",
        "grep -i 'day [0-9]' redmine/volumes/files",
        _arguments,
        _grep,
        "At the root all backups are searched, inside a backup that one.  A content that several"
        " backups or files share is read once.  Each path leads into the newest backup with this"
        " content; over several backups, their number is before it.  The exit code is 0 if a line"
        " was found, 1 if none was, and 3 if something could not be read.",
        looks_back=True,
        all_backups=True,
    ),
)
