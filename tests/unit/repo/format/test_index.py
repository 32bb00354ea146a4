"""The merged index: every location of every blob, and invalid index files."""

from __future__ import annotations

import json
import random
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.errors import DamagedError
from cesbrfs.repo.format import index_builder, index_segment
from cesbrfs.repo.format.index import Index, Table
from cesbrfs.repo.format.index_segment import (
    ROW_BYTES,
    PackNumbers,
    Segment,
    ordered,
    parse_segment,
    split,
)
from cesbrfs.repo.format.pack import BlobLocation, BlobType

U32 = (1 << 32) - 1
A, B, C = (bytes((byte,)) * 32 for byte in (0xAA, 0xBB, 0xCC))


def entry(blob: bytes, kind: str = "data", **fields: Any) -> dict[str, Any]:
    return {"id": blob.hex(), "type": kind, "offset": 0, "length": 132} | fields


def index_file(*packs: tuple[bytes, list[dict[str, Any]]]) -> bytes:
    return json.dumps(
        {"packs": [{"id": pack.hex(), "blobs": blobs} for pack, blobs in packs]}
    ).encode()


def index_of(*files: bytes) -> Index:
    return Index.of({str(at): parse_segment(data, "index") for at, data in enumerate(files)})


def test_a_blob_is_known_by_type_and_id() -> None:
    """A data blob and a tree blob may have the same ID."""
    index = index_of(index_file((B, [entry(A, offset=1), entry(A, "tree", offset=2)])))
    assert index.places(BlobType.DATA, A) == [BlobLocation(B, 1, 132, 100, compressed=False)]
    assert index.places(BlobType.TREE, A) == [BlobLocation(B, 2, 132, 100, compressed=False)]
    assert index.places(BlobType.DATA, B) == []
    assert index.plain_length(A) == 100
    assert index.plain_length(C) is None


def test_compressed_blobs_have_a_length_of_their_own() -> None:
    """A length of zero or null means that the blob is not compressed."""
    index = index_of(
        index_file(
            (C, [entry(A, uncompressed_length=5000)]),
            (C, [entry(B, uncompressed_length=0), entry(B, "tree", uncompressed_length=None)]),
        )
    )
    assert index.places(BlobType.DATA, A) == [BlobLocation(C, 0, 132, 5000, compressed=True)]
    assert index.places(BlobType.DATA, B) == [BlobLocation(C, 0, 132, 100, compressed=False)]
    assert index.places(BlobType.TREE, B) == [BlobLocation(C, 0, 132, 100, compressed=False)]


def test_every_place_of_a_duplicate_is_kept() -> None:
    """In two packs of two index files, one of them compressed."""
    index = index_of(
        index_file((B, [entry(A)])),
        index_file((C, [entry(A, uncompressed_length=100, length=60)])),
    )
    assert sorted(index.places(BlobType.DATA, A)) == [
        BlobLocation(B, 0, 132, 100, compressed=False),
        BlobLocation(C, 0, 60, 100, compressed=True),
    ]


def test_what_several_index_files_repeat_is_there_once() -> None:
    """A pack may be split over several files, and repeated in another."""
    first = index_file((C, [entry(A)]))
    second = index_file((C, [entry(B, offset=132)]), (C, [entry(A)]))
    index = index_of(first, first, second)
    assert len(index) == 2
    index = index_of(first, second, first, index_file((A, [])))
    assert len(index) == 2
    assert index.tables[0].packs == C + A
    assert index.stored_bytes == 264
    assert len(index.places(BlobType.DATA, A)) == 1
    assert len(index.places(BlobType.DATA, B)) == 1


def test_an_id_is_not_found_across_rows() -> None:
    """Bytes that match an ID across two rows are skipped, and later matches are found."""
    blob = b"\xaa\xaa" + bytes(14) + b"\xaa\xaa" + b"\xff" * 14
    crossing = blob[16:] + struct.pack("<IIII", 0, 5, 132, 100)  # ends with the rest of blob's row
    index = index_of(index_file((B, [entry(blob, offset=5)])))
    assert index.places(BlobType.DATA, crossing) == []
    index = index_of(index_file((B, [entry(blob, offset=5), entry(crossing, offset=9)])))
    assert [place.offset for place in index.places(BlobType.DATA, crossing)] == [9]
    assert [place.offset for place in index.places(BlobType.DATA, blob)] == [5]


ids = st.sampled_from([bytes((a,)) * 31 + bytes((b,)) for a in (0, 1, 255) for b in (0, 1, 255)])
blobs = st.tuples(
    ids,
    st.sampled_from(["data", "tree"]),
    st.integers(0, U32),
    st.integers(32, U32),
    st.integers(0, U32),
)


@given(st.lists(st.lists(st.tuples(ids, st.lists(blobs, max_size=5)), max_size=3), max_size=3))
def test_it_finds_what_a_dictionary_would(
    files: list[list[tuple[bytes, list[tuple[bytes, str, int, int, int]]]]],
) -> None:
    """Any packs and blobs in any number of files, compared with a dictionary."""
    expected: dict[tuple[str, bytes], set[BlobLocation]] = {}
    for packs in files:
        for pack, held in packs:
            for blob, kind, offset, length, unpacked in held:
                place = BlobLocation(pack, offset, length, unpacked or length - 32, bool(unpacked))
                expected.setdefault((kind, blob), set()).add(place)
    index = index_of(
        *(
            index_file(
                *(
                    (pack, [
                        entry(b, k, offset=o, length=n, uncompressed_length=u)
                        for b, k, o, n, u in held
                    ])
                    for pack, held in packs
                )
            )
            for packs in files
        )
    )  # fmt: skip
    assert len(index) == sum(len(places) for places in expected.values())
    for blob in (bytes((a,)) * 31 + bytes((b,)) for a in (0, 1, 255) for b in (0, 1, 2, 255)):
        for wanted in BlobType:
            found = index.places(wanted, blob)
            assert len(found) == len(set(found))
            assert set(found) == expected.get((wanted.name.lower(), blob), set())


@pytest.mark.parametrize("content", ["{}", '{"packs": null}', '{"packs": []}'])
def test_an_empty_index(content: str) -> None:
    """A repository without backups, or with empty index files only."""
    index = index_of(content.encode())
    assert len(index) == 0
    assert index.places(BlobType.DATA, A) == []
    assert Index([]).places(BlobType.TREE, bytes(32)) == []


def test_nulls_and_superseded_files_are_passed_over() -> None:
    """``supersedes`` of old versions, packs without blobs, unknown fields."""
    content = {"supersedes": [A.hex()], "packs": [{"id": B.hex(), "blobs": None, "new": 1}]}
    assert len(index_of(json.dumps(content).encode())) == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": -1}, {"offset": U32 + 1}, {"length": 31}, {"length": -1}, {"length": U32 + 1},
        {"uncompressed_length": -1}, {"uncompressed_length": U32 + 1}, {"type": "other"},
        {"type": None}, {"id": "ab"}, {"id": None}, {"offset": None}, {"length": 1 << 80},
        {"offset": "0"}, {"length": 32.5},
    ],
)  # fmt: skip
def test_an_absurd_entry_is_damage(fields: dict[str, Any]) -> None:
    """Offsets that are in no pack, and unknown types."""
    with pytest.raises(DamagedError):
        parse_segment(index_file((B, [entry(A, **fields)])), "index")


@pytest.mark.parametrize("data", [b"", b"[]", b'{"packs": {}}', b'{"packs": [{"id": "ab"}]}'])
def test_what_is_no_index_is_damage(data: bytes) -> None:
    """Another structure, or a pack with an invalid name."""
    with pytest.raises(DamagedError):
        parse_segment(data, "index")


def test_an_index_is_compact() -> None:
    """A blob uses one row in its segment and one in the table, and no Python objects."""
    data = index_file((B, [entry(bytes((n,)) * 32) for n in range(256)]))
    segment = parse_segment(data, "index")
    assert len(segment.rows) == 256 * ROW_BYTES


def parsed(data: bytes) -> tuple[list[bytes], list[bytes]] | str:
    """Return the packs and rows of an index file, or the error message."""
    try:
        segment = parse_segment(data, "index")
    except DamagedError as error:
        return error.message
    return segment.packs, sorted(split(segment.rows))


hex_ids = ids.map(bytes.hex) | st.sampled_from(
    ["A0" * 32, "ab", "", " " * 64, "a0 " * 21 + "a", "zz" * 32, "\u00e9" * 64, None, 5]
)  # fmt: skip
numbers = st.integers(0, 99) | st.sampled_from([-1, 31, 32, U32, U32 + 1, 1 << 80, 1.5, "0", None])
unusual = st.fixed_dictionaries(
    {
        "id": hex_ids,
        "type": st.sampled_from(["data", "tree"]) | st.sampled_from(["other", None, 1]),
        "offset": numbers,
        "length": st.integers(32, 99) | numbers,
    },
    optional={"uncompressed_length": numbers, "new": st.none()},
)
usual = st.builds(entry, ids, st.sampled_from(["data", "tree"]), offset=st.integers(0, 9))
packs_of_any_kind = st.lists(
    st.fixed_dictionaries(
        {"id": ids.map(bytes.hex) | hex_ids},
        optional={"blobs": st.none() | st.lists(usual, max_size=4) | st.lists(usual | unusual)},
    ),
    max_size=4,
)


@given(packs_of_any_kind, st.sampled_from(["", " ", "x", "{", "\udcff"]))
def test_columns_and_entries_give_the_same_rows_and_errors(packs: list[Any], end: str) -> None:
    """Parsing by columns is an optimization: results and errors are those of each entry."""
    data = (json.dumps({"packs": packs}) + end).encode(errors="surrogateescape")
    quick = parsed(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_segment, "_parse_columns", lambda *_: None)
        assert quick == parsed(data)


def test_an_index_file_of_restic_is_parsed_by_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """With data and trees, also in one pack, compressed or not."""
    monkeypatch.setattr(index_segment, "_parse_entries", None)
    mixed = [entry(A), entry(B, "tree", offset=132, uncompressed_length=500)]
    index = index_of(index_file((C, mixed), (A, [])), index_file((B, [entry(C, offset=7)])))
    assert index.places(BlobType.DATA, A) == [BlobLocation(C, 0, 132, 100, compressed=False)]
    assert index.places(BlobType.TREE, B) == [BlobLocation(C, 132, 132, 500, compressed=True)]
    assert index.places(BlobType.DATA, C) == [BlobLocation(B, 7, 132, 100, compressed=False)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (0, 2)])
def test_packs_are_numbered_across_index_files(order: tuple[int, ...]) -> None:
    """Segments may be added in any order, and one may be missing, as after a prune."""
    packs = PackNumbers()
    files = [index_file((pack, [entry(pack, offset=pack[0])])) for pack in (A, B, C)]
    segments = [parse_segment(data, "index", packs.reserve) for data in files]
    index = Index.of({str(at): segments[at] for at in order})
    assert index.packs() == {(A, B, C)[at] for at in order}
    for pack in index.packs():
        (place,) = index.places(BlobType.DATA, pack)
        assert (place.pack, place.offset) == (pack, pack[0])


def test_packs_get_consecutive_numbers() -> None:
    """From 0, whatever the number of packs of an index file."""
    packs = PackNumbers()
    assert [packs.reserve(count) for count in (2, 0, 3, 1)] == [0, 2, 2, 5]


def test_segments_with_consecutive_numbers_are_not_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their rows are neither renumbered nor compared, in any order of their packs."""
    monkeypatch.setattr(index_builder, "_renumbered", None)
    monkeypatch.setattr(index_builder, "split", None)
    packs = PackNumbers()
    segments = {
        pack.hex(): parse_segment(index_file((pack, [entry(pack)])), "index", packs.reserve)
        for pack in (B, C, A)
    }
    index = Index.of(dict(sorted(segments.items())))
    assert index.names == {A.hex(), B.hex(), C.hex()}
    assert [index.places(BlobType.DATA, blob)[0].pack for blob in (A, B, C)] == [A, B, C]


def test_several_tables_are_one_index() -> None:
    """Places in each table are found, equal ones once; numbers and names are those of all."""
    files = [
        index_file((A, [entry(A), entry(B, "tree", offset=132)])),
        index_file((B, [entry(A), entry(C, offset=132)])),
        index_file((A, [entry(A), entry(B, "tree", offset=132)])),
    ]
    tables = [Table.of({f"file {at}": parse_segment(data, "")}) for at, data in enumerate(files)]
    for count, places in ((1, [A]), (2, [A, B]), (3, [A, B])):
        index = Index(tables[:count])
        assert [place.pack for place in index.places(BlobType.DATA, A)] == places
        assert [place.pack for place in index.places(BlobType.TREE, B)] == [A]
        assert index.places(BlobType.DATA, B) == index.places(BlobType.TREE, A) == []
        assert index.names == {f"file {at}" for at in range(count)}
        assert (len(index), index.stored_bytes) == (2 * count, 2 * count * 132)
    assert index.packs() == {A, B}
    assert index.lacking(BlobType.DATA, (A, B, C)) == {B}
    assert index.lacking(BlobType.TREE, (A, B, C)) == {A, C}


def test_tables_are_joined() -> None:
    """The segment of a table, also of one that begins further on in a file, has all its rows."""
    noise = random.Random(2)
    blobs = {noise.randbytes(32): noise.choice((A, B, C)) for _ in range(200)}
    parts = [
        Table.of({
            "f": parse_segment(
                index_file(*((pack, [entry(blob)]) for blob, pack in list(blobs.items())[at::2])),
                "f",
            )
        })
        for at in range(2)
    ]  # fmt: skip
    moved = replace(parts[1], rows=bytearray(b"header") + parts[1].rows + b"end", rows_at=6)
    joined = Table.of({"0": parts[0].segment(), "1": moved.segment()})
    assert joined.names == ("0", "1")
    assert joined.count == len(blobs)
    index = Index([joined])
    assert index.packs() == {A, B, C}
    for blob, pack in blobs.items():
        assert [place.pack for place in index.places(BlobType.DATA, blob)] == [pack]


def test_large_and_small_numbers() -> None:
    """The limits of each field, with both parsers; lengths are summed correctly."""
    data = index_file(
        (A, [entry(A, offset=U32, length=U32), entry(B, length=32, uncompressed_length=U32)]),
        (B, [entry(C, length=32)]),
    )
    assert index_of(data).stored_bytes == U32 + 64
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_segment, "_parse_columns", lambda *_: None)
        index = index_of(data)
    assert index.stored_bytes == U32 + 64
    assert index.places(BlobType.DATA, C) == [BlobLocation(B, 0, 32, 0, compressed=False)]
    assert index.places(BlobType.DATA, A) == [BlobLocation(A, U32, U32, U32 - 32, compressed=False)]
    assert index.places(BlobType.DATA, B) == [BlobLocation(A, 0, 32, U32, compressed=True)]


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", index_file((A, [entry(B, "other")])), index_file((A, [entry(B, length=1)]))],
)
def test_an_invalid_index_file_is_named(data: bytes) -> None:
    """By the first eight characters of its name."""
    with pytest.raises(DamagedError, match=r"ndex file 01234567\b"):
        parse_segment(data, "0123456789abcdef")


@given(st.binary(max_size=400), st.integers(0, 47), st.sampled_from([0, 1 << 20]))
def test_ordered_is_a_stable_sort(noise: bytes, at: int, few: int) -> None:
    """By one byte of each row; few rows are sorted, and many are distributed to lists."""
    rows = [noise[n : n + 2] * 24 for n in range(0, len(noise) - 1, 2)]
    expected = sorted(rows, key=lambda row: row[at])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_segment, "_FEW_ROWS", few)
        assert ordered(b"".join(rows), at) == b"".join(expected)


@pytest.mark.parametrize(("group_rows", "again"), [(64, True), (1, True), (1, False)])
def test_large_and_small_index_files(
    group_rows: int, again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every blob is found at its place; a pack that is in two files is counted once."""
    monkeypatch.setattr(index_builder, "_GROUP_ROWS", group_rows)
    noise = random.Random(1)
    packs = PackNumbers()
    segments: dict[str, Segment] = {}
    expected: dict[bytes, tuple[bytes, int]] = {}
    for number, count in enumerate([2000, 1, 3000, *[2] * 100]):
        pack, found = noise.randbytes(32), [noise.randbytes(32) for _ in range(count)]
        data = index_file((pack, [entry(blob, offset=at) for at, blob in enumerate(found)]))
        segments[str(number)] = parse_segment(data, "index", packs.reserve)
        expected |= {blob: (pack, at) for at, blob in enumerate(found)}
    if again:
        segments["again"] = parse_segment(data, "index", packs.reserve)
    index = Index.of(segments)
    assert len(index) == len(expected)
    assert index.stored_bytes == 132 * len(expected)
    (table,) = index.tables
    assert table.bits == (7 if group_rows == 64 else 13)
    assert len(table.rows) == ROW_BYTES * len(expected)
    assert len(table.fanout) == 4 * ((1 << table.bits) + 1)
    for blob, (pack, at) in expected.items():
        assert index.places(BlobType.DATA, blob) == [BlobLocation(pack, at, 132, 100, False)]
