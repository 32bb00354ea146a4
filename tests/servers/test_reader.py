"""The reader on repositories made by restic, compared with restic and the live files."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from cesbrfs.errors import (
    CesbrError,
    DamagedError,
    NotFoundError,
    RepositoryDamagedError,
    RepositoryMissingError,
    WrongKeyError,
)
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.format.model import Node, Snapshot, Tree
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.location import Access
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import open_storage
from cesbrfs.util.secret import Secret
from tests.sample import oddities
from tests.support.compare import Record, differences, records
from tests.support.restic_repo import PASSWORD, ResticRepo, create

BEYOND_RESTIC = 1 << 63
"""Nanoseconds since 1970 that restic cannot restore (the year 2262); it does record them."""


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with all unusual file types, and a file of many blobs."""
    directory = tmp_path_factory.mktemp("odd") / "files"
    oddities.plant(directory, "tiny")
    oddities.dress(directory)
    (directory / "large").write_bytes(random.Random(1).randbytes(5 << 20))
    oddities.set_times(directory)
    return directory


async def walked(repository: Repository, tree: Tree, above: bytes = b"") -> dict[bytes, Record]:
    """Describe everything below `tree` like `records` does for live files, using our reader."""
    found: dict[bytes, Record] = {}
    twins: dict[tuple[int, int], set[bytes]] = {}

    async def walk(tree: Tree, above: bytes) -> None:
        assert not tree.refused
        for name, node in tree.nodes.items():
            path = above + name
            found[path] = await described(repository, node)
            if node.links > 1 and node.type != "dir":
                twins.setdefault((node.device_id, node.inode), set()).add(path)
            if node.type == "dir":
                assert node.subtree is not None
                await walk(await repository.trees.get(node.subtree), path + b"/")

    await walk(tree, above)
    for alike in twins.values():
        for path in alike if len(alike) > 1 else ():
            found[path] = replace(found[path], twins=frozenset(alike))
    return found


async def described(repository: Repository, node: Node) -> Record:
    content = ""
    if node.type == "file":
        opened = await repository.open_file(node)
        assert opened.size == node.size
        digest = hashlib.sha256()
        for offset in range(0, opened.size, 100_000):  # across blob boundaries
            digest.update(await opened.read(offset, 100_000))
        content = digest.hexdigest()
    return Record(
        mode=node.mode,
        uid=node.uid,
        gid=node.gid,
        mtime_ns=node.mtime_ns,
        size=node.size,
        content=content,
        target=node.target,
        rdev=node.rdev,
        xattrs=tuple(sorted(node.xattrs)),
    )


async def below(repository: Repository, snapshot: Snapshot, path: Path) -> Tree:
    """Return the directory that was backed up as the absolute `path`."""
    tree = await repository.trees.root(snapshot)
    for name in path.parts[1:]:
        subtree = tree.nodes[name.encode()].subtree
        assert subtree is not None
        tree = await repository.trees.get(subtree)
    return tree


async def by_id(repository: Repository, snapshot_id: str) -> Snapshot:
    (found,) = [s for s in await repository.snapshots() if s.id == snapshot_id]
    return found


def as_recorded(live: dict[bytes, Record], *, raw_targets: bool) -> dict[bytes, Record]:
    """Exclude what restic does not record: sockets, and odd bytes of links in old versions."""
    found = {path: record for path, record in live.items() if not stat.S_ISSOCK(record.mode)}
    for path, record in found.items() if not raw_targets else ():
        target = record.target.decode("utf-8", "replace").encode()
        found[path] = replace(record, target=target, size=len(target) if target else record.size)
    return found


def without_top(found: dict[bytes, Record]) -> dict[bytes, Record]:
    return {path: record for path, record in found.items() if path}


@pytest.mark.parametrize("version", [1, 2])
async def test_all_that_is_read_equals_the_files_and_what_restic_restores(
    restic_binary: Path, restic_new: Path, version: int, odd_files: Path, tmp_path: Path
) -> None:
    """Names, content and all metadata are equal, in both repository formats."""
    repo = create(restic_binary, tmp_path / "repo", version=version)
    snapshot_id = repo.backup(odd_files)
    target = tmp_path / "restored"
    repo.run("restore", snapshot_id, "--target", target)

    repository = await repo.open()
    assert repository.version == version
    snapshot = await by_id(repository, snapshot_id)
    ours = await walked(repository, await below(repository, snapshot, odd_files))
    live = as_recorded(
        without_top(records(str(odd_files))), raw_targets=restic_binary == restic_new
    )
    assert len(ours) > 150
    assert not differences(ours, live)

    restored = without_top(records(f"{target}{odd_files}"))
    for path, record in ours.items():  # what restic cannot restore was compared with the live files
        lost = record.mtime_ns >= BEYOND_RESTIC
        if lost or record.twins:
            ours[path] = replace(record, twins=frozenset(), mtime_ns=0 if lost else record.mtime_ns)
            restored[path] = replace(
                restored[path], twins=frozenset(), mtime_ns=0 if lost else restored[path].mtime_ns
            )
    assert not differences(ours, restored)


async def test_snapshots_are_what_restic_says(restic_binary: Path, tmp_path: Path) -> None:
    """IDs, times, paths, tags and hosts equal those of ``restic snapshots --json``."""
    repo = create(restic_binary, tmp_path / "repo")
    (tmp_path / "file").write_bytes(b"content")
    repo.backup(tmp_path / "file", tags=["A", "kind=volumes", "ü"], time="2020-02-29 23:59:59")
    repo.backup(tmp_path / "file", tmp_path)
    repo.backup("file", cwd=tmp_path)
    repo.backup(stdin=("dump.sql", b"-- nothing"))
    theirs = {snapshot["id"]: snapshot for snapshot in repo.snapshots()}
    ours = await (await repo.open()).snapshots()
    assert {s.id for s in ours} == set(theirs)
    assert [s.time_ns for s in ours] == sorted(s.time_ns for s in ours)
    for snapshot in ours:
        said = theirs[snapshot.id]
        assert sorted(snapshot.paths) == sorted(said["paths"])
        assert list(snapshot.tags) == said.get("tags", [])
        assert (snapshot.hostname, snapshot.username) == (said["hostname"], said["username"])
        assert snapshot.tree is not None
        assert snapshot.tree.hex() == said["tree"]


async def test_keys_that_restic_added(restic_binary: Path, tmp_path: Path) -> None:
    """Keys with other scrypt parameters: the exact password opens them, no other does."""
    repo = create(restic_binary, tmp_path / "repo")
    (tmp_path / "password").write_text("second pässword")
    repo.run("key", "add", "--new-password-file", tmp_path / "password")
    storage = open_storage(repo.access)
    repository = await Repository.open(storage, Secret("second pässword".encode()))
    assert repository.id == (await repo.open()).id
    with pytest.raises(WrongKeyError, match="Wrong encryption key"):
        await Repository.open(storage, Secret(PASSWORD.encode() + b"\n"))


async def test_reading_leaves_no_trace(restic_new: Path, tmp_path: Path) -> None:
    """No lock, no temporary file and no changed timestamp in the repository."""
    repo = create(restic_new, tmp_path / "repo")
    (tmp_path / "file").write_bytes(b"content")
    snapshot_id = repo.backup(tmp_path / "file")
    before = records(str(repo.directory))
    repository = await repo.open()
    tree = await below(repository, await by_id(repository, snapshot_id), tmp_path)
    assert (await described(repository, tree.nodes[b"file"])).size == 7
    await repository.aclose()
    assert records(str(repo.directory)) == before


@pytest.mark.parametrize("mode", ["auto", "max", "off"])
async def test_every_compression(restic_new: Path, mode: str, tmp_path: Path) -> None:
    """Compressible and random content, with each compression setting of restic."""
    repo = create(restic_new, tmp_path / "repo")
    directory = tmp_path / "files"
    directory.mkdir()
    (directory / "text").write_bytes(b"all work and no play\n" * 100_000)
    (directory / "random").write_bytes(random.Random(2).randbytes(1 << 20))
    (directory / "empty").touch()
    repo.run("backup", "--compression", mode, directory)
    repository = await repo.open()
    (snapshot,) = await repository.snapshots()
    ours = await walked(repository, await below(repository, snapshot, directory))
    assert not differences(ours, without_top(records(str(directory))))


async def test_a_repository_that_was_upgraded(restic_binary: Path, tmp_path: Path) -> None:
    """Format 2 after an upgrade from format 1: plain and compressed files are mixed."""
    repo = create(restic_binary, tmp_path / "repo", version=1)
    directory = tmp_path / "files"
    directory.mkdir()
    (directory / "old").write_bytes(b"old content " * 1000)
    old = repo.backup(directory)
    repo.run("migrate", "upgrade_repo_v2")
    (directory / "new").write_bytes(b"new content " * 1000)
    new = repo.backup(directory)
    repository = await repo.open()
    assert repository.version == 2
    for snapshot_id, names in ((old, {b"old"}), (new, {b"old", b"new"})):
        tree = await below(repository, await by_id(repository, snapshot_id), directory)
        ours = await walked(repository, tree)
        assert set(ours) == names
        live = records(str(directory))
        assert not differences(ours, {name: live[name] for name in names})


async def test_snapshots_that_restic_changed(restic_new: Path, tmp_path: Path) -> None:
    """``tag`` stores the first ID as the original, ``rewrite`` the previous one."""
    repo = create(restic_new, tmp_path / "repo")
    (tmp_path / "files").mkdir()
    for name in ("keep", "drop"):
        (tmp_path / "files" / name).write_bytes(name.encode())
    first = repo.backup(tmp_path / "files", tags=["A"])
    repository = await repo.open()
    await by_id(repository, first)
    for tag in ("B", "C"):
        repo.run("tag", "--add", tag)
    (tagged,) = await repository.snapshots()
    assert tagged.id != first
    assert (tagged.original, tagged.tags) == (first, ("A", "B", "C"))
    repo.run("rewrite", "--forget", "--exclude", "drop", tagged.id)
    (rewritten,) = await repository.snapshots()
    assert (rewritten.original, rewritten.tags) == (tagged.id, ("A", "B", "C"))
    tree = await below(repository, rewritten, tmp_path / "files")
    assert list(tree.nodes) == [b"keep"]


async def test_prune_while_it_is_open(restic_binary: Path, tmp_path: Path) -> None:
    """Kept and new snapshots stay readable after a prune; a forgotten one is not found."""
    repo = create(restic_binary, tmp_path / "repo")
    directory = tmp_path / "files"
    directory.mkdir()
    for name in ("kept", "lost", "open"):
        (directory / name).write_bytes(name.encode() * 10_000)
    forgotten = repo.backup(directory)
    (directory / "lost").unlink()
    kept = repo.backup(directory)
    repository = await Repository.open(
        open_storage(repo.access), repo.access.key, CacheConfig(memory=0)
    )
    old, new = await by_id(repository, forgotten), await by_id(repository, kept)
    tree = await below(repository, old, directory)
    opened = {
        name.decode(): await repository.open_file(node, old) for name, node in tree.nodes.items()
    }
    (place,) = (await repository.index()).places(BlobType.DATA, tree.nodes[b"kept"].blobs[0])
    repo.run("forget", forgotten, "--prune", "--max-unused", "0")
    assert not list((repo.directory / "data").rglob(place.pack.hex()))  # rewritten to another pack

    # Open files that another snapshot still uses are readable; others report an error.
    assert await opened["open"].read(0, 4) == b"open"
    with pytest.raises(NotFoundError, match=forgotten[:8]):
        await opened["lost"].read(0, 4)
    ours = await walked(repository, await below(repository, new, directory))
    assert not differences(ours, without_top(records(str(directory))))
    (directory / "later").write_bytes(b"later")
    later = repo.backup(directory)
    assert [s.id for s in await repository.snapshots()] == [kept, later]
    tree = await below(repository, await by_id(repository, later), directory)
    assert not differences(await walked(repository, tree), without_top(records(str(directory))))
    assert repository.damaged == {}


@pytest.fixture(scope="module")
def small(restic_new: Path, tmp_path_factory: pytest.TempPathFactory) -> ResticRepo:
    """Return a repository with one snapshot."""
    directory = tmp_path_factory.mktemp("damage")
    (directory / "file").write_bytes(random.Random(3).randbytes(10_000))
    repo = create(restic_new, directory / "repo")
    repo.backup("file", cwd=directory)
    return repo


@pytest.fixture
def repo(small: ResticRepo, tmp_path: Path) -> ResticRepo:
    """Return a copy that the test may damage."""
    return replace(small, directory=shutil.copytree(small.directory, tmp_path / "repo"))


async def read_only_file(repo: ResticRepo) -> bytes:
    """Read the only file of the snapshot."""
    repository = await repo.open()
    snapshots = await repository.snapshots()
    if not snapshots:
        raise DamagedError(*repository.damaged.values())
    (snapshot,) = snapshots
    node = (await repository.trees.root(snapshot)).nodes[b"file"]
    opened = await repository.open_file(node)
    return await opened.read(0, opened.size)


def files_of(repo: ResticRepo, kind: str) -> list[Path]:
    """Return the repository files of one kind."""
    top = repo.directory / kind
    return [top] if top.is_file() else [path for path in top.rglob("*") if path.is_file()]


async def test_nothing_wrong(repo: ResticRepo) -> None:
    """The undamaged copy can be read."""
    assert await read_only_file(repo) == random.Random(3).randbytes(10_000)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("config", RepositoryDamagedError),
        ("keys", DamagedError),
        ("snapshots", DamagedError),
        ("index", CesbrError),
        ("data", DamagedError),
    ],
)
async def test_a_flipped_byte_in_any_kind_of_file(
    repo: ResticRepo, kind: str, error: type[CesbrError]
) -> None:
    """A flipped byte in any kind of file raises our own error and never returns content."""
    for path in files_of(repo, kind):
        data = bytearray(path.read_bytes())
        data[20] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)
    with pytest.raises(error):
        await read_only_file(repo)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("config", RepositoryDamagedError),
        ("keys", RepositoryDamagedError),
        ("index", CesbrError),
        ("data", CesbrError),
    ],
)
async def test_lost_files(repo: ResticRepo, kind: str, error: type[CesbrError]) -> None:
    """If all files of one kind are missing, the repository is damaged, not missing."""
    for path in files_of(repo, kind):
        path.unlink()
    with pytest.raises(error) as caught:
        await read_only_file(repo)
    assert not isinstance(caught.value, RepositoryMissingError)


@pytest.mark.parametrize("length", [0, 40])
@pytest.mark.parametrize("kind", ["config", "keys", "snapshots", "index", "data"])
async def test_truncated_files(repo: ResticRepo, kind: str, length: int) -> None:
    """Truncated files, as after a full disk or a crash."""
    for path in files_of(repo, kind):
        path.chmod(0o600)
        os.truncate(path, length)
    with pytest.raises(CesbrError) as caught:
        await read_only_file(repo)
    assert not isinstance(caught.value, RepositoryMissingError | WrongKeyError)


async def test_no_repository(tmp_path: Path) -> None:
    """An empty directory, and a missing one."""
    for directory in (tmp_path, tmp_path / "nothing"):
        access = Access(str(directory), Secret(b"key"))
        with pytest.raises(RepositoryMissingError, match=str(directory)):
            await Repository.open(open_storage(access), access.key)
    assert os.listdir(tmp_path) == ["home"]  # the directory of the test; nothing was created
