"""Index tables: map blob IDs to pack locations, searched in memory or in a mapped file.

A table contains the rows of one or more index files (see `index_segment`), grouped by the first
bits of their ID. A fan-out table contains the start of each group, so that a look-up searches a few
rows as bytes. A blob that is stored in several packs has several rows.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from cesbrfs.repo.format.index_builder import MAX_BITS, TableBuilder
from cesbrfs.repo.format.index_segment import (
    COMPRESSED,
    PACK_MASK,
    ROW_BYTES,
    TREE,
    Segment,
)
from cesbrfs.repo.format.model import ID_BYTES
from cesbrfs.repo.format.pack import BlobLocation, BlobType

_REST: Final = struct.Struct("<IIII")
_FANOUT_ENTRY: Final = struct.Struct("<2I")


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
    rows: bytearray | mmap.mmap
    rows_at: int
    count: int
    stored: int

    @classmethod
    def of(cls, segments: Mapping[str, Segment]) -> Table:
        """Build a table in memory."""
        return cls.built(TableBuilder(segments))

    @classmethod
    def built(cls, builder: TableBuilder) -> Table:
        """Return the table of `builder` in memory."""
        rows = bytearray(builder.count * ROW_BYTES)
        at = 0
        for part in builder.rows():
            rows[at : at + len(part)] = part
            at += len(part)
        return cls(
            builder.names, builder.packs, builder.bits, builder.fanout, rows, 0, builder.count,
            builder.stored,
        )  # fmt: skip

    def segment(self) -> Segment:
        """Return the rows as those of one index file, to be brought together with others."""
        packs = bytes(self.packs)
        ids = [packs[at : at + ID_BYTES] for at in range(0, len(packs), ID_BYTES)]
        return Segment.of(ids, self.rows[self.rows_at : self.rows_at + self.count * ROW_BYTES])

    def find(self, blob: bytes, *, tree: bool) -> list[BlobLocation]:
        """Return the places of a blob (ID of 32 bytes) in this table."""
        group = int.from_bytes(blob[:2], "big") >> (MAX_BITS - self.bits)
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
            if bool(flags & TREE) == tree:
                pack = (flags & PACK_MASK) * ID_BYTES
                found.append(
                    BlobLocation(
                        bytes(self.packs[pack : pack + ID_BYTES]),
                        offset,
                        length,
                        plain,
                        bool(flags & COMPRESSED),
                    )
                )
            at += ROW_BYTES
        return found


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
