"""Disk cache of a remote repository's data blobs, encrypted as in the repository; bounded, LRU.

The cache is disabled unless a size is configured. There is one file per blob, named by its ID. The
least recently used blobs are evicted first. Several processes may share the directory: each counts
only the bytes that it adds, and lists the directory from time to time for the actual total.
"""

from __future__ import annotations

from typing import Final

from cesbrfs.repo.cache.cache_dir import CacheDir

_SHARE: Final = 16
"""The size of the directory is checked each time 1/16 of the capacity has been added."""


class BlobStore:
    """Encrypted data blobs in the directory `kept`, about `capacity` bytes at most."""

    def __init__(self, kept: CacheDir, capacity: int) -> None:
        self._kept = kept
        self._capacity = capacity
        self._added = capacity
        """Bytes added since the last size check; initialised so that the first `put` checks."""

    def get(self, blob: bytes) -> bytes | None:
        """Return the record of a blob (ID of 32 bytes); None if it is not cached."""
        record = self._kept.read(blob.hex())
        if record is not None:
            self._kept.use(blob.hex())
        return record

    def has(self, blob: bytes) -> bool:
        """Return whether the record of a blob is cached."""
        return self._kept.has(blob.hex())

    def put(self, blob: bytes, record: bytes | memoryview) -> None:
        """Store the record of a blob, and evict others to stay within the capacity.

        A record larger than 1/16 of the capacity is not stored.
        """
        if len(record) > self._capacity // _SHARE:
            return
        self._kept.write(blob.hex(), (record,))
        self._added += len(record)
        if self._added > self._capacity // _SHARE:
            self._added = 0
            self._shrink()

    def forget(self, blob: bytes) -> None:
        """Remove a damaged record."""
        self._kept.remove(blob.hex())

    def _shrink(self) -> None:
        files = self._kept.files()
        total = sum(file.size for file in files)
        bound = self._capacity - self._capacity // _SHARE
        for file in sorted(files, key=lambda file: file.used_ns):
            if total <= bound:
                break
            self._kept.remove(file.name)
            total -= file.size
