"""Parse index files into rows of 48 bytes: ``ID 32 | flags | offset | length | plain length``.

The fields after the ID are u32, little-endian. Flags contain a pack number in their lower 30 bits.
"""

from __future__ import annotations

import struct
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from cesbrfs.errors import DamagedError
from cesbrfs.repo.format.crypto import OVERHEAD
from cesbrfs.repo.format.model import ID_BYTES, Lenient, parse_id, parse_index

ROW: Final = struct.Struct("<32sIIII")
ROW_BYTES: Final = ROW.size
TREE: Final = 1 << 31
COMPRESSED: Final = 1 << 30
PACK_MASK: Final = COMPRESSED - 1
ROW_WORDS: Final = ROW_BYTES // 4
"""Words (u32) in a row; FLAGS and LENGTH are positions in it."""
FLAGS: Final = ID_BYTES // 4
LENGTH: Final = FLAGS + 2
_FEW_ROWS: Final = 500
_ID_LONGS: Final = ID_BYTES // 8
_ROW_LONGS: Final = ROW_BYTES // 8
_HEX: Final = 2 * ID_BYTES
_U32: Final = (1 << 32) - 1

_Id = Annotated[str, msgspec.Meta(min_length=_HEX, max_length=_HEX)]
_U32Field = Annotated[int, msgspec.Meta(ge=0, le=_U32)]


class _Blob(Lenient):
    id: _Id
    type: Literal["data", "tree"]
    offset: _U32Field
    length: Annotated[int, msgspec.Meta(ge=OVERHEAD, le=_U32)]
    uncompressed_length: _U32Field | None = None


class _Pack(Lenient):
    id: _Id
    blobs: list[_Blob] | None = None


class _IndexFile(Lenient):
    packs: list[_Pack] | None = None


_decoder = msgspec.json.Decoder(_IndexFile)


class Segment(NamedTuple):
    """The rows of one index file, joined and ordered by the first byte of their IDs.

    `packs` are IDs of 32 bytes. The pack numbers in the rows count from `first`.
    """

    packs: list[bytes]
    rows: bytes
    first: int = 0

    @classmethod
    def of(cls, packs: list[bytes], rows: bytes | bytearray, first: int = 0) -> Segment:
        """Order the rows."""
        return cls(packs, ordered(rows, 0), first)


class PackNumbers:
    """Number the packs of several index files, which may be parsed in threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._next = 0

    def reserve(self, count: int) -> int:
        """Return the first of `count` consecutive numbers."""
        with self._lock:
            first = self._next
            self._next += count
        return first


def parse_segment(data: bytes, name: str, reserve: Callable[[int], int] = lambda _: 0) -> Segment:
    """Parse an opened index file; raise DamagedError if an entry is invalid.

    `reserve` returns the number of the first pack for a number of packs. Segments that are numbered
    consecutively are not renumbered when a table is built.
    """
    return _parse_columns(data, reserve) or _parse_entries(data, name)


def _parse_columns(data: bytes, reserve: Callable[[int], int]) -> Segment | None:
    """Parse an index file as restic writes it; None if it is invalid or unusual.

    This takes half of the time of `_parse_entries`, which is used for all others.
    """
    try:
        packs = _decoder.decode(data).packs or ()
        names = _joined([pack.id for pack in packs])
    except (ValueError, RecursionError):  # ValueError includes the errors of msgspec
        return None
    first = reserve(len(packs))
    blobs: list[_Blob] = []
    flags: list[int] = []
    for number, pack in enumerate(packs, first):
        held = pack.blobs or ()
        if len({blob.offset for blob in held}) < len(held):
            return None  # a blob may be repeated
        types = {blob.type for blob in held}
        if len(types) > 1:
            flags += [number | TREE if blob.type == "tree" else number for blob in held]
        else:
            flags += [number | TREE if "tree" in types else number] * len(held)
        blobs += held
    try:
        ids = _joined([blob.id for blob in blobs])
    except ValueError:
        return None
    lengths = [blob.length for blob in blobs]
    plain = [blob.uncompressed_length or 0 for blob in blobs]
    if all(plain):
        flags = [value | COMPRESSED for value in flags]
    else:
        flags = [value | COMPRESSED if n else value for value, n in zip(flags, plain, strict=True)]
        plain = [n or length - OVERHEAD for n, length in zip(plain, lengths, strict=True)]
    columns = (flags, [blob.offset for blob in blobs], lengths, plain)
    del packs, blobs  # the rows can use their memory
    pack_ids = [names[at : at + ID_BYTES] for at in range(0, len(names), ID_BYTES)]
    return Segment.of(pack_ids, _rows(ids, columns), first)


def _joined(ids: Sequence[str]) -> bytes:
    """Decode IDs of 64 characters each; raise ValueError if one is not hexadecimal."""
    joined = bytes.fromhex("".join(ids))
    if len(joined) != len(ids) * ID_BYTES:
        raise ValueError("`fromhex` ignores white space")
    return joined


def _rows(ids: bytes, columns: Sequence[Sequence[int]]) -> bytes | bytearray:
    """Interleave columns to rows."""
    if not ids:
        return b""
    rows = bytearray(len(ids) // ID_BYTES * ROW_BYTES)
    words, longs = memoryview(rows).cast("I"), memoryview(rows).cast("Q")
    source = memoryview(ids).cast("Q")
    for at in range(_ID_LONGS):
        longs[at::_ROW_LONGS] = source[at::_ID_LONGS]
    for at, column in enumerate(columns, FLAGS):
        words[at::ROW_WORDS] = memoryview(array("I", column))
    return rows


def _parse_entries(data: bytes, name: str) -> Segment:
    """Parse any index file entry by entry; raise DamagedError if an entry is invalid."""
    packs: list[bytes] = []
    rows = bytearray()
    for number, pack in enumerate(parse_index(data, f"index file {name[:8]}").packs or ()):
        packs.append(parse_id(pack.id))
        held: dict[bytes, None] = {}
        for blob in pack.blobs or ():
            if blob.type == "data":
                flags = number
            elif blob.type == "tree":
                flags = number | TREE
            else:
                raise DamagedError(
                    f"Invalid index file {name[:8]}: unknown blob type {blob.type!r}."
                )
            plain = blob.length - OVERHEAD
            if blob.uncompressed_length:
                flags |= COMPRESSED
                plain = blob.uncompressed_length
            if not (0 <= blob.offset <= _U32 and OVERHEAD <= blob.length <= _U32 >= plain >= 0):
                raise DamagedError(
                    f"Invalid index file {name[:8]}: offset or length of a blob out of range."
                )
            held[ROW.pack(parse_id(blob.id), flags, blob.offset, blob.length, plain)] = None
        rows += b"".join(held)
    return Segment.of(packs, rows)


def ordered(rows: bytes | bytearray, at: int) -> bytes:
    """Order rows by their byte `at`, without changing the order of rows that are equal in it.

    Distributing many rows to lists takes a third of the time of sorting.
    """
    if len(rows) < _FEW_ROWS * ROW_BYTES:
        few = sorted(split(rows), key=lambda row: row[at])
        return b"".join(few)
    lists: list[list[bytes]] = [[] for _ in range(256)]
    to = map(lists.__getitem__, rows[at::ROW_BYTES])
    deque(map(list.append, to, split(rows)), maxlen=0)
    return b"".join([b"".join(part) for part in lists])


def split(rows: bytes | bytearray) -> tuple[bytes, ...]:
    """Split joined rows."""
    return struct.Struct(f"{ROW_BYTES}s" * (len(rows) // ROW_BYTES)).unpack(rows)
