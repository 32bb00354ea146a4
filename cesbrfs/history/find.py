"""Find entries of backups by name, path, size, time and type."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from cesbrfs.errors import UsageError
from cesbrfs.vfs.compare import by_identity, distinct
from cesbrfs.vfs.directory_index import IndexedEntry
from cesbrfs.vfs.timeline import Level, Parts, Progress, Timeline, union

TYPES: Final[Mapping[str, str]] = {
    "f": "file", "d": "dir", "l": "symlink", "b": "dev", "c": "chardev", "p": "fifo", "s": "socket",
}  # fmt: skip
"""The type letters of find(1), mapped to restic's types."""


@dataclass(frozen=True, slots=True)
class Criteria:
    """Search criteria; an entry must match at least one value of each given kind.

    `names` and `paths` are globs for the name and for the path inside the backup, where ``*`` also
    matches slashes. `regexes` are searched for in that path. `least` and `most` are sizes in bytes
    and match regular files only. Times are in ns since the epoch. Bounds are inclusive.
    """

    names: Sequence[str] = ()
    paths: Sequence[str] = ()
    regexes: Sequence[str] = ()
    types: frozenset[str] = frozenset()
    least: int | None = None
    most: int | None = None
    newer_ns: int | None = None
    older_ns: int | None = None
    ignore_case: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """A match: its path below the backup, its entry, and the set of backups that contain it.

    `level` has the directories that contain it.
    """

    parts: Parts
    row: IndexedEntry
    moments: int
    level: Level


class Matcher:
    """Compiled criteria; raises UsageError for an invalid pattern."""

    def __init__(self, criteria: Criteria) -> None:
        self._criteria: Final = criteria
        flags = re.IGNORECASE if criteria.ignore_case else 0
        self._name: Final = _any(map(fnmatch.translate, criteria.names), flags)
        paths = (fnmatch.translate(glob.lstrip("/")) for glob in criteria.paths)
        self._path: Final = _any(paths, flags)
        self._regex: Final = _any(criteria.regexes, flags)

    @property
    def by_path(self) -> bool:
        """Whether it depends on the path above an entry whether that is looked for."""
        return self._path is not None or self._regex is not None

    def name(self, name: bytes) -> bool:
        """Return whether the name matches."""
        return self._name is None or self._name.match(os.fsdecode(name)) is not None

    def rest(self, parts: Parts, row: IndexedEntry, time_ns: int) -> bool:
        """Return whether everything except the name matches."""
        wanted = self._criteria
        if wanted.types and row.type not in wanted.types:
            return False
        if not (self._size_matches(row) and self._time_matches(time_ns)):
            return False
        if self._path is None and self._regex is None:
            return True
        path = os.fsdecode(b"/".join(parts))
        return (self._path is None or self._path.match(path) is not None) and (
            self._regex is None or self._regex.search(path) is not None
        )

    def _size_matches(self, row: IndexedEntry) -> bool:
        least, most = self._criteria.least, self._criteria.most
        if least is None and most is None:
            return True
        return (
            row.type == "file"
            and (least is None or row.size >= least)
            and (most is None or row.size <= most)
        )

    def _time_matches(self, time_ns: int) -> bool:
        newer, older = self._criteria.newer_ns, self._criteria.older_ns
        return (newer is None or time_ns >= newer) and (older is None or time_ns <= older)


def _any(patterns: Iterable[str], flags: int) -> re.Pattern[str] | None:
    """Combine patterns into one alternative; None if there are none."""
    given = list(patterns)
    for pattern in given:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise UsageError(f"Invalid regular expression {pattern!r}: {error}.") from error
    return re.compile("|".join(f"(?:{pattern})" for pattern in given), flags) if given else None


async def find(
    timeline: Timeline,
    start: Parts,
    criteria: Criteria,
    found: Callable[[Match], Awaitable[None]],
    progress: Progress | None = None,
    *,
    compare: bool = True,
    deleted: bool = False,
) -> None:
    """Call `found` with each match at or below `start`, once per distinct content.

    All versions of a directory count as one content. The entry is that of the newest backup.
    Without `compare`, files that consist of different blobs count as different without being read.
    Matches come directory by directory, sorted by name. A `start` that is not a directory is itself
    checked.

    With `deleted`, only paths are found that the newest backup that covers them does not have, each
    once, with its last content.
    """
    matcher = Matcher(criteria)
    merge = partial(_deleted, timeline) if deleted else partial(_merge, timeline, compare)
    traced = await timeline.trace(start)
    alone = [(row, mask) for row, mask in traced.rows if row.subtree is None]
    rows = await merge(start, traced.directories, alone)
    for match in _match_start(timeline, start, traced.directories, rows, matcher):
        await found(match)
    if traced.rows and len(alone) == len(traced.rows):
        return

    async def look(
        parts: Parts, level: Level, held: list[tuple[Mapping[bytes, IndexedEntry], int]]
    ) -> None:
        matches_by_name: dict[bytes, list[tuple[IndexedEntry, int]]] = {}
        name_matches: dict[bytes, bool] = {}
        for listing, mask in held:
            for name, row in listing.items():
                matched = name_matches.get(name)
                if matched is None:
                    matched = name_matches[name] = matcher.name(name)
                if matched and matcher.rest((*parts, name), row, timeline.time_of(row, mask)):
                    matches_by_name.setdefault(name, []).append((row, mask))
        for name in sorted(matches_by_name):
            path = (*parts, name)
            for row, mask in await merge(path, level, matches_by_name[name]):
                matches[0] += 1
                await found(Match(path, row, mask, level))

    matches = [0]
    counted = None if matcher.by_path else lambda: matches[0]
    await timeline.walk(start, look, progress, counted)


async def _deleted(
    timeline: Timeline, parts: Parts, _level: Level, rows: Sequence[tuple[IndexedEntry, int]]
) -> list[tuple[IndexedEntry, int]]:
    """Return the last of the entries of one path if newer backups cover it and do not have it."""
    last = sorted(rows, key=lambda found: found[1].bit_length())[-1:]
    if not last or last[0][1].bit_length() == len(timeline.moments):
        return []
    traced = await timeline.trace(parts)
    present = union(mask for _, mask in traced.rows)
    return last if traced.covering.bit_length() > present.bit_length() else []


async def _merge(
    timeline: Timeline,
    compare: bool,
    parts: Parts,
    level: Level,
    rows: Iterable[tuple[IndexedEntry, int]],
) -> list[tuple[IndexedEntry, int]]:
    """Return the entries of one path, one per distinct content."""
    return await distinct(timeline, parts, level, rows) if compare else by_identity(rows)


def _match_start(
    timeline: Timeline,
    parts: Parts,
    level: Level,
    rows: Iterable[tuple[IndexedEntry, int]],
    matcher: Matcher,
) -> list[Match]:
    """Return the matches among the entries of one path."""
    return [
        Match(parts, row, mask, level)
        for row, mask in rows
        if matcher.name(parts[-1]) and matcher.rest(parts, row, timeline.time_of(row, mask))
    ]
