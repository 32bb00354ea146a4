"""Protocol to load blobs from packs, and the decoder that its implementations share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final, Protocol

import trio

from cesbrfs.errors import DamagedError
from cesbrfs.repo.format.crypto import Keys
from cesbrfs.repo.format.index import Index
from cesbrfs.repo.format.pack import BlobLocation, BlobType, decode_blob

THREAD_BYTES: Final = 192 << 10
"""Work on more bytes than this goes to a thread: below, the hop costs more than the work."""


class Packs(Protocol):
    """Loads blobs from the packs of one repository, given their locations."""

    async def load(self, kind: BlobType, blob: bytes, location: BlobLocation) -> bytes:
        """Read, decode and verify the blob with this ID (32 bytes) at `location`.

        Raises DamagedError if the pack has other bytes there or ends before, FileMissingError if
        it does not exist, and what the storage raises.
        """

    def load_tree_nowait(self, blob: bytes, location: BlobLocation) -> bytes | None:
        """Return a tree blob if its record is cached in memory, without blocking.

        None means "not cached", not "missing" or "damaged". For records of at most THREAD_BYTES.
        """

    def prefetch(self, nursery: trio.Nursery, blobs: Iterable[tuple[bytes, BlobLocation]]) -> None:
        """Request data blobs ahead of their readers in tasks of `nursery`, if that saves time."""

    def fadvise(self, nursery: trio.Nursery, locations: Iterable[BlobLocation]) -> None:
        """Announce reads to the kernel in a task of `nursery`, if it can read ahead."""

    def max_readahead(self, capacity: int) -> int:
        """Maximum number of bytes to read ahead of one reader, with a cache of `capacity` bytes."""

    def min_request_bytes(self, capacity: int) -> int:
        """Minimum number of bytes to read ahead at a time; 0 if single blobs are as fast."""

    async def prune_except(self, index: Index) -> None:
        """Remove what is cached on disk of packs that `index` does not contain."""


class RecordDecoder:
    """Decrypts, decompresses and verifies records; large ones in worker threads."""

    def __init__(self, keys: Keys) -> None:
        self.keys: Final = keys
        self.threads: Final = trio.CapacityLimiter(max(2, os.cpu_count() or 1))

    async def decode(
        self, blob: bytes, record: bytes | memoryview, location: BlobLocation
    ) -> bytes:
        """Return the content of a blob; raises DamagedError."""
        if max(location.uncompressed_length, location.length) > THREAD_BYTES:
            return await trio.to_thread.run_sync(
                decode_blob, self.keys, blob, record, location, limiter=self.threads
            )
        return decode_blob(self.keys, blob, record, location)

    def decode_nowait(self, blob: bytes, record: bytes, location: BlobLocation) -> bytes | None:
        """Return the content of a blob; None if it is damaged."""
        try:
            return decode_blob(self.keys, blob, record, location)
        except DamagedError:  # the blocking call reports it, or finds another copy
            return None
