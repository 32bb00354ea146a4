"""Write one file: temporary file, verification, rename."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.errors import RestoreError
from cesbrfs.repo.format.model import Node
from cesbrfs.restore import writer
from cesbrfs.restore.metadata import FileMetadata, Warnings
from cesbrfs.restore.writer import (
    HOLE_BYTES,
    AppearedError,
    NewEntry,
    NewFile,
    NewLink,
    make_directory,
    solid,
)

_PLAIN = FileMetadata(Node(b"f", "file", stat.S_IFREG | 0o640, mtime_ns=1, atime_ns=2), b"f", False)


def _written(directory: int, content: bytes) -> NewFile:
    new = NewFile(directory)
    new.write(content)
    new.finish([hashlib.sha256(content).digest()], _PLAIN, Warnings())
    return new


_pieces = st.lists(st.tuples(st.booleans(), st.integers(1, 3 * HOLE_BYTES)), min_size=0, max_size=4)


@given(_pieces, st.integers(0, 2 * HOLE_BYTES))
def test_solid_leaves_out_nothing_but_zeros(pieces: list[tuple[bool, int]], offset: int) -> None:
    """The pieces are in order, and with zeros in between they equal the data."""
    data = b"".join((b"\1" if full else b"\0") * length for full, length in pieces)
    rebuilt = bytearray(len(data))
    last = 0
    for start, end in solid(data, offset):
        assert last <= start < end
        rebuilt[start:end] = data[start:end]
        last = end
    assert rebuilt == data


@pytest.mark.parametrize("offset", [0, 1, HOLE_BYTES - 1, HOLE_BYTES])
def test_solid_finds_the_holes(offset: int) -> None:
    """A complete block of zeros is omitted, wherever the data starts in the file."""
    lead = (-offset) % HOLE_BYTES
    data = b"x" * lead + bytes(HOLE_BYTES) + b"y"
    found = list(solid(data, offset))
    assert sum(end - start for start, end in found) == lead + 1


def test_placed_file_has_all_of_it(directory: Path, opened: int) -> None:
    """Content of several blobs, mode and times; the temporary file is gone."""
    new = NewFile(opened)
    blobs = [b"a" * 1000, bytes(200_000), b"b", bytes(100_000)]
    for blob in blobs:
        new.write(blob)
    new.finish([hashlib.sha256(blob).digest() for blob in blobs], _PLAIN, Warnings())
    new.place(b"f", replace=False)
    new.discard()
    assert os.listdir(directory) == ["f"]
    status = (directory / "f").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_atime_ns) == (0o640, 1, 2)
    assert (directory / "f").read_bytes() == b"".join(blobs)


@pytest.mark.parametrize("has_links", [True, False])
def test_file_systems_without_noreplace(
    directory: Path, opened: int, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    """Nothing is replaced there either, and the temporary name is removed."""

    def is_unsupported(*_: object) -> int:
        ctypes.set_errno(errno.EINVAL)
        return -1

    def is_not_permitted(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(writer, "_renameat2", is_unsupported)
    if not has_links:
        monkeypatch.setattr(os, "link", is_not_permitted)
    first, second = _written(opened, b"first"), _written(opened, b"second")
    first.place(b"f", replace=False)
    with pytest.raises(AppearedError):
        second.place(b"f", replace=False)
    first.discard()
    second.discard()
    assert os.listdir(directory) == ["f"]
    assert (directory / "f").read_bytes() == b"first"


def test_altered_file_is_not_placed(directory: Path, opened: int) -> None:
    """If the content read back differs from the backup, the file fails."""
    content = b"as it was backed up"
    new = NewFile(opened)
    new.write(content)
    (temporary,) = directory.iterdir()
    with temporary.open("r+b") as file:
        file.write(b"X")
    with pytest.raises(RestoreError, match="differs from the backup"):
        new.finish([hashlib.sha256(content).digest()], _PLAIN, Warnings())
    new.discard()
    assert list(directory.iterdir()) == []


def _read_from_disks() -> int:
    """Return the number of bytes that this process has read from disks."""
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["read_bytes"])


@pytest.mark.parametrize("from_disk", [True, False])
def test_verifying_reads_from_the_disk(directory: Path, opened: int, from_disk: bool) -> None:
    """Reading from the page cache would not detect disk errors."""
    control = directory / "control"
    control.write_bytes(os.urandom(1 << 20))
    with control.open("rb") as file:
        os.fdatasync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = _read_from_disks()
        file.read()
    if _read_from_disks() - before < 1 << 20:
        pytest.skip("this directory is not on a disk")
    blobs = [os.urandom(1 << 20) for _ in range(3)]
    new = NewFile(opened)
    for blob in blobs:
        new.write(blob)
    before = _read_from_disks()
    digests = [hashlib.sha256(blob).digest() for blob in blobs]
    new.finish(digests, _PLAIN, Warnings(), from_disk=from_disk)
    assert (_read_from_disks() - before >= 3 << 20) is from_disk
    new.discard()


@pytest.mark.parametrize("shape", ["shorter", "longer"])
def test_file_of_another_size_is_caught(directory: Path, opened: int, shape: str) -> None:
    """A file truncated during the restore fails; appended data is removed."""
    content = b"as it was backed up"
    new = NewFile(opened)
    new.write(content)
    (temporary,) = directory.iterdir()
    os.truncate(temporary, 3 if shape == "shorter" else 300)
    digests = [hashlib.sha256(content).digest()]
    if shape == "shorter":
        with pytest.raises(RestoreError):
            new.finish(digests, _PLAIN, Warnings())
    else:
        new.finish(digests, _PLAIN, Warnings())
        assert temporary.stat().st_size == len(content)
    new.discard()


def test_missing_blob_is_caught(opened: int) -> None:
    """A file with fewer blobs than its node lists fails."""
    new = NewFile(opened)
    new.write(b"one")
    with pytest.raises(RestoreError, match="Not all"):
        new.finish([hashlib.sha256(b"one").digest()] * 2, _PLAIN, Warnings())
    new.discard()


@pytest.mark.parametrize("kind", ["file", "link", "dangling", "directory"])
def test_nothing_is_replaced_unasked(directory: Path, opened: int, kind: str) -> None:
    """Anything that appeared in place of a new file is kept."""
    there = directory / "f"
    match kind:
        case "file":
            there.write_text("theirs")
        case "link":
            (directory / "other").write_text("other")
            there.symlink_to("other")
        case "dangling":
            there.symlink_to("nowhere")
        case _:
            there.mkdir()
    before = there.lstat()
    new = _written(opened, b"ours")
    with pytest.raises(AppearedError):
        new.place(b"f", replace=False)
    new.discard()
    assert there.lstat() == before
    assert not list(directory.glob(".cesbr-*"))


def test_link_is_replaced_and_not_followed(directory: Path, opened: int) -> None:
    """Replacing a symlink does not affect its target."""
    (directory / "other").write_text("other")
    (directory / "f").symlink_to("other")
    new = _written(opened, b"ours")
    new.place(b"f", replace=True)
    new.discard()
    assert (directory / "other").read_text() == "other"
    assert not (directory / "f").is_symlink()
    assert (directory / "f").read_bytes() == b"ours"


@pytest.mark.parametrize("there", [False, True])
def test_place_without_hard_links(
    directory: Path, opened: int, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the file system has no hard links, rename is used, without replacing anything."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    if there:
        (directory / "f").write_text("theirs")
    new = _written(opened, b"ours")
    monkeypatch.setattr(os, "link", refuse)
    if there:
        with pytest.raises(AppearedError):
            new.place(b"f", replace=False)
    else:
        new.place(b"f", replace=False)
    new.discard()
    assert os.listdir(directory) == ["f"]
    assert (directory / "f").read_text() == ("theirs" if there else "ours")


def test_link_to_a_replaced_file_is_not_made(directory: Path, opened: int) -> None:
    """A hard link is made only to the file that was restored."""
    (directory / "first").write_text("restored")
    status = (directory / "first").stat()
    other = (status.st_dev, status.st_ino + 1)
    with pytest.raises(RestoreError, match="replaced"):
        NewLink(opened, opened, b"first", other)
    new: NewEntry = NewLink(opened, opened, b"first", (status.st_dev, status.st_ino))
    new.place(b"second", replace=False)
    new.discard()
    assert sorted(os.listdir(directory)) == ["first", "second"]


def test_directory_may_be_there_but_nothing_else(directory: Path, opened: int) -> None:
    """An existing directory is used; a symlink to one is not."""
    assert make_directory(opened, b"new")
    assert stat.S_IMODE((directory / "new").stat().st_mode) == 0o700
    assert not make_directory(opened, b"new")
    (directory / "link").symlink_to("new")
    with pytest.raises(AppearedError):
        make_directory(opened, b"link")


def test_notes_tell_each_kind_once() -> None:
    """A note about many files is one sentence with the first path."""
    notes = Warnings()
    for name in (b"a", b"b", b"c"):
        notes.add("The owner could not be set", name, "do this")
    notes.add("The mode could not be set", b"x\n")
    assert notes.sentences() == [
        "The owner could not be set: 'a' and 2 more; do this.",
        "The mode could not be set: 'x\\n'.",
    ]
