"""For every kind of storage: detect a repository that is gone, or that was replaced."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cesbrfs.errors import RepositoryGoneError, RepositoryUnreachableError
from cesbrfs.repo.location import Access
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import MayHoldOthers, open_storage
from cesbrfs.util.secret import Secret
from tests.support.rest import RestServer
from tests.support.restic_repo import PASSWORD, ResticRepo, create
from tests.support.seaweed import BUCKET, SeaweedFS
from tests.support.sshd import Sshd

_KINDS = ("local", "sftp", "s3", "rest", "rest-server", "rclone")


@dataclass(frozen=True)
class Place:
    """An address, and functions that create and remove a repository there."""

    url: str
    put: Callable[[Path], object]
    remove: Callable[[], object]
    environment: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    is_rclone: bool = False

    async def open(self) -> Repository:
        """Open the repository at the address."""
        key = Secret(PASSWORD.encode())
        access = Access(self.url, key, self.options, self.environment, patience=1.0)
        return await Repository.open(open_storage(access), access.key)


@pytest.fixture(params=_KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each kind of storage, behind a real server if there is one."""
    kind: str = request.param
    name = tmp_path.name
    if kind == "s3":
        s3: SeaweedFS = request.getfixturevalue("seaweed")
        return Place(
            f"{s3.url}/{BUCKET}/{name}",
            lambda directory: s3.upload(directory, BUCKET, name),
            lambda: s3.remove(BUCKET, name),
            s3.environment,
        )
    environment: Mapping[str, str] = {}
    options: Mapping[str, str] = {}
    there = tmp_path / "there"
    url = str(there)
    if kind == "sftp":
        sshd: Sshd = request.getfixturevalue("sshd")
        url, options = sshd.url(there), sshd.options
    elif kind == "rclone":
        request.getfixturevalue("rclone")
        url = f"rclone:{there}"
    elif kind != "local":
        fixture = "rest_server" if kind == "rest" else "own_rest_server"
        server: RestServer = request.getfixturevalue(fixture)
        there = server.root / name
        url, environment = f"{server.url}/{name}/", server.environment
    return Place(
        url,
        lambda directory: shutil.copytree(directory, there),
        lambda: shutil.rmtree(there),
        environment,
        options,
        is_rclone=kind in ("rest", "rclone"),
    )


@pytest.fixture(scope="module")
def repos(
    restic_new: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ResticRepo, ResticRepo]:
    """Two repositories with the same key and one backup each."""
    directory = tmp_path_factory.mktemp("gone")
    (directory / "note").write_text("hello\n")
    made = []
    for name in ("one", "two"):
        repo = create(restic_new, directory / name)
        repo.backup(directory / "note", tags=[name])
        made.append(repo)
    return made[0], made[1]


async def _tags(repository: Repository) -> list[str]:
    return [tag for snapshot in await repository.snapshots() for tag in snapshot.tags]


async def test_gone_and_back(place: Place, repos: tuple[ResticRepo, ResticRepo]) -> None:
    """Reads fail while the repository is gone, and succeed once it is back.

    The server of rclone caches its listings and closes the connection when a listed object is
    missing, which looks as if the server were offline.
    """
    place.put(repos[0].directory)
    repository = await place.open()
    assert await _tags(repository) == ["one"]
    place.remove()
    for _ in range(2):
        with pytest.raises((RepositoryGoneError, RepositoryUnreachableError)) as caught:
            await repository.snapshots()
        if not place.is_rclone:
            assert caught.value.exit_code == 10
    place.put(repos[0].directory)
    assert await _tags(repository) == ["one"]
    (snapshot,) = await repository.snapshots()
    assert (await repository.trees.root(snapshot)).nodes
    await repository.aclose()


async def test_the_directory_of_others(place: Place, tmp_path: Path) -> None:
    """Other files at the address are detected if the storage can list them."""
    (tmp_path / "others/data").mkdir(parents=True)
    (tmp_path / "others/data/photo.jpg").write_bytes(b"photo")
    place.put(tmp_path / "others")
    storage = open_storage(Access(place.url, Secret(b"key"), place.options, place.environment))
    asked = isinstance(storage, MayHoldOthers) and await storage.other_entry()
    assert asked == (None if "rest:" in place.url or place.is_rclone else "data/photo.jpg")
    place.remove()
    assert not isinstance(storage, MayHoldOthers) or await storage.other_entry() is None
    await storage.aclose()


async def test_another_one(place: Place, repos: tuple[ResticRepo, ResticRepo]) -> None:
    """A repository that was created again at the same address is read without a restart."""
    place.put(repos[0].directory)
    repository = await place.open()
    assert await _tags(repository) == ["one"]
    place.remove()
    place.put(repos[1].directory)
    assert await _tags(repository) == ["two"]
    (snapshot,) = await repository.snapshots()
    assert (await repository.trees.root(snapshot)).nodes
    await repository.aclose()
