"""Read trees on a local disk in blocks: right bytes, few reads, and no effect of other data."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cesbrfs.errors import DamagedError, StorageError
from cesbrfs.repo.read.block_reader import BlockReader
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import FileType
from cesbrfs.repo.storage.local import LocalStorage
from cesbrfs.repo.storage.memory import MemoryStorage
from cesbrfs.util.secret import Secret
from tests.support.memory_repo import PASSWORD, MemoryRepo

PACK = bytes(32)
CONTENT = random.Random(9).randbytes(1_000_000)


def packs() -> MemoryStorage:
    """Return a storage with one pack that contains CONTENT."""
    found = MemoryStorage()
    found.files[FileType.PACK, PACK.hex()] = CONTENT
    return found


def on_disk(repo: MemoryRepo, directory: Path) -> LocalStorage:
    """Write the files of a repository where restic stores them."""
    repo.flush()
    for (kind, name), raw in repo.storage.files.items():
        place = {
            FileType.CONFIG: directory / "config",
            FileType.PACK: directory / "data" / name[:2] / name,
        }.get(kind, directory / kind.value / name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(raw)
    return LocalStorage(str(directory))


async def test_a_walk_that_goes_backwards_takes_few_reads() -> None:
    """`restic` writes subdirectories first, so a walk reads the records in reverse order."""
    storage = packs()
    blocks = BlockReader(storage)
    for offset in range(900_000, 0, -1009):
        assert await blocks.read(PACK, offset, 1009) == CONTENT[offset : offset + 1009]
    assert len(storage.reads) == 4


async def test_what_was_read_is_returned_without_waiting() -> None:
    """Records near one that was read are returned without blocking, distant ones are not."""
    blocks = BlockReader(packs())
    assert blocks.read_nowait(PACK, 5000, 100) is None
    await blocks.read(PACK, 5000, 100)
    assert blocks.read_nowait(PACK, 200_000, 100) == CONTENT[200_000:200_100]
    assert blocks.read_nowait(PACK, 500_000, 100) is None
    await blocks.forget(PACK)
    assert blocks.read_nowait(PACK, 5000, 100) is None


async def test_a_record_that_lies_across_blocks() -> None:
    """It is assembled; it is never returned in part."""
    blocks = BlockReader(packs())
    across = (256 << 10) - 50
    assert await blocks.read(PACK, across, 100) == CONTENT[across : across + 100]
    assert blocks.read_nowait(PACK, across, 100) is None
    assert blocks.read_nowait(PACK, len(CONTENT) - 10, 100) is None


async def test_what_cannot_be_read_beside_a_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector elsewhere in the block does not prevent reading the tree."""
    repo = MemoryRepo()
    inner = repo.directory("d", repo.file("f", b"content"))
    snapshot = repo.snapshot(repo.tree(inner))
    repository = await Repository.open(on_disk(repo, tmp_path), Secret(PASSWORD))
    read = LocalStorage.read

    async def broken(
        self: LocalStorage,
        kind: FileType,
        name: str = "",
        offset: int = 0,
        length: int | None = None,
    ) -> bytes:
        if kind is FileType.PACK and (length or 1 << 30) > 100_000:
            raise StorageError("input/output error")
        return await read(self, kind, name, offset, length)

    monkeypatch.setattr(LocalStorage, "read", broken)
    (found,) = await repository.snapshots()
    assert found.id == snapshot
    root = await repository.trees.root(found)
    assert (await repository.trees.get(root.nodes[b"d"].subtree or b"")).nodes.keys() == {b"f"}


async def test_a_pack_that_was_damaged_and_mended(tmp_path: Path) -> None:
    """Data read before the repair is not used again."""
    repo = MemoryRepo()
    repo.snapshot(repo.tree(repo.directory("d")))
    storage = on_disk(repo, tmp_path)
    repository = await Repository.open(storage, Secret(PASSWORD))
    (name,) = (name for kind, name in repo.storage.files if kind is FileType.PACK)
    pack = tmp_path / "data" / name[:2] / name
    whole = pack.read_bytes()
    pack.write_bytes(bytes(len(whole)))
    (snapshot,) = await repository.snapshots()
    with pytest.raises(DamagedError):
        await repository.trees.root(snapshot)
    pack.write_bytes(whole)
    assert (await repository.trees.root(snapshot)).nodes.keys() == {b"d"}
