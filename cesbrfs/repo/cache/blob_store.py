"""Data blobs of a repository behind a network, kept on disk as restic sealed them, within a bound.

Off unless a size is set.  One file a blob, named by its ID; the longest unused go first.  Several
processes may share the directory: each counts what it adds itself, and looks at all of it now and
then.
"""

from __future__ import annotations

from typing import Final

from cesbrfs.repo.cache.cache_dir import CacheDir

_SHARE: Final = 16
"""The directory is looked through each time this part of the bound was added."""


class BlobStore:
    """At most about `capacity` bytes of sealed data blobs in `kept`."""

    def __init__(self, kept: CacheDir, capacity: int) -> None:
        self._kept = kept
        self._capacity = capacity
        self._added = capacity
        """Bytes added since the directory was looked through; at first nobody knows."""

    def get(self, blob: bytes) -> bytes | None:
        """Return the record of a blob (ID of 32 bytes), None when it is not here."""
        record = self._kept.read(blob.hex())
        if record is not None:
            self._kept.use(blob.hex())
        return record

    def has(self, blob: bytes) -> bool:
        """Return whether the record of a blob is cached."""
        return self._kept.has(blob.hex())

    def put(self, blob: bytes, record: bytes | memoryview) -> None:
        """Store the record of a blob; evict others to stay within the bound."""
        if len(record) > self._capacity // _SHARE:
            return
        self._kept.write(blob.hex(), (record,))
        self._added += len(record)
        if self._added > self._capacity // _SHARE:
            self._added = 0
            self._shrink()

    def forget(self, blob: bytes) -> None:
        """Remove a record that proved to be damaged."""
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
