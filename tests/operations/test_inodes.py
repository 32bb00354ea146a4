"""Inodes of stored directories keep their numbers when caches evict their trees."""

from __future__ import annotations

import errno
import os
from collections import Counter

import pyfuse3
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.fuse.filesystem import InodeFileSystem
from cesbrfs.fuse.inodes import POSITION_BITS, RANGES, StoredDir, StoredDirs
from cesbrfs.fuse.operations import Operations
from cesbrfs.fuse.presentation import Presentation
from cesbrfs.repo.format.direntry import DirEntries
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.vfs.entries import TreeRef
from cesbrfs.vfs.tree import BackupTree
from tests.operations.conftest import NOBODY, Kernel, listing, walk
from tests.support.memory_repo import MemoryRepo

INSIDE = TreeRef(Snapshot("ab" * 32, 0, None), None, top=False)


async def deep() -> tuple[Operations, tuple[bytes, ...]]:
    """Return handlers and the path of a directory with a subdirectory and four files."""
    repo = MemoryRepo()
    xattrs = [{"name": "user.colour", "value": "Z3JlZW4="}]
    inner = repo.directory("inner", repo.file("leaf", b"green", extended_attributes=xattrs))
    twins = [repo.file(name, b"twin", links=2, inode=7, device_id=1) for name in ("twin1", "twin2")]
    outer = repo.directory(
        "outer", repo.file("a", b"first"), inner, *twins, repo.file("z", b"last!!")
    )
    snapshot = repo.snapshot(repo.tree(outer), tags=["b1"])
    operations = Operations(InodeFileSystem(BackupTree(await repo.open())), Presentation())
    return operations, (b"b1", b"_snapshots", snapshot[:8].encode(), b"outer")


def evict(operations: Operations) -> None:
    """Evict all directories and trees from the caches."""
    repository = operations.tree.view.repository
    for cache in (repository.listings._cached, repository.listings._packed, repository.trees.cache):
        cache.drop(lambda _tree: True)


async def test_evicted_trees_are_read_again(kernel: Kernel) -> None:
    """Each request for an existing inode succeeds after its tree was evicted."""
    operations, path = await deep()
    outer = await walk(operations, *path)
    inner = await walk(operations, *path, b"inner")
    leaf = await walk(operations, *path, b"inner", b"leaf")
    evict(operations)
    assert (await operations.getattr(leaf.st_ino, NOBODY)).st_size == len(b"green")
    evict(operations)
    assert await operations.listxattr(leaf.st_ino, NOBODY) == [b"user.colour"]
    evict(operations)
    assert await operations.getxattr(leaf.st_ino, b"user.colour", NOBODY) == b"green"
    evict(operations)
    opened = await operations.open(leaf.st_ino, os.O_RDONLY, NOBODY)
    assert await operations.read(opened.fh, 0, 99) == b"green"
    evict(operations)
    assert (await operations.lookup(inner.st_ino, b"leaf", NOBODY)).st_ino == leaf.st_ino
    evict(operations)
    assert await listing(operations, kernel, outer.st_ino) == [
        b"a",
        b"inner",
        b"twin1",
        b"twin2",
        b"z",
    ]


async def test_readdir_and_lookup_return_the_same_inode(kernel: Kernel) -> None:
    """A name has the same inode number in readdir and in lookup."""
    operations, path = await deep()
    outer = await walk(operations, *path)
    handle = await operations.opendir(outer.st_ino, NOBODY)
    await operations.readdir(handle, 0, None)  # type: ignore[arg-type]  # the fake kernel
    listed = {name: attributes.st_ino for name, attributes in kernel.taken}
    assert listed.pop(b"twin1") == listed[b"twin2"]
    assert len(set(listed.values())) == len(listed) == 4
    for name, number in listed.items():
        assert (await operations.lookup(outer.st_ino, name, NOBODY)).st_ino == number


async def test_forgotten_inodes_are_evicted(kernel: Kernel) -> None:
    """After as many forgets as lookups only the root remains; a missing name adds nothing."""
    operations, path = await deep()
    counts: Counter[int] = Counter()
    number = parent = pyfuse3.ROOT_INODE
    for name in (*path, b"inner", b"leaf"):
        parent = number
        number = (await operations.lookup(parent, name, NOBODY)).st_ino
        counts[number] += 1
    handle = await operations.opendir(parent, NOBODY)
    await operations.readdir(handle, 0, None)  # type: ignore[arg-type]  # the fake kernel
    counts.update(attributes.st_ino for _, attributes in kernel.taken)
    await operations.releasedir(handle)
    assert operations.tree.counters()["stored_folders"] == 3
    await operations.forget([(leaf, count) for leaf, count in counts.items() if leaf != parent])
    assert (await operations.lookup(parent, b"absent", NOBODY)).st_ino == 0
    await operations.forget([(parent, counts[parent])])
    outer = (await walk(operations, *path)).st_ino
    twin = await operations.lookup(outer, b"twin2", NOBODY)
    await operations.forget([(twin.st_ino, 1), *((n, 1) for n in list(counts)[: len(path)])])
    assert operations.tree.counters() == {
        "lookups": 1, "inodes": 1, "stored_folders": 0, "open_files": 0, "open_folders": 0,
    }  # fmt: skip


async def test_readdir_survives_a_forget_during_a_slow_read(kernel: Kernel) -> None:
    """The returned inodes are valid, and the kernel can forget them later."""
    operations, path = await deep()
    outer = await walk(operations, *path)
    inner = await walk(operations, *path, b"inner")
    evict(operations)
    view, reads, resume = operations.tree.view, trio.Event(), trio.Event()
    read = view.stored.entries

    async def slowly(ref: TreeRef) -> DirEntries:
        reads.set()
        await resume.wait()
        return await read(ref)

    view.stored.entries = slowly  # type: ignore[method-assign]  # a slow disk
    async with trio.open_nursery() as nursery:

        async def list_it() -> None:
            handle = await operations.opendir(outer.st_ino, NOBODY)
            await operations.readdir(handle, 0, None)  # type: ignore[arg-type]  # as above
            await operations.releasedir(handle)

        nursery.start_soon(list_it)
        await reads.wait()
        await operations.forget([(inner.st_ino, 1)])
        resume.set()
    assert len(kernel.taken) == 5
    for name, attributes in kernel.taken:
        number = attributes.st_ino
        assert (await operations.getattr(number, NOBODY)).st_ino == number, name
    await operations.forget([(attributes.st_ino, 1) for _, attributes in kernel.taken])
    assert operations.tree.counters()["stored_folders"] == 1, "the parent of the listed directory"


@given(st.lists(st.integers(1, 1 << 62), min_size=1, max_size=30, unique=True), st.data())
def test_ranges_never_overlap(numbers: list[int], data: st.DataObject) -> None:
    """Each entry number maps to its own directory while others are added and evicted."""
    directories = StoredDirs()
    one = 1 << POSITION_BITS
    made: dict[int, tuple[StoredDir, int]] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cesbrfs.fuse.inodes._preferred_range", lambda number: number % 8)
        for number in numbers:
            size = data.draw(st.sampled_from([0, 1, one, one + 1, 5 * one]))
            made[number] = (directories.add(number, INSIDE, 1, size), size)
            if data.draw(st.booleans()):
                directories.evict(made.pop(data.draw(st.sampled_from(list(made))))[0])
    for number, (directory, size) in made.items():
        assert directories.get(number) is directory
        for at in {0, size // 2, max(size - 1, 0)}:
            assert directories.containing(directory.first + at) is directory
    for directory, _ in made.values():
        directories.evict(directory)
    assert len(directories) == 0
    assert all(directories.containing(directory.first) is None for directory, _ in made.values())


@pytest.mark.parametrize("preferred", [0, 1, RANGES // 2, RANGES - 1])
def test_directories_with_equal_hashes_get_separate_ranges(
    preferred: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Colliding directories get adjacent ranges that never overlap."""
    monkeypatch.setattr("cesbrfs.fuse.inodes._preferred_range", lambda _number: preferred)
    directories = StoredDirs()
    made = [directories.add(number, INSIDE, 1, (2 << POSITION_BITS) + 1) for number in (7, 8, 9)]
    firsts = [directory.first >> POSITION_BITS for directory in made]
    assert all(0 < first <= RANGES - 3 for first in firsts)
    assert min(abs(a - b) for a in firsts for b in firsts if a != b) == 3
    assert [
        directories.containing(directory.first + (3 << POSITION_BITS) - 1) for directory in made
    ] == made


async def test_a_forgotten_entry_is_stale() -> None:
    """A forgotten inode is ESTALE if its directory has no other active inode."""
    operations, path = await deep()
    leaf = await walk(operations, *path, b"inner", b"leaf")
    await operations.forget([(leaf.st_ino, 1)])
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.getattr(leaf.st_ino, NOBODY)
    assert caught.value.errno == errno.ESTALE


async def test_an_error_in_prefetch_is_only_logged(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Prefetch runs between requests, where an exception would end the mount."""
    operations, path = await deep()
    outer = await walk(operations, *path)
    await listing(operations, kernel, outer.st_ino)

    def broken(_tree: bytes) -> None:
        raise RuntimeError("not foreseen")

    monkeypatch.setattr(operations.tree.view.repository.listings, "get_nowait", broken)
    assert operations.tree.prefetcher.decode_next() is False
    assert "not foreseen" in caplog.text


_DIFFERENCES: list[dict[str, object]] = [
    {"parts": b"other"},
    {"mode": 0o600},
    {"mtime": "2020-01-01T00:00:00Z"},
    {"uid": 1},
    {"gid": 1},
    {"inode": 8},
    {"device_id": 2},
]


@pytest.mark.parametrize("difference", _DIFFERENCES, ids=lambda each: next(iter(each)))
async def test_files_that_differ_share_no_inode(
    difference: dict[str, object], kernel: Kernel
) -> None:
    """Equal recorded inode numbers are hard links only if all other metadata agrees."""
    fields = {"links": 2, "inode": 7, "device_id": 1, "mode": 0o644}
    repo = MemoryRepo()
    changed = {name: value for name, value in difference.items() if name != "parts"}
    parts = difference.get("parts", b"one")
    assert isinstance(parts, bytes)
    outer = repo.directory(
        "outer",
        repo.file("first", b"one", **fields),
        repo.file("same", b"one", **fields),
        repo.file("different", parts, **{**fields, **changed}),
    )
    snapshot = repo.snapshot(repo.tree(outer), tags=["b1"])
    operations = Operations(InodeFileSystem(BackupTree(await repo.open())), Presentation())
    directory = await walk(operations, b"b1", b"_snapshots", snapshot[:8].encode(), b"outer")
    handle = await operations.opendir(directory.st_ino, NOBODY)
    await operations.readdir(handle, 0, None)  # type: ignore[arg-type]  # the fake kernel
    listed = dict(kernel.taken)
    assert listed[b"first"].st_ino == listed[b"same"].st_ino != listed[b"different"].st_ino
    for name, content in ((b"first", b"one"), (b"different", parts), (b"same", b"one")):
        looked_up = await operations.lookup(directory.st_ino, name, NOBODY)
        assert looked_up.st_ino == listed[name].st_ino
        assert looked_up.st_size == len(content)
        opened = await operations.open(looked_up.st_ino, os.O_RDONLY, NOBODY)
        assert await operations.read(opened.fh, 0, 99) == content
