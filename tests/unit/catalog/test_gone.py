"""Test a repository that is removed or created again while it is open."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from cesbrfs.errors import (
    BucketMissingError,
    CesbrError,
    RepositoryDamagedError,
    RepositoryGoneError,
    RepositoryMissingError,
    WrongKeyError,
)
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.format.crypto import Keys
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import FileType
from cesbrfs.util.secret import Secret
from tests.support.memory_repo import PASSWORD, MemoryRepo

OTHER_KEYS = Keys(bytes(range(50, 82)), bytes(range(70, 86)), bytes(range(200, 216)))


def with_backups(repo: MemoryRepo, *names: str) -> MemoryRepo:
    """Add a snapshot for each name; the name is the tag and the content of the only file."""
    for name in names:
        repo.snapshot(repo.tree(repo.file("f", name.encode())), tags=[name])
    repo.flush()
    return repo


def another(*names: str, password: bytes = PASSWORD) -> MemoryRepo:
    """Return a repository with new keys and a new ID."""
    repo = MemoryRepo()
    repo.storage.files.clear()
    repo.keys = OTHER_KEYS  # type: ignore[misc]
    repo.add_key(password)
    repo.set_config(version=2, id="d1" * 32, chunker_polynomial="25b468838dcb75")
    return with_backups(repo, *names)


async def tags(repository: Repository) -> set[str]:
    return {tag for snapshot in await repository.snapshots() for tag in snapshot.tags}


async def content(repository: Repository) -> bytes:
    """Read the file of the newest snapshot."""
    tree = await repository.trees.root((await repository.snapshots())[-1])
    opened = await repository.open_file(tree.nodes[b"f"])
    return await opened.read(0, opened.size)


@pytest.mark.parametrize("backups", [(), ("a",), ("a", "b")])
async def test_a_missing_repository_is_an_error_until_it_is_back(
    backups: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """The list is never empty; the outage and its end are logged once each."""
    repo = with_backups(MemoryRepo(), *backups)
    repository = await repo.open()
    assert await tags(repository) == set(backups)
    files = dict(repo.storage.files)
    repo.storage.files.clear()
    for _ in range(3):
        with pytest.raises(RepositoryGoneError, match="has disappeared") as caught:
            await repository.snapshots()
    assert (caught.value.exit_code, caught.value.errno) == (10, 5)
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
    repo.storage.files.update(files)
    assert await tags(repository) == set(backups)
    assert "is back" in caplog.text


async def test_the_index_of_a_repository_that_is_gone_is_not_taken_for_empty() -> None:
    """Reads fail during the outage and succeed after it."""
    repo = with_backups(MemoryRepo(), "a")
    repository = await repo.open()
    (snapshot,) = await repository.snapshots()
    files = dict(repo.storage.files)
    repo.storage.files.clear()
    with pytest.raises(RepositoryGoneError):
        await repository.trees.root(snapshot)
    repo.storage.files.update(files)
    assert await content(repository) == b"a"


@pytest.mark.parametrize("before", [(), ("a",), ("a", "b")])
@pytest.mark.parametrize("after", [(), ("c",)])
async def test_another_repository_at_the_same_address(
    before: tuple[str, ...], after: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    """The new keys and ID are read, and its backups are shown."""
    repo = with_backups(MemoryRepo(), *before)
    repository = await repo.open()
    await repository.snapshots()
    await repository.index()
    new = another(*after)
    repo.storage.files = new.storage.files
    assert await tags(repository) == set(after)
    if before or after:
        assert repository.id == "d1" * 32
        assert "was replaced by another one" in caplog.text
    if after:
        assert await content(repository) == b"c"
        assert not repository.damaged


async def test_another_repository_that_another_key_opens() -> None:
    """The error is reported without deriving the keys again for each listing."""
    repo = with_backups(MemoryRepo(), "a")
    repository = await repo.open()
    await repository.snapshots()
    repo.storage.files = another("c", password=b"another").storage.files
    for _ in range(2):
        with pytest.raises(WrongKeyError, match="Wrong encryption key"):
            await repository.snapshots()
    read = [kind for kind, *_ in repo.storage.reads if kind is FileType.KEY]
    assert len(read) == 2  # of the first repository, and of the other one


async def test_one_that_is_being_created() -> None:
    """The key file is written before the config; both are required."""
    repo = with_backups(MemoryRepo(), "a")
    repository = await repo.open()
    await repository.snapshots()
    new = another()
    config = new.storage.files.pop((FileType.CONFIG, ""))
    repo.storage.files = new.storage.files
    with pytest.raises(RepositoryDamagedError, match="config"):
        await repository.snapshots()
    new.storage.files[FileType.CONFIG, ""] = config
    assert await tags(repository) == set()
    assert repository.id == "d1" * 32


async def test_a_config_that_was_written_again() -> None:
    """Restic's migration to format 2 rewrites the config of the same repository."""
    repo = with_backups(MemoryRepo(1), "a", "b")
    repository = await repo.open()
    first = (await repository.snapshots())[0]
    repo.set_config(version=2, id="c0" * 32)
    repo.forget(first.id)
    assert await tags(repository) in ({"a"}, {"b"})
    assert repository.version == 2


async def test_what_it_costs() -> None:
    """The config is read once if snapshots or index files were removed, else never."""
    repo = with_backups(MemoryRepo(), "a", "b")
    repository = await repo.open()
    first = (await repository.snapshots())[0]
    await repository.index()

    def configs() -> int:
        return [kind for kind, *_ in repo.storage.reads].count(FileType.CONFIG)

    begun = configs()
    for name in ("c", "d"):
        with_backups(repo, name)
        await repository.snapshots()
        await content(repository)
        await repository.locks()
    assert configs() == begun
    repo.forget(first.id)
    await repository.snapshots()
    assert configs() == begun + 1


@pytest.mark.parametrize(
    "error", [BucketMissingError("no bucket"), RepositoryMissingError("missing")]
)
async def test_a_storage_that_says_so_itself(
    error: CesbrError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing bucket counts as a missing repository."""
    repo = with_backups(MemoryRepo(), "a")
    repository = await repo.open()

    async def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(repo.storage, "list", fails)
    monkeypatch.setattr(repo.storage, "read", fails)
    with pytest.raises(RepositoryGoneError):
        await repository.snapshots()


async def test_back_between_two_questions() -> None:
    """A listing from before the disk was mounted again is discarded."""
    repo = with_backups(MemoryRepo(), "a")
    repository = await Repository.open(repo.storage, Secret(PASSWORD))
    await repository.snapshots()
    files = dict(repo.storage.files)
    repo.storage.files.clear()

    def back(kind: FileType, _name: str) -> None:
        if kind is FileType.CONFIG:
            repo.storage.files.update(files)

    before: Callable[[FileType, str], object] = repo.storage.before_read
    repo.storage.before_read = back
    assert await tags(repository) == {"a"}
    repo.storage.before_read = before


async def test_the_key_that_opened_it_is_tried_first(tmp_path: Path) -> None:
    """The next opening reads only one of many keys, as with a key hint."""
    repo = with_backups(MemoryRepo(), "a")
    for number in range(30):
        repo.add_key(b"%d" % number)
    last = b"29"

    async def reads(cache: Path | None, hint: str = "") -> int:
        repo.storage.reads.clear()
        repository = await Repository.open(
            repo.storage, Secret(last), CacheConfig(directory=cache), hint
        )
        assert repository.key_file
        return [kind for kind, *_ in repo.storage.reads].count(FileType.KEY)

    assert await reads(tmp_path) == 31
    assert await reads(tmp_path) == 1
    repository = await Repository.open(repo.storage, Secret(last))
    assert await reads(None, repository.key_file[:8]) == 1
