"""What a repository says of lengths and counts is bounded: nothing it holds can take more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from cesbrfs.access import Secret
from cesbrfs.errors import DamagedError, StorageError, WrongKeyError
from cesbrfs.repo import opening, scrypt
from cesbrfs.repo.crypto import Keys, open_master_key
from cesbrfs.repo.model import KeyFile
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import SIZE_MAX, FileInfo, FileType
from cesbrfs.repo.storage.local import LocalStorage
from tests.memory_repo import PASSWORD, MemoryRepo


def on_disk(repo: MemoryRepo, top: Path) -> LocalStorage:
    """Write a repository into a folder."""
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
    """What is no regular file fails alone, and at once."""

    @pytest.mark.parametrize("kind", [FileType.KEY, FileType.SNAPSHOT, FileType.INDEX])
    @pytest.mark.parametrize("what", ["pipe", "device", "loop", "folder"])
    async def test_it_fails_alone(self, tmp_path: Path, kind: FileType, what: str) -> None:
        """The others of its folder are read."""
        repo = MemoryRepo()
        repo.snapshot(repo.tree(repo.file("f", b"content")))
        storage = on_disk(repo, tmp_path)
        for name in ("0" * 64, "f" * 64):  # before and after the good one
            path = tmp_path / kind.value / name
            if what == "pipe":
                os.mkfifo(path)
            elif what == "folder":
                path.mkdir()
            else:
                path.symlink_to("/dev/zero" if what == "device" else path)
        with trio.fail_after(20):
            repository = await Repository.open(storage, Secret(PASSWORD))
            (snapshot,) = await repository.snapshots()
            assert b"f" in (await repository.root(snapshot)).nodes
        bad = {f"{kind}/{name}" for name in ("0" * 64, "f" * 64)}
        assert repository.damaged.keys() == (set() if kind is FileType.KEY else bad)

    @pytest.mark.parametrize("kind", [FileType.CONFIG, FileType.PACK])
    async def test_what_all_need(self, tmp_path: Path, kind: FileType) -> None:
        """An error, where a pipe would be waited for for ever."""
        storage = on_disk(MemoryRepo(), tmp_path)
        make_pipe(Path(storage._path(kind, "ab" * 32)))
        with trio.fail_after(20), pytest.raises(StorageError, match="not a regular file"):
            await storage.read(kind, "ab" * 32, 0, 32)


class TestSizes:
    """A file that is larger than restic's is not read."""

    async def test_of_a_snapshot(self, tmp_path: Path) -> None:
        """It is named, and the others are there."""
        repo = MemoryRepo()
        repo.snapshot(repo.tree(repo.file("f", b"content")))
        storage = on_disk(repo, tmp_path)
        with (tmp_path / "snapshots" / ("0" * 64)).open("wb") as file:
            file.truncate(SIZE_MAX[FileType.SNAPSHOT] + 1)
        repository = await Repository.open(storage, Secret(PASSWORD))
        assert len(await repository.snapshots()) == 1
        (reason,) = repository.damaged.values()
        assert "more than any such file" in reason

    async def test_of_the_config(self, tmp_path: Path) -> None:
        """It has no listing that tells."""
        storage = on_disk(MemoryRepo(), tmp_path)
        os.truncate(tmp_path / "config", SIZE_MAX[FileType.CONFIG] + 1)
        with pytest.raises(DamagedError, match="more than restic writes"):
            await Repository.open(storage, Secret(PASSWORD))

    async def test_that_a_server_lists(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is believed, whatever would come."""
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


class TestKeys:
    """How much work key files can ask for."""

    @pytest.fixture
    def tried(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """Return the work of each key file that is tried; it costs nothing."""
        found: list[int] = []
        really = open_master_key

        def note(key_file: KeyFile, password: bytes, _stretched: object) -> Keys:
            found.append(scrypt.work_of(key_file))
            cheap = KeyFile("scrypt", 2, 1, 1, key_file.salt, key_file.data)
            return really(cheap, password)

        monkeypatch.setattr(opening, "open_master_key", note)
        return found

    async def test_costly_ones_come_last(self, tried: list[int]) -> None:
        """The right one is found without them."""
        repo = MemoryRepo()
        for number in range(8):
            repo.add_key(b"other %d" % number, N=1 << 20, r=8, p=1)
        await repo.open()
        assert tried == [2]

    async def test_many_of_them(self, tried: list[int]) -> None:
        """All together take no more than thirty-two of restic's own."""
        repo = MemoryRepo()
        for number in range(30):
            repo.add_key(b"other %d" % number, N=1 << 21, r=8, p=1)
        with pytest.raises(DamagedError, match="was not tried"):
            await repo.open(b"wrong")
        assert sum(tried) <= scrypt.ALL_WORK_MAX

    async def test_as_many_as_restic_would_try(self, tried: list[int]) -> None:
        """Twenty of its own, the last of which is the right one or none."""
        repo = MemoryRepo()
        for number in range(19):
            repo.add_key(b"other %d" % number, N=1 << 15, r=8, p=4)
        with pytest.raises(WrongKeyError):
            await repo.open(b"wrong")
        assert len(tried) == 20

    async def test_one_that_asks_for_too_much(self) -> None:
        """It is refused without any work."""
        repo = MemoryRepo()
        repo.add_key(b"costly", N=1 << 22, r=8, p=1)
        with pytest.raises(DamagedError, match="too much work"):
            await repo.open(b"costly")
