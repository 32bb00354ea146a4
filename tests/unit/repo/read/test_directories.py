"""Listings of stored directories from memory, from disk and from trees are the same."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio
import trio.testing

from cesbrfs.errors import DamagedError
from cesbrfs.repo.cache import directory_store
from cesbrfs.repo.cache.cache_dir import CacheDir
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.cache.directory_store import DirectoryStore, SegmentDirectory
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import FileType
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
