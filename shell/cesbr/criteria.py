"""Options of commands that search: which backups, and which files in them."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterable
from typing import Any, Final

from cesbrfs.errors import UsageError
from cesbrfs.history.find import TYPES, Criteria
from cesbrfs.util.dates import parse_when

_SIZE: Final = re.compile(r"([+-]?)(\d+)(?:([kmgt])(?:i?b)?|b)?", re.IGNORECASE)
_UNITS: Final = "kmgt"
_END_NS: Final = 1 << 63


def add_backup_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that choose backups."""
    add = parser.add_argument
    add(
        "--backup",
        metavar="ID",
        action="append",
        default=[],
        help="search this backup (repeatable)",
    )
    add("--all", action="store_true", help="search all backups, as at the root")
    add("--since", metavar="TIME", help="search backups of that time or later: '2 weeks ago'")
    add("--until", metavar="TIME", help="search backups of that time or earlier: 2026-11-22")


def period(arguments: argparse.Namespace) -> tuple[int, int] | None:
    """Return the first and the last time, in ns, of the backups to search; None for all."""
    if not (arguments.since or arguments.until):
        return None
    if arguments.backup:
        raise UsageError("--backup and --since or --until cannot be combined.")
    now = time.time_ns()
    since = parse_when(arguments.since, now) if arguments.since else 0
    until = parse_when(arguments.until, now, last=True) if arguments.until else _END_NS
    return since, until


def add_file_options(parser: argparse.ArgumentParser, *, single_dash: bool = False) -> None:
    """Declare the options that choose files; with `single_dash` also as find(1) writes them."""

    def add(name: str, **how: Any) -> None:  # noqa: ANN401 - argparse's own
        parser.add_argument(f"--{name}", *[f"-{name}"] * single_dash, **how)

    def repeatable(name: str, metavar: str, text: str, dest: str | None = None) -> None:
        add(name, metavar=metavar, dest=dest, action="append", default=[], help=text)

    repeatable("name", "GLOB", "match names (repeatable)")
    repeatable("iname", "GLOB", "like --name, ignoring case")
    repeatable("path", "GLOB", "match paths (repeatable)", "globs")
    repeatable("regex", "REGEX", "match a part of the path (repeatable)")
    if single_dash:
        repeatable("type", "TYPE", "f, d, l or restic's types (repeatable)")
    repeatable("size", "SIZE", "files: +10M, -4k, 1024")
    add_time = parser.add_argument
    newer = ["--newer", *["-newermt"] * single_dash]
    add_time(*newer, metavar="TIME", help="modified at that time or later: '2 days ago'")
    add_time("--older", metavar="TIME", help="modified before that time: 2026-11-22")


def criteria(arguments: argparse.Namespace) -> Criteria:
    """Return the criteria for files; UsageError for invalid ones."""
    if arguments.name and arguments.iname:
        raise UsageError("Pass either --name or --iname.")
    least, most = _bounds(arguments.size)
    now = time.time_ns()
    return Criteria(
        names=arguments.name or arguments.iname,
        ignore_case=bool(arguments.iname),
        paths=arguments.globs,
        regexes=arguments.regex,
        types=frozenset(map(_type, getattr(arguments, "type", ()))),
        least=least,
        most=most,
        newer_ns=parse_when(arguments.newer, now) if arguments.newer else None,
        older_ns=parse_when(arguments.older, now) - 1 if arguments.older else None,
    )


def _type(text: str) -> str:
    if text in TYPES.values():
        return text
    if text not in TYPES:
        known = ", ".join(f"{short} ({name})" for short, name in TYPES.items())
        raise UsageError(f"Unknown type {text!r}. Use one of {known}.")
    return TYPES[text]


def _bounds(sizes: Iterable[str]) -> tuple[int | None, int | None]:
    """Return the least and the most bytes that ``+10M``, ``-4k`` and ``1024`` ask for."""
    least: int | None = None
    most: int | None = None
    for text in sizes:
        match = _SIZE.fullmatch(text)
        if match is None:
            raise UsageError(
                f"{text!r} is not a valid size. Write +10M for more, -4k for less, or 1024."
            )
        sign, digits, unit = match.groups()
        count = int(digits) << 10 * (_UNITS.index(unit.lower()) + 1 if unit else 0)
        if sign != "-":
            least = max(count + 1 if sign else count, least or 0)
        if sign != "+":
            bound = count - 1 if sign else count
            most = bound if most is None else min(bound, most)
    return least, most
