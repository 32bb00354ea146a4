"""The backups are listed while the index of the repository is not loaded, or cannot be."""

from __future__ import annotations

import errno
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import pyfuse3
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cesbrfs.catalog.manifest import FailedPath, Manifest, Point, write_manifest
from cesbrfs.errors import StorageError
from cesbrfs.fuse.filesystem import InodeFileSystem
from cesbrfs.fuse.operations import CHANGING_SECONDS, Operations
from cesbrfs.fuse.presentation import Presentation
from cesbrfs.repo.storage import FileType
from cesbrfs.vfs.tree import REFRESH_SECONDS, BackupTree
from tests.operations.conftest import NOBODY, Kernel, listing
from tests.support.memory_repo import MemoryRepo

_T = TypeVar("_T")
_SECONDS: Final = 10
_ROOT: Final = pyfuse3.ROOT_INODE
_VOLUME: Final = "/var/lib/ces/redmine/volumes/files"


class Clock:
    """A clock in seconds that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def repo() -> MemoryRepo:
    """A repository with the backups A and B of another tool; no index has the tree of B.

    Its index files are held back: `repo.storage.held` is the event that releases them.
    """
    made = MemoryRepo()
    _backup(made, "A")
    made.snapshot("bb" * 32, [_VOLUME], tags=["B"], time="2026-11-23T21:30:00Z")
    made.storage.held[FileType.INDEX] = trio.Event()
    return made


def _backup(repo: MemoryRepo, name: str, **fields: object) -> str:
    tree = repo.tree(repo.file("note.txt", name.encode()))
    return repo.snapshot(tree, [_VOLUME], **{"tags": [name]} | fields)


async def _mounted(
    repo: MemoryRepo, nursery: trio.Nursery, clock: Callable[[], float] = trio.current_time
) -> Operations:
    """Return the handlers of a mount of `repo`, with its background tasks."""
    view = BackupTree(await repo.open(), clock=clock)
    view.serve(nursery)
    return Operations(InodeFileSystem(view), Presentation())


@contextmanager
def _soon() -> Iterator[None]:
    """Fail instead of waiting for an event that is never set."""
    with trio.fail_after(_SECONDS):
        yield


async def _blocks(
    nursery: trio.Nursery, ask: Callable[[], Awaitable[_T]]
) -> Callable[[], Awaitable[_T]]:
    """Start `ask` and wait until it blocks; return a function that waits for its result."""
    results: list[_T] = []
    done = trio.Event()

    async def run() -> None:
        results.append(await ask())
        done.set()

    async def result() -> _T:
        with _soon():
            await done.wait()
        return results[0]

    nursery.start_soon(run)
    await wait_all_tasks_blocked()
    assert not results
    return result


async def test_the_backups_are_listed_and_found(
    repo: MemoryRepo, kernel: Kernel, nursery: trio.Nursery
) -> None:
    """The requests of a mount that starts, of `ls /backups`, and of `stat` of a backup."""
    operations = await _mounted(repo, nursery)
    with _soon():
        assert stat.S_ISDIR((await operations.getattr(_ROOT, NOBODY)).st_mode)
        assert sorted(await listing(operations, kernel, _ROOT)) == [b"A", b"B", b"latest"]
        assert stat.S_ISDIR((await operations.lookup(_ROOT, b"B", NOBODY)).st_mode)
        assert stat.S_ISDIR((await operations.lookup(_ROOT, b"A", NOBODY)).st_mode)
        with pytest.raises(pyfuse3.FUSEError) as raised:
            await operations.lookup(_ROOT, b"C", NOBODY)
    assert raised.value.errno == errno.ENOENT


async def test_latest_waits_and_is_right(
    repo: MemoryRepo, kernel: Kernel, nursery: trio.Nursery
) -> None:
    """The snapshots alone suggest B. The index shows that it is incomplete."""
    operations = await _mounted(repo, nursery)
    handle = await operations.opendir(_ROOT, NOBODY)
    await operations.readdir(handle, 0, None)  # type: ignore[arg-type]  # the fake kernel needs none
    listed = dict(kernel.taken)[b"latest"]
    assert stat.S_ISLNK(listed.st_mode)
    assert (listed.entry_timeout, listed.attr_timeout) == (0, 0)
    found = await _blocks(nursery, lambda: operations.lookup(_ROOT, b"latest", NOBODY))
    got = await _blocks(nursery, lambda: operations.getattr(listed.st_ino, NOBODY))
    target = await _blocks(nursery, lambda: operations.readlink(listed.st_ino, NOBODY))
    repo.storage.held[FileType.INDEX].set()
    assert await target() == b"A"
    for attributes in (await found(), await got()):
        assert (attributes.st_ino, attributes.st_size) == (listed.st_ino, 1)
        assert attributes.entry_timeout == attributes.attr_timeout == CHANGING_SECONDS


async def test_a_pending_latest_that_does_not_exist(
    repo: MemoryRepo, kernel: Kernel, nursery: trio.Nursery
) -> None:
    """Only a manifest shows that something failed: the lookup, and the next listing, lack it."""
    repo.storage.files = {key: raw for key, raw in repo.storage.files.items() if not _is_data(key)}
    failed = [FailedPath("/x", "permission denied")]
    point = Point("volumes", None, _backup(repo, "A"), 1, failed)
    manifest = write_manifest(Manifest(1, "A", "2026-11-22T20:30:00Z", "ces", [point]))
    tree = repo.tree(repo.file("manifest.json", manifest))
    repo.snapshot(tree, ["/manifest.json"], tags=["A", "kind=manifest"])
    operations = await _mounted(repo, nursery)
    assert await listing(operations, kernel, _ROOT) == [b"A", b"latest"]
    repo.storage.held[FileType.INDEX].set()
    with _soon(), pytest.raises(pyfuse3.FUSEError) as raised:
        await operations.lookup(_ROOT, b"latest", NOBODY)
    assert raised.value.errno == errno.ENOENT
    assert await listing(operations, kernel, _ROOT) == [b"A"]


def _is_data(key: tuple[FileType, str]) -> bool:
    return key[0] in (FileType.SNAPSHOT, FileType.PACK, FileType.INDEX)


async def test_latest_is_not_listed_if_no_backup_can_be(
    repo: MemoryRepo, kernel: Kernel, nursery: trio.Nursery
) -> None:
    """A safety backup is never `latest`; a backup of ours without a manifest is incomplete."""
    repo.storage.files = {key: raw for key, raw in repo.storage.files.items() if not _is_data(key)}
    _backup(repo, "S", tags=["S", "purpose=safety"])
    _backup(repo, "I", tags=["I", "kind=volumes", "dogu=redmine"])
    operations = await _mounted(repo, nursery)
    with _soon():
        assert sorted(await listing(operations, kernel, _ROOT)) == [b"I", b"S"]


async def test_a_new_backup_whose_index_is_held_back(
    repo: MemoryRepo, kernel: Kernel, nursery: trio.Nursery
) -> None:
    """Its tree is in an index file that is not loaded: the known link is pending again."""
    clock = Clock()
    operations = await _mounted(repo, nursery, clock)
    repo.storage.held.pop(FileType.INDEX).set()
    found = await operations.lookup(_ROOT, b"latest", NOBODY)
    assert await operations.readlink(found.st_ino, NOBODY) == b"A"
    repo.storage.held[FileType.INDEX] = trio.Event()
    _backup(repo, "C", time="2026-11-24T21:30:00Z")
    clock.now += 2 * REFRESH_SECONDS
    with _soon():
        assert sorted(await listing(operations, kernel, _ROOT)) == [b"A", b"B", b"C", b"latest"]
    target = await _blocks(nursery, lambda: operations.readlink(found.st_ino, NOBODY))
    repo.storage.held[FileType.INDEX].set()
    assert await target() == b"C"


async def test_an_index_that_cannot_be_listed(
    repo: MemoryRepo, kernel: Kernel, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The backups are listed; only `latest` gets the error."""
    operations = await _mounted(repo, nursery)
    list_files = repo.storage.list

    async def refuse(kind: FileType) -> object:
        if kind is FileType.INDEX:
            raise StorageError("The index cannot be listed.")
        return await list_files(kind)

    monkeypatch.setattr(repo.storage, "list", refuse)
    with _soon():
        assert sorted(await listing(operations, kernel, _ROOT)) == [b"A", b"B", b"latest"]
        with pytest.raises(pyfuse3.FUSEError) as raised:
            await operations.lookup(_ROOT, b"latest", NOBODY)
    assert raised.value.errno == errno.EIO
