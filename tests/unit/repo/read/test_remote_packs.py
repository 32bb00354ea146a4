"""A remote repository: few requests, caching on disk, right bytes."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.errors import DamagedError, FileMissingError, RepositoryTimedOutError, StorageError
from cesbrfs.fuse.filesystem import InodeFileSystem
from cesbrfs.fuse.inodes import ROOT
from cesbrfs.fuse.prefetch import SiblingPrefetcher
from cesbrfs.repo import kdf
from cesbrfs.repo.cache.blob_store import BlobStore
from cesbrfs.repo.cache.cache_dir import CacheDir
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.format.model import Node, parse_key_file
from cesbrfs.repo.format.pack import BlobLocation
from cesbrfs.repo.kdf import derive_ahead, derived, kept_keys, scrypt_key
from cesbrfs.repo.read.block_reader import CachedBlockReader
from cesbrfs.repo.read.coalescing import Range, RangeCoalescer, plan
from cesbrfs.repo.read.throughput import Throughput
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import FileType
from cesbrfs.repo.storage.memory import MemoryStorage
from cesbrfs.util.secret import Secret
from cesbrfs.vfs.tree import BackupTree
from tests.support.memory_repo import PASSWORD, MemoryRepo

PACK = b"\7" * 32
CONTENT = random.Random(7).randbytes(3 << 20)


def storage() -> MemoryStorage:
    """Return a storage with one pack."""
    found = MemoryStorage()
    found.files[FileType.PACK, PACK.hex()] = CONTENT
    return found


def place(offset: int, length: int, pack: bytes = PACK) -> BlobLocation:
    return BlobLocation(pack, offset, length, length, compressed=False)


async def opened(repo: MemoryRepo, directory: Path, **bounds: int | Path) -> Repository:
    """Open the repository with a cache below `directory`."""
    repo.flush()
    caching = CacheConfig(directory=directory, **bounds)  # type: ignore[arg-type]  # as the test says
    return await Repository.open(repo.storage, Secret(PASSWORD), caching)


async def nodes_of(repository: Repository) -> dict[bytes, Node]:
    """Return the nodes in the root of the only snapshot."""
    (snapshot,) = await repository.snapshots()
    return dict((await repository.trees.root(snapshot)).nodes)


async def content(repository: Repository, name: bytes) -> bytes:
    """Read the file of this name at the root of the only snapshot."""
    file = await repository.open_file((await nodes_of(repository))[name])
    return await file.read(0, file.size)


def packs_read(repo: MemoryRepo) -> int:
    """Count the requests for packs since the last call."""
    count = sum(kind is FileType.PACK for kind, *_ in repo.storage.reads)
    repo.storage.reads.clear()
    return count


def below(directory: Path, pattern: str) -> list[Path]:
    """Return the files below `directory` that match."""
    return list(directory.rglob(pattern))


def flipped(data: bytes, at: int) -> bytes:
    """Return `data` with one bit flipped."""
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


def nested() -> MemoryRepo:
    """Return a repository with a directory and two files."""
    repo = MemoryRepo()
    repo.snapshot(repo.tree(repo.directory("d", repo.file("f", b"content")), repo.file("g", b"g")))
    return repo


class TestLink:
    """Estimation of round-trip time and throughput."""

    def test_far_and_broad_reaches_further_than_near_or_narrow(self) -> None:
        """Read-ahead is roughly the amount of data that arrives within one round trip."""
        far, near, narrow = Throughput(), Throughput(), Throughput()
        for _ in range(50):
            for link, round_trip, rate in (
                (far, 0.02, 1e8),
                (near, 0.0002, 1e8),
                (narrow, 0.02, 1e6),
            ):
                link.add_sample(4096, round_trip)
                link.add_sample(1 << 20, round_trip + (1 << 20) / rate)
        assert 1.5e6 < far.bandwidth_delay_product < 2.5e6
        assert near.bandwidth_delay_product == narrow.bandwidth_delay_product == 128 << 10
        assert far.ahead > 4 * far.bandwidth_delay_product

    def test_an_outage_is_no_round_trip(self) -> None:
        """A read that was delayed by half a minute hardly changes the read-ahead."""
        link = Throughput()
        for _ in range(50):
            link.add_sample(4096, 0.005)
            link.add_sample(1 << 20, 0.005 + (1 << 20) / 1e8)
        before = link.bandwidth_delay_product
        link.add_sample(4096, 30.0)
        assert link.bandwidth_delay_product < 2 * before
        for _ in range(40):
            link.add_sample(4096, 0.2)
        assert link.round_trip > 0.15, "a way that became longer is learnt"

    def test_an_answer_in_no_time(self) -> None:
        """The clock may not advance between request and response."""
        link = Throughput()
        link.add_sample(1 << 20, 0.0)
        assert link.bandwidth_delay_product > 0


class TestPlan:
    """Coalescing of reads into ranges."""

    @given(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 900)), max_size=30))
    def test_every_record_lies_in_one_range(self, records: list[tuple[int, int]]) -> None:
        """In any order; no range exceeds the limit unless its only record does."""
        places = [place(1000 * offset, length) for offset, length in records]
        ranges = plan(places, largest=200_000)
        for one in places:
            assert any(
                start <= one.offset and one.offset + one.length <= end for _, start, end in ranges
            )
        assert all(end - start <= 200_000 for _, start, end in ranges)

    def test_neighbours_come_together_and_strangers_do_not(self) -> None:
        """Small gaps are read as well; another pack, or a large gap, starts another range."""
        other = b"\1" * 32
        found = plan([place(1000, 50), place(0, 900), place(2 << 20, 10), place(0, 5, other)])
        assert found == [(other, 0, 5), (PACK, 0, 1050), (PACK, 2 << 20, (2 << 20) + 10)]


class TestStretches:
    """Reading ranges of packs."""

    async def test_what_was_asked_for_ahead_is_not_asked_for_again(self) -> None:
        """Neither while the prefetch is running nor when it is complete."""
        held = storage()
        reader = RangeCoalescer(held, Throughput())
        async with trio.open_nursery() as nursery:
            reader.begin(nursery, plan([place(0, 5000), place(5000, 5000)]))
            assert bytes(await reader.read(PACK, 100, 50)) == CONTENT[100:150]
            assert bytes(await reader.read(PACK, 9000, 1000)) == CONTENT[9000:10_000]
        assert len(held.reads) == 1

    async def test_a_cancelled_reader_leaves_no_one_waiting(self) -> None:
        """Readers that wait for its response send the request themselves."""
        held = storage()
        reader = RangeCoalescer(held, Throughput())
        got: list[bytes] = []

        async def read() -> None:
            got.append(bytes(await reader.read(PACK, 10, 100)))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read)
            with trio.CancelScope() as scope:
                scope.cancel()
                await reader.read(PACK, 0, 200)
        assert got == [CONTENT[10:110]] * 3

    async def test_a_failed_reading_ahead_is_the_readers_business(self) -> None:
        """A reader repeats a failed prefetch, and gets the error or the bytes."""
        held = storage()
        reader = RangeCoalescer(held, Throughput())
        held.fail[FileType.PACK, PACK.hex()] = StorageError("Broken.")
        async with trio.open_nursery() as nursery:
            reader.begin(nursery, plan([place(0, 5000)]))
            with pytest.raises(StorageError):
                await reader.read(PACK, 0, 100)
        held.fail.clear()
        assert bytes(await reader.read(PACK, 0, 100)) == CONTENT[:100]

    async def test_those_who_wait_for_one_answer_get_one_error(self) -> None:
        """Waiting readers share the error, instead of retrying one after the other."""
        held = storage()
        reader = RangeCoalescer(held, Throughput())
        await reader.read(PACK, 0, 1000)
        held.reads.clear()
        held.fail[FileType.PACK, PACK.hex()] = RepositoryTimedOutError("Away.")
        refused = 0

        async def read(offset: int) -> None:
            nonlocal refused
            with pytest.raises(RepositoryTimedOutError, match="Away"):
                await reader.read(PACK, offset, 100)
            refused += 1

        async with trio.open_nursery() as nursery:
            reader.begin(nursery, plan([place(1000, 5000)]))
            for number in range(20):
                nursery.start_soon(read, 1000 + 200 * number)
        assert refused == 20
        assert len(held.reads) == 1
        held.fail.clear()
        assert bytes(await reader.read(PACK, 1000, 100)) == CONTENT[1000:1100]

    async def test_the_rate_is_taken_from_what_came(self) -> None:
        """A range may extend past the end of its pack, so only received bytes count."""
        counts: list[int] = []

        class Watched(Throughput):
            def add_sample(self, count: int, seconds: float) -> None:
                counts.append(count)
                super().add_sample(count, seconds)

        reader = RangeCoalescer(storage(), Watched())
        async with trio.open_nursery() as nursery:
            start = len(CONTENT) - 1000
            reader.begin(nursery, [Range(PACK, start, start + (4 << 20))])
            assert bytes(await reader.read(PACK, start, 1000)) == CONTENT[-1000:]
        assert counts == [1000]

    async def test_a_pack_that_is_gone_or_too_short(self) -> None:
        """Each has its error."""
        reader = RangeCoalescer(storage(), Throughput())
        with pytest.raises(FileMissingError):
            await reader.read(b"\0" * 32, 0, 1)
        with pytest.raises(DamagedError, match="is truncated"):
            await reader.read(PACK, len(CONTENT) - 5, 6)

    async def test_what_is_held_has_a_bound(self) -> None:
        """The least recently used range is evicted, and requested again when needed."""
        held = storage()
        packs = [bytes((n,)) * 32 for n in range(20)]
        for pack in packs:
            held.files[FileType.PACK, pack.hex()] = CONTENT
        reader = RangeCoalescer(held, Throughput())
        for pack in packs:
            assert len(await reader.read(pack, 0, 2 << 20)) == 2 << 20
        assert reader._cached_bytes <= 16 << 20
        held.reads.clear()
        await reader.read(packs[-1], 5, 5)
        assert not held.reads
        await reader.read(packs[0], 5, 5)
        assert len(held.reads) == 1


class TestKeyFile:
    """The key file is cached, so that the next start does not have to wait for it."""

    async def test_the_one_that_opened_is_kept_alone(self, tmp_path: Path) -> None:
        """Only the key that opened is cached; that is enough for early key derivation."""
        repo = nested()
        await opened(repo, tmp_path)
        directory = kept_keys(repo.storage.display_url, tmp_path)
        ((_, first),) = [key for key in repo.storage.files if key[0] is FileType.KEY]
        assert [path.name for path in below(directory, "*")] == [first]
        del repo.storage.files[FileType.KEY, first]
        second = repo.add_key(b"another")
        await Repository.open(repo.storage, Secret(b"another"), CacheConfig(directory=tmp_path))
        (kept,) = below(directory, "*")
        assert kept.name == second
        assert kept.read_bytes() == repo.storage.files[FileType.KEY, second]
        derive_ahead("rest:http://server/", Secret(b"another"), tmp_path)
        assert not kdf._started
        kept_keys("rest:http://server/", tmp_path).parent.mkdir(exist_ok=True)
        directory.rename(kept_keys("rest:http://server/", tmp_path))
        derive_ahead("rest:http://server/", Secret(b"another"), tmp_path)
        key_file = parse_key_file(repo.storage.files[FileType.KEY, second])
        assert kdf._started
        assert derived(b"another", key_file) == scrypt_key(b"another", key_file)


class TestTreesOnDisk:
    """Trees are read from packs once, and from disk afterwards."""

    async def test_the_second_opening_asks_for_no_directory(self, tmp_path: Path) -> None:
        """All directories are read from disk, and are equal."""
        repo = nested()
        first = await nodes_of(await opened(repo, tmp_path))
        assert packs_read(repo)
        repository = await opened(repo, tmp_path)
        again = await nodes_of(repository)
        assert again == first
        assert (await repository.trees.get(again[b"d"].subtree or b"")).nodes.keys() == {b"f"}
        assert not packs_read(repo)

    async def test_at_rest_nothing_can_be_read(self, tmp_path: Path) -> None:
        """Names are stored encrypted as in the repository, in private files."""
        repo = MemoryRepo(version=1)
        repo.snapshot(repo.tree(repo.file("a-name-to-look-for", b"content")))
        await nodes_of(await opened(repo, tmp_path))
        files = [path for path in below(tmp_path, "*") if path.is_file()]
        assert any(path.parent.name == "trees" for path in files)
        for path in files:
            assert b"look-for" not in path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0
            assert path.parent.stat().st_mode & 0o077 == 0

    async def test_a_damaged_block_is_read_again(self, tmp_path: Path) -> None:
        """A flipped bit on disk costs one request, and the block is replaced."""
        repo = nested()
        first = await nodes_of(await opened(repo, tmp_path))
        (block,) = below(tmp_path, "trees/*")
        block.write_bytes(b"".join(bytes((byte ^ 1,)) for byte in block.read_bytes()))
        repo.storage.reads.clear()
        assert await nodes_of(await opened(repo, tmp_path)) == first
        assert packs_read(repo)
        assert await nodes_of(await opened(repo, tmp_path)) == first
        assert not packs_read(repo)

    async def test_letting_go_of_a_pack_disturbs_no_reader(self, tmp_path: Path) -> None:
        """Shared state is changed in the readers' thread, not in a worker thread."""
        blocks = CachedBlockReader(storage(), Throughput(), CacheDir(tmp_path / "trees"))
        await blocks.read(PACK, 5, 10)
        threads: list[int] = []
        held, drop = blocks._blocks, blocks._blocks.drop

        def watched(unwanted: Callable[[tuple[bytes, int]], bool]) -> None:
            threads.append(threading.get_ident())
            drop(unwanted)

        held.drop = watched  # type: ignore[method-assign]
        await blocks.forget(PACK)
        assert threads == [threading.get_ident()]
        assert not held.items()
        assert not below(tmp_path, "trees/*")

    async def test_packs_that_are_gone_leave_the_disk(self, tmp_path: Path) -> None:
        """After a prune the blocks of removed packs are deleted."""
        repo = nested()
        await nodes_of(await opened(repo, tmp_path))
        (block,) = below(tmp_path, "trees/*")
        for kind, name in list(repo.storage.files):
            if kind in {FileType.INDEX, FileType.SNAPSHOT, FileType.PACK}:
                del repo.storage.files[kind, name]
        other = MemoryRepo()
        other.snapshot(other.tree(other.file("new", b"new")))
        repo.storage.files.update(other.storage.files)
        assert (await nodes_of(await opened(repo, tmp_path))).keys() == {b"new"}
        assert not block.exists()

    async def test_restics_own_cache_is_read(self, tmp_path: Path) -> None:
        """If it contains the complete pack; a damaged one is ignored and not changed."""
        repo = nested()
        ((_, pack),) = [key for key in repo.storage.files if key[0] is FileType.PACK]
        kept = tmp_path / "restic" / ("c0" * 32) / "data" / pack[:2] / pack
        kept.parent.mkdir(parents=True)
        whole = repo.storage.files[FileType.PACK, pack]
        kept.write_bytes(whole)
        caching = {"restic": tmp_path / "restic"}
        first = await nodes_of(await opened(repo, tmp_path / "one", **caching))
        assert not packs_read(repo)
        damaged = bytes(byte ^ 1 for byte in whole)
        kept.write_bytes(damaged)
        assert await nodes_of(await opened(repo, tmp_path / "two", **caching)) == first
        assert packs_read(repo)
        assert kept.read_bytes() == damaged


class TestData:
    """File content, and its optional cache on disk."""

    async def test_damage_on_the_way_heals(self, tmp_path: Path) -> None:
        """A blob damaged in transit is requested again; one damaged in storage is an error."""
        repo = MemoryRepo()
        repo.snapshot(repo.tree(repo.file("f", b"content" * 1000)))
        ((_, pack),) = [key for key in repo.storage.files if key[0] is FileType.PACK]
        whole = repo.storage.files[FileType.PACK, pack]
        repository = await opened(repo, tmp_path)
        await nodes_of(repository)
        repo.storage.files[FileType.PACK, pack] = flipped(whole, 40)

        def heal(kind: FileType, name: str) -> None:
            if len(repo.storage.reads):
                repo.storage.files[FileType.PACK, pack] = whole

        repo.storage.reads.clear()
        repo.storage.before_read = heal
        assert await content(repository, b"f") == b"content" * 1000
        assert packs_read(repo) == 2
        repo.storage.files[FileType.PACK, pack] = flipped(whole, 40)
        repo.storage.before_read = lambda _kind, _name: None
        with pytest.raises(DamagedError):
            await content(await opened(repo, tmp_path), b"f")

    async def test_content_kept_on_disk_asks_for_no_pack(self, tmp_path: Path) -> None:
        """With a size limit set; a damaged record is requested again."""
        repo = MemoryRepo()
        repo.snapshot(repo.tree(repo.file("f", b"content" * 1000)))
        assert await content(await opened(repo, tmp_path, data=1 << 20), b"f") == b"content" * 1000
        repo.storage.reads.clear()
        assert await content(await opened(repo, tmp_path, data=1 << 20), b"f") == b"content" * 1000
        assert not packs_read(repo)
        (kept,) = below(tmp_path, "data/*")
        kept.write_bytes(flipped(kept.read_bytes(), 30))
        assert await content(await opened(repo, tmp_path, data=1 << 20), b"f") == b"content" * 1000
        assert packs_read(repo) == 1

    async def test_without_a_bound_nothing_is_kept(self, tmp_path: Path) -> None:
        """File content is cached on disk only if configured."""
        repo = MemoryRepo()
        repo.snapshot(repo.tree(repo.file("f", b"content")))
        await content(await opened(repo, tmp_path), b"f")
        assert not below(tmp_path, "data")

    def test_the_bound_holds_and_the_longest_unused_goes(self, tmp_path: Path) -> None:
        """Content that was read again is kept."""
        directory = tmp_path / "kept"
        records = BlobStore(CacheDir(directory), 160_000)
        names = [bytes((n,)) * 32 for n in range(60)]
        for number, name in enumerate(names):
            records.put(name, bytes(5000))
            # File system timestamps are coarse, so set them explicitly.
            for at, held in enumerate(names[1 : number + 1]):
                if records.has(held):
                    os.utime(directory / held.hex(), ns=(10**9 * at, 10**9 * at))
            assert records.get(names[0]) is not None
        assert sum(path.stat().st_size for path in directory.iterdir()) <= 160_000
        assert records.get(names[-1]) is not None
        assert records.get(names[1]) is None
        records.put(b"\xff" * 32, bytes(50_000))
        assert not records.has(b"\xff" * 32)


class TestKeptFiles:
    """A cache directory with concurrent writers."""

    def test_many_may_write_the_same_file(self, tmp_path: Path) -> None:
        """Two readers of one blob write it at the same time: both succeed, the file is complete."""
        kept = CacheDir(tmp_path / "kept")
        content = [bytes((number,)) * 100_000 for number in range(8)]

        def write(data: bytes) -> bool:
            return all(kept.write("same", (data[:50_000], data[50_000:])) for _ in range(50))

        with ThreadPoolExecutor(len(content)) as pool:
            assert all(pool.map(write, content))
        assert kept.read("same") in content
        assert [file.name for file in kept.files()] == ["same"]
        assert os.listdir(kept.directory) == ["same"]

    def test_what_a_killed_process_left_goes(self, tmp_path: Path) -> None:
        """Temporary files that another process may still be writing are kept."""
        kept = CacheDir(tmp_path / "kept")
        for name, age in (("old", 7200), ("new", 5)):
            (kept.directory / f".{name}.1.1").write_bytes(b"half")
            then = time.time() - age
            os.utime(kept.directory / f".{name}.1.1", (then, then))
        assert kept.files() == []
        assert os.listdir(kept.directory) == [".new.1.1"]


class TestNeighbours:
    """Small files in one directory."""

    async def test_what_is_known_of_directories_is_bounded(self, tmp_path: Path) -> None:
        """Large directories evict others before the maximum number is reached."""
        neighbours = SiblingPrefetcher((await opened(nested(), tmp_path)).blobs)
        for directory in range(8):
            nodes = [
                Node(name=b"%d" % n, type="file", mode=0o100644, size=1) for n in range(30_000)
            ]
            neighbours.opened(directory, nodes, nodes[directory])
        assert list(neighbours._readers) == [5, 6, 7]
        assert neighbours._known == 90_000

    async def test_a_directory_of_small_files_takes_few_requests(self, tmp_path: Path) -> None:
        """The files are opened one after the other, in the order of the listing."""
        repo = MemoryRepo()
        noise = random.Random(3)
        files = {f"f{n:03}": noise.randbytes(3000) for n in range(300)}
        directory = repo.directory("d", *(repo.file(name, data) for name, data in files.items()))
        repo.snapshot(repo.tree(directory), tags=["id"])
        repository = await opened(repo, tmp_path)
        tree = InodeFileSystem(BackupTree(repository))
        async with trio.open_nursery() as nursery:
            repository.blobs.read_ahead_in(nursery)
            number = ROOT
            (snapshot,) = await repository.snapshots()
            for name in (b"id", b"_snapshots", snapshot.id[:8].encode(), b"d"):
                inode = await tree.lookup(number, name)
                assert inode is not None
                tree.count_lookup(inode)
                number = inode.number
            packs_read(repo)
            for file, data in files.items():
                inode = await tree.lookup(number, file.encode())
                assert inode is not None
                tree.count_lookup(inode)
                handle, _ = await tree.open_inode(inode.number)
                assert bytes(await tree.read(handle, 0, 4096)) == data
                tree.close_file(handle)
        assert packs_read(repo) < 12
