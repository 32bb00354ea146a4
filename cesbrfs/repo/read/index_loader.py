"""Load the index of a repository, and reload it when index files were added or replaced."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from cesbrfs.repo.cache.metadata import MetadataCache
from cesbrfs.repo.format.crypto import Keys
from cesbrfs.repo.format.index import Index, Table
from cesbrfs.repo.format.index_builder import TableBuilder
from cesbrfs.repo.format.index_segment import PackNumbers, Segment, parse_segment
from cesbrfs.repo.format.pack import decode_unpacked
from cesbrfs.repo.read.unpacked import UnpackedFiles
from cesbrfs.repo.storage import FileType

_log = logging.getLogger(__name__)

_RELIST_SECONDS: Final = (0.0, 0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Delays before index files are listed again because one of them was replaced while read."""
_MAX_RELISTINGS: Final = 4
"""Listings of the index in which a blob is looked for, as long as they differ."""
_MAX_TABLES: Final = 8
"""With more tables than this, a look-up would have too many places to look."""
_PARSERS: Final = 1
"""Index files decoded and parsed at once.

Each takes about 25 MiB. Several take a quarter more CPU time: parsing holds the interpreter lock.
"""


class IndexLoader:
    """Loads the index from `files`, or from the tables that `cache` has on disk.

    `on_change` is called with each new index, and whether index files are gone, as after a prune.
    """

    def __init__(
        self,
        files: UnpackedFiles,
        keys: Keys,
        cache: MetadataCache | None,
        on_change: Callable[[Index, bool], Awaitable[None]],
    ) -> None:
        self._files = files
        self._keys = keys
        self._cache = cache
        self._on_change = on_change
        self._listing = trio.Lock()
        self.index: Index | None = None
        """The index as last loaded; None before the first time."""
        self.is_complete = True
        """Whether no index file was missing when the index was last loaded."""
        self.listings = 0
        """Number of times that the index files were listed."""

    def start_over(self, keys: Keys, cache: MetadataCache | None) -> None:
        """Load the index of another repository in the same storage from now on."""
        self._keys, self._cache = keys, cache
        self.index = None

    async def load(self) -> Index:
        """Return the index, loading it the first time."""
        return self.index or await self._relist(self.listings)

    async def reload(self) -> Index:
        """List the index files again, and return the index."""
        return await self._relist(self.listings)

    async def newer(self, index: Index, seen: int, attempt: int) -> Index | None:
        """Reload the index; None if it is unchanged, or after too many attempts.

        `index` was that of listing number `seen`. What it does not contain may be in a newer one.
        """
        if attempt >= _MAX_RELISTINGS:
            return None
        newer = await self._relist(seen)
        return None if newer is index else newer

    async def _relist(self, seen: int) -> Index:
        """List the index files again, unless that was done since listing number `seen`."""
        async with self._listing:
            if self.index is not None and self.listings > seen:
                return self.index
            tables, segments = await self._load_tables()
            if segments:
                tables = await trio.to_thread.run_sync(self._add_table, tables, segments)
            if self.index is None or list(self.index.tables) != tables:
                before, self.index = self.index, Index(tables)
                removed = before is not None and not before.names <= self.index.names
                await self._on_change(self.index, removed and self.is_complete)
            self.listings += 1
            return self.index

    async def _load_tables(self) -> tuple[list[Table], dict[str, Segment]]:
        """Return the tables that are still valid, and the rows of all other index files.

        `restic prune` and `repair index` replace index files. If one is gone when it is read, all
        are listed again, because this listing does not contain its replacement.
        """
        segments: dict[str, Segment] = {}
        limiter = trio.CapacityLimiter(_PARSERS)
        reserve = PackNumbers().reserve

        async def take(name: str, raw: bytes) -> None:
            segments[name] = await trio.to_thread.run_sync(
                self._parse, raw, name, reserve, limiter=limiter
            )

        for delay in (*_RELIST_SECONDS, None):
            listed = await self._files.list(FileType.INDEX)
            if self.index is not None:
                tables = [t for t in self.index.tables if listed.issuperset(t.names)]
            elif self._cache is not None:
                tables = await trio.to_thread.run_sync(self._cache.tables, listed)
            else:
                tables = []
            for name in segments.keys() - listed:
                del segments[name]
            covered = {name for table in tables for name in table.names}
            missing = sorted(listed - covered - segments.keys())
            self.is_complete = not await self._files.load(FileType.INDEX, missing, take)
            if self.is_complete or delay is None:
                break
            await trio.sleep(delay)
        if not self.is_complete:
            _log.warning(
                "Index files of %s were replaced while they were read.",
                self._files.storage.display_url,
            )
        return tables, segments

    def _parse(self, raw: bytes, name: str, reserve: Callable[[int], int]) -> Segment:
        return parse_segment(decode_unpacked(self._keys, raw), name, reserve)

    def _add_table(self, tables: list[Table], segments: dict[str, Segment]) -> list[Table]:
        """Add the rows of new index files as a table; merge small tables if there are too many."""
        if len(tables) >= _MAX_TABLES:
            largest = max(tables, key=lambda table: table.count)
            small = [table for table in tables if table is not largest]
            merged = {name: Segment([], b"") for table in small for name in table.names}
            merged |= {table.names[0]: table.segment() for table in small}
            segments = merged | segments
            tables = [largest]
        builder = TableBuilder(segments)
        made = self._cache.keep_table(builder) if self._cache is not None else None
        if made is None:
            made = Table.built(builder)
        if self._cache is not None:
            self._cache.drop_tables([*tables, made])
        return [*tables, made]
