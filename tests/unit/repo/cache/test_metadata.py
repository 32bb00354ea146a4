"""The cache on disk returns exactly what was written, or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import random
import stat
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.cache.metadata import MetadataCache
from cesbrfs.repo.format.index import Table
from cesbrfs.repo.format.index_builder import TableBuilder
from cesbrfs.repo.format.index_segment import Segment, parse_segment
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import FileType
from cesbrfs.util.secret import Secret
from tests.support.memory_repo import PASSWORD, MemoryRepo

NAMES = ["0a" * 32, "0b" * 32, "0c" * 32]


def segment(seed: int, rows: int = 100) -> Segment:
    """Return the rows of an index file with random blob IDs."""
    noise = random.Random(seed)
    blobs = [
        {"id": noise.randbytes(32).hex(), "type": "data", "offset": 9 * at, "length": 40 + at}
        for at in range(rows)
    ]
    pack = {"id": noise.randbytes(32).hex(), "blobs": blobs}
    return parse_segment(json.dumps({"packs": [pack]}).encode(), "index")


def keep(disk: MetadataCache, segments: Mapping[str, Segment]) -> Table:
    """Write the table of `segments`."""
    table = disk.keep_table(TableBuilder(segments))
    assert table is not None
    return table


def ids(found: Segment) -> list[bytes]:
    return [found.rows[at : at + 32] for at in range(0, len(found.rows), 48)]


@pytest.fixture
def disk(tmp_path: Path) -> MetadataCache:
    """Return an empty cache."""
    return MetadataCache(tmp_path / "cache/repo")


def files(disk: MetadataCache) -> list[Path]:
    return sorted(disk.directory.iterdir())


class TestTables:
    """Index tables, mapped from their files."""

    @pytest.mark.parametrize("rows", [0, 1, 3000])
    def test_a_table_is_found_again(self, disk: MetadataCache, rows: int) -> None:
        """Every blob is found as in the table that was written."""
        parts = {NAMES[0]: segment(1, rows), NAMES[1]: segment(2, rows)}
        table = Table.of(parts)
        mapped = keep(disk, parts)
        (found,) = MetadataCache(disk.directory).tables(NAMES)
        for one in (mapped, found):
            assert one.names == table.names
            assert (one.count, one.stored) == (table.count, table.stored)
            for part in parts.values():
                for blob in ids(part):
                    assert len(one.find(blob, tree=False)) == 1
                    assert one.find(blob, tree=False) == table.find(blob, tree=False)
                    assert one.find(blob, tree=True) == []
        assert sorted(ids(found.segment())) == sorted(ids(table.segment()))

    def test_only_what_is_still_true_is_taken(self, disk: MetadataCache) -> None:
        """A table with a removed index file is ignored; no index file is used twice."""
        for names in (NAMES[:2], NAMES[1:]):
            keep(disk, {name: segment(int(name[:2], 16)) for name in names})
        assert [table.names for table in disk.tables(NAMES[:2])] == [tuple(NAMES[:2])]
        assert disk.tables(NAMES[:1]) == []
        assert len(disk.tables(NAMES)) == 1

    def test_tables_nobody_needs_are_removed(self, disk: MetadataCache) -> None:
        """Needed tables are kept, and mapped ones stay readable in other processes."""
        old = keep(disk, {NAMES[0]: segment(1)})
        new = keep(disk, {NAMES[1]: segment(2)})
        disk.drop_tables([new])
        assert [table.names for table in disk.tables(NAMES)] == [new.names]
        assert old.find(ids(segment(1))[0], tree=False)

    @settings(max_examples=50)
    @given(st.data())
    def test_a_damaged_table_is_none(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        """A table with a flipped bit or truncated anywhere is removed and rebuilt."""
        disk = MetadataCache(tmp_path_factory.mktemp("cache"))
        keep(disk, {NAMES[0]: segment(1, 5)})
        (path,) = files(disk)
        raw = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            bit = data.draw(st.integers(0, len(raw) * 8 - 1))
            raw[bit // 8] ^= 1 << bit % 8
        else:
            del raw[data.draw(st.integers(0, len(raw) - 1)) :]
        path.write_bytes(raw)
        assert disk.tables(NAMES) == []
        assert not path.exists() or not raw


class TestSnapshots:
    """Snapshot files, encrypted as in the repository."""

    @staticmethod
    def named(raws: dict[str, bytes]) -> dict[str, bytes]:
        """Return the files by name, which is the hash of the content."""
        return {hashlib.sha256(raw).hexdigest(): raw for raw in raws.values()}

    @pytest.mark.parametrize("raws", [{}, {"a": b"one"}, {"a": b"one", "b": b"", "c": bytes(1000)}])
    def test_they_are_found_again(self, disk: MetadataCache, raws: dict[str, bytes]) -> None:
        """The cached files are found by name."""
        kept = self.named(raws)
        disk.keep_snapshots(kept)
        assert MetadataCache(disk.directory).snapshots() == kept

    def test_a_file_that_is_cut_or_changed(self, disk: MetadataCache) -> None:
        """Records before the damage are returned, damaged ones are not."""
        kept = self.named({str(n): bytes((n,)) * 50 for n in range(4)})
        disk.keep_snapshots(kept)
        (path,) = files(disk)
        whole = path.read_bytes()
        for at in range(0, len(whole), 5):
            path.write_bytes(whole[:at])
            assert disk.snapshots().items() <= kept.items()
            path.write_bytes(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :])
            found = disk.snapshots()
            assert found.items() <= kept.items()
            assert len(found) >= at // (len(whole) // 4)

    def test_nothing_kept_yet(self, disk: MetadataCache) -> None:
        """An empty cache contains no snapshots."""
        assert disk.snapshots() == {}


class TestDirectory:
    """The cache directory."""

    def test_it_is_for_nobody_else(self, tmp_path: Path) -> None:
        """Directories have mode 0700, even existing ones; files 0600, without partial files."""
        (tmp_path / "repo").mkdir(mode=0o755)
        disk = MetadataCache(tmp_path / "repo")
        keep(disk, {NAMES[0]: segment(1)})
        disk.keep_snapshots({})
        assert stat.S_IMODE((tmp_path / "repo").stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in files(disk)} == {0o600}
        assert not [path for path in files(disk) if path.name.startswith(".")]

    def test_a_directory_that_cannot_be_made(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The cache is disabled, with a single warning."""
        (tmp_path / "file").touch()
        disk = MetadataCache(tmp_path / "file/repo")
        assert disk.keep_table(TableBuilder({NAMES[0]: segment(1)})) is None
        disk.keep_snapshots({})
        disk.drop_tables([])
        assert disk.tables(NAMES) == []
        assert disk.snapshots() == {}
        (said,) = caplog.messages
        assert "cannot be used" in said

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
    def test_a_disk_that_is_full(
        self, disk: MetadataCache, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Data is used from memory, and no partial file remains."""
        beside = disk.directory / f".snapshots.{os.getpid()}.{threading.get_ident()}"
        beside.symlink_to("/dev/full")
        disk.keep_snapshots(TestSnapshots.named({"a": b"x" * 100_000}))
        assert "Caching in" in caplog.text
        assert files(disk) == []
        assert disk.keep_table(TableBuilder({NAMES[0]: segment(1)})) is None
        assert disk.snapshots() == {}


class TestRepositoriesWithACache:
    """Open the same repository several times with one cache directory."""

    @staticmethod
    async def open(repo: MemoryRepo, directory: Path) -> Repository:
        """Open the repository with a cache below `directory`."""
        repo.flush()
        return await Repository.open(
            repo.storage, Secret(PASSWORD), CacheConfig(directory=directory)
        )

    async def test_the_second_opening_reads_no_index(self, tmp_path: Path) -> None:
        """Only index files that are not cached are read."""
        repo = MemoryRepo()
        blobs = [repo.save(BlobType.DATA, bytes((n,)) * 10) for n in range(20)]
        first = await self.open(repo, tmp_path)
        assert len(await first.index()) == 20
        repo.storage.reads.clear()
        second = await self.open(repo, tmp_path)
        assert len(await second.index()) == 20
        assert FileType.INDEX not in {kind for kind, *_ in repo.storage.reads}
        new = repo.save(BlobType.DATA, b"new")
        third = await self.open(repo, tmp_path)
        assert await third.data(bytes.fromhex(new)) == b"new"
        assert await third.data(bytes.fromhex(blobs[0])) == b"\0" * 10
        assert [kind for kind, *_ in repo.storage.reads].count(FileType.INDEX) == 1

    async def test_a_prune_between_two_openings(self, tmp_path: Path) -> None:
        """Tables of removed index files are ignored."""
        repo = MemoryRepo()
        repo.save(BlobType.DATA, b"lost")
        await (await self.open(repo, tmp_path)).index()
        repo.storage.files = {
            key: raw
            for key, raw in repo.storage.files.items()
            if key[0] not in (FileType.INDEX, FileType.PACK)
        }
        kept = repo.save(BlobType.DATA, b"kept")
        repository = await self.open(repo, tmp_path)
        assert len(await repository.index()) == 1
        assert await repository.data(bytes.fromhex(kept)) == b"kept"

    async def test_many_small_backups_one_after_the_other(self, tmp_path: Path) -> None:
        """Each adds an index file; tables are merged, and every blob is still found."""
        repo = MemoryRepo()
        repository = await self.open(repo, tmp_path)
        saved: list[str] = []
        for number in range(25):
            saved.append(repo.save(BlobType.DATA, b"%d" % number))
            repo.flush()
            assert await repository.data(bytes.fromhex(saved[-1])) == b"%d" % number
        again = await self.open(repo, tmp_path)
        for one in (repository, again):
            index = await one.index()
            assert len(index) == 25
            assert len(index.tables) < 10
            for number, blob in enumerate(saved):
                assert await one.data(bytes.fromhex(blob)) == b"%d" % number
        assert len(list((tmp_path / again.id).glob("*.index"))) < 10

    async def test_snapshots_from_disk(self, tmp_path: Path) -> None:
        """Cached snapshots are read once; new and forgotten ones are noticed."""
        repo = MemoryRepo()
        ids = [repo.snapshot(None, [f"/{number}"]) for number in range(80)]
        first = await self.open(repo, tmp_path)
        assert {s.id for s in await first.snapshots()} == set(ids)
        repo.storage.reads.clear()
        repo.forget(ids.pop())
        ids.append(repo.snapshot(None, ["/new"]))
        second = await self.open(repo, tmp_path)
        assert {s.id for s in await second.snapshots()} == set(ids)
        assert [name for kind, name, *_ in repo.storage.reads if kind is FileType.SNAPSHOT] == [
            ids[-1]
        ]

    async def test_snapshots_of_another_repository_with_the_same_id(self, tmp_path: Path) -> None:
        """A cached file that cannot be decrypted is read again from the repository."""
        repo = MemoryRepo()
        for number in range(80):
            repo.snapshot(None, [f"/{number}"])
        foreign = repo.put(FileType.SNAPSHOT, b"sealed with another key" * 9)
        raws = {n: raw for (kind, n), raw in repo.storage.files.items() if kind == "snapshots"}
        MetadataCache(tmp_path / ("c0" * 32)).keep_snapshots(raws)
        repository = await self.open(repo, tmp_path)
        assert len(await repository.snapshots()) == 80
        assert list(repository.damaged) == [f"snapshots/{foreign}"]

    @pytest.mark.parametrize("wrong", ["../outside", "", ".", "ab", "/etc", "C0" * 32])
    async def test_an_id_that_leads_out_of_the_directory(self, tmp_path: Path, wrong: str) -> None:
        """A malicious ID in config disables the cache and touches no other directory.

        Only the key file and the hash of the address are cached.
        """
        repo = MemoryRepo()
        repo.save(BlobType.DATA, b"x")
        repo.set_config(version=2, id=wrong)
        (tmp_path / "cache").mkdir(mode=0o755)
        repository = await self.open(repo, tmp_path / "cache")
        assert len(await repository.index()) == 1
        assert {path.name for path in (tmp_path / "cache").iterdir()} == {"keys", "known"}
        assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o755
