"""Cancel readers at every layer between a mount and a server."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.format.model import Node
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.read.remote_packs import RemotePacks
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import open_storage
from cesbrfs.repo.storage.http.client import CONNECTIONS
from cesbrfs.util.secret import Secret
from tests.support.counting import cancel_many, descriptors, tasks
from tests.support.far import KINDS, Far, far_of
from tests.support.restic_repo import ResticRepo, create
from tests.support.rights import children

_LARGE = 6 << 20
_SMALL = 40
_PART = 128 << 10


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large file and many small ones."""
    directory = tmp_path_factory.mktemp("source") / "files"
    directory.mkdir()
    chance = random.Random(4)
    (directory / "large").write_bytes(chance.randbytes(_LARGE))
    for number in range(_SMALL):
        (directory / f"{number}").write_bytes(chance.randbytes(20_000 + number))
    return directory


@pytest.fixture(scope="module")
def repo(restic_new: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> ResticRepo:
    """A backup of these files."""
    made = create(restic_new, tmp_path_factory.mktemp("repository") / "repo")
    made.backup(".", cwd=source)
    return made


@pytest.fixture(scope="module", params=KINDS)
def far(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, repo: ResticRepo
) -> Iterator[Far]:
    """Each kind of server in turn, with the repository."""
    with far_of(request, tmp_path_factory.mktemp("far")) as made:
        made.put(repo.directory)
        yield made


class Reader:
    """Reads the repository in every way that a mount does."""

    def __init__(
        self, repository: Repository, root: bytes, nodes: Iterable[Node], source: Path
    ) -> None:
        self._repository = repository
        self._root = root
        self._nodes = list(nodes)
        self._right = {node.name: (source / node.name.decode()).read_bytes() for node in nodes}
        self._chance = random.Random(8)

    async def read(self) -> None:
        """Read a directory, a blob, a prefetch, or a part of a file."""
        blobs = self._repository.blobs
        node = self._chance.choice(self._nodes)
        how = self._chance.randrange(4)
        if how == 0:
            await blobs.load(BlobType.TREE, self._root)
        elif how == 1:
            await blobs.load(BlobType.DATA, self._chance.choice(node.blobs))
        elif how == 2:
            some = self._chance.sample(self._nodes, 9)
            blobs.fetch(blob for each in some for blob in each.blobs)
            await trio.lowlevel.checkpoint()
        else:
            offset = self._chance.randrange(node.size)
            file = await self._repository.open_file(node)
            part = await file.read(offset, _PART)
            assert part == self._right[node.name][offset : offset + _PART]

    async def read_large(self) -> None:
        """Read the large file from start to end."""
        (node,) = (node for node in self._nodes if node.name == b"large")
        file = await self._repository.open_file(node)
        parts = [await file.read(at, _PART) for at in range(0, node.size, _PART)]
        assert b"".join(parts) == self._right[node.name]

    def unfinished(self) -> int:
        """Return the number of ranges that are still being fetched."""
        remote = self._repository.blobs._packs
        assert isinstance(remote, RemotePacks)
        packs = remote._ranges._packs.values()
        return sum(request.data is None for requests in packs for request in requests)


async def test_cancelled_readers_leave_nothing(
    far: Far, repo: ResticRepo, source: Path, tmp_path: Path
) -> None:
    """3,000 reads through all layers are cancelled at random; then 16 of 16 succeed."""
    processes, before = children(), descriptors()
    access = far.access(Secret(repo.password.encode()), 20.0)
    # Use tiny caches, so that most reads reach the server.
    caching = CacheConfig(memory=256 << 10, directory=tmp_path / "cache", data=1 << 20)
    repository = await Repository.open(open_storage(access), access.key, caching)
    (snapshot,) = await repository.snapshots()
    assert snapshot.tree is not None
    nodes = (await repository.trees.root(snapshot)).nodes.values()
    reader = Reader(repository, snapshot.tree, nodes, source)
    await reader.read_large()
    living = tasks()
    async with trio.open_nursery() as nursery:
        repository.blobs.read_ahead_in(nursery)
        quick = await cancel_many(reader.read, times=3_000, at_once=24, longest=0.01)
        assert quick < 2_700, "many of them are cancelled"
        with trio.fail_after(20):
            async with trio.open_nursery() as last:
                for _ in range(16):
                    last.start_soon(reader.read_large)
            while repository.blobs.fetching:
                await trio.testing.wait_all_tasks_blocked(0.01)
    assert tasks() == living
    assert reader.unfinished() == 0
    assert far.proxy.open <= CONNECTIONS
    assert not list((tmp_path / "cache").rglob(".*")), "nothing is half written"
    await repository.aclose()
    with trio.fail_after(5):
        while far.proxy.open:
            await trio.testing.wait_all_tasks_blocked(0.01)
    assert children() == processes
    assert descriptors() <= before + 1, "one is the mapped index, as long as there is a reader"
