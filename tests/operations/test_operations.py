"""Test the replies of the FUSE handlers, request by request."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from pathlib import Path

import pyfuse3
import pytest
import trio

from cesbrfs.fuse.filesystem import InodeFileSystem
from cesbrfs.fuse.operations import CHANGING_SECONDS, FIXED_SECONDS, Operations
from cesbrfs.fuse.presentation import Presentation
from cesbrfs.vfs.tree import BackupTree
from tests.operations.conftest import NOBODY, Kernel, listing, walk
from tests.support.memory_repo import MemoryRepo
from tests.support.restic_repo import ResticRepo, create

VOLUME = (b"b1", b"redmine", b"volumes", b"files")


async def test_attributes_are_those_of_the_file(operations: Operations, source: Path) -> None:
    """Mode, owner, size, link count and mtime equal those of the live file."""
    attributes = await walk(operations, *VOLUME, b"note.txt")
    live = (source / "var/lib/ces/redmine/volumes/files/note.txt").stat()
    assert (attributes.st_mode, attributes.st_uid, attributes.st_gid) == (
        live.st_mode,
        live.st_uid,
        live.st_gid,
    )
    assert (attributes.st_size, attributes.st_nlink) == (live.st_size, 2)
    assert attributes.st_mtime_ns == live.st_mtime_ns


async def test_stored_entries_have_long_timeouts(operations: Operations) -> None:
    """Only immutable entries get long timeouts; virtual directories get short ones."""
    virtual = await walk(operations, b"b1", b"redmine")
    stored = await walk(operations, *VOLUME, b"note.txt")
    assert virtual.entry_timeout == virtual.attr_timeout == CHANGING_SECONDS
    assert stored.entry_timeout == stored.attr_timeout == FIXED_SECONDS


async def test_missing_names_are_cached_in_stored_directories_only(
    operations: Operations,
) -> None:
    """A stored directory returns a negative entry, a virtual one ENOENT."""
    directory = await walk(operations, *VOLUME)
    absent = await operations.lookup(directory.st_ino, b"nothing", NOBODY)
    assert (absent.st_ino, absent.entry_timeout) == (0, FIXED_SECONDS)
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.lookup(pyfuse3.ROOT_INODE, b"nothing", NOBODY)
    assert caught.value.errno == errno.ENOENT


async def test_hard_links_share_an_inode(operations: Operations) -> None:
    """Two names of a hard link have the same inode, another file has its own."""
    first = await walk(operations, *VOLUME, b"note.txt")
    second = await walk(operations, *VOLUME, b"twin")
    other = await walk(operations, *VOLUME, b"big")
    assert first.st_ino == second.st_ino != other.st_ino


async def test_inodes_are_the_same_in_every_mount(shared: ResticRepo) -> None:
    """An inode number depends only on the path."""
    numbers = []
    for _ in range(2):
        one = Operations(InodeFileSystem(BackupTree(await shared.open())), Presentation())
        numbers.append((await walk(one, *VOLUME, b"n07")).st_ino)
    assert numbers[0] == numbers[1]


async def test_forgotten_inodes_are_stale(operations: Operations) -> None:
    """An inode becomes ESTALE after as many forgets as lookups, not before."""
    attributes = await walk(operations, *VOLUME, b"note.txt")
    await walk(operations, *VOLUME, b"note.txt")
    await operations.forget([(attributes.st_ino, 1)])
    await operations.getattr(attributes.st_ino, NOBODY)
    await operations.forget([(attributes.st_ino, 1)])
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.getattr(attributes.st_ino, NOBODY)
    assert caught.value.errno == errno.ESTALE


async def test_a_listing_in_several_requests_is_complete(
    operations: Operations, kernel: Kernel
) -> None:
    """Each name is returned exactly once if the buffer holds only seven entries."""
    kernel.room = 7
    directory = await walk(operations, *VOLUME)
    names = await listing(operations, kernel, directory.st_ino)
    assert sorted(names) == sorted(
        [b"empty", b"note.txt", b"big", b"twin", b"link", *(b"n%02d" % n for n in range(50))]
    )


async def test_only_accepted_entries_count_as_lookups(
    operations: Operations, kernel: Kernel
) -> None:
    """An entry that did not fit into the kernel's buffer is not counted."""
    kernel.room = 3
    directory = await walk(operations, *VOLUME)
    before = operations.tree.counters()["lookups"]
    handle = await operations.opendir(directory.st_ino, NOBODY)
    await operations.readdir(handle, 0, None)  # type: ignore[arg-type]  # the fake kernel
    assert operations.tree.counters()["lookups"] == before + 3


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 10), (1 << 20, 1 << 20), ((3 << 20) - 5, 100), (3 << 20, 1), (9 << 20, 5)],
)
async def test_reads_anywhere(operations: Operations, source: Path, offset: int, size: int) -> None:
    """Each range equals that of the live file; reads at the end are short or empty."""
    attributes = await walk(operations, *VOLUME, b"big")
    opened = await operations.open(attributes.st_ino, os.O_RDONLY, NOBODY)
    live = (source / "var/lib/ces/redmine/volumes/files/big").read_bytes()
    assert opened.keep_cache
    assert await operations.read(opened.fh, offset, size) == live[offset : offset + size]
    await operations.release(opened.fh)


async def test_writing_is_refused(operations: Operations) -> None:
    """Opening a file for writing fails with EROFS."""
    attributes = await walk(operations, *VOLUME, b"big")
    for flags in (os.O_WRONLY, os.O_RDWR):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await operations.open(attributes.st_ino, flags, NOBODY)
        assert caught.value.errno == errno.EROFS


async def test_symlinks_and_attributes(operations: Operations) -> None:
    """readlink, listxattr and getxattr return the recorded values."""
    link = await walk(operations, *VOLUME, b"link")
    note = await walk(operations, *VOLUME, b"note.txt")
    assert await operations.readlink(link.st_ino, NOBODY) == b"note.txt"
    assert await operations.listxattr(note.st_ino, NOBODY) == [b"user.colour"]
    assert await operations.getxattr(note.st_ino, b"user.colour", NOBODY) == b"green"
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.getxattr(note.st_ino, b"user.size", NOBODY)
    assert caught.value.errno == errno.ENODATA


async def test_noxattr_disables_extended_attributes(shared: ResticRepo) -> None:
    """With noxattr, listxattr fails with ENOSYS, which the kernel caches."""
    bare = Operations(InodeFileSystem(BackupTree(await shared.open())), Presentation(xattrs=False))
    attributes = await walk(bare, *VOLUME, b"note.txt")
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await bare.listxattr(attributes.st_ino, NOBODY)
    assert caught.value.errno == errno.ENOSYS


async def test_owners_can_be_replaced(shared: ResticRepo) -> None:
    """uid= and gid= replace each recorded owner."""
    other = Operations(InodeFileSystem(BackupTree(await shared.open())), Presentation(uid=7, gid=8))
    attributes = await walk(other, *VOLUME, b"note.txt")
    assert (attributes.st_uid, attributes.st_gid) == (7, 8)


async def test_a_bug_becomes_eio_and_a_log_line(
    operations: Operations, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected exception in a handler is logged, and the request fails with EIO."""

    def fail(_number: int) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(operations.tree, "find_nowait", fail)
    with pytest.raises(pyfuse3.FUSEError) as caught, caplog.at_level(logging.ERROR):
        await operations.getattr(1, NOBODY)
    assert caught.value.errno == errno.EIO
    assert "getattr" in caplog.text
    assert operations.tree.status.errors == 1


async def test_a_wrong_recorded_size_does_not_truncate_reads() -> None:
    """A file whose blobs exceed the recorded size is read completely, with direct I/O."""
    repo = MemoryRepo()
    wrong_size = repo.file("note.txt", b"hello\n", size=2)
    snapshot = repo.snapshot(repo.tree(repo.directory("d", wrong_size)), tags=["b1"])
    operations = Operations(InodeFileSystem(BackupTree(await repo.open())), Presentation())
    path = (b"b1", b"_snapshots", snapshot[:8].encode(), b"d", b"note.txt")
    attributes = await walk(operations, *path)
    assert attributes.st_size == 2
    opened = await operations.open(attributes.st_ino, os.O_RDONLY, NOBODY)
    assert (opened.direct_io, opened.keep_cache) == (True, False)
    assert await operations.read(opened.fh, 0, 100) == b"hello\n"


async def test_the_status_directory_is_hidden(operations: Operations, kernel: Kernel) -> None:
    """.cesbrfs is not listed, but lookup finds it and its files are readable."""
    assert b".cesbrfs" not in await listing(operations, kernel, pyfuse3.ROOT_INODE)
    directory = await walk(operations, b".cesbrfs")
    assert await listing(operations, kernel, directory.st_ino) == [b"status.json", b"metrics"]
    status = await walk(operations, b".cesbrfs", b"status.json")
    opened = await operations.open(status.st_ino, os.O_RDONLY, NOBODY)
    assert opened.direct_io
    status_json = json.loads(await operations.read(opened.fh, 0, 1 << 20))
    assert status_json["repository"]["format"] == 2
    metrics = await walk(operations, b".cesbrfs", b"metrics")
    opened = await operations.open(metrics.st_ino, os.O_RDONLY, NOBODY)
    assert b'cesbrfs_requests_total{operation="lookup"}' in await operations.read(
        opened.fh, 0, 1 << 20
    )


async def test_backup_json_describes_the_backup(operations: Operations) -> None:
    """backup.json contains the ID, status and snapshots; its size is exact."""
    attributes = await walk(operations, b"b1", b"backup.json")
    opened = await operations.open(attributes.st_ino, os.O_RDONLY, NOBODY)
    content = await operations.read(opened.fh, 0, 1 << 20)
    assert attributes.st_size == len(content)
    document = json.loads(content)
    assert (document["id"], document["status"]) == ("b1", "unverified")
    assert document["points"][0]["shown"] == ["redmine/volumes/files"]


async def test_statfs_reports_the_repository_size(
    operations: Operations, shared: ResticRepo
) -> None:
    """The size is that of the stored data, and no blocks are free."""
    attributes = await operations.statfs(NOBODY)
    packs = sum(f.stat().st_size for f in (shared.directory / "data").rglob("*") if f.is_file())
    assert 0 < attributes.f_blocks * attributes.f_frsize <= packs + attributes.f_frsize
    assert (attributes.f_bfree, attributes.f_namemax) == (0, 255)


async def test_backups_appear_and_disappear(
    restic_new: Path, tmp_path: Path, kernel: Kernel
) -> None:
    """A new backup is listed, `latest` follows, and a forgotten backup disappears."""
    repo = create(restic_new, tmp_path / "repo")
    (tmp_path / "file").write_text("content")
    first = repo.backup(tmp_path / "file", tags=["b1"])
    now = [0.0]
    view = BackupTree(await repo.open(), clock=lambda: now[0])
    operations = Operations(InodeFileSystem(view), Presentation())
    assert sorted(await listing(operations, kernel, 1)) == [b"b1", b"latest"]
    repo.backup(tmp_path / "file", tags=["b2"])
    now[0] += 2
    assert sorted(await listing(operations, kernel, 1)) == [b"b1", b"b2", b"latest"]
    latest = await walk(operations, b"latest")
    assert await operations.readlink(latest.st_ino, NOBODY) == b"b2"
    repo.run("forget", first)
    now[0] += 2
    assert sorted(await listing(operations, kernel, 1)) == [b"b2", b"latest"]
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await walk(operations, b"b1")
    assert caught.value.errno == errno.ENOENT


async def test_virtual_directories_are_read_only(operations: Operations) -> None:
    """A virtual directory has mode 0555."""
    attributes = await walk(operations, b"b1", b"redmine")
    assert attributes.st_mode == stat.S_IFDIR | 0o555


async def test_a_pruned_file_is_enoent(restic_new: Path, tmp_path: Path) -> None:
    """Reading an open file that was pruned fails with ENOENT, not as damaged."""
    repo = create(restic_new, tmp_path / "repo")
    (tmp_path / "file").write_bytes(os.urandom(200_000))  # a smaller one is read when it is opened
    snapshot = repo.backup(tmp_path / "file", tags=["b1"])
    operations = Operations(InodeFileSystem(BackupTree(await repo.open())), Presentation())
    attributes = await walk(operations, b"b1", b"_snapshots", snapshot[:8].encode())
    for part in str(tmp_path / "file").strip("/").split("/"):
        attributes = await operations.lookup(attributes.st_ino, part.encode(), NOBODY)
    opened = await operations.open(attributes.st_ino, os.O_RDONLY, NOBODY)
    repo.run("forget", snapshot, "--prune")
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.read(opened.fh, 0, 10)
    assert caught.value.errno == errno.ENOENT


async def test_a_newer_snapshot_replaces_a_volume(restic_new: Path, tmp_path: Path) -> None:
    """A newer snapshot of the same backup and path replaces the older one."""
    repo = create(restic_new, tmp_path / "repo")
    volume = tmp_path / "var/lib/ces/ldap/volumes/db"
    volume.mkdir(parents=True)
    (volume / "data").write_text("old")
    repo.backup(volume, tags=["b1"])
    now = [0.0]
    operations = Operations(
        InodeFileSystem(BackupTree(await repo.open(), clock=lambda: now[0])), Presentation()
    )
    path = (b"b1", b"ldap", b"volumes", b"db")
    before = await walk(operations, *path)
    assert before.entry_timeout == CHANGING_SECONDS
    await walk(operations, *path, b"data")
    (volume / "data").write_text("new!")
    repo.backup(volume, volume / "data", tags=["b1"])  # the same paths would be another backup
    now[0] += 2
    assert (await walk(operations, *path)).st_ino != before.st_ino
    attributes = await walk(operations, *path, b"data")
    opened = await operations.open(attributes.st_ino, os.O_RDONLY, NOBODY)
    assert bytes(await operations.read(opened.fh, 0, 10)) == b"new!"


async def test_the_status_of_an_idle_mount_is_fresh(restic_new: Path, tmp_path: Path) -> None:
    """Reading status.json or the metrics lists the backups if the list is older than 30 s."""
    repo = create(restic_new, tmp_path / "repo")
    repo.backup(tags=["b1"], stdin=("/file", b"text"))
    now = [0.0]
    view = BackupTree(await repo.open(), clock=lambda: now[0])
    operations = Operations(InodeFileSystem(view), Presentation())
    await view.backups()

    async def read(name: bytes) -> bytes:
        found = await walk(operations, b".cesbrfs", name)
        opened = await operations.open(found.st_ino, os.O_RDONLY, NOBODY)
        return bytes(await operations.read(opened.fh, 0, 1 << 20))

    repo.directory.rename(tmp_path / "away")
    assert json.loads(await read(b"status.json"))["repository"]["state"] == "ready"
    now[0] += 31
    assert json.loads(await read(b"status.json"))["repository"]["state"] == "gone"
    assert b"cesbrfs_storage_up 0\n" in await read(b"metrics")
    (tmp_path / "away").rename(repo.directory)
    now[0] += 31
    assert b"cesbrfs_storage_up 1\n" in await read(b"metrics")
    assert json.loads(await read(b"status.json"))["repository"]["state"] == "ready"


async def test_the_status_does_not_wait_for_a_storage_that_does_not_respond(
    restic_new: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While listing the backups hangs, status.json and the metrics contain the last known state."""
    repo = create(restic_new, tmp_path / "repo")
    repo.backup(tags=["b1"], stdin=("/file", b"text"))
    now = [0.0]
    view = BackupTree(await repo.open(), clock=lambda: now[0])
    operations = Operations(InodeFileSystem(view), Presentation())
    await view.backups()
    monkeypatch.setattr(view.repository, "snapshots", trio.sleep_forever)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            view.serve(nursery)
            operations.tree.status.monitor.refresh_in(nursery)
            now[0] += 31
            for name in (b"status.json", b"metrics", b"status.json"):
                assert (await walk(operations, b".cesbrfs", name)).st_size > 0
            nursery.cancel_scope.cancel()
