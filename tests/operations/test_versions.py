"""The directories ``_versions`` and ``_dogus``, which cover all backups."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator

import pyfuse3
import pytest

from cesbrfs.errors import BlobMissingError, NotFoundError
from cesbrfs.fuse import inodes
from cesbrfs.fuse.filesystem import InodeFileSystem
from cesbrfs.fuse.operations import Operations
from cesbrfs.fuse.presentation import Presentation
from cesbrfs.vfs.across import AcrossBackups
from cesbrfs.vfs.tree import BackupTree
from tests.operations.conftest import NOBODY, Kernel, listing, walk
from tests.support.memory_repo import Json, MemoryRepo

VOLUME = "/var/lib/ces/redmine/volumes/files"
FILES = (b"_versions", b"redmine", b"volumes", b"files")
SECRETS_OWNER = (7, 8)


@pytest.fixture(autouse=True)
def zone() -> Iterator[None]:
    """Names of versions have local times; the zone is Berlin's."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


def save(repo: MemoryRepo, backup: str, *nodes: Json, hour: int, dogu: str = "redmine") -> None:
    """Back up the volume of a dogu, which contains `nodes`."""
    volume = VOLUME.replace("redmine", dogu)
    tree = repo.tree(repo.path(volume, repo.directory("files", *nodes)))
    repo.snapshot(tree, [volume], tags=[backup], time=f"2026-11-22T{hour:02}:30:00Z")


async def mounted(
    repo: MemoryRepo, *, clock: Callable[[], float] | None = None, private: bool = False
) -> Operations:
    """Return the handlers of a mount."""
    opened = await repo.open()
    view = BackupTree(opened, clock=clock) if clock else BackupTree(opened)
    owner = SECRETS_OWNER if private else None
    tree = InodeFileSystem(view, secrets_owner=owner, across=AcrossBackups(view))
    return Operations(tree, Presentation(for_all=private))


async def names(operations: Operations, kernel: Kernel, *path: bytes) -> list[bytes]:
    """List the directory at a path."""
    return await listing(operations, kernel, (await walk(operations, *path)).st_ino)


async def content(operations: Operations, *path: bytes) -> bytes:
    """Read the file at a path."""
    opened = await operations.open((await walk(operations, *path)).st_ino, os.O_RDONLY, NOBODY)
    return await operations.read(opened.fh, 0, 1 << 20)


async def test_each_content_is_shown_once(kernel: Kernel) -> None:
    """Equal contents are one version: that of the oldest backup, with its metadata."""
    repo = MemoryRepo()
    nodes = [
        repo.file("plan.odt", b"one", mtime="2026-01-01T00:00:00Z", mode=0o640, uid=5, gid=6),
        repo.file("plan.odt", b"one", mtime="2026-02-02T00:00:00Z"),
        repo.file("plan.odt", b"two"),
        repo.file("plan.odt", b"on", b"e"),  # equal bytes in other blobs
    ]
    for number, node in enumerate(nodes):
        save(repo, f"b{number}", node, hour=number)
    operations = await mounted(repo)
    plan = (*FILES, b"plan.odt")
    first, second = b"2026-11-22T01-30-00--b0.odt", b"2026-11-22T03-30-00--b2.odt"
    assert await names(operations, kernel, *plan) == [first, second]
    assert await content(operations, *plan, first) == b"one"
    assert await content(operations, *plan, second) == b"two"
    shown = await walk(operations, *plan, first)
    assert (shown.st_mode, shown.st_uid, shown.st_gid) == (stat.S_IFREG | 0o640, 5, 6)
    assert shown.st_mtime_ns == 1767225600 * 10**9
    with pytest.raises(pyfuse3.FUSEError):
        await operations.lookup((await walk(operations, *plan)).st_ino, b"b0", NOBODY)


async def test_names_of_all_backups_are_merged(kernel: Kernel) -> None:
    """A directory has each name that any backup has; links and special files have versions too."""
    repo = MemoryRepo()
    save(repo, "b0", repo.directory("sub", repo.file("old", b"old")), hour=0)
    links = [
        {"name": "link", "type": "symlink", "mode": 0o777, "linktarget": target}
        for target in ("a", "b")
    ]
    fifo = {"name": "pipe", "type": "fifo", "mode": 0o600}
    save(repo, "b1", repo.directory("sub", repo.file("new", b"new"), links[0], fifo), hour=1)
    save(repo, "b2", repo.directory("sub", links[1], fifo), hour=2)
    operations = await mounted(repo)
    assert await names(operations, kernel, *FILES, b"sub") == [b"link", b"new", b"old", b"pipe"]
    found = await names(operations, kernel, *FILES, b"sub", b"link")
    inodes = [(await walk(operations, *FILES, b"sub", b"link", name)).st_ino for name in found]
    assert [await operations.readlink(inode, NOBODY) for inode in inodes] == [b"a", b"b"]
    (name,) = await names(operations, kernel, *FILES, b"sub", b"pipe")
    assert stat.S_ISFIFO((await walk(operations, *FILES, b"sub", b"pipe", name)).st_mode)


async def test_a_name_that_is_a_file_and_a_directory_shows_both(kernel: Kernel) -> None:
    """The merged directory is one of the versions; no name in it can hide another."""
    repo = MemoryRepo()
    hostile = repo.file("2026-11-22T01-30-00--b0", b"hostile")
    save(repo, "b0", repo.file("x", b"file"), hour=0)
    save(repo, "b1", repo.directory("x", hostile), hour=1)
    save(repo, "b2", repo.directory("x", repo.file("y", b"y")), hour=2)
    operations = await mounted(repo)
    file, directory = b"2026-11-22T01-30-00--b0", b"2026-11-22T02-30-00--b1"
    assert await names(operations, kernel, *FILES, b"x") == [file, directory]
    assert await content(operations, *FILES, b"x", file) == b"file"
    assert await names(operations, kernel, *FILES, b"x", directory) == [file, b"y"]
    version = (*FILES, b"x", directory, b"y", b"2026-11-22T03-30-00--b2")
    assert await content(operations, *version) == b"y"


async def test_the_root_lists_dogus_but_not_versions(kernel: Kernel) -> None:
    """``_versions`` is found by name, so that a walk of the root does not enter it."""
    repo = MemoryRepo()
    save(repo, "b0", repo.file("f", b"f"), hour=0)
    operations = await mounted(repo)
    root = pyfuse3.ROOT_INODE
    assert await listing(operations, kernel, root) == [b"b0", b"latest", b"_dogus"]
    assert await names(operations, kernel, b"_versions") == [b"redmine"]
    without = Operations(InodeFileSystem(operations.tree.view), Presentation())
    assert await listing(without, kernel, root) == [b"b0", b"latest"]
    for name in (b"_dogus", b"_versions"):
        with pytest.raises(NotFoundError, match="exists in mounts only"):
            await operations.tree.view.resolve(f"/{name.decode()}/redmine")
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await without.lookup(root, name, NOBODY)
        assert caught.value.errno == errno.ENOENT


async def test_dogus_link_to_the_backups_that_have_them(kernel: Kernel) -> None:
    """Each dogu has a link for each backup that has it, and its own ``latest``."""
    repo = MemoryRepo()
    save(repo, "b0", hour=0)
    save(repo, "b1", hour=1)
    save(repo, "b2", hour=2, dogu="nexus")
    operations = await mounted(repo)
    assert await names(operations, kernel, b"_dogus") == [b"nexus", b"redmine"]
    assert await names(operations, kernel, b"_dogus", b"redmine") == [b"b0", b"b1", b"latest"]
    for name, backup in ((b"b0", b"b0"), (b"latest", b"b1")):
        link = await walk(operations, b"_dogus", b"redmine", name)
        target = await operations.readlink(link.st_ino, NOBODY)
        assert target == b"../../%s/redmine" % backup
        assert link.st_size == len(target)
    redmine = (await walk(operations, b"_dogus", b"redmine")).st_ino
    with pytest.raises(pyfuse3.FUSEError):
        await operations.lookup(redmine, b"b2", NOBODY)


async def test_each_tree_is_read_once(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty backups with two different directories cost two reads of it; again, none."""
    repo = MemoryRepo()
    for number in range(40):
        text = b"new" if number >= 20 else b"old"
        save(repo, f"b{number:02}", repo.file("f", text), hour=number // 2)
    operations = await mounted(repo)
    await names(operations, kernel, *FILES[:-1])
    repository = operations.tree.view.repository
    reads: list[bytes] = []
    read = repository.trees.read

    async def counted(tree: bytes) -> bytes:
        reads.append(tree)
        return await read(tree)

    monkeypatch.setattr(repository.trees, "read", counted)
    for expected in (2, 2):
        assert await names(operations, kernel, *FILES) == [b"f"]
        assert len(reads) == len(set(reads)) == expected


async def test_the_kernel_caches_few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked to drop the oldest entries: a walk would leave an object for each file."""
    repo = MemoryRepo()
    save(repo, "b0", repo.file("f", b"f"), hour=0)
    operations = await mounted(repo)
    dropped: list[bytes] = []
    monkeypatch.setattr(
        pyfuse3, "invalidate_entry_async", lambda _parent, name, **_: dropped.append(name)
    )
    monkeypatch.setattr(inodes, "EPHEMERAL_MAX", 2)
    await walk(operations, *FILES, b"f", b"2026-11-22T01-30-00--b0")
    assert not dropped
    await walk(operations, b"_dogus", b"redmine", b"b0")
    assert dropped == [b"f", b"2026-11-22T01-30-00--b0"]


async def test_new_and_removed_backups(kernel: Kernel) -> None:
    """They appear and vanish without a remount."""
    now = 0.0
    repo = MemoryRepo()
    save(repo, "b0", repo.file("f", b"one"), hour=0)
    operations = await mounted(repo, clock=lambda: now)
    assert len(await names(operations, kernel, *FILES, b"f")) == 1
    save(repo, "b1", repo.file("f", b"two"), repo.file("g", b"g"), hour=1)
    now = 60.0
    assert await names(operations, kernel, *FILES) == [b"f", b"g"]
    assert len(await names(operations, kernel, *FILES, b"f")) == 2
    (gone,) = [s for s in await operations.tree.view.repository.snapshots() if "b0" in s.tags]
    repo.forget(gone.id)
    now = 120.0
    assert await names(operations, kernel, *FILES, b"f") == [b"2026-11-22T02-30-00--b1"]


async def test_no_user_gets_more_access_than_in_the_backups() -> None:
    """A merged directory has the permissions that the directory has in every backup."""
    repo = MemoryRepo()

    def directory(name: str, mode: int, uid: int, number: int) -> Json:
        inner = repo.file(f"f{number}", b"f")
        return repo.directory(name, inner, mode=1 << 31 | mode, uid=uid, gid=3)

    same, modes, owners = "same", "modes", "owners"
    save(repo, "b0", directory(same, 0o750, 5, 0), directory(modes, 0o755, 5, 0),
         directory(owners, 0o755, 5, 0), hour=0)  # fmt: skip
    save(repo, "b1", directory(same, 0o750, 5, 1), directory(modes, 0o770, 5, 1),
         directory(owners, 0o755, 6, 1), hour=1)  # fmt: skip
    operations = await mounted(repo, private=True)
    for name, expected in (
        (same, (0o750, 5, 3)),
        (modes, (0o750, 5, 3)),
        (owners, (0o500, 0, 0)),
    ):
        shown = await walk(operations, *FILES, name.encode())
        assert (stat.S_IMODE(shown.st_mode), shown.st_uid, shown.st_gid) == expected, name


async def test_secrets_are_closed() -> None:
    """Registry data and dumps are closed to other users; a directory of that name is not."""
    repo = MemoryRepo()
    save(repo, "b0", repo.directory("dumps", repo.file("registry.json", b"{}")), hour=0)
    for name, tags in (
        ("registry.json", ["kind=registry"]),
        ("registry.json", ["kind=registry", "dogu=redmine"]),
        ("db.dump", ["kind=dump", "dogu=redmine"]),
    ):
        repo.snapshot(repo.tree(repo.file(name, b"{}")), [f"/{name}"], tags=["b0", *tags])
    operations = await mounted(repo, private=True)
    closed = (stat.S_IFDIR | 0o500, *SECRETS_OWNER)
    for path in ((b"_instance",), (b"redmine", b"registry.json"), (b"redmine", b"dumps")):
        shown = await walk(operations, b"_versions", *path)
        assert (shown.st_mode, shown.st_uid, shown.st_gid) == closed, path
    for below, mode in (((b"dumps",), 0o755), ((b"dumps", b"registry.json"), 0o555)):
        shown = await walk(operations, *FILES, *below)
        assert shown.st_mode == stat.S_IFDIR | mode, below


async def test_a_directory_that_cannot_be_read(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What other backups have is shown and the error is logged; without any, it is EIO."""
    repo = MemoryRepo()
    save(repo, "b0", repo.file("f", b"one"), hour=0)
    save(repo, "b1", repo.file("g", b"two"), hour=1)
    operations = await mounted(repo)
    await names(operations, kernel, *FILES[:-1])
    repository = operations.tree.view.repository
    read = repository.trees.read
    unreadable: set[bytes] = set()

    async def failing(tree: bytes) -> bytes:
        data = await read(tree)
        if any(part in data for part in unreadable):
            raise BlobMissingError("Blob 1234 is missing.")
        return data

    monkeypatch.setattr(repository.trees, "read", failing)
    unreadable |= {b'"name": "f"', b'"name": "g"'}
    inode = (await walk(operations, *FILES)).st_ino
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.opendir(inode, NOBODY)
    assert caught.value.errno == errno.EIO
    unreadable.discard(b'"name": "g"')
    assert await names(operations, kernel, *FILES) == [b"g"]
    assert "redmine/volumes/files: Blob 1234 is missing." in caplog.text
