"""What the handlers answer, request by request."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from pathlib import Path

import pyfuse3
import pytest

from cesbrfs.fuse.filesystem import InodeFileSystem
from cesbrfs.fuse.operations import CHANGING_SECONDS, FIXED_SECONDS, Operations, Presentation
from cesbrfs.vfs.tree import BackupTree
from tests.operations.conftest import NOBODY, Kernel, listing, walk
from tests.support.memory_repo import MemoryRepo
from tests.support.restic_repo import ResticRepo, create

VOLUME = (b"b1", b"redmine", b"volumes", b"files")


async def test_attributes_are_those_of_the_file(operations: Operations, source: Path) -> None:
    """Type, mode, owner, size, times and links are those of the live file."""
    told = await walk(operations, *VOLUME, b"note.txt")
    live = (source / "var/lib/ces/redmine/volumes/files/note.txt").stat()
    assert (told.st_mode, told.st_uid, told.st_gid) == (live.st_mode, live.st_uid, live.st_gid)
    assert (told.st_size, told.st_nlink) == (live.st_size, 2)
    assert told.st_mtime_ns == live.st_mtime_ns


async def test_what_is_stored_may_be_kept_and_what_is_ours_not(operations: Operations) -> None:
    """Only what can never change gets long timeouts."""
    ours = await walk(operations, b"b1", b"redmine")
    stored = await walk(operations, *VOLUME, b"note.txt")
    assert ours.entry_timeout == ours.attr_timeout == CHANGING_SECONDS
    assert stored.entry_timeout == stored.attr_timeout == FIXED_SECONDS


async def test_a_missing_name_is_remembered_only_where_nothing_changes(
    operations: Operations,
) -> None:
    """A stored folder answers with a kept absence, one of ours with a plain ENOENT."""
    folder = await walk(operations, *VOLUME)
    absent = await operations.lookup(folder.st_ino, b"nothing", NOBODY)
    assert (absent.st_ino, absent.entry_timeout) == (0, FIXED_SECONDS)
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.lookup(pyfuse3.ROOT_INODE, b"nothing", NOBODY)
    assert caught.value.errno == errno.ENOENT


async def test_hard_links_share_an_inode(operations: Operations) -> None:
    """Two names of one file are one file."""
    first = await walk(operations, *VOLUME, b"note.txt")
    second = await walk(operations, *VOLUME, b"twin")
    other = await walk(operations, *VOLUME, b"big")
    assert first.st_ino == second.st_ino != other.st_ino


async def test_inodes_are_the_same_in_every_mount(shared: ResticRepo) -> None:
    """An inode's number depends on where it stands alone."""
    numbers = []
    for _ in range(2):
        one = Operations(InodeFileSystem(BackupTree(await shared.open())), Presentation())
        numbers.append((await walk(one, *VOLUME, b"n07")).st_ino)
    assert numbers[0] == numbers[1]


async def test_forgotten_inodes_are_let_go(operations: Operations) -> None:
    """After as many forgets as lookups, an inode is stale; not before."""
    told = await walk(operations, *VOLUME, b"note.txt")
    await walk(operations, *VOLUME, b"note.txt")
    await operations.forget([(told.st_ino, 1)])
    await operations.getattr(told.st_ino, NOBODY)
    await operations.forget([(told.st_ino, 1)])
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.getattr(told.st_ino, NOBODY)
    assert caught.value.errno == errno.ESTALE


async def test_a_listing_in_pieces_is_whole(operations: Operations, kernel: Kernel) -> None:
    """However few names the kernel takes at once, each comes exactly once."""
    kernel.room = 7
    folder = await walk(operations, *VOLUME)
    names = await listing(operations, kernel, folder.st_ino)
    assert sorted(names) == sorted(
        [b"empty", b"note.txt", b"big", b"twin", b"link", *(b"n%02d" % n for n in range(50))]
    )


async def test_only_names_the_kernel_took_are_counted(
    operations: Operations, kernel: Kernel
) -> None:
    """A name that the kernel had no room for is not known to it."""
    kernel.room = 3
    folder = await walk(operations, *VOLUME)
    before = operations.tree.counters()["lookups"]
    handle = await operations.opendir(folder.st_ino, NOBODY)
    await operations.readdir(handle, 0, None)  # type: ignore[arg-type]  # the kernel's stand-in
    assert operations.tree.counters()["lookups"] == before + 3


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 10), (1 << 20, 1 << 20), ((3 << 20) - 5, 100), (3 << 20, 1), (9 << 20, 5)],
)
async def test_reads_anywhere(operations: Operations, source: Path, offset: int, size: int) -> None:
    """Any range reads as it does in the live file, and short or empty at the end."""
    told = await walk(operations, *VOLUME, b"big")
    opened = await operations.open(told.st_ino, os.O_RDONLY, NOBODY)
    live = (source / "var/lib/ces/redmine/volumes/files/big").read_bytes()
    assert opened.keep_cache
    assert await operations.read(opened.fh, offset, size) == live[offset : offset + size]
    await operations.release(opened.fh)


async def test_writing_is_refused(operations: Operations) -> None:
    """Opening for writing says that the file system is read-only."""
    told = await walk(operations, *VOLUME, b"big")
    for flags in (os.O_WRONLY, os.O_RDWR):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await operations.open(told.st_ino, flags, NOBODY)
        assert caught.value.errno == errno.EROFS


async def test_symlinks_and_attributes(operations: Operations) -> None:
    """A link tells its target, extended attributes their names and values."""
    link = await walk(operations, *VOLUME, b"link")
    note = await walk(operations, *VOLUME, b"note.txt")
    assert await operations.readlink(link.st_ino, NOBODY) == b"note.txt"
    assert await operations.listxattr(note.st_ino, NOBODY) == [b"user.colour"]
    assert await operations.getxattr(note.st_ino, b"user.colour", NOBODY) == b"green"
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.getxattr(note.st_ino, b"user.size", NOBODY)
    assert caught.value.errno == errno.ENODATA


async def test_without_xattrs_the_kernel_stops_asking(shared: ResticRepo) -> None:
    """With noxattr both calls answer ENOSYS, which the kernel remembers."""
    bare = Operations(InodeFileSystem(BackupTree(await shared.open())), Presentation(xattrs=False))
    told = await walk(bare, *VOLUME, b"note.txt")
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await bare.listxattr(told.st_ino, NOBODY)
    assert caught.value.errno == errno.ENOSYS


async def test_owners_can_be_replaced(shared: ResticRepo) -> None:
    """uid= and gid= stand for every recorded owner."""
    other = Operations(InodeFileSystem(BackupTree(await shared.open())), Presentation(uid=7, gid=8))
    told = await walk(other, *VOLUME, b"note.txt")
    assert (told.st_uid, told.st_gid) == (7, 8)


async def test_a_bug_becomes_eio_and_a_log_line(
    operations: Operations, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever a handler raises, the mount lives and the log tells."""

    def fail(_number: int) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(operations.tree, "find_nowait", fail)
    with pytest.raises(pyfuse3.FUSEError) as caught, caplog.at_level(logging.ERROR):
        await operations.getattr(1, NOBODY)
    assert caught.value.errno == errno.EIO
    assert "getattr" in caplog.text
    assert operations.tree.status.errors == 1


async def test_a_wrong_recorded_size_is_read_past() -> None:
    """Where the tree lies about the size, the blobs tell, and the kernel caches nothing."""
    repo = MemoryRepo()
    lying = repo.file("note.txt", b"hello\n", size=2)
    snapshot = repo.snapshot(repo.tree(repo.folder("d", lying)), tags=["b1"])
    operations = Operations(InodeFileSystem(BackupTree(await repo.open())), Presentation())
    path = (b"b1", b"_snapshots", snapshot[:8].encode(), b"d", b"note.txt")
    told = await walk(operations, *path)
    assert told.st_size == 2
    opened = await operations.open(told.st_ino, os.O_RDONLY, NOBODY)
    assert (opened.direct_io, opened.keep_cache) == (True, False)
    assert await operations.read(opened.fh, 0, 100) == b"hello\n"


async def test_the_status_folder_is_found_but_not_listed(
    operations: Operations, kernel: Kernel
) -> None:
    """.cesbrfs answers to its name only, and its files can be read."""
    assert b".cesbrfs" not in await listing(operations, kernel, pyfuse3.ROOT_INODE)
    status = await walk(operations, b".cesbrfs", b"status.json")
    opened = await operations.open(status.st_ino, os.O_RDONLY, NOBODY)
    assert opened.direct_io
    told = json.loads(await operations.read(opened.fh, 0, 1 << 20))
    assert told["repository"]["format"] == 2
    metrics = await walk(operations, b".cesbrfs", b"metrics")
    opened = await operations.open(metrics.st_ino, os.O_RDONLY, NOBODY)
    assert b'cesbrfs_requests_total{operation="lookup"}' in await operations.read(
        opened.fh, 0, 1 << 20
    )


async def test_backup_json_tells_of_the_backup(operations: Operations) -> None:
    """backup.json has the ID, the status and the snapshots, and its true size."""
    told = await walk(operations, b"b1", b"backup.json")
    opened = await operations.open(told.st_ino, os.O_RDONLY, NOBODY)
    content = await operations.read(opened.fh, 0, 1 << 20)
    assert told.st_size == len(content)
    document = json.loads(content)
    assert (document["id"], document["status"]) == ("b1", "unverified")
    assert document["points"][0]["shown"] == ["redmine/volumes/files"]


async def test_statfs_tells_the_repository_size(operations: Operations, shared: ResticRepo) -> None:
    """The file system is as large as what the repository stores, and full."""
    told = await operations.statfs(NOBODY)
    packs = sum(f.stat().st_size for f in (shared.folder / "data").rglob("*") if f.is_file())
    assert 0 < told.f_blocks * told.f_frsize <= packs + told.f_frsize
    assert (told.f_bfree, told.f_namemax) == (0, 255)


async def test_backups_come_and_go(restic_new: Path, tmp_path: Path, kernel: Kernel) -> None:
    """A new backup is listed, `latest` moves, a forgotten one is gone: nothing is restarted."""
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


async def test_folders_of_ours_are_read_only_folders(operations: Operations) -> None:
    """What the mount adds itself is nobody's to write."""
    told = await walk(operations, b"b1", b"redmine")
    assert told.st_mode == stat.S_IFDIR | 0o555


async def test_a_forgotten_and_pruned_file_is_gone(restic_new: Path, tmp_path: Path) -> None:
    """Opening or reading what was pruned meanwhile says ENOENT, not that it is damaged."""
    repo = create(restic_new, tmp_path / "repo")
    (tmp_path / "file").write_bytes(os.urandom(1000))
    snapshot = repo.backup(tmp_path / "file", tags=["b1"])
    operations = Operations(InodeFileSystem(BackupTree(await repo.open())), Presentation())
    told = await walk(operations, b"b1", b"_snapshots", snapshot[:8].encode())
    for part in str(tmp_path / "file").strip("/").split("/"):
        told = await operations.lookup(told.st_ino, part.encode(), NOBODY)
    opened = await operations.open(told.st_ino, os.O_RDONLY, NOBODY)
    repo.run("forget", snapshot, "--prune")
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.read(opened.fh, 0, 10)
    assert caught.value.errno == errno.ENOENT


async def test_a_place_can_come_to_show_another_snapshot(restic_new: Path, tmp_path: Path) -> None:
    """When a newer snapshot of the backup claims a place, what was there is not shown any more."""
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
    told = await walk(operations, *path, b"data")
    opened = await operations.open(told.st_ino, os.O_RDONLY, NOBODY)
    assert bytes(await operations.read(opened.fh, 0, 10)) == b"new!"
