"""Blobs, unpacked files and pack headers: valid forms, and every kind of error."""

from __future__ import annotations

import hashlib
import itertools
import random
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.errors import DamagedError
from cesbrfs.repo.format import pack
from cesbrfs.repo.format.crypto import Keys, seal_record
from cesbrfs.repo.format.pack import (
    DATA_BLOB_MAX,
    TREE_BLOB_MAX,
    BlobLocation,
    BlobType,
    decode_blob,
    decode_unpacked,
    encode_unpacked,
    header_length,
    parse_header,
    raise_if_too_large,
)
from cesbrfs.repo.storage import FileType
from tests.support.memory_repo import MemoryRepo

KEYS = Keys(b"e" * 32, b"k" * 16, b"r" * 16)
PACK = b"\x99" * 32
_nonces = itertools.count(1)


def seal(plain: bytes) -> bytes:
    return seal_record(KEYS, plain, next(_nonces).to_bytes(16, "big"))


def opened(
    content: bytes, stored: bytes | None = None, *, plain: int | None = None, compressed: bool
) -> bytes:
    """Decode the record `stored` with the ID of `content` and the length in the index."""
    record = seal(content if stored is None else stored)
    place = BlobLocation(PACK, 0, len(record), len(content) if plain is None else plain, compressed)
    return decode_blob(KEYS, hashlib.sha256(content).digest(), record, place)


def sized(content: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(content)


def unsized(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(content)


@given(st.binary(max_size=2000))
def test_blobs_of_every_form_open(content: bytes) -> None:
    """Plain, compressed with and without the size in the frame, in one or more blocks."""
    assert opened(content, compressed=False) == content
    assert opened(content, sized(content), compressed=True) == content
    assert opened(content, unsized(content), compressed=True) == content
    streamed = zstandard.ZstdCompressor().compressobj()
    frame = streamed.compress(content[:7]) + streamed.compress(content[7:]) + streamed.flush()
    assert opened(content, frame, compressed=True) == content


CONTENT = b"some content, some content, some content"


@pytest.mark.parametrize("frame", [sized(CONTENT), unsized(CONTENT)], ids=["sized", "unsized"])
class TestCompressedBlobs:
    """A zstd frame that differs from the index."""

    @pytest.mark.parametrize("length", [0, 1, len(CONTENT) - 1, len(CONTENT) + 1, 1 << 20])
    def test_a_wrong_length(self, frame: bytes, length: int) -> None:
        """Shorter and longer content is detected."""
        with pytest.raises(DamagedError):
            opened(CONTENT, frame, plain=length, compressed=True)

    @pytest.mark.parametrize("garbage", [b"\0", b"garbage", sized(b""), sized(b"more")])
    def test_trailing_garbage(self, frame: bytes, garbage: bytes) -> None:
        """No data may follow the frame, not even another frame."""
        with pytest.raises(DamagedError):
            opened(CONTENT, frame + garbage, compressed=True)

    def test_a_truncated_frame(self, frame: bytes) -> None:
        """Truncated to any length."""
        for length in range(len(frame)):
            with pytest.raises(DamagedError):
                opened(CONTENT, frame[:length], compressed=True)

    def test_a_bomb(self, frame: bytes) -> None:
        """A frame that decompresses to far more than the index claims is not decompressed."""
        bomb = unsized(bytes(1 << 26)) if frame == unsized(CONTENT) else sized(bytes(1 << 26))
        tracemalloc.start()
        try:
            with pytest.raises(DamagedError):
                opened(CONTENT, bomb, compressed=True)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20


def test_content_that_is_not_what_the_id_promises() -> None:
    """The SHA-256 is checked even if the MAC is right: blobs may have been swapped."""
    place = BlobLocation(PACK, 0, 32 + len(CONTENT), len(CONTENT), compressed=False)
    with pytest.raises(DamagedError, match="99999999"):
        decode_blob(KEYS, hashlib.sha256(b"other").digest(), seal(CONTENT), place)


def test_a_plain_blob_of_another_length() -> None:
    """Otherwise, with two contradictory index files, later file content would shift."""
    with pytest.raises(DamagedError):
        opened(CONTENT, plain=3, compressed=False)


def test_a_plain_blob_is_not_taken_for_a_compressed_one() -> None:
    """Neither is a compressed one taken for a plain one."""
    with pytest.raises(DamagedError):
        opened(CONTENT, CONTENT, compressed=True)
    with pytest.raises(DamagedError):
        opened(CONTENT, sized(CONTENT), compressed=False)


@pytest.mark.parametrize("json", [b"{}", b"[]", b'{"a": "' + b"x" * 100_000 + b'"}'])
def test_unpacked_files_of_every_form_open(json: bytes) -> None:
    """Raw JSON, or 0x02 before a zstd frame with and without its size."""
    assert decode_unpacked(KEYS, seal(json)) == json
    assert decode_unpacked(KEYS, seal(b"\x02" + sized(json))) == json
    assert decode_unpacked(KEYS, seal(b"\x02" + unsized(json))) == json


@pytest.mark.parametrize(
    "plain",
    [
        b"", b" {}", b"\x01" + sized(b"{}"), b"\x03{}", sized(b"{}"), b"\x02", b"\x02{}",
        b"\x02" + sized(b"{}")[:-1], b"\x02" + sized(b"{}") + b"x", b"\x02" + unsized(b"{}")[:5],
        b"\x02" + sized(b"{}") + sized(b"{}"), b"\x02" + sized(b"{}") + bytes(5000),
    ],
)  # fmt: skip
def test_other_unpacked_files_are_damage(plain: bytes) -> None:
    """Another first byte, a truncated frame, trailing data."""
    with pytest.raises(DamagedError):
        decode_unpacked(KEYS, seal(plain))


def test_what_follows_an_unpacked_file_wherever_its_frame_ends() -> None:
    """Trailing data is detected even if the frame ends exactly at the end of a chunk."""
    noise = random.Random(1).randbytes(3 * 4096)
    for compressed in (sized, unsized):
        frames = {len(frame): frame for frame in (compressed(noise[:n]) for n in range(4060, 4100))}
        frame = frames[4096]
        assert len(decode_unpacked(KEYS, seal(b"\x02" + frame))) > 4000
        with pytest.raises(DamagedError):
            decode_unpacked(KEYS, seal(b"\x02" + frame + b"more"))


def test_an_unpacked_file_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decompression stops once the size exceeds that of any real file."""
    monkeypatch.setattr(pack, "UNPACKED_MAX", 1 << 20)
    for bomb in (sized(bytes(1 << 24)), unsized(bytes(1 << 24))):
        with pytest.raises(DamagedError, match="1 MiB"):
            decode_unpacked(KEYS, seal(b"\x02" + bomb))


def test_a_frame_without_its_size_in_many_pieces() -> None:
    """It may have exactly the maximum length, and not one byte more."""
    noise = random.Random(1).randbytes(3 * 4096)
    for frame in (sized(noise), unsized(noise)):
        record = seal(b"\x02" + frame)
        assert decode_unpacked(KEYS, record, len(noise)) == noise
        with pytest.raises(DamagedError, match="more than 0 MiB"):
            decode_unpacked(KEYS, record, len(noise) - 1)


def test_a_written_file_opens() -> None:
    """`encode_unpacked` compresses, and is the inverse of `decode_unpacked`."""
    content = b'{"a": "' + b"x" * 1000 + b'"}'
    record = encode_unpacked(KEYS, content, bytes(range(16)))
    assert record[:16] == bytes(range(16))
    assert len(record) < 200
    assert decode_unpacked(KEYS, record) == content


@pytest.mark.parametrize("version", [1, 2])
def test_a_header_tells_every_blob_and_its_place(version: int) -> None:
    """Mixed types, plain and compressed: the header equals the index."""
    repo = MemoryRepo(version)
    blobs = [
        repo.blob(BlobType.DATA, b"data", compress=False),
        repo.blob(BlobType.TREE, b'{"nodes":[]}\n'),
        repo.blob(BlobType.DATA, b""),
        repo.blob(BlobType.DATA, b"x" * 1000),
    ]
    name, entries = repo.pack(*blobs)
    raw = repo.storage.files[FileType.PACK, name]
    length = header_length(raw[-4:], len(raw))
    found = parse_header(repo.keys, bytes.fromhex(name), raw[-4 - length : -4])
    assert [(kind, blob) for kind, blob, _ in found] == [(blob.kind, blob.id) for blob in blobs]
    for blob, (_, _, place), entry in zip(blobs, found, entries, strict=True):
        assert place.pack.hex() == name
        assert (place.offset, place.length) == (entry["offset"], entry["length"])
        assert (place.uncompressed_length, place.compressed) == (
            blob.uncompressed_length,
            blob.compressed,
        )
        record = raw[place.offset : place.offset + place.length]
        assert decode_blob(repo.keys, blob.id, record, place) is not None


@pytest.mark.parametrize(
    ("kind", "bound"), [(BlobType.DATA, DATA_BLOB_MAX), (BlobType.TREE, TREE_BLOB_MAX)]
)
def test_the_largest_blobs(kind: BlobType, bound: int) -> None:
    """The content and the record have bounds, which differ by the overhead of a record."""
    raise_if_too_large(kind, PACK, BlobLocation(PACK, 0, bound + 32, bound, compressed=False))
    for length, content, size in ((bound + 33, 1, bound + 33), (1, bound + 1, bound + 1)):
        with pytest.raises(DamagedError) as caught:
            raise_if_too_large(kind, PACK, BlobLocation(PACK, 0, length, content, compressed=True))
        assert caught.value.message == (
            f"Blob 99999999 is too large: {size:,} bytes according to the index, at most"
            f" {bound:,} are supported. Run 'cesbr check'."
        )


@pytest.mark.parametrize(
    "header",
    [
        b"\x04\x40\0\0\0" + bytes(32),
        b"\0" + bytes(35),
        b"\x02" + bytes(37),
        b"\0\x1f\0\0\0" + bytes(32),
    ],
    ids=["type 4", "cut", "cut compressed", "a blob shorter than a record"],
)  # fmt: skip
def test_a_broken_header_is_damage(header: bytes) -> None:
    """Unknown types, truncated entries, invalid lengths."""
    with pytest.raises(DamagedError):
        parse_header(KEYS, PACK, seal(header))


@pytest.mark.parametrize(
    ("tail", "size"),
    [
        (b"", 0), (b"\0\0\0", 3), (bytes(4), 100), (b"\x20\0\0\0", 100), (b"\x61\0\0\0", 100),
        (b"\xff\xff\xff\xff", 100), (b"\x01\0\0\x01", 1 << 30),
    ],
)  # fmt: skip
def test_an_impossible_header_length_is_damage(tail: bytes, size: int) -> None:
    """Empty, longer than the pack, over 16 MiB."""
    with pytest.raises(DamagedError):
        header_length(tail, size)


def test_the_longest_header_lengths_are_taken() -> None:
    """A pack with only a header, and a header of 16 MiB."""
    assert header_length(b"\x60\0\0\0", 100) == 96
    assert header_length(b"before\x60\0\0\0", 100) == 96
    assert header_length(b"\0\0\0\x01", 1 << 30) == 1 << 24
