"""Where each blob lies: the repository's index files, merged into one sorted table.

A row has 48 bytes: ``ID 32 | flags and pack number u32 | offset u32 | length u32 | plain length
u32``.  Rows are sorted, a fan-out over the first two bytes of the ID leads to the few rows that can
match.  A blob that lies in several packs has several rows.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from cesbrfs.errors import DamagedError
from cesbrfs.repo.crypto import OVERHEAD
from cesbrfs.repo.model import ID_BYTES, parse_id, parse_index
from cesbrfs.repo.pack import BlobType, Place

_ROW: Final = struct.Struct(">32sIIII")
_REST: Final = struct.Struct(">IIII")
ROW_BYTES: Final = _ROW.size
_TREE: Final = 1 << 31
_COMPRESSED: Final = 1 << 30
_PACK_MASK: Final = _COMPRESSED - 1
_FANOUT: Final = 1 << 16
_U32: Final = (1 << 32) - 1


class Segment(NamedTuple):
    """The rows of one index file, joined; pack numbers count within `packs` (IDs of 32 bytes)."""

    packs: list[bytes]
    rows: bytes


def parse_segment(data: bytes, name: str) -> Segment:
    """Read an opened index file; DamagedError when an entry cannot be right."""
    packs: list[bytes] = []
    rows = bytearray()
    for number, pack in enumerate(parse_index(data, f"index file {name[:8]}").packs or ()):
        packs.append(parse_id(pack.id))
        for blob in pack.blobs or ():
            if blob.type == "data":
                flags = number
            elif blob.type == "tree":
                flags = number | _TREE
            else:
                raise DamagedError(f"Index file {name[:8]} has a blob of type {blob.type!r}.")
            plain = blob.length - OVERHEAD
            if blob.uncompressed_length:
                flags |= _COMPRESSED
                plain = blob.uncompressed_length
            if not (0 <= blob.offset <= _U32 and OVERHEAD <= blob.length <= _U32 >= plain >= 0):
                raise DamagedError(f"Index file {name[:8]} has a blob at an impossible place.")
            rows += _ROW.pack(parse_id(blob.id), flags, blob.offset, blob.length, plain)
    return Segment(packs, bytes(rows))


class Index:
    """All places of all blobs.  Immutable: a change of the index files makes a new one."""

    def __init__(self, segments: Mapping[str, Segment]) -> None:
        self.segments: Final = dict(segments)
        numbers: dict[bytes, int] = {}
        rows: list[bytes] = []
        self.stored_bytes = 0
        for segment in self.segments.values():
            local = [numbers.setdefault(pack, len(numbers)) for pack in segment.packs]
            for blob, flags, offset, length, plain in _ROW.iter_unpack(segment.rows):
                flags = flags & ~_PACK_MASK | local[flags & _PACK_MASK]  # noqa: PLW2901 - renumbered
                rows.append(_ROW.pack(blob, flags, offset, length, plain))
        rows = _unique(rows)
        self._packs: Final = list(numbers)
        self._table: Final = b"".join(rows)
        self._fanout: Final = _fan_out(rows)
        self.stored_bytes = sum(_REST.unpack_from(row, ID_BYTES)[2] for row in rows)

    def __len__(self) -> int:
        return len(self._table) // ROW_BYTES

    @property
    def packs(self) -> list[bytes]:
        """The IDs of all packs that hold an indexed blob."""
        return self._packs

    def places(self, kind: BlobType, blob: bytes) -> list[Place]:
        """All places of the blob `blob` (32 bytes), [] when no index file names it."""
        found: list[Place] = []
        prefix = blob[0] << 8 | blob[1]
        table = self._table
        at, end = self._fanout[prefix] * ROW_BYTES, self._fanout[prefix + 1] * ROW_BYTES
        while (at := table.find(blob, at, end)) >= 0:
            if at % ROW_BYTES:  # the bytes happen to occur across rows
                at += 1
                continue
            flags, offset, length, plain = _REST.unpack_from(table, at + ID_BYTES)
            if bool(flags & _TREE) == (kind is BlobType.TREE):
                pack = self._packs[flags & _PACK_MASK]
                found.append(Place(pack, offset, length, plain, bool(flags & _COMPRESSED)))
            at += ROW_BYTES
        return found

    def plain_length(self, blob: bytes) -> int | None:
        """The length in bytes of a data blob's content, None when no index file names it."""
        places = self.places(BlobType.DATA, blob)
        return places[0].plain if places else None


def _unique(rows: list[bytes]) -> list[bytes]:
    """Sort the rows; packs spread over, or repeated in, several index files repeat rows."""
    rows.sort()
    return [row for at, row in enumerate(rows) if not at or rows[at - 1] != row]


def _fan_out(rows: Iterable[bytes]) -> array[int]:
    """Return for each two-byte prefix how many rows come before it."""
    counts = array("Q", bytes(8 * (_FANOUT + 1)))
    for row in rows:
        counts[(row[0] << 8 | row[1]) + 1] += 1
    total = 0
    for prefix in range(_FANOUT + 1):
        total += counts[prefix]
        counts[prefix] = total
    return counts
