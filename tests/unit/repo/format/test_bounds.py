"""Lengths and counts in a repository are limited, so that it cannot exhaust resources."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
import zstandard

from cesbrfs.errors import DamagedError, RestoreError, StorageError, WrongKeyError
from cesbrfs.history.find import Criteria, Match, find
from cesbrfs.history.usage import UsageReport
from cesbrfs.repo import kdf
from cesbrfs.repo import keys as opening
from cesbrfs.repo.format.crypto import Keys, open_master_key
from cesbrfs.repo.format.model import KeyFile
from cesbrfs.repo.format.pack import DATA_BLOB_MAX, SNAPSHOT_MAX, TREE_BLOB_MAX, BlobType
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import SIZE_MAX, FileInfo, FileType
from cesbrfs.repo.storage.local import LocalStorage
from cesbrfs.restore.planner import make_plan
from cesbrfs.restore.selection import select
from cesbrfs.restore.targets import ToDirectory
from cesbrfs.util.secret import Secret
from cesbrfs.vfs.directory_index import DirectoryIndex
from cesbrfs.vfs.measure import measure
from cesbrfs.vfs.timeline import of_backups
from cesbrfs.vfs.tree import BackupTree
from tests.support.memory_repo import PASSWORD, MemoryRepo


def on_disk(repo: MemoryRepo, top: Path) -> LocalStorage:
    """Write a repository to a directory."""
    repo.flush()
    for (kind, name), raw in repo.storage.files.items():
        storage = LocalStorage(os.fspath(top))
        path = Path(storage._path(kind, name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    return LocalStorage(os.fspath(top))


def make_pipe(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


class TestInPlaceOfAFile:
    """An entry that is not a regular file fails on its own, without blocking."""

    @pytest.mark.parametrize("kind", [FileType.KEY, FileType.SNAPSHOT, FileType.INDEX])
    @pytest.mark.parametrize("what", ["pipe", "device", "loop", "directory"])
    async def test_it_fails_alone(self, tmp_path: Path, kind: FileType, what: str) -> None:
        """The other files of the directory are read."""
        repo = MemoryRepo()
        repo.snapshot(repo.tree(repo.file("f", b"content")))
        storage = on_disk(repo, tmp_path)
        for name in ("0" * 64, "f" * 64):  # listed before and after the valid one
            path = tmp_path / kind.value / name
            if what == "pipe":
                os.mkfifo(path)
            elif what == "directory":
                path.mkdir()
            else:
                path.symlink_to("/dev/zero" if what == "device" else path)
        with trio.fail_after(20):
            repository = await Repository.open(storage, Secret(PASSWORD))
            (snapshot,) = await repository.snapshots()
            assert b"f" in (await repository.trees.root(snapshot)).nodes
        bad = {f"{kind}/{name}" for name in ("0" * 64, "f" * 64)}
        assert repository.damaged.keys() == (set() if kind is FileType.KEY else bad)

    @pytest.mark.parametrize("kind", [FileType.CONFIG, FileType.PACK])
    async def test_what_all_need(self, tmp_path: Path, kind: FileType) -> None:
        """It raises an error; opening a FIFO would block forever."""
        storage = on_disk(MemoryRepo(), tmp_path)
        make_pipe(Path(storage._path(kind, "ab" * 32)))
        with trio.fail_after(20), pytest.raises(StorageError, match="not a regular file"):
            await storage.read(kind, "ab" * 32, 0, 32)


class TestSizes:
    """A file larger than any that restic writes is not read."""

    async def test_of_a_snapshot(self, tmp_path: Path) -> None:
        """It is reported, and the others are listed."""
        repo = MemoryRepo()
        repo.snapshot(repo.tree(repo.file("f", b"content")))
        storage = on_disk(repo, tmp_path)
        with (tmp_path / "snapshots" / ("0" * 64)).open("wb") as file:
            file.truncate(SIZE_MAX[FileType.SNAPSHOT] + 1)
        repository = await Repository.open(storage, Secret(PASSWORD))
        assert len(await repository.snapshots()) == 1
        (reason,) = repository.damaged.values()
        assert "is too large" in reason

    async def test_of_the_config(self, tmp_path: Path) -> None:
        """The size of config is not listed."""
        storage = on_disk(MemoryRepo(), tmp_path)
        os.truncate(tmp_path / "config", SIZE_MAX[FileType.CONFIG] + 1)
        with pytest.raises(DamagedError, match="is too large"):
            await Repository.open(storage, Secret(PASSWORD))

    async def test_that_a_server_lists(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The listed size is used, before any data is requested."""
        repo = MemoryRepo()
        repo.snapshot(None)
        listed = [
            FileInfo(name, 1 << 40) for kind, name in repo.storage.files if kind == "snapshots"
        ]

        async def lie(kind: FileType) -> list[FileInfo]:
            return listed if kind is FileType.SNAPSHOT else [FileInfo("ab" * 32, 1)]

        repository = await repo.open()
        monkeypatch.setattr(repo.storage, "list", lie)
        assert await repository.snapshots() == []
        assert len(repository.damaged) == 1


class TestBombs:
    """Small data that decompresses to, or claims, a huge size."""

    @pytest.mark.parametrize("field", ["length", "uncompressed_length"])
    @pytest.mark.parametrize("kind", [BlobType.DATA, BlobType.TREE])
    async def test_a_blob_that_is_said_to_be_huge(self, kind: BlobType, field: str) -> None:
        """It is not read; other files are."""
        repo = MemoryRepo()
        bound = TREE_BLOB_MAX if kind is BlobType.TREE else DATA_BLOB_MAX
        blob = repo.blob(kind, b"content")
        pack, (entry,) = repo.pack(blob)
        repo.index((pack, [entry | {field: bound + 1024}]))
        repository = await repo.open()
        with pytest.raises(DamagedError, match="at most"):
            await repository.blobs.load(kind, blob.id)
        repo.index((pack, [entry]))
        other = await repo.open()
        assert await other.blobs.load(kind, blob.id) == b"content"

    async def test_a_snapshot(self) -> None:
        """It is reported; the others are listed."""
        repo = MemoryRepo()
        good = repo.snapshot(None)
        bomb = b"{" + b" " * SNAPSHOT_MAX + b"}"
        bad = repo.put(FileType.SNAPSHOT, repo.seal(b"\x02" + zstandard.compress(bomb)))
        repository = await repo.open()
        assert [snapshot.id for snapshot in await repository.snapshots()] == [good]
        assert repository.damaged == {f"snapshots/{bad}": "It decompresses to more than 16 MiB."}

    async def test_an_index(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is reported; the others are used."""
        monkeypatch.setattr("cesbrfs.repo.format.pack.UNPACKED_MAX", 1 << 20)
        repo = MemoryRepo()
        repo.snapshot(repo.tree(repo.file("f", b"content")))
        bomb = b"{" + b" " * (64 << 20) + b"}"
        bad = repo.put(FileType.INDEX, repo.seal(b"\x02" + zstandard.compress(bomb)))
        repository = await repo.open()
        (snapshot,) = await repository.snapshots()
        assert b"f" in (await repository.trees.root(snapshot)).nodes
        assert list(repository.damaged) == [f"index/{bad}"]

    @pytest.mark.parametrize("fields", [{"tags": ["t"] * 1025}, {"paths": ["/p"] * 65_537}])
    async def test_lists_in_a_snapshot(self, fields: dict[str, list[str]]) -> None:
        """The numbers of tags and paths are limited, as each is looked up."""
        repo = MemoryRepo()
        paths = fields.get("paths", ["/"])
        bad = repo.snapshot(None, paths, **{k: v for k, v in fields.items() if k != "paths"})
        repository = await repo.open()
        assert await repository.snapshots() == []
        assert list(repository.damaged) == [f"snapshots/{bad}"]


class TestKeys:
    """Limits for the work that key files can require."""

    @pytest.fixture
    def tried(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Record the cost of each key file that is tried, without deriving keys."""
        found: list[int] = []

        def note(key_file: KeyFile, password: bytes) -> Keys:
            found.append(kdf.work_of(key_file))
            cheap = KeyFile("scrypt", 2, 1, 1, key_file.salt, key_file.data)
            return open_master_key(kdf.derive_keys(password, cheap), cheap)

        monkeypatch.setattr(opening, "_open_master_key", note)
        return found

    async def test_costly_ones_come_last(self, tried: list[int]) -> None:
        """The right key is found before they are tried."""
        repo = MemoryRepo()
        for number in range(8):
            repo.add_key(b"other %d" % number, N=1 << 20, r=8, p=1)
        await repo.open()
        assert tried == [2]

    async def test_many_of_them(self, tried: list[int]) -> None:
        """The total work is limited to that of thirty-two keys with restic's parameters."""
        repo = MemoryRepo()
        for number in range(30):
            repo.add_key(b"other %d" % number, N=1 << 21, r=8, p=1)
        with pytest.raises(DamagedError, match="was not tried"):
            await repo.open(b"wrong")
        assert sum(tried) <= kdf.ALL_WORK_MAX

    async def test_as_many_as_restic_would_try(self, tried: list[int]) -> None:
        """Twenty keys of restic, of which the last or none is the right one."""
        repo = MemoryRepo()
        for number in range(19):
            repo.add_key(b"other %d" % number, N=1 << 15, r=8, p=4)
        with pytest.raises(WrongKeyError):
            await repo.open(b"wrong")
        assert len(tried) == 20

    async def test_one_that_asks_for_too_much(self) -> None:
        """It is refused without deriving a key."""
        repo = MemoryRepo()
        repo.add_key(b"costly", N=1 << 22, r=8, p=1)
        with pytest.raises(DamagedError, match="limit for key derivation"):
            await repo.open(b"costly")


class TestDirectoriesWithinDirectories:
    """Fifty trees that each contain the next one twice make 2**50 paths."""

    DEPTH = 50

    @staticmethod
    def doubling(repo: MemoryRepo, depth: int) -> str:
        """Save a snapshot of 2**depth paths."""
        node = repo.directory("0", repo.file("f", b"content"))
        for _ in range(depth):
            node = repo.directory("0", node, node | {"name": "1"})
        return repo.snapshot(repo.tree(node), ["/0"], tags=["A"])

    async def view(self, depth: int = DEPTH) -> BackupTree:
        """Return the view of a repository with one backup of this snapshot."""
        repo = MemoryRepo()
        self.doubling(repo, depth)
        return BackupTree(await repo.open())

    async def test_sizes(self) -> None:
        """Each tree is read once."""
        view = await self.view()
        with trio.fail_after(30):
            (usage,) = await UsageReport(view).measure((b"A",), 0)
        assert (usage.files, usage.size) == (1 << self.DEPTH, 7 << self.DEPTH)

    async def test_what_a_choice_holds(self) -> None:
        """Each tree is read once."""
        view = await self.view()
        with trio.fail_after(30):
            amount = await measure(view, await view.at((b"A", b"_snapshots")))
        assert amount.bytes == 7 << self.DEPTH

    @pytest.mark.parametrize(
        "criteria", [Criteria(names=("x*",)), Criteria(types=frozenset({"symlink"}))]
    )
    async def test_a_search_that_finds_nothing(self, criteria: Criteria) -> None:
        """The search terminates."""
        view = await self.view()
        timeline = await of_backups(
            view, DirectoryIndex(view.repository), (await view.backups()).by_name.values()
        )
        found: list[Match] = []

        async def take(match: Match) -> None:
            found.append(match)

        with trio.fail_after(30):
            await find(timeline, (), criteria, take)
        assert not found

    async def test_a_search_without_end_can_be_cancelled(self) -> None:
        """Matches are returned immediately."""
        view = await self.view()
        timeline = await of_backups(
            view, DirectoryIndex(view.repository), (await view.backups()).by_name.values()
        )
        found: list[Match] = []

        async def take(match: Match) -> None:
            found.append(match)
            if len(found) == 100:
                scope.cancel()

        with trio.fail_after(30), trio.CancelScope() as scope:
            await find(timeline, (), Criteria(names=("f",)), take)
        assert len(found) >= 100

    async def test_every_path_is_found(self) -> None:
        """A match in a shared tree is returned at each path."""
        view = await self.view(5)
        timeline = await of_backups(
            view, DirectoryIndex(view.repository), (await view.backups()).by_name.values()
        )
        found: list[Match] = []

        async def take(match: Match) -> None:
            found.append(match)

        await find(timeline, (), Criteria(names=("f",)), take)
        assert len({match.parts for match in found}) == 32
        found.clear()
        await find(timeline, (), Criteria(paths=("*/1/0/1/0/1/f",)), take)
        assert len(found) == 1

    async def test_a_plan(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """It ends with an error before it exhausts the memory."""
        monkeypatch.setattr("cesbrfs.restore.planner.ENTRIES_MAX", 10_000)
        view = await self.view()
        selection = select([await view.resolve("/A")])
        with trio.fail_after(30), pytest.raises(RestoreError, match="more than 10,000 entries"):
            await make_plan(view, selection, ToDirectory(tmp_path))


@pytest.mark.parametrize("tags", [["A", "kind=volumes", "dogu=redmine"], ["A"]])
async def test_many_volumes(tags: list[str]) -> None:
    """Thirty thousand are placed in seconds; comparing all pairs took minutes."""
    repo = MemoryRepo()
    volume = repo.directory("v")
    volumes = repo.directory("volumes", *(volume | {"name": f"v{n}"} for n in range(30_000)))
    path = "/var/lib/ces/redmine/volumes"
    repo.snapshot(repo.tree(repo.path(path, volumes)), [path], tags=tags)
    view = BackupTree(await repo.open())
    with trio.fail_after(60):
        shown = await view.children(await view.at((b"A", b"redmine", b"volumes")))
    assert len(shown) == 30_000


async def test_a_path_of_very_many_names() -> None:
    """It cannot be a real path, and its suffixes are not searched."""
    repo = MemoryRepo()
    repo.snapshot(repo.tree(repo.file("f", b"content")), ["/a" * 200_000], tags=["A"])
    view = BackupTree(await repo.open())
    with trio.fail_after(30):
        assert await view.children(await view.at((b"A", b"_snapshots")))
