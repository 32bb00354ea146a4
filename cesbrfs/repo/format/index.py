"""Index tables: map blob IDs to pack locations, searched in memory or in a mapped file.

A table contains the rows of one or more index files. A row has 48 bytes: ``ID 32 | flags and pack
number u32 | offset u32 | length u32 | plain length u32``, little-endian. Rows are grouped by the
first bits of their ID, and a fan-out table contains the start of each group, so that a look-up
searches a few rows as bytes. A blob that is stored in several packs has several rows.
"""

from __future__ import annotations

import mmap
import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cesbrfs.errors import DamagedError
from cesbrfs.repo.format.crypto import OVERHEAD
from cesbrfs.repo.format.model import ID_BYTES, parse_id, parse_index
from cesbrfs.repo.format.pack import BlobLocation, BlobType

_ROW: Final = struct.Struct("<32sIIII")
_REST: Final = struct.Struct("<IIII")
_FANOUT_ENTRY: Final = struct.Struct("<2I")
ROW_BYTES: Final = _ROW.size
_TREE: Final = 1 << 31
_COMPRESSED: Final = 1 << 30
_PACK_MASK: Final = _COMPRESSED - 1
_GROUP_ROWS: Final = 64
_MAX_BITS: Final = 16
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
        held: dict[bytes, None] = {}
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
            held[_ROW.pack(parse_id(blob.id), flags, blob.offset, blob.length, plain)] = None
        rows += b"".join(held)
    return Segment(packs, bytes(rows))


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The rows of the index files `names`, grouped by the first `bits` bits of their IDs.

    `packs` are the packs' IDs joined, `fanout` one u32 a group and the number of rows at the end:
    how many rows come before it; `stored` sums the lengths of all rows in bytes.
    """

    names: tuple[str, ...]
    packs: bytes | memoryview
    bits: int
    fanout: bytes | memoryview
    rows: bytes | mmap.mmap
    rows_at: int
    count: int
    stored: int

    @classmethod
    def of(cls, segments: Mapping[str, Segment]) -> Table:
        """Bring the rows of several index files together, each row once."""
        numbers: dict[bytes, int] = {}
        repeated: set[int] = set()
        parts: list[bytearray] = []
        for segment in segments.values():
            known = len(numbers)
            local = [numbers.setdefault(pack, len(numbers)) for pack in segment.packs]
            repeated.update(number for number in local if number < known)
            if len(set(local)) < len(local):
                repeated.update(local)
            parts.append(_renumbered(segment.rows, local))
        rows = _unique(parts, repeated) if repeated else parts
        count = sum(len(part) for part in rows) // ROW_BYTES
        bits = min(max((count // _GROUP_ROWS).bit_length(), 1), _MAX_BITS)
        fanout, grouped = _group(rows, bits)
        stored = sum(_lengths(grouped))
        packs = b"".join(numbers)
        return cls(tuple(segments), packs, bits, fanout, bytes(grouped), 0, count, stored)

    def segment(self) -> Segment:
        """Return the rows as those of one index file, to be brought together with others."""
        packs = bytes(self.packs)
        ids = [packs[at : at + ID_BYTES] for at in range(0, len(packs), ID_BYTES)]
        return Segment(ids, self.rows[self.rows_at : self.rows_at + self.count * ROW_BYTES])

    def find(self, blob: bytes, *, tree: bool) -> list[BlobLocation]:
        """Return the places of a blob (ID of 32 bytes) in this table."""
        group = int.from_bytes(blob[:2], "big") >> (16 - self.bits)
        first, last = _FANOUT_ENTRY.unpack_from(self.fanout, group * 4)
        # A slice of a mapped file is searched faster than the mapping itself.
        start = self.rows_at
        rows = self.rows[start + first * ROW_BYTES : start + last * ROW_BYTES]
        found: list[BlobLocation] = []
        at = 0
        while (at := rows.find(blob, at)) >= 0:
            if at % ROW_BYTES:  # the bytes happen to occur across rows
                at += 1
                continue
            flags, offset, length, plain = _REST.unpack_from(rows, at + ID_BYTES)
            if bool(flags & _TREE) == tree:
                pack = (flags & _PACK_MASK) * ID_BYTES
                found.append(
                    BlobLocation(
                        bytes(self.packs[pack : pack + ID_BYTES]),
                        offset,
                        length,
                        plain,
                        bool(flags & _COMPRESSED),
                    )
                )
            at += ROW_BYTES
        return found


def _renumbered(rows: bytes, local: Sequence[int]) -> bytearray:
    """Return `rows` with the pack numbers that `local` gives in place of their own."""
    changed = bytearray(rows)
    flags = memoryview(changed).cast("I")[ID_BYTES // 4 :: ROW_BYTES // 4]
    for at, value in enumerate(flags):
        flags[at] = value & ~_PACK_MASK | local[value & _PACK_MASK]
    return changed


def _unique(parts: Iterable[bytearray], repeated: set[int]) -> list[bytearray]:
    """Leave out rows that occur again: those of packs that several index files name may."""
    seen: set[bytes] = set()
    kept: list[bytearray] = []
    for part in parts:
        rows = bytearray()
        for at in range(0, len(part), ROW_BYTES):
            row = bytes(part[at : at + ROW_BYTES])
            if int.from_bytes(row[ID_BYTES : ID_BYTES + 4], "little") & _PACK_MASK in repeated:
                if row in seen:
                    continue
                seen.add(row)
            rows += row
        kept.append(rows)
    return kept


def _group(parts: Sequence[bytearray], bits: int) -> tuple[bytes, bytearray]:
    """Sort rows into groups by their first `bits` bits; return the fan-out and the rows."""
    shift = 16 - bits
    counts = array("I", bytes(4 * ((1 << bits) + 1)))
    for part in parts:
        for at in range(0, len(part), ROW_BYTES):
            counts[((part[at] << 8 | part[at + 1]) >> shift) + 1] += 1
    total = 0
    for group, count in enumerate(counts):
        total += count
        counts[group] = total
    grouped = bytearray(total * ROW_BYTES)
    following = array("Q", (count * ROW_BYTES for count in counts))
    for part in parts:
        for at in range(0, len(part), ROW_BYTES):
            group = (part[at] << 8 | part[at + 1]) >> shift
            to = following[group]
            following[group] = to + ROW_BYTES
            grouped[to : to + ROW_BYTES] = part[at : at + ROW_BYTES]
    return counts.tobytes(), grouped


def _lengths(rows: bytearray | bytes) -> memoryview:
    """Return the stored length of every row, in bytes."""
    return memoryview(rows).cast("I")[ID_BYTES // 4 + 2 :: ROW_BYTES // 4]


class Index:
    """All places of all blobs, in one or more tables.  Immutable."""

    def __init__(self, tables: Iterable[Table]) -> None:
        self.tables: Final = tuple(tables)

    @classmethod
    def of(cls, segments: Mapping[str, Segment]) -> Index:
        """Make an index of one table."""
        return cls([Table.of(segments)])

    @property
    def names(self) -> frozenset[str]:
        """The index files it was made of."""
        return frozenset(name for table in self.tables for name in table.names)

    @property
    def stored_bytes(self) -> int:
        """The bytes that all indexed blobs take in the repository."""
        return sum(table.stored for table in self.tables)

    def packs(self) -> frozenset[bytes]:
        """Return the IDs (32 bytes each) of all packs that hold indexed blobs."""
        return frozenset(
            bytes(table.packs[at : at + ID_BYTES])
            for table in self.tables
            for at in range(0, len(table.packs), ID_BYTES)
        )

    def __len__(self) -> int:
        return sum(table.count for table in self.tables)

    def places(self, kind: BlobType, blob: bytes) -> list[BlobLocation]:
        """All places of the blob `blob` (32 bytes), [] when no index file names it."""
        tree = kind is BlobType.TREE
        tables = self.tables
        if len(tables) == 1:
            return tables[0].find(blob, tree=tree)
        found = [place for table in tables for place in table.find(blob, tree=tree)]
        return list(dict.fromkeys(found))

    def lacking(self, kind: BlobType, blobs: Iterable[bytes]) -> set[bytes]:
        """Return those of `blobs` that no index file names."""
        return {blob for blob in blobs if not self.places(kind, blob)}

    def plain_length(self, blob: bytes) -> int | None:
        """The length in bytes of a data blob's content, None when no index file names it."""
        places = self.places(BlobType.DATA, blob)
        return places[0].uncompressed_length if places else None
