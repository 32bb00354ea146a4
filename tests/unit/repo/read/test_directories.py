"""Listings of stored directories from memory, from disk and from trees are the same."""

from __future__ import annotations

import logging
import shutil
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from cesbrfs.errors import DamagedError
from cesbrfs.repo.cache import directory_store
from cesbrfs.repo.cache.cache_dir import CacheDir
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.cache.directory_store import DirectoryStore, SegmentDirectory
from cesbrfs.repo.format.direntry import DirEntries
from cesbrfs.repo.format.model import Tree
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.read.directories import DirectoryCache, _parsed
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import FileType
from cesbrfs.repo.storage.local import LocalStorage
from cesbrfs.util.secret import Secret
from tests.support.memory_repo import PASSWORD, MemoryRepo


def nested(directories: int = 5) -> tuple[MemoryRepo, list[bytes]]:
    """Return a repository, and the tree IDs of its directories."""
    repo = MemoryRepo()
    made = [
        repo.directory(f"d{number}", repo.file(f"f{number}", b"content", size=number))
        for number in range(directories)
    ]
    repo.snapshot(repo.tree(*made))
    return repo, [bytes.fromhex(directory["subtree"]) for directory in made]


async def opened(repo: MemoryRepo, cache: Path) -> Repository:
    repository = await Repository.open(repo.storage, Secret(PASSWORD), CacheConfig(directory=cache))
    await repository.listings.load()
    repo.storage.reads.clear()
    return repository


def packs_read(repo: MemoryRepo) -> int:
    return sum(kind is FileType.PACK for kind, *_ in repo.storage.reads)


async def names(repository: Repository, trees: list[bytes]) -> list[bytes]:
    return [row.name for tree in trees for row in (await repository.listings.get(tree)).listed]


def kept_rows(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/rows/*.rows"))


async def test_the_next_mount_reads_no_tree(tmp_path: Path) -> None:
    """Listings are cached when the repository is closed; neither trees nor index are read."""
    repo, trees = nested()
    first = await opened(repo, tmp_path)
    expected = await names(first, trees)
    assert packs_read(repo) > 0
    await first.aclose()
    second = await opened(repo, tmp_path)
    assert await names(second, trees) == expected
    assert all(second.listings.get_nowait(tree) is not None for tree in trees)
    assert not repo.storage.reads


async def test_without_a_cache_directory_nothing_is_kept() -> None:
    """Listings work without a cache directory, and closing writes nothing."""
    repo, trees = nested()
    repository = await repo.open()
    assert await names(repository, trees) == [b"f0", b"f1", b"f2", b"f3", b"f4"]
    await repository.listings.load()
    await repository.aclose()


async def test_at_rest_nothing_can_be_read(tmp_path: Path) -> None:
    """Cached names are encrypted with the repository's keys, in private files."""
    repo = MemoryRepo(version=1)
    tree = repo.tree(repo.file("a-name-to-look-for", b"content"))
    repo.snapshot(tree)
    repository = await opened(repo, tmp_path)
    await repository.listings.get(bytes.fromhex(tree))
    await repository.aclose()
    (file,) = kept_rows(tmp_path)
    assert b"look-for" not in file.read_bytes()
    assert file.stat().st_mode & 0o077 == 0
    assert file.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("at", [0, 9, 30, -1])
async def test_what_is_damaged_is_made_anew(
    tmp_path: Path, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A flipped byte in any part is never a wrong listing, and the file is rewritten."""
    repo, trees = nested()
    first = await opened(repo, tmp_path)
    expected = await names(first, trees)
    await first.aclose()
    (file,) = kept_rows(tmp_path)
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(raw)
    with caplog.at_level(logging.ERROR):
        second = await opened(repo, tmp_path)
        assert await names(second, trees) == expected
        await second.aclose()
    (mended,) = kept_rows(tmp_path)
    assert mended != file


async def test_another_process_took_it_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two mounts share the directory; if one merges segments, the other reloads them."""
    repo, trees = nested()
    first = await opened(repo, tmp_path)
    expected = await names(first, trees)
    await first.aclose()
    second = await opened(repo, tmp_path)
    for file in kept_rows(tmp_path):
        file.unlink()
    assert await names(second, trees) == expected
    assert not caplog.records


async def test_small_segments_are_brought_together(tmp_path: Path) -> None:
    """Many short mounts leave one merged file."""
    repo, trees = nested()
    for tree in trees:
        repository = await opened(repo, tmp_path)
        await repository.listings.get(tree)
        await repository.aclose()
    assert len(kept_rows(tmp_path)) == 1
    last = await opened(repo, tmp_path)
    assert all(last.listings.get_nowait(tree) is not None for tree in trees)


async def test_the_longest_unused_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory has a size limit; the least recently used segments are evicted."""
    repo, trees = nested(8)
    monkeypatch.setattr(directory_store, "_SMALL", 0)
    monkeypatch.setattr(directory_store, "_MOST_STORED", 1000)
    for tree in trees:
        repository = await opened(repo, tmp_path)
        await repository.listings.get(tree)
        await repository.aclose()
    assert 1 < len(kept_rows(tmp_path)) < len(trees)
    assert sum(file.stat().st_size for file in kept_rows(tmp_path)) <= 1000
    last = await opened(repo, tmp_path)
    assert last.listings.get_nowait(trees[-1]) is not None
    assert last.listings.get_nowait(trees[0]) is None


async def test_enough_for_a_segment_is_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed mount loses only later entries."""
    monkeypatch.setattr("cesbrfs.repo.read.directories.SEGMENT_BYTES", 100)
    repo, trees = nested()
    repository = await opened(repo, tmp_path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(repository.listings.flush_periodically)
        await names(repository, trees)
        with trio.fail_after(20):
            while not await trio.to_thread.run_sync(kept_rows, tmp_path):  # noqa: ASYNC110 - a file
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_a_little_is_written_after_a_while(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Few entries are written after a delay, not only at the end of the mount."""
    repo, trees = nested()
    repository = await opened(repo, tmp_path)
    writes: list[int] = []

    async def keep() -> None:
        writes.append(len(repository.listings._new))
        repository.listings._some = trio.Event()

    repository.listings.keep = keep  # type: ignore[method-assign]  # threads do not follow this clock
    async with trio.open_nursery() as nursery:
        nursery.start_soon(repository.listings.flush_periodically)
        await names(repository, trees)
        await trio.sleep(29)
        assert not writes
        await trio.sleep(2)
        assert writes == [len(trees)]
        nursery.cancel_scope.cancel()


async def test_a_directory_that_is_damaged(tmp_path: Path) -> None:
    """It raises an error, and is not cached."""
    repo = MemoryRepo()
    tree = repo.save(BlobType.TREE, b"no JSON at all")
    repo.snapshot(tree)
    repository = await opened(repo, tmp_path)
    with pytest.raises(DamagedError):
        await repository.listings.get(bytes.fromhex(tree))
    await repository.aclose()
    assert not kept_rows(tmp_path)


def test_prefixes_that_are_alike(tmp_path: Path) -> None:
    """Tree IDs with the same prefix are distinguished; a missing one is not found."""
    kept = CacheDir(tmp_path)
    store = DirectoryStore(kept, MemoryRepo().keys)
    here, alike = bytes(32), bytes(31) + b"\1"
    store.take(store.write({here: b"rows"}, []))
    assert bytes(store.find(here) or b"") == b"rows"
    assert store.find(alike) is None


async def test_rows_of_another_version(tmp_path: Path) -> None:
    """Records that decrypt but do not contain rows are rewritten."""
    repo, trees = nested(1)
    repository = await opened(repo, tmp_path)
    store = DirectoryStore(CacheDir(tmp_path / "c0" / "rows"), repo.keys)
    repository.listings._segments = store
    store.take(store.write({trees[0]: b"\xc1"}, []))
    assert await names(repository, trees) == [b"f0"]


async def test_a_bug_does_not_end_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and later entries are cached."""
    monkeypatch.setattr("cesbrfs.repo.read.directories.SEGMENT_BYTES", 100)
    repo, trees = nested()
    repository = await opened(repo, tmp_path)
    write, calls = DirectoryStore.write, trio.Event()

    def broken(self: DirectoryStore, *_: object) -> list[SegmentDirectory]:
        monkeypatch.setattr(DirectoryStore, "write", write)
        trio.from_thread.run_sync(calls.set)
        raise ZeroDivisionError

    monkeypatch.setattr(DirectoryStore, "write", broken)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(repository.listings.flush_periodically)
        await names(repository, trees[:4])
        with trio.fail_after(20):
            await calls.wait()
        await names(repository, trees[4:])
        await repository.aclose()
        nursery.cancel_scope.cancel()
    assert "unforeseen" in caplog.text
    assert kept_rows(tmp_path)


# The cache in memory


async def from_memory() -> tuple[MemoryRepo, Repository, list[bytes]]:
    """Return a repository without a cache directory, opened, and its trees."""
    repo, trees = nested(3)
    repository = await repo.open()
    return repo, repository, trees


async def test_listings_are_cached_as_objects() -> None:
    """A directory is parsed once; the size in memory grows with its entries."""
    _, repository, trees = await from_memory()
    listings = repository.listings
    assert listings.get_nowait(bytes(32)) is None
    assert listings.get_nowait(trees[0]) is None
    rows = await listings.get(trees[0])
    assert listings.get_nowait(trees[0]) is rows
    assert await listings.get(trees[0]) is rows
    cached = listings.caches["directories"]
    one = cached.used
    large = MemoryRepo()
    tree = bytes.fromhex(large.tree(*(large.file(f"{n}", b"content") for n in range(11))))
    large.snapshot(tree.hex())
    other = (await large.open()).listings
    assert len((await other.get(tree)).listed) == 11
    assert other.caches["directories"].used == one + 10 * 350


async def test_a_tree_in_memory_is_parsed_at_once(tmp_path: Path) -> None:
    """Its block of a pack is cached; a damaged one is left to the call that raises the error."""
    repo = MemoryRepo()
    good = bytes.fromhex(repo.tree(repo.file("good", b"content")))
    bad = bytes.fromhex(repo.save(BlobType.TREE, b"no JSON at all"))
    repo.snapshot(good.hex())
    repo.write_to(tmp_path)
    repository = await Repository.open(LocalStorage(str(tmp_path)), Secret(PASSWORD))
    with pytest.raises(DamagedError, match=f"tree {bad.hex()[:8]}:"):
        await repository.listings.get(bad)
    shutil.rmtree(tmp_path / "data")
    assert repository.listings.get_nowait(bad) is None
    rows = repository.listings.get_nowait(good)
    assert rows is not None
    assert [row.name for row in rows.listed] == [b"good"]
    assert repository.listings.get_nowait(good) is rows


async def test_packed_listings_need_no_tree() -> None:
    """Entries that are not cached as objects any more are unpacked."""
    repo, repository, trees = await from_memory()
    listings = repository.listings
    rows = await listings.get(trees[0])
    for name, cache in repository.caches.items():
        if name != "packed_directories":
            cache.drop(lambda _: True)
    repo.storage.files.clear()
    again = listings.get_nowait(trees[0])
    assert again is not None
    assert again is not rows
    assert again.listed == rows.listed


async def test_a_large_directory_is_parsed_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same entries, and it is cached although it exceeds the limit of the cache."""
    threads: list[int] = []

    def parse(data: bytes, tree: bytes) -> DirEntries:
        threads.append(threading.get_ident())
        return _parsed(data, tree)

    monkeypatch.setattr("cesbrfs.repo.read.directories._parsed", parse)
    _, repository, trees = await from_memory()
    listings = DirectoryCache(repository.blobs, None)
    listings.caches["directories"].capacity = 1
    for bound in (1 << 20, 0):
        monkeypatch.setattr("cesbrfs.repo.read.directories.THREAD_BYTES", bound)
        rows = await listings.get(trees[bool(bound)])
        assert [row.name for row in rows.listed] == [b"f1" if bound else b"f0"]
        assert listings.get_nowait(trees[bool(bound)]) is rows
        assert (threads.pop() == threading.get_ident()) is bool(bound)
    assert threads == []


async def test_entries_that_cannot_be_shown_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With the tree, the name and the reason; the others are listed."""
    repo = MemoryRepo()
    tree = repo.tree(repo.file("..", b"content"), repo.file("fine", b"content"))
    repo.snapshot(tree)
    repository = await repo.open()
    rows = await repository.listings.get(bytes.fromhex(tree))
    assert [row.name for row in rows.listed] == [b"fine"]
    assert caplog.messages == [
        f"tree {tree[:8]} has an entry that cannot be shown: '..': invalid file name"
    ]


async def test_roots_with_special_names() -> None:
    """The content of ``.`` appears in the root of a snapshot, whose entries are not packed."""
    repo = MemoryRepo()
    inner = repo.directory(".", repo.file("inner", b"content"))
    special, plain = (
        repo.tree(node, repo.file("f", b"content")) for node in (inner, inner | {"name": "d"})
    )
    for tree in (special, plain):
        repo.snapshot(tree)
    repository = await repo.open()
    listings = repository.listings
    loaded: list[bytes] = []

    async def load(tree: bytes) -> Tree:
        loaded.append(tree)
        return await repository.trees.top(tree)

    for tree, expected in ((special, [b"f", b"inner"]), (plain, [b"d", b"f"])):
        key = bytes.fromhex(tree)
        assert listings.get_top_nowait(key) is None
        if tree == special:  # the entries of the directory itself are not those of the root
            assert [row.name for row in (await listings.get(key)).listed] == [b"f"]
            assert listings.get_top_nowait(key) is None
        rows = await listings.get_top(key, load)
        assert [row.name for row in rows.listed] == expected
        assert listings.get_top_nowait(key) is rows
        assert await listings.get_top(key, load) is rows
    assert loaded == [bytes.fromhex(special)]
    packed = listings.caches["packed_directories"]
    assert [key for key, _ in packed.items()] == [bytes.fromhex(plain)]
    assert listings.trees() == {bytes.fromhex(special), bytes.fromhex(plain)}
    listings.drop({bytes.fromhex(special)})
    assert listings.get_top_nowait(bytes.fromhex(special)) is None
    assert listings.trees() == {bytes.fromhex(plain)}


async def test_dropped_listings(tmp_path: Path) -> None:
    """Removed trees are evicted, and not written to disk."""
    repo, trees = nested(3)
    repository = await opened(repo, tmp_path)
    listings = repository.listings
    await names(repository, trees)
    assert listings.trees() == set(trees)
    size = listings._new_bytes
    assert size == sum(len(packed) for packed in listings._new.values())
    listings.drop({trees[0], bytes(32)})
    assert listings.trees() == set(trees[1:])
    assert listings._new.keys() == set(trees[1:])
    assert listings._new_bytes == sum(len(packed) for packed in listings._new.values())
    for cache in listings.caches.values():
        assert {key for key, _ in cache.items()} == set(trees[1:])
    await listings.keep()
    assert (listings._new, listings._new_bytes) == ({}, 0)
    await repository.aclose()
    last = await opened(repo, tmp_path)
    assert [last.listings.get_nowait(tree) is None for tree in trees] == [True, False, False]


async def test_written_listings_are_found_again(tmp_path: Path) -> None:
    """Also by the process that wrote them."""
    repo, trees = nested()
    repository = await opened(repo, tmp_path)
    await names(repository, trees)
    await repository.listings.keep()
    for cache in repository.caches.values():
        cache.drop(lambda _: True)
    repo.storage.reads.clear()
    assert all(repository.listings.get_nowait(tree) is not None for tree in trees)
    assert not repo.storage.reads


async def test_the_repository_was_exchanged(tmp_path: Path) -> None:
    """New entries of the previous one are not written, those of the next one are."""
    repo, trees = nested()
    repository = await opened(repo, tmp_path / "first")
    listings = repository.listings
    await names(repository, trees[:2])
    store = DirectoryStore(CacheDir(tmp_path / "second"), repo.keys)
    listings.start_over(store)
    assert (listings._new, listings._new_bytes) == ({}, 0)
    await names(repository, trees[2:])
    await listings.keep()
    assert [store.find(tree) is not None for tree in trees] == [False, False, True, True, True]
    assert not kept_rows(tmp_path / "first")
    listings.start_over(None)
    await listings.keep()


@pytest.mark.parametrize("spare", [1, 0, -1])
async def test_what_a_segment_can_hold(
    tmp_path: Path, spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Larger directories are not cached; a full segment is written without a delay."""
    repo, trees = nested(1)
    repository = await opened(repo, tmp_path / "other")
    await names(repository, trees)
    size = repository.listings._new_bytes
    monkeypatch.setattr("cesbrfs.repo.read.directories.SEGMENT_BYTES", size + spare)
    repository = await opened(repo, tmp_path / "cache")
    listings = repository.listings
    await names(repository, trees)
    assert (trees[0] in listings._new) is (spare >= 0)
    assert listings._some.is_set() is (spare >= 0)
    assert listings._full.is_set() is (spare == 0)
    packed = listings.caches["packed_directories"]
    assert len(packed.items()) == (spare >= 0)
