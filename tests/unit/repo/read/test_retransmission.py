"""Data corrupted in transit is read again from a network, but not from a disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from cesbrfs.errors import DamagedError
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import FileInfo, FileType, Storage
from cesbrfs.util.secret import Secret
from tests.support.memory_repo import PASSWORD, MemoryRepo

_SMALL = [b"%d" % number * 1000 for number in range(100)]


class _Wire:
    """Flips a bit in the middle of the first `faults` reads of each kind of file."""

    def __init__(self, storage: Storage, faults: int) -> None:
        self.display_url = storage.display_url
        self._storage = storage
        self.faults: Counter[FileType] = Counter(dict.fromkeys(FileType, faults))

    async def list(self, kind: FileType) -> Sequence[FileInfo]:
        """List without faults."""
        return await self._storage.list(kind)

    async def read(
        self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read, and inject the fault."""
        data = bytearray(await self._storage.read(kind, name, offset, length))
        if self.faults[kind] > 0:
            self.faults[kind] -= 1
            data[len(data) // 2] ^= 1
        return bytes(data)

    async def aclose(self) -> None:
        """Close nothing."""


class _Disk(_Wire):
    """The same as a disk."""

    def read_into(self, kind: FileType, name: str, offset: int, buffer: memoryview) -> None:
        """Not used in these tests."""
        raise NotImplementedError

    def will_read(self, kind: FileType, name: str, offset: int, length: int) -> None:
        """Nothing to do."""


@pytest.fixture
def repo() -> MemoryRepo:
    """A repository with a hundred small files."""
    made = MemoryRepo()
    files = [made.file(f"{number}", content) for number, content in enumerate(_SMALL)]
    made.snapshot(made.tree(*files), paths=["/d"])
    return made


async def _contents(repository: Repository) -> list[bytes]:
    (snapshot,) = await repository.snapshots()
    tree = await repository.trees.root(snapshot)
    found = []
    for number in range(len(_SMALL)):
        content = await repository.open_file(tree.nodes[b"%d" % number])
        found.append(await content.read(0, content.size))
    return found


async def test_a_changed_byte_is_read_once_more(
    repo: MemoryRepo, caplog: pytest.LogCaptureFixture
) -> None:
    """With one fault in each kind of file all data is right, and each fault is logged."""
    wire = _Wire(repo.storage, 1)
    wire.faults[FileType.CONFIG] = 2  # the first read only checks that it exists
    repository = await Repository.open(wire, Secret(PASSWORD))
    assert await _contents(repository) == _SMALL
    assert repository.damaged == {}
    told = [line for line in caplog.messages if line.endswith(" Reading it again.")]
    assert len(told) == 5  # key, config, snapshot, index, pack


async def test_a_window_with_a_changed_byte_is_given_up(repo: MemoryRepo) -> None:
    """With any number of faults in any window, each file is right or an error."""
    wire = _Wire(repo.storage, 0)
    repository = await Repository.open(wire, Secret(PASSWORD))
    (snapshot,) = await repository.snapshots()
    tree = await repository.trees.root(snapshot)
    for number, content in enumerate(_SMALL):
        wire.faults[FileType.PACK] = 1 if number % 3 else 0
        file = await repository.open_file(tree.nodes[b"%d" % number])
        assert await file.read(0, file.size) == content


async def test_what_is_damaged_twice_is_damaged(repo: MemoryRepo) -> None:
    """A second fault is an error, without a third read; later the file can be read."""
    wire = _Wire(repo.storage, 0)
    repository = await Repository.open(wire, Secret(PASSWORD))
    (snapshot,) = await repository.snapshots()
    tree = await repository.trees.root(snapshot)
    file = await repository.open_file(tree.nodes[b"50"])
    repo.storage.reads.clear()
    wire.faults[FileType.PACK] = 2
    with pytest.raises(DamagedError):
        await file.read(0, file.size)
    assert len(repo.storage.reads) == 2
    assert await file.read(0, file.size) == _SMALL[50]


async def test_a_disk_is_not_asked_twice(repo: MemoryRepo) -> None:
    """Damage on a disk is permanent: the first read raises the error."""
    with pytest.raises(DamagedError):
        await Repository.open(_Disk(repo.storage, 1), Secret(PASSWORD))
