"""Decode and verify blobs and pack headers. Pure.

A pack is ``blobs | sealed header | u32le header length``. A blob is one record; in format 2 its
plaintext may be a zstd frame. A blob's ID is the SHA-256 of its plaintext (decrypted,
decompressed).
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import threading
from enum import IntEnum
from typing import Final, NamedTuple

import zstandard

from cesbrfs.errors import DamagedError
from cesbrfs.repo.format.crypto import OVERHEAD, Keys, open_record, seal_record

HEADER_MAX: Final = 16 << 20
UNPACKED_MAX: Final = 256 << 20
"""Bytes of an index file at most, once decompressed: restic's have about 8 MiB."""
SNAPSHOT_MAX: Final = 16 << 20
"""Bytes of a snapshot or a lock at most, once decompressed."""
DATA_BLOB_MAX: Final = 64 << 20
"""Bytes of a data blob at most, stored or as content: restic's have 8 MiB."""
TREE_BLOB_MAX: Final = 512 << 20
"""Bytes of a directory's tree at most: about 1.5 million entries."""

_PLAIN: Final = struct.Struct("<BI32s")
_PACKED: Final = struct.Struct("<BII32s")
_PIECE: Final = 512
"""Decompressed at a time where the result's length is unknown; it unpacks to 16 MiB at most."""
_COMPRESSED: Final = 2


class BlobType(IntEnum):
    """What a blob holds; an ID is only unique together with it."""

    DATA = 0
    TREE = 1


class BlobLocation(NamedTuple):
    """The location of a blob: `length` bytes at `offset` of a pack.

    `uncompressed_length` is the length of its content.
    `pack` is the pack's ID in 32 bytes.
    """

    pack: bytes
    offset: int
    length: int
    uncompressed_length: int
    compressed: bool


class _Local(threading.local):
    """One decompressor a thread: zstd's contexts must not be shared."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor()


_local = _Local()


def decode_blob(keys: Keys, blob: bytes, raw: bytes | memoryview, place: BlobLocation) -> bytes:
    """Open the record `raw` found at `place` and check that it is the blob `blob` (32 bytes).

    Raises DamagedError when MAC, compression, length or SHA-256 are not what they must be.
    """
    try:
        plain = open_record(keys, raw)
        if place.compressed:
            plain = _decompress(plain, place.uncompressed_length)
        _check_content(plain, place.uncompressed_length, blob)
    except DamagedError as error:
        raise DamagedError(
            f"Blob {blob.hex()[:8]} in pack {place.pack.hex()[:8]} is damaged: {error.message} Run"
            " 'cesbr check --read-data'."
        ) from error
    return plain


def raise_if_too_large(kind: BlobType, blob: bytes, place: BlobLocation) -> None:
    """Raise DamagedError for a blob that an index gives more bytes than any writer does."""
    bound = TREE_BLOB_MAX if kind is BlobType.TREE else DATA_BLOB_MAX
    if place.uncompressed_length > bound or place.length > bound + OVERHEAD:
        size = max(place.uncompressed_length, place.length)
        raise DamagedError(
            f"Blob {blob.hex()[:8]} is too large: {size:,} bytes according to the index, at most"
            f" {bound:,} are supported. Run 'cesbr check'."
        )


def _check_content(plain: bytes, length: int, blob: bytes) -> None:
    if len(plain) != length or hashlib.sha256(plain).digest() != blob:
        raise DamagedError("Its length or SHA-256 does not match.")


def _decompress(data: bytes, length: int) -> bytes:
    """Decompress a blob's zstd frame, whose length the index knows (in bytes)."""
    try:
        # python-zstandard lets a frame that states its size outgrow `max_output_size`: ask first.
        stated = zstandard.get_frame_parameters(data).content_size
        if stated not in (length, zstandard.CONTENTSIZE_UNKNOWN):
            raise DamagedError(f"It decompresses to {stated} instead of {length} bytes.")
        if not length:
            return b""
        return _local.zstd.decompress(data, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DamagedError(f"Decompression failed: {error}.") from error


def decode_unpacked(keys: Keys, raw: bytes, size_max: int | None = None) -> bytes:
    """Open a snapshot or index file: a record of JSON, or of ``0x02`` and zstd-compressed JSON.

    It may have `size_max` bytes, by default UNPACKED_MAX.
    """
    size_max = UNPACKED_MAX if size_max is None else size_max
    plain = open_record(keys, raw)
    if plain[:1] in (b"{", b"["):
        return plain
    if plain[:1] != bytes((_COMPRESSED,)):
        raise DamagedError("Its content is neither JSON nor compressed JSON.")
    return _decompress_unknown(memoryview(plain)[1:], size_max)


def encode_unpacked(keys: Keys, plain: bytes, nonce: bytes) -> bytes:
    """Compress and seal what `decode_unpacked` opens; `nonce` is random, never used again."""
    packed = zstandard.ZstdCompressor(level=1).compress(plain)
    return seal_record(keys, bytes((_COMPRESSED,)) + packed, nonce)


def _decompress_unknown(data: memoryview, size_max: int) -> bytes:
    """Decompress a zstd frame of at most `size_max` bytes, with nothing after it.

    A frame of restic contains its length and is decompressed at once, which allows other threads to
    run. Any other is decompressed in small pieces.
    """
    with contextlib.suppress(zstandard.ZstdError):  # the loop below reports the error
        if 0 < zstandard.get_frame_parameters(data).content_size <= size_max:
            return _local.zstd.decompress(data, allow_extra_data=False)
    parts: list[bytes] = []
    size = at = 0
    frame = _local.zstd.decompressobj()
    try:
        while at < len(data) and not frame.eof:
            parts.append(frame.decompress(data[at : at + _PIECE]))
            at += _PIECE
            size += len(parts[-1])
            if size > size_max:
                raise DamagedError(f"It decompresses to more than {size_max >> 20} MiB.")
    except zstandard.ZstdError as error:
        raise DamagedError(f"Decompression failed: {error}.") from error
    if not frame.eof or frame.unused_data or at < len(data):
        raise DamagedError("Its compressed data is truncated or followed by other data.")
    return b"".join(parts)


def header_length(tail: bytes, pack_size: int) -> int:
    """Return the length of a pack's encrypted header, from the last four bytes of the pack."""
    length = int.from_bytes(tail[-4:], "little")
    if len(tail) < 4 or not OVERHEAD < length <= min(HEADER_MAX, pack_size - 4):  # noqa: PLR2004 - u32
        raise DamagedError("Invalid pack header: wrong length. Run 'cesbr check'.")
    return length


def parse_header(
    keys: Keys, pack: bytes, sealed: bytes
) -> list[tuple[BlobType, bytes, BlobLocation]]:
    """Read a pack's header: the type, ID and place of each of its blobs, in order."""
    plain = open_record(keys, sealed)
    found: list[tuple[BlobType, bytes, BlobLocation]] = []
    at = offset = 0
    try:
        while at < len(plain):
            compressed = bool(plain[at] & 2)
            if plain[at] > 3:  # noqa: PLR2004 - the four entry types are 0 to 3
                raise DamagedError(f"Invalid pack header: unknown entry type {plain[at]}.")
            if compressed:
                kind, length, size, blob = _PACKED.unpack_from(plain, at)
                at += _PACKED.size
            else:
                kind, length, blob = _PLAIN.unpack_from(plain, at)
                size = length - OVERHEAD
                at += _PLAIN.size
            if length < OVERHEAD:
                raise DamagedError(f"Invalid pack header: blob of {length} bytes.")
            found.append(
                (BlobType(kind & 1), blob, BlobLocation(pack, offset, length, size, compressed))
            )
            offset += length
    except struct.error as error:
        raise DamagedError("Invalid pack header: truncated entry.") from error
    return found
