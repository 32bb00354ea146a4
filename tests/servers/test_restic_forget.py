"""Forget, untag and prune through the restic driver, with real versions of restic."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cesbrfs.errors import RepositoryLockedError, RepositoryMissingError, WrongKeyError
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage import is_file_name
from cesbrfs.restic import Restic
from cesbrfs.util.secret import Secret
from tests.support.restic_repo import PASSWORD, ResticRepo, create
from tests.support.rights import children


@pytest.fixture
def repo(restic_binary: Path, tmp_path: Path) -> ResticRepo:
    """An empty repository for this test only."""
    return create(restic_binary, tmp_path / "repository")


@pytest.fixture
async def restic(repo: ResticRepo) -> Restic:
    """Each version of restic with this repository."""
    return await Restic.open(repo.access, binary=str(repo.binary))


def locks(repo: ResticRepo) -> list[str]:
    """Return the names of the locks, except for temporary files."""
    return [name for name in os.listdir(repo.directory / "locks") if is_file_name(name)]


@asynccontextmanager
async def locked(repo: ResticRepo) -> AsyncIterator[int]:
    """Hold a lock in a restic that waits for its stdin; yield its PID."""
    process = await trio.lowlevel.open_process(
        [repo.binary, "--no-cache", "-r", repo.directory, "backup", "--stdin"],
        env={**os.environ, "RESTIC_PASSWORD": PASSWORD},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        while not locks(repo):  # noqa: ASYNC110 - another process' file
            await trio.sleep(0.01)
        yield process.pid
    finally:
        process.kill()
        await process.wait()
        assert process.stdin is not None
        await process.stdin.aclose()


async def test_snapshots_go_and_their_data_after_them(
    restic: Restic, repo: ResticRepo, tmp_path: Path
) -> None:
    """Only the given snapshots are removed, missing ones are ignored; prune frees the data."""
    content = tmp_path / "content"
    ids = []
    for _ in range(3):
        content.write_bytes(os.urandom(50_000))
        ids.append(repo.backup(content, tags=["a"]))
    await restic.forget(ids[:2])
    assert repo.snapshot_ids() == {ids[2]}
    await restic.forget(ids[1:2])
    assert repo.snapshot_ids() == {ids[2]}
    before = sum(pack.stat().st_size for pack in repo.directory.glob("data/*/*"))
    words: list[str] = []
    report = await restic.prune(on_line=words.append)
    after = sum(pack.stat().st_size for pack in repo.directory.glob("data/*/*"))
    assert before - after > 100_000
    assert report.removed.endswith("KiB"), words
    assert report.remaining
    assert (await restic.check(read_data=True)).ok
    assert locks(repo) == []


async def test_a_tag_goes_and_the_snapshot_stays(
    restic: Restic, repo: ResticRepo, tmp_path: Path
) -> None:
    """Its new version records the first ID, which manifests refer to; others are unchanged."""
    (tmp_path / "file").touch()
    shared = repo.backup(tmp_path / "file", tags=["-odd", "b", "c"])
    other = repo.backup(tmp_path / "file", tags=["-odd"])
    await restic.untag(["-odd", "c"], [shared])
    found = {s.get("original", s["id"]): s["tags"] for s in repo.snapshots()}
    assert found == {shared: ["b"], other: ["-odd"]}
    await restic.untag(["-odd", "c"], [shared])
    assert len(repo.snapshots()) == 2


async def test_a_beginning_of_an_id_is_refused(restic: Restic, repo: ResticRepo) -> None:
    """Some versions of restic accept any snapshot with that prefix."""
    for wrong in ("", "latest", "1234abcd"):
        with pytest.raises(ValueError, match="prefix"):
            await restic.forget([wrong])
    await restic.forget([])


async def test_a_locked_repository_is_told(
    restic: Restic, repo: ResticRepo, tmp_path: Path
) -> None:
    """These commands need an exclusive lock; they report the owner and change nothing."""
    (tmp_path / "file").touch()
    snapshot = repo.backup(tmp_path / "file", tags=["a"])
    async with locked(repo) as pid:
        with pytest.raises(RepositoryLockedError, match=f"PID {pid}"):
            await restic.forget([snapshot])
        with pytest.raises(RepositoryLockedError, match=f"PID {pid}"):
            await restic.untag(["a"], [snapshot])
        with pytest.raises(RepositoryLockedError, match=f"PID {pid}"):
            await restic.prune()
    assert repo.snapshot_ids() == {snapshot}


async def test_failures_are_told_apart(restic_binary: Path, repo: ResticRepo) -> None:
    """A wrong key and a missing repository."""
    wrong = Access(str(repo.directory), Secret(b"another key"))
    nowhere = Access(str(repo.directory / "none"), Secret(b"x"))
    with pytest.raises(WrongKeyError):
        await (await Restic.open(wrong, binary=str(restic_binary))).prune()
    with pytest.raises(RepositoryMissingError):
        await (await Restic.open(nowhere, binary=str(restic_binary))).forget(["ab" * 32])


async def test_a_young_lock_is_taken_back(restic: Restic, repo: ResticRepo, tmp_path: Path) -> None:
    """An interrupted restic leaves a lock younger than 0.2 s; the driver removes it."""
    (tmp_path / "file").touch()
    repo.backup(tmp_path / "file", tags=["a"])
    index = next((repo.directory / "index").iterdir())
    index.unlink()
    os.mkfifo(index)  # restic hangs there, right after taking its lock
    async with trio.open_nursery() as nursery:
        nursery.start_soon(restic.prune)
        while not locks(repo):  # noqa: ASYNC110 - another process' file
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
    assert locks(repo) == []
    assert children() == []
