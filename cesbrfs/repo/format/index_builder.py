"""Build index tables: group the rows of several index files by the first bits of their IDs."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from cesbrfs.repo.format.index_segment import (
    FLAGS,
    LENGTH,
    PACK_MASK,
    ROW_BYTES,
    ROW_WORDS,
    Segment,
    ordered,
    split,
)

MAX_BITS: Final = 16
_GROUP_ROWS: Final = 64
_BYTES: Final = 256
_SMALL_BYTES: Final = 64 << 10
_JOINED: Final = 64
"""Small parts that are joined to one of at most 4 MiB."""


class TableBuilder:
    """Brings the rows of index files together, each row once.

    The rows are grouped when `rows` is iterated, a 256th at a time, so that a table can be written
    to a file without a copy of it in memory.
    """

    def __init__(self, segments: Mapping[str, Segment]) -> None:
        self.names: Final = tuple(segments)
        """The index files."""
        numbers: dict[bytes, int] = {}
        repeated = False
        parts: list[bytes] = []
        for segment in sorted(segments.values(), key=lambda segment: segment.first):
            known = len(numbers)
            local = [numbers.setdefault(pack, len(numbers)) for pack in segment.packs]
            repeated |= len(numbers) < known + len(local)
            if len(numbers) == known + len(local) and segment.first == known:
                parts.append(segment.rows)
            else:
                parts.append(_renumbered(segment, local))
        self._parts: list[bytes] = _with_small_ones_joined(parts)
        self.packs: Final = b"".join(numbers)
        """The IDs of the packs, joined."""
        self._starts: list[list[int]] = [_starts(rows) for rows in self._parts]
        if repeated:  # packs that several index files contain, perhaps with the same rows
            unique = [b"".join(dict.fromkeys(split(rows))) for rows in self._by_first_byte()]
            self._parts = [b"".join(unique)]
            self._starts = [_starts(self._parts[0])]
        self.count: Final = sum(map(len, self._parts)) // ROW_BYTES
        """The number of rows."""
        self.stored: Final = sum(sum(_column(rows, LENGTH)) for rows in self._parts)
        """The sum of the lengths of the rows, in bytes."""
        self.bits: Final = min(max((self.count // _GROUP_ROWS).bit_length(), 1), MAX_BITS)
        """The number of bits that rows are grouped by."""
        self.fanout: Final = self._fanout()
        """The number of rows before each group and at the end, as u32."""

    def rows(self) -> Iterator[bytes]:
        """Yield all rows in the order of groups."""
        return (ordered(part, 1) for part in self._by_first_byte() if part)

    def _by_first_byte(self) -> Iterator[bytes]:
        """Yield the rows for each first byte."""
        for first in range(_BYTES):
            yield b"".join(
                [
                    rows[starts[first] : starts[first + 1]]
                    for rows, starts in zip(self._parts, self._starts, strict=True)
                ]
            )

    def _fanout(self) -> bytes:
        counts = array("I", bytes(4 * ((1 << self.bits) + 1)))
        for first in range(_BYTES):
            second = b"".join(
                [
                    rows[starts[first] + 1 : starts[first + 1] : ROW_BYTES]
                    for rows, starts in zip(self._parts, self._starts, strict=True)
                ]
            )
            for byte, count in Counter(second).items():
                counts[((first << 8 | byte) >> (MAX_BITS - self.bits)) + 1] += count
        return array("I", accumulate(counts)).tobytes()


def _with_small_ones_joined(parts: Sequence[bytes]) -> list[bytes]:
    """Join small parts: each costs 256 slices. There may be thousands of small index files."""
    large = [part for part in parts if len(part) >= _SMALL_BYTES]
    small = [part for part in parts if len(part) < _SMALL_BYTES]
    groups = [small[at : at + _JOINED] for at in range(0, len(small), _JOINED)]
    return large + [ordered(b"".join(group), 0) for group in groups]


def _starts(rows: bytes) -> list[int]:
    """Return where the rows for each first byte begin in rows ordered by it, and the end."""
    firsts = rows[::ROW_BYTES]
    starts = [bisect_left(firsts, first) * ROW_BYTES for first in range(_BYTES)]
    return [*starts, len(rows)]


def _column(rows: bytes | bytearray, position: int) -> memoryview:
    return memoryview(rows).cast("I")[position::ROW_WORDS]


def _renumbered(segment: Segment, local: Sequence[int]) -> bytes:
    """Return the rows of a segment with the pack numbers that `local` gives for its packs."""
    rows = bytearray(segment.rows)
    flags = _column(rows, FLAGS)
    first = segment.first
    for at, value in enumerate(flags):
        flags[at] = value & ~PACK_MASK | local[(value & PACK_MASK) - first]
    return bytes(rows)
