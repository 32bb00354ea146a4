"""Finding entries of backups by name, size, time and type."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cesbrfs.errors import UsageError
from cesbrfs.history.compare import distinct
from cesbrfs.history.folder_index import IndexedEntry
from cesbrfs.history.timeline import Level, Parts, Progress, Timeline

TYPES: Final[Mapping[str, str]] = {
    "f": "file", "d": "dir", "l": "symlink", "b": "dev", "c": "chardev", "p": "fifo", "s": "socket",
}  # fmt: skip
"""What find(1) calls restic's types."""


@dataclass(frozen=True, slots=True)
class Criteria:
    """What is looked for: of each kind that is given, one must fit.

    `names` and `paths` are globs over the name and over the path inside the backup, where ``*``
    also stands for slashes; `regexes` are searched for in that path.  Sizes are bytes and count
    files alone, times nanoseconds since 1970; both bounds are part of it.
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
    """What was found: the names below the backup, its row, and the set of moments that have it."""

    parts: Parts
    row: IndexedEntry
    moments: int


class Matcher:
    """Tells whether an entry is looked for; UsageError for a pattern that is none."""

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
        """Tell whether the name fits."""
        return self._name is None or self._name.match(os.fsdecode(name)) is not None

    def rest(self, parts: Parts, row: IndexedEntry, time_ns: int) -> bool:
        """Tell whether all but the name fits."""
        wanted = self._criteria
        if wanted.types and row.type not in wanted.types:
            return False
        if not (self._sized(row) and self._timely(time_ns)):
            return False
        if self._path is None and self._regex is None:
            return True
        path = os.fsdecode(b"/".join(parts))
        return (self._path is None or self._path.match(path) is not None) and (
            self._regex is None or self._regex.search(path) is not None
        )

    def _sized(self, row: IndexedEntry) -> bool:
        least, most = self._criteria.least, self._criteria.most
        if least is None and most is None:
            return True
        return (
            row.type == "file"
            and (least is None or row.size >= least)
            and (most is None or row.size <= most)
        )

    def _timely(self, time_ns: int) -> bool:
        newer, older = self._criteria.newer_ns, self._criteria.older_ns
        return (newer is None or time_ns >= newer) and (older is None or time_ns <= older)


def _any(patterns: Iterable[str], flags: int) -> re.Pattern[str] | None:
    """Compile one pattern for all of these, None for none."""
    given = list(patterns)
    for pattern in given:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise UsageError(f"{pattern!r} is no regular expression: {error}.") from error
    return re.compile("|".join(f"(?:{pattern})" for pattern in given), flags) if given else None


async def find(
    timeline: Timeline,
    start: Parts,
    criteria: Criteria,
    found: Callable[[Match], Awaitable[None]],
    progress: Progress | None = None,
) -> None:
    """Tell `found` of everything below `start` that is looked for, once for each distinct content.

    Folders count as one content; the row is that of the newest moment.  Matches come folder by
    folder, in the order of names.  A `start` that is no folder is looked at itself.
    """
    matcher = Matcher(criteria)
    traced = await timeline.trace(start)
    alone = [(row, mask) for row, mask in traced.rows if row.subtree is None]
    for match in await _themselves(timeline, start, traced.folders, alone, matcher):
        await found(match)
    if traced.rows and len(alone) == len(traced.rows):
        return

    async def look(
        parts: Parts, level: Level, held: list[tuple[Mapping[bytes, IndexedEntry], int]]
    ) -> None:
        fitting: dict[bytes, list[tuple[IndexedEntry, int]]] = {}
        known: dict[bytes, bool] = {}
        for listing, mask in held:
            for name, row in listing.items():
                fits = known.get(name)
                if fits is None:
                    fits = known[name] = matcher.name(name)
                if fits and matcher.rest((*parts, name), row, timeline.time_of(row, mask)):
                    fitting.setdefault(name, []).append((row, mask))
        for name in sorted(fitting):
            path = (*parts, name)
            for row, mask in await distinct(timeline, path, level, fitting[name]):
                matches[0] += 1
                await found(Match(path, row, mask))

    matches = [0]
    counted = None if matcher.by_path else lambda: matches[0]
    await timeline.walk(start, look, progress, counted)


async def _themselves(
    timeline: Timeline,
    parts: Parts,
    level: Level,
    rows: Iterable[tuple[IndexedEntry, int]],
    matcher: Matcher,
) -> list[Match]:
    """Return what is looked for among the rows of one path, each content once."""
    return [
        Match(parts, row, mask)
        for row, mask in await distinct(timeline, parts, level, rows)
        if matcher.name(parts[-1]) and matcher.rest(parts, row, timeline.time_of(row, mask))
    ]
