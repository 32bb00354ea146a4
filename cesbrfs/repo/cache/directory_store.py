"""Directory entries on disk, in encrypted segments of one MiB.

A segment is ``magic | length of the directory u32 | sealed directory | sealed body``. Its entries
are sorted by tree ID. The directory contains the first 8 bytes of each ID, then the length of each
entry as u32; the body, compressed, contains ``ID 32 | rows`` for each. Directories are cached in
memory (16 bytes per entry), bodies up to a limit. Since a tree ID identifies its content, entries
are never outdated, only missing. Damaged segments are removed and written again.
"""

from __future__ import annotations

import logging
import os
import secrets
import struct
from array import array
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from cesbrfs.errors import DamagedError
from cesbrfs.repo.cache.cache_dir import CacheDir
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.format.crypto import Keys, open_record, seal_record
from cesbrfs.repo.format.model import ID_BYTES
from cesbrfs.repo.format.pack import decode_unpacked, encode_unpacked
from cesbrfs.util.lru import LruCache

_log = logging.getLogger(__name__)

SEGMENT_BYTES: Final = 1 << 20
"""Size of the rows of a segment in bytes; compressed, they take a third of this on disk."""
_MOST_STORED: Final = 64 << 20
_SMALL: Final = SEGMENT_BYTES // 8
"""Segments with smaller files are merged when the next one is written."""
_HEAD: Final = struct.Struct("<8sI")
_MAGIC: Final = b"CESROW3\n"
_ENTRY_BYTES: Final = 12
_SUFFIX: Final = ".rows"


@dataclass(frozen=True, slots=True, eq=False)
class SegmentDirectory:
    """The directory of the segment in the file `name`.

    `body_at` is the offset of the body in the file. `prefixes` are the first 8 bytes of the tree
    IDs, sorted; `ends` are the end offsets of their entries in the decoded body.
    """

    name: str
    body_at: int
    prefixes: array[int]
    ends: array[int]

    def find(self, tree: bytes) -> tuple[int, int] | None:
        """Return the range of the body that may contain the entry of `tree`; None if none can."""
        prefix = int.from_bytes(tree[:8], "big")
        at = bisect_left(self.prefixes, prefix)
        if at == len(self.prefixes) or self.prefixes[at] != prefix:
            return None
        return self.ends[at - 1] if at else 0, self.ends[at]


class DirectoryStore:
    """The segments in the directory `kept`.

    Call `directories` and `write` in a worker thread, all other methods in the event loop.
    """

    def __init__(
        self,
        kept: CacheDir,
        keys: Keys,
        caching: CacheConfig = CacheConfig(),  # noqa: B008 - frozen
    ) -> None:
        self._kept = kept
        self._keys = keys
        self._directories: list[SegmentDirectory] = []
        """Most recently used first."""
        self._bodies: LruCache[str, bytes] = LruCache(caching.directory_segments, len)

    def directories(self) -> list[SegmentDirectory]:
        """Read the directories of all segments on disk; for worker threads."""
        directories: list[SegmentDirectory] = []
        for file in self._kept.files():
            if not file.name.endswith(_SUFFIX):
                continue
            try:
                directories.append(self._directory(file.name))
            except (DamagedError, struct.error):
                self._kept.remove(file.name)
        return directories

    def _directory(self, name: str) -> SegmentDirectory:
        magic, length = _HEAD.unpack(self._kept.read(name, 0, _HEAD.size) or b"")
        if magic != _MAGIC or length > _MOST_STORED:
            raise DamagedError(f"{name} is not a segment of this version.")
        record = self._kept.read(name, _HEAD.size, length) or b""
        plain = open_record(self._keys, record)
        return _directory_of(plain, name, _HEAD.size + length)

    @property
    def used(self) -> list[SegmentDirectory]:
        """The segments in use."""
        return list(self._directories)

    def take(self, directories: list[SegmentDirectory]) -> None:
        """Replace the segments in use by `directories`."""
        self._directories = directories

    def find(self, tree: bytes) -> memoryview | None:
        """Return the packed rows of a tree (ID of 32 bytes); None if no segment contains them.

        Blocks to read a body that is not cached, because bodies are small and on a local disk.
        """
        for at, directory in enumerate(self._directories):
            place = directory.find(tree)
            if place is None:
                continue
            body = self._body(directory)
            if body is None:
                return None
            if at:
                self._directories.insert(0, self._directories.pop(at))
            start, end = place
            if body[start : start + ID_BYTES] == tree:
                return memoryview(body)[start + ID_BYTES : end]
        return None

    def _body(self, directory: SegmentDirectory) -> bytes | None:
        cached = self._bodies.peek(directory.name)
        if cached is not None:
            return cached
        try:
            body = self._read_body(directory)
        except DamagedError as error:
            # Usually another process has merged the segment into its own.
            if self._kept.has(directory.name):
                _log.warning(
                    "The cache file %s is damaged and will be rewritten: %s", directory.name, error
                )
                self._kept.remove(directory.name)
            self._directories.remove(directory)
            return None
        self._kept.use(directory.name)
        self._bodies.put(directory.name, body)
        return body

    def _read_body(self, directory: SegmentDirectory) -> bytes:
        body = decode_unpacked(
            self._keys, self._kept.read(directory.name, directory.body_at) or b""
        )
        if len(body) != (directory.ends[-1] if directory.ends else 0):
            raise DamagedError("Its length does not match its directory.")
        return body

    def write(
        self, new: Mapping[bytes, bytes], used: list[SegmentDirectory]
    ) -> list[SegmentDirectory]:
        """Write the packed rows `new` by tree ID, merged with small segments; for worker threads.

        Returns the segments to use from now on: the written one, and those of `used` that were
        neither merged nor evicted.
        """
        together = dict(new)
        sizes = {file.name: file.size for file in self._kept.files()}
        small = [d for d in used if sizes.get(d.name, _SMALL) < _SMALL]
        for directory in small:
            try:
                body = self._read_body(directory)
            except DamagedError:
                continue
            starts = [0, *directory.ends]
            for start, end in zip(starts, directory.ends, strict=False):
                together[body[start : start + ID_BYTES]] = body[start + ID_BYTES : end]
        made = self._write(together)
        if made is None:
            return used
        for directory in small:
            self._kept.remove(directory.name)
        gone = self._shrink()
        return [made, *(d for d in used if d not in small and d.name not in gone)]

    def _write(self, packed: Mapping[bytes, bytes]) -> SegmentDirectory | None:
        trees = sorted(packed)
        lengths = [ID_BYTES + len(packed[tree]) for tree in trees]
        plain = b"".join(tree[:8] for tree in trees) + struct.pack(f"<{len(trees)}I", *lengths)
        body = b"".join(part for tree in trees for part in (tree, packed[tree]))
        directory = seal_record(self._keys, plain, os.urandom(16))
        sealed = encode_unpacked(self._keys, body, os.urandom(16))
        name = f"{secrets.token_hex(8)}{_SUFFIX}"
        if not self._kept.write(name, (_HEAD.pack(_MAGIC, len(directory)), directory, sealed)):
            return None
        return _directory_of(plain, name, _HEAD.size + len(directory))

    def _shrink(self) -> set[str]:
        """Evict the least recently used segments beyond the limit; return their names."""
        gone: set[str] = set()
        files = [file for file in self._kept.files() if file.name.endswith(_SUFFIX)]
        total = sum(file.size for file in files)
        for file in sorted(files, key=lambda file: file.used_ns):
            if total <= _MOST_STORED:
                break
            self._kept.remove(file.name)
            gone.add(file.name)
            total -= file.size
        return gone


def _directory_of(plain: bytes, name: str, body_at: int) -> SegmentDirectory:
    """Parse a decrypted directory; struct.error if it is invalid."""
    count = len(plain) // _ENTRY_BYTES
    prefixes = array("Q", struct.unpack(f">{count}Q", plain[: 8 * count]))
    lengths = struct.unpack(f"<{count}I", plain[8 * count :])
    return SegmentDirectory(name, body_at, prefixes, array("Q", accumulate(lengths)))
