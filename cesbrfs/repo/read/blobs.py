"""Blobs by ID: look up in the index, read from packs, verify, cache."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from typing import Final

import trio

from cesbrfs.errors import (
    BlobMissingError,
    CesbrError,
    DamagedError,
    FileMissingError,
    StorageError,
)
from cesbrfs.repo.cache.metadata import MetadataCache
from cesbrfs.repo.format.crypto import Keys
from cesbrfs.repo.format.index import Index, Segment, Table, parse_segment
from cesbrfs.repo.format.pack import (
    DATA_BLOB_MAX,
    BlobLocation,
    BlobType,
    decode_blob,
    decode_unpacked,
    raise_if_too_large,
)
from cesbrfs.repo.read.block_reader import BlockReader
from cesbrfs.repo.read.readahead import SequentialReader
from cesbrfs.repo.read.remote_packs import RemotePacks
from cesbrfs.repo.read.unpacked import UnpackedFiles
from cesbrfs.repo.storage import FileType, SyncReadable
from cesbrfs.util.lru import LruCache

_log = logging.getLogger(__name__)

THREAD_BYTES: Final = 192 << 10
"""Work on more bytes than this goes to a thread: below, the hop costs more than the work."""
_TREES: Final = 1 << 20
"""Bytes of small trees that are cached for opens that follow a listing."""
_RELIST_SECONDS: Final = (0.0, 0.0, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Delays before index files are listed again because one of them was replaced while read."""
_RELISTINGS_MAX: Final = 4
"""Listings of the index in which a blob is looked for, as long as they differ."""
_MOST_TABLES: Final = 8
"""With more tables than this, a look-up would have too many places to look."""
_MOST_AHEAD: Final = 4 << 20
"""Bytes read ahead of one reader at most; never more than an eighth of what is held in memory."""


class Blobs:
    """All blobs of a repository.

    `capacity` bounds the bytes of data blobs held in memory; `remote` reads from packs that lie
    behind a network.
    """

    def __init__(
        self,
        files: UnpackedFiles,
        keys: Keys,
        capacity: int,
        disk: MetadataCache | None = None,
        remote: RemotePacks | None = None,
    ) -> None:
        self._files = files
        self._keys = keys
        self._disk = disk
        self._index: Index | None = None
        self._index_is_whole = True
        self._listings = 0
        self._listing = trio.Lock()
        self._packs = SequentialReader(files.storage)
        self._chunks = BlockReader(files.storage)
        self._trees: LruCache[bytes, bytes] = LruCache(_TREES, len)
        self._direct = files.storage if isinstance(files.storage, SyncReadable) else None
        self._remote = remote
        self._cache: LruCache[bytes, bytes] = LruCache(capacity, len)
        self._threads = trio.CapacityLimiter(max(2, os.cpu_count() or 1))
        self._buffers: list[bytearray] = []
        """What records are read into: one for each thread at work, not for each there ever was."""
        self._ahead: trio.Nursery | None = None
        self.on_pruned: Callable[[Index], Awaitable[None]] | None = None
        """Called with the new index when index files are gone, as after a prune."""
        self.capacity: Final = capacity
        self.fetching = 0
        """Blobs that are being read ahead of their readers."""

    def start_over(
        self, keys: Keys, disk: MetadataCache | None, remote: RemotePacks | None
    ) -> None:
        """Read another repository of the same storage from now on.

        What is cached in memory stays: it is found by hashes of its content.
        """
        self._keys, self._disk, self._remote = keys, disk, remote
        self._index = None

    # The index

    async def index(self) -> Index:
        """Return the index, loading it the first time."""
        return self._index or await self._relist(self._listings)

    async def _relist(self, seen: int) -> Index:
        """List the index files again, unless that was done since listing number `seen`."""
        async with self._listing:
            if self._index is not None and self._listings > seen:
                return self._index
            tables, segments = await self._load_index()
            if segments:
                tables = await trio.to_thread.run_sync(self._extended, tables, segments)
            if self._index is None or list(self._index.tables) != tables:
                before, self._index = self._index, Index(tables)
                if self._remote is not None:
                    await trio.to_thread.run_sync(self._remote.prune_except, self._index.packs())
                lost = before is not None and not before.names <= self._index.names
                if self.on_pruned and lost and self._index_is_whole:
                    await self.on_pruned(self._index)
            self._listings += 1
            return self._index

    async def _load_index(self) -> tuple[list[Table], dict[str, Segment]]:
        """Return the tables that are still right, and the rows of all other index files.

        `restic prune` and `repair index` replace index files: one that is gone once it is read
        makes all be listed again, as the files in its place are not in this listing.
        """
        segments: dict[str, Segment] = {}

        async def take(name: str, raw: bytes) -> None:
            segments[name] = await trio.to_thread.run_sync(self._segment, raw, name)

        for delay in (*_RELIST_SECONDS, None):
            listed = await self._files.list(FileType.INDEX)
            if self._index is not None:
                tables = [t for t in self._index.tables if listed.issuperset(t.names)]
            elif self._disk is not None:
                tables = await trio.to_thread.run_sync(self._disk.tables, listed)
            else:
                tables = []
            for name in segments.keys() - listed:
                del segments[name]
            covered = {name for table in tables for name in table.names}
            missing = sorted(listed - covered - segments.keys())
            self._index_is_whole = not await self._files.load(FileType.INDEX, missing, take)
            if self._index_is_whole or delay is None:
                break
            await trio.sleep(delay)
        if not self._index_is_whole:
            _log.warning(
                "Index files of %s were replaced while read.", self._files.storage.display_url
            )
        return tables, segments

    def _segment(self, raw: bytes, name: str) -> Segment:
        return parse_segment(decode_unpacked(self._keys, raw), name)

    def _extended(self, tables: list[Table], segments: dict[str, Segment]) -> list[Table]:
        """Add the rows of new index files as a table, bringing small ones together with it."""
        if len(tables) >= _MOST_TABLES:
            largest = max(tables, key=lambda table: table.count)
            small = [table for table in tables if table is not largest]
            merged = {name: Segment([], b"") for table in small for name in table.names}
            merged |= {table.names[0]: table.segment() for table in small}
            segments = merged | segments
            tables = [largest]
        made = Table.of(segments)
        if self._disk is not None:
            made = self._disk.keep_table(made)
            self._disk.drop_tables([*tables, made])
        return [*tables, made]

    async def not_indexed(self, kind: BlobType, blobs: Collection[bytes]) -> set[bytes]:
        """Return those of `blobs` (IDs of 32 bytes) that no index file names."""
        index = await self.index()
        for attempt in itertools.count():
            seen = self._listings
            missing = index.lacking(kind, blobs)
            newer = await self._newer(index, seen, attempt) if missing else None
            if newer is None:
                break
            index = newer
        return missing

    async def _newer(self, index: Index, seen: int, attempt: int) -> Index | None:
        """Return the index as listed again; None when that brings nothing new, or often enough.

        What `index`, of listing number `seen`, lacks may be in a newer one as long as they differ.
        """
        if attempt >= _RELISTINGS_MAX:
            return None
        newer = await self._relist(seen)
        return None if newer is index else newer

    async def lengths(self, blobs: Sequence[bytes]) -> list[int]:
        """Return the length in bytes of each data blob; BlobMissingError for one not indexed."""
        index = await self.index()
        for attempt in itertools.count():
            seen = self._listings
            lengths = [index.plain_length(blob) for blob in blobs]
            known = [length for length in lengths if length is not None]
            if len(known) == len(blobs):
                return known
            newer = await self._newer(index, seen, attempt)
            if newer is None:
                break
            index = newer
        raise self._unknown(BlobType.DATA, blobs[lengths.index(None)])

    # Reading

    async def data(self, blob: bytes) -> bytes:
        """Return the content of a data blob (ID of 32 bytes), checked."""
        held = self._cache.peek(blob)
        if held is not None:
            return held
        return await self._cache.get(blob, partial(self.load, BlobType.DATA, blob))

    async def load(self, kind: BlobType, blob: bytes) -> bytes:
        """Read a blob, whether or not it is held.

        Raises BlobMissingError or DamagedError when no place has it whole.
        """
        index = await self.index()
        for attempt in itertools.count():
            seen = self._listings
            try:
                return await self._load_from(index.places(kind, blob), kind, blob)
            except BlobMissingError:  # packs may have been replaced since the index was listed
                newer = await self._newer(index, seen, attempt)
                if newer is None:
                    raise
                index = newer
        raise AssertionError("unreachable")

    def tree_nowait(self, blob: bytes) -> bytes | None:
        """Return a small tree blob if its record is in memory, without blocking.

        None means "not cached", not "missing" or "damaged".
        """
        held = self._trees.peek(blob)
        if held is not None:
            return held
        places = self._index.places(BlobType.TREE, blob) if self._index is not None else ()
        if not places or max(places[0].uncompressed_length, places[0].length) > THREAD_BYTES:
            return None
        place = places[0]
        chunks = self._chunks if self._remote is None else self._remote.chunks
        record = chunks.at_hand(place.pack, place.offset, place.length) if chunks else None
        if record is None:
            return None
        try:
            data = decode_blob(self._keys, blob, record, place)
        except DamagedError:  # the blocking call reports it, or finds another copy
            return None
        self._trees.put(blob, data)
        return data

    async def _load_from(
        self, places: Sequence[BlobLocation], kind: BlobType, blob: bytes
    ) -> bytes:
        """Return the blob from the first place that holds it.

        Raises BlobMissingError when it has no place or one of its packs is gone, else the last
        place's error.
        """
        if not places:
            raise self._unknown(kind, blob)
        failed: list[CesbrError] = []
        for place in places:
            try:
                return await self._load_at(place, kind, blob)
            except (DamagedError, StorageError) as error:
                failed.append(error)
                if len(failed) < len(places):
                    _log.warning("%s; trying its next place", error)
        try:
            if any(isinstance(error, FileMissingError) for error in failed):
                raise BlobMissingError(
                    f"No pack that should hold {blob_name(kind, blob)} holds it in"
                    f" {self._files.storage.display_url}; run 'cesbr check'."
                ) from failed[-1]
            raise failed[-1]
        finally:
            # The errors' tracebacks hold this frame, and through it what was read: no cycle.
            del failed

    async def _load_at(self, place: BlobLocation, kind: BlobType, blob: bytes) -> bytes:
        raise_if_too_large(kind, blob, place)
        if self._remote is not None:
            return await self._load_from_afar(self._remote, place, kind, blob)
        if self._direct is not None and place.length > THREAD_BYTES:
            return await trio.to_thread.run_sync(
                self._read_and_decode, self._direct, place, blob, limiter=self._threads
            )
        if kind is BlobType.TREE:
            return await self._load_small_tree(place, blob)
        raw = await self._packs.read(place.pack, place.offset, place.length)
        return await self._decode(place, blob, raw)

    async def _load_small_tree(self, place: BlobLocation, blob: bytes) -> bytes:
        try:
            record = await self._chunks.read(place.pack, place.offset, place.length)
            return await self._decode(place, blob, record)
        except FileMissingError:
            raise
        except (DamagedError, StorageError):  # perhaps an outdated block
            await self._chunks.forget(place.pack)
        raw = await self._packs.read(place.pack, place.offset, place.length)
        return await self._decode(place, blob, raw)

    async def _load_from_afar(
        self, remote: RemotePacks, place: BlobLocation, kind: BlobType, blob: bytes
    ) -> bytes:
        try:
            return await self._decode(place, blob, await remote.read(kind, place, blob))
        except DamagedError as error:
            # The network or a cache may have damaged it, not the pack.
            _log.warning("%s Reading it again.", error)
            await remote.forget(kind, place, blob)
        return await self._decode(place, blob, await remote.read(kind, place, blob))

    async def _decode(self, place: BlobLocation, blob: bytes, raw: bytes | memoryview) -> bytes:
        if max(place.uncompressed_length, place.length) > THREAD_BYTES:
            return await trio.to_thread.run_sync(
                decode_blob, self._keys, blob, raw, place, limiter=self._threads
            )
        return decode_blob(self._keys, blob, raw, place)

    def _read_and_decode(self, storage: SyncReadable, place: BlobLocation, blob: bytes) -> bytes:
        """Do both in one thread, with a buffer that the next one uses again."""
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = bytearray()
        if len(buffer) < place.length:
            buffer = bytearray(place.length)
        try:
            with memoryview(buffer) as whole, whole[: place.length] as raw:
                storage.read_into(FileType.PACK, place.pack.hex(), place.offset, raw)
                return decode_blob(self._keys, blob, raw, place)
        finally:
            self._buffers.append(buffer)

    def _unknown(self, kind: BlobType, blob: bytes) -> BlobMissingError:
        hint = "run 'cesbr check'." if self._index_is_whole else "its files are being replaced."
        return BlobMissingError(
            f"No index of {self._files.storage.display_url} names {blob_name(kind, blob)}; {hint}"
        )

    # Reading ahead

    def read_ahead_in(self, nursery: trio.Nursery | None) -> None:
        """Let blobs be read ahead of their readers by tasks in `nursery`, None: no more."""
        self._ahead = nursery

    def fetch(self, blobs: Iterable[bytes]) -> None:
        """Begin to read data blobs that will be asked for soon; does not wait for them."""
        if self._ahead is None:
            return
        wanted = [
            blob
            for blob in dict.fromkeys(blobs)
            if self._cache.peek(blob) is None and not self._cache.is_loading(blob)
        ]
        if self._remote is not None and self._index is not None:
            index = self._index
            placed = ((blob, index.places(BlobType.DATA, blob)) for blob in wanted)
            self._remote.begin(
                self._ahead,
                [(blob, p[0]) for blob, p in placed if p and p[0].length <= DATA_BLOB_MAX],
            )
        for blob in wanted:
            self.fetching += 1
            self._ahead.start_soon(self._fetch, blob)

    @property
    def max_readahead(self) -> int:
        """Maximum number of bytes to read ahead of one sequential reader."""
        if self._remote is not None:
            return min(self._remote.link.ahead, self.capacity // 2)
        return min(_MOST_AHEAD, self.capacity // 8)

    @property
    def min_request_bytes(self) -> int:
        """Bytes to read ahead at a time: behind a network, few large answers come faster."""
        return (
            min(self._remote.link.bandwidth_delay_product, self.capacity // 8)
            if self._remote is not None
            else 0
        )

    def fadvise(self, blobs: Sequence[bytes]) -> None:
        """Have the disk work on data blobs that will be fetched; does not wait for it."""
        if self._ahead is None or self._direct is None or self._index is None:
            return
        places = [p[0] for blob in blobs if (p := self._index.places(BlobType.DATA, blob))]
        if places:
            self._ahead.start_soon(self._fadvise, self._direct, places)

    async def _fadvise(self, storage: SyncReadable, places: Sequence[BlobLocation]) -> None:
        def work() -> None:
            for place in places:
                storage.will_read(FileType.PACK, place.pack.hex(), place.offset, place.length)

        await trio.to_thread.run_sync(work, abandon_on_cancel=True)

    async def _fetch(self, blob: bytes) -> None:
        try:
            await self.data(blob)
        except CesbrError as error:  # raised again for the reader
            _log.debug("Reading ahead: %s", error)
        finally:
            self.fetching -= 1


def blob_name(kind: BlobType, blob: bytes) -> str:
    """Return how a blob is named in messages."""
    return f"{kind.name.lower()} blob {blob.hex()[:8]}"
