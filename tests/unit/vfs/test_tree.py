"""Test the backup tree on in-memory repositories: names, walking and changes."""

from __future__ import annotations

import json
import stat
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from cesbrfs.catalog.manifest import Manifest, Point, write_manifest
from cesbrfs.errors import (
    BlobMissingError,
    IsDirectoryError,
    NotDirectoryError,
    NotFoundError,
    RepositoryUnreachableError,
    UsageError,
)
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.repo.format.timestamps import parse_time
from cesbrfs.repo.repository import FileReader
from cesbrfs.repo.storage import FileType
from cesbrfs.vfs.entries import SnapshotEntry, VirtualFile, VirtualSymlink
from cesbrfs.vfs.tree import BackupTree, as_listed_last
from cesbrfs.vfs.virtual import snapshot_directories
from tests.support.memory_repo import TIME, Json, MemoryRepo

VOLUME = "/var/lib/ces/redmine/volumes/files"
FILE = b"some content"


def save_volume(
    repo: MemoryRepo, backup: str = "A", *nodes: Json, path: str = VOLUME, **fields: Any
) -> str:
    """Save a volume with ``f.txt`` and `nodes` in a snapshot of `backup`."""
    name = path.rpartition("/")[2]
    directory = repo.directory(name, repo.file("f.txt", FILE), *nodes, mtime="2020-01-01T00:00:00Z")
    return repo.snapshot(
        repo.tree(repo.path(path, directory)), [path], **{"tags": [backup]} | fields
    )


def complete(repo: MemoryRepo, backup: str, snapshot: str, **fields: Any) -> str:
    """Save the manifest that makes `backup` complete."""
    points = [Point("volumes", "redmine", snapshot, len(FILE)), Point("registry", None, snapshot)]
    data = write_manifest(Manifest(1, backup, "2026-11-22T20:30:00Z", "ces", points))
    tree = repo.tree(repo.file("manifest.json", data))
    return repo.snapshot(tree, ["/manifest.json"], tags=[backup, "kind=manifest"], **fields)


async def view_of(repo: MemoryRepo, **options: Any) -> BackupTree:
    return BackupTree(await repo.open(), **options)


async def names(view: BackupTree, path: str = "/") -> list[str]:
    """List a directory."""
    entries = await view.children((await view.resolve(path)).entry)
    return sorted(name.decode("utf-8", "backslashreplace") for name in entries)


async def read(view: BackupTree, path: str) -> bytes:
    content = await view.content((await view.resolve(path)).entry)
    if isinstance(content, VirtualFile):
        return content.content
    assert isinstance(content, FileReader)
    return await content.read(0, content.size)


class TestRoot:
    """The root directory."""

    async def test_an_empty_repository(self) -> None:
        """The root is empty."""
        view = await view_of(MemoryRepo())
        assert await names(view) == []
        assert await view.latest() is None
        with pytest.raises(NotFoundError, match="cesbr backup"):
            await view.find_backup("latest")

    async def test_backups_latest_and_loose_snapshots(self) -> None:
        """A directory has the time of its backup; latest points to the newest complete one."""
        repo = MemoryRepo()
        old = save_volume(
            repo, "A", time="2026-01-01T00:00:00Z", tags=["A", "kind=volumes", "dogu=x"]
        )
        complete(repo, "A", old, time="2026-01-01T00:00:01Z")
        save_volume(repo, "B", time="2026-01-02T00:00:00Z")
        loose = save_volume(repo, tags=[])
        view = await view_of(repo, uid=7, gid=8)
        assert await names(view) == ["A", "B", "_snapshots", "latest"]
        entries = await view.children(view.root)
        link = entries[b"latest"]
        assert isinstance(link, VirtualSymlink)
        assert (link.node.target, link.node.size, link.node.type) == (b"A", 1, "symlink")
        assert link.node.mode == stat.S_IFLNK | 0o777
        directory = entries[b"A"].node
        assert (directory.uid, directory.gid) == (7, 8)
        assert directory.mode == stat.S_IFDIR | 0o555
        assert directory.mtime_ns == directory.ctime_ns == parse_time("2026-01-01T00:00:00Z")
        assert await names(view, "/_snapshots") == [loose[:8]]
        assert await names(view, f"/_snapshots/{loose[:8]}") == ["var"]
        whole = (await view.resolve(f"/_snapshots/{loose[:8]}")).entry
        assert whole.node.mtime_ns == parse_time(TIME)

    async def test_a_backup_by_its_time(self) -> None:
        """A time selects the `latest` at that time, a date its end; an ID prefix has precedence."""
        repo = MemoryRepo()
        old = save_volume(
            repo, "20260101-a", time="2026-01-01T12:00:00Z", tags=["20260101-a", "x=y"]
        )
        complete(repo, "20260101-a", old, time="2026-01-01T12:00:01Z")
        save_volume(repo, "B", time="2026-01-02T12:00:00Z")
        view = await view_of(repo)
        for wanted, found in {
            "2026-01-01T12:00:30Z": "20260101-a",
            "2026-01-05": "20260101-a",
            "1 minute ago": "20260101-a",
            "20260101": "20260101-a",
            "B": "B",
        }.items():
            assert (await view.find_backup(wanted)).id == found
        with pytest.raises(NotFoundError, match="no complete backup at"):
            await view.find_backup("2025-12-31")
        with pytest.raises(NotFoundError, match="did you mean '20260101-a'"):
            await view.find_backup("20260101-b")
        with pytest.raises(NotFoundError, match="did you mean 'latest'"):
            await view.find_backup("latset")
        for wanted in ("2999", "2999-01-01", "2999-01-01 12:00"):
            with pytest.raises(UsageError, match="in the future"):
                await view.find_backup(wanted)
        save_volume(repo, "20260101-c", time="2026-01-03T12:00:00Z")
        with pytest.raises(NotFoundError, match=r"2 backups begin with '2026': 2026.*\. Pass more"):
            await (await view_of(repo)).find_backup("2026")

    async def test_latest_with_paths(self) -> None:
        """The newest complete backup with their dogus, else that of the whole instance."""
        repo = MemoryRepo()
        days = iter(range(1, 9))

        def save(backup: str, *dogus: str | None, safety: bool = False) -> None:
            time = f"2026-01-0{next(days)}T00:00:00Z"
            tags = [backup, "kind=volumes", *["purpose=safety"] * safety]
            volume = save_volume(repo, backup, time=time, tags=tags)
            points = [Point("volumes", dogu, volume) for dogu in dogus]
            data = write_manifest(Manifest(1, backup, time, "ces", points))
            tree = repo.tree(repo.file("manifest.json", data))
            tags = [backup, "kind=manifest"]
            repo.snapshot(tree, ["/manifest.json"], tags=tags, time=time)

        save("old", None, "redmine", "ldap", "gone")
        save("whole", None, "redmine", "ldap")
        save("redmine", "redmine")
        save("both", "redmine", "ldap")
        save("ldap", "ldap")
        save("safety", "redmine", safety=True)
        save_volume(repo, "broken", tags=["broken", "kind=volumes", "dogu=redmine"])
        view = await view_of(repo)
        for paths, found in {
            (): "whole",
            (".",): "whole",
            ("redmine/volumes/x",): "both",
            ("/redmine/",): "both",
            ("ldap",): "ldap",
            ("ldap/a", "./redmine"): "both",
            ("gone",): "old",
            ("ldap", "_instance/registry.json"): "whole",
            ("redmine", "*"): "whole",
            ("redmine", ".."): "whole",
            ("_snapshots/1",): "whole",
            ("never/was",): "whole",
        }.items():
            assert (await view.find_backup("latest", paths)).id == found, paths
        at = "2026-01-03T12:00:00Z"
        assert (await view.find_backup(at, ["redmine"])).id == "redmine"
        assert (await view.find_backup(at)).id == "whole"
        assert (await view.find_backup("ldap", ["redmine"])).id == "ldap"

    async def test_latest_of_an_unverified_backup_with_paths(self) -> None:
        """Its content is determined from its trees."""
        repo = MemoryRepo()
        save_volume(repo, "A", path="/ces/ldap/volumes/db", time="2026-01-01T00:00:00Z")
        save_volume(repo, "B", time="2026-01-02T00:00:00Z")
        view = await view_of(repo)
        for path, found in (("ldap/volumes", "A"), ("redmine", "B"), ("scm", "B")):
            assert (await view.find_backup("latest", [path])).id == found

    async def test_no_backup_of_the_whole_instance(self) -> None:
        """The error names the newest complete one."""
        repo = MemoryRepo()
        volume = save_volume(repo, "A", tags=["A", "kind=volumes", "dogu=redmine"])
        data = write_manifest(Manifest(1, "A", TIME, "ces", [Point("volumes", "redmine", volume)]))
        tree = repo.tree(repo.file("manifest.json", data))
        repo.snapshot(tree, ["/manifest.json"], tags=["A", "kind=manifest"])
        view = await view_of(repo)
        assert await names(view) == ["A"]
        for asked in (view.find_backup("latest"), view.resolve("/latest/redmine")):
            with pytest.raises(NotFoundError, match=r"whole instance.*is A, of redmine; pass"):
                await asked
        assert (await view.find_backup("latest", ["redmine/x"])).id == "A"

    async def test_a_backup_in_the_future_becomes_the_latest(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It becomes the latest at its time, without a change in the repository."""
        repo = MemoryRepo()
        save_volume(repo, "A", time="2026-01-01T00:00:00Z")
        save_volume(repo, "B", time="2030-01-01T00:00:00Z")
        view = await view_of(repo)
        for now, found in (("2029-01-01T00:00:00Z", b"A"), ("2030-01-01T00:00:01Z", b"B")):
            monkeypatch.setattr("time.time_ns", partial(parse_time, now))
            link = (await view.children(view.root))[b"latest"]
            assert link.node.target == found

    async def test_ids_that_collide_with_virtual_names(self) -> None:
        """They are escaped, and each directory has the right content."""
        repo = MemoryRepo()
        for backup in ("latest", "_snapshots", "a/b", "..", ".cesbrfs"):
            save_volume(repo, backup, time="2026-01-01T00:00:00Z")
        view = await view_of(repo)
        expected = ["%2E.", "%2Ecesbrfs", "%5Fsnapshots", "%6Catest", "a%2Fb", "latest"]
        assert await names(view) == expected
        assert (await view.find_backup("a/b")).name == b"a%2Fb"
        for name in expected[:-1]:
            assert json.loads(await read(view, f"/{name}/backup.json"))["status"] == "unverified"

    def test_colliding_short_snapshot_ids(self) -> None:
        """Colliding snapshots are named by full ID, others by short ID."""
        ids = ["ab" * 32, "ab" * 31 + "cd", "cd" * 32]
        snapshots = [Snapshot(id=name, time_ns=0, tree=None) for name in ids]
        assert list(snapshot_directories(snapshots)) == [
            ids[0].encode(),
            ids[1].encode(),
            b"cdcdcdcd",
        ]

    async def test_every_snapshot_is_reachable(self) -> None:
        """Each is placed in its backup, or in its or the root's _snapshots."""
        repo = MemoryRepo()
        save_volume(repo, "A")
        odd = repo.snapshot(repo.tree(repo.file("dump.sql", b"x")), ["/dump.sql"], tags=["A", "B"])
        loose = repo.snapshot(repo.tree(repo.file("dump.sql", b"y")), ["/dump.sql"])
        view = await view_of(repo)
        assert await names(view, "/A") == ["_snapshots", "backup.json", "redmine"]
        assert await names(view, "/A/_snapshots") == [odd[:8]]
        assert await names(view, "/B") == ["_snapshots", "backup.json"]
        assert await read(view, f"/B/_snapshots/{odd[:8]}/dump.sql") == b"x"
        assert await read(view, f"/_snapshots/{loose[:8]}/dump.sql") == b"y"


class TestBackup:
    """The directory of one backup."""

    async def test_placements_are_nested_directories(self) -> None:
        """Virtual directories are world-readable; stored entries keep their metadata."""
        repo = MemoryRepo()
        save_volume(repo)
        path = "/var/lib/ces/redmine/volumes/data"
        save_volume(repo, path=path)
        view = await view_of(repo)
        assert await names(view, "/A") == ["backup.json", "redmine"]
        assert await names(view, "/A/redmine") == ["volumes"]
        assert await names(view, "/A/redmine/volumes") == ["data", "files"]
        assert await read(view, "/A/redmine/volumes/files/f.txt") == FILE
        ours = (await view.resolve("/A/redmine/volumes")).entry.node
        theirs = (await view.resolve("/A/redmine/volumes/files")).entry.node
        assert (ours.mode, ours.mtime_ns) == (stat.S_IFDIR | 0o555, parse_time(TIME))
        assert theirs.mode == stat.S_IFDIR | 0o755
        assert theirs.mtime_ns == parse_time("2020-01-01T00:00:00Z")
        assert await view.dogus(await view.find_backup("A")) == ["redmine"]

    async def test_a_backup_of_a_single_dot(self) -> None:
        """The root of the snapshot is the volume, with nodes named ``.`` resolved."""
        repo = MemoryRepo()
        tree = repo.tree(repo.directory(".", repo.file("f.txt", FILE)))
        repo.snapshot(tree, [VOLUME], tags=["A"])
        view = await view_of(repo)
        assert await names(view, "/A/redmine/volumes/files") == ["f.txt"]
        assert await read(view, "/A/redmine/volumes/files/f.txt") == FILE

    async def test_backup_json(self) -> None:
        """It has its size and lists the path of each snapshot."""
        repo = MemoryRepo()
        snapshot = save_volume(repo)
        view = await view_of(repo)
        entry = (await view.resolve("/A/backup.json")).entry
        assert isinstance(entry, VirtualFile)
        assert entry.node.size == len(entry.content)
        assert entry.node.mode == stat.S_IFREG | 0o444
        said = json.loads(entry.content)
        assert said["id"] == "A"
        assert said["points"][0]["snapshot"] == snapshot
        assert said["points"][0]["shown"] == ["redmine/volumes/files"]

    async def test_special_files_are_entries_without_content(self) -> None:
        """Symlinks are not followed, fifos are not read."""
        repo = MemoryRepo()
        link = {"name": "link", "type": "symlink", "linktarget": "/etc/passwd", "mode": 1 << 27}
        fifo = {"name": "fifo", "type": "fifo", "mode": 1 << 25}
        save_volume(repo, "A", link, fifo)
        view = await view_of(repo)
        directory = "/A/redmine/volumes/files"
        assert await names(view, directory) == ["f.txt", "fifo", "link"]
        assert (await view.resolve(f"{directory}/link")).entry.node.target == b"/etc/passwd"
        with pytest.raises(NotDirectoryError):
            await view.resolve(f"{directory}/link/passwd")
        assert await read(view, f"{directory}/fifo") == b""

    async def test_unshowable_entries_are_reported(self) -> None:
        """The reasons are returned with the entries; virtual directories have none."""
        repo = MemoryRepo()
        save_volume(repo, "A", repo.file("..", b"evil"))
        view = await view_of(repo)
        (reason,) = await view.refused((await view.resolve("/A/redmine/volumes/files")).entry)
        assert "'..'" in reason
        assert await view.refused(view.root) == ()


class TestPaths:
    """Path resolution."""

    @staticmethod
    async def view() -> BackupTree:
        """Return a tree over a volume with unusual names."""
        repo = MemoryRepo()
        odd = [repo.file(name, name.encode()) for name in (r"\\n", r"\n", r"\xff", "ä b", "-rf")]
        plain = [repo.file(r"\\x41", b"escaped"), repo.file(r"back\\slash", b"backslash")]
        snapshot = save_volume(repo, "A", *odd, *plain, tags=["A", "kind=volumes", "dogu=redmine"])
        complete(repo, "A", snapshot)
        return await view_of(repo)

    async def test_absolute_and_relative(self) -> None:
        """Paths start at the root or at `start`; dots and double slashes work as in POSIX."""
        view = await self.view()
        start = (b"A", b"redmine")
        for path in (
            "volumes/files",
            "./volumes//files/",
            "../redmine/volumes/files",
            "/A/redmine/volumes/files",
        ):
            assert (await view.resolve(path, start)).shown == "/A/redmine/volumes/files"
        assert (await view.resolve("", start)).shown == "/A/redmine"
        assert (await view.resolve("/")).shown == "/"
        assert (await view.resolve("../../../../..", start)).shown == "/"

    async def test_latest_is_followed(self) -> None:
        """The resolved path has the name of the backup, also below it."""
        view = await self.view()
        assert (await view.resolve("/latest")).shown == "/A"
        assert (await view.resolve("latest/redmine/volumes")).shown == "/A/redmine/volumes"
        assert (await view.resolve("/latest/..")).shown == "/"
        assert isinstance(await view.at((b"latest",)), VirtualSymlink)

    async def test_names_as_they_are_shown(self) -> None:
        """Names are accepted in escaped form, or literally if unambiguous."""
        view = await self.view()
        directory = "/A/redmine/volumes/files"
        for shown, content in (
            (r"\xff", rb"\xff"), ("\udcff", rb"\xff"), ("ä b", "ä b".encode()), ("-rf", b"-rf"),
            (r"back\\slash", b"backslash"), (r"back\slash", b"backslash"), (r"\\x41", b"escaped"),
            (r"\x41", b"escaped"),
        ):  # fmt: skip
            assert await read(view, f"{directory}/{shown}") == content
        located = await view.resolve(f"{directory}/\udcff")
        assert located.parts[-1] == b"\xff"
        assert located.shown == rf"{directory}/\xff"

    async def test_a_text_that_names_two_entries(self) -> None:
        r"""A backslash with an n, and a line break: neither is guessed."""
        view = await self.view()
        directory = "/A/redmine/volumes/files"
        with pytest.raises(NotFoundError, match="x5c"):
            await view.resolve(rf"{directory}/\n")
        assert await read(view, rf"{directory}/\x5cn") == rb"\\n"
        assert await read(view, f"{directory}/\n") == rb"\n"

    @pytest.mark.parametrize(
        "path", ["/B", "/A/x", "/A/redmine/volumes/files/x/y", r"/A/\x00", "/B/.."]
    )
    async def test_a_missing_name(self, path: str) -> None:
        """The message names the first missing part."""
        view = await self.view()
        with pytest.raises(NotFoundError, match="There is no /"):
            await view.resolve(path)

    async def test_a_similar_name_is_suggested(self) -> None:
        """The message suggests a similar name in escaped form."""
        view = await self.view()
        with pytest.raises(NotFoundError, match=r"/A/redmien; did you mean 'redmine'\?"):
            await view.resolve("/A/redmien/volumes")

    @pytest.mark.parametrize("path", ["/A/backup.json/x", "/A/redmine/volumes/files/f.txt/x"])
    async def test_a_file_in_the_middle_of_a_path(self, path: str) -> None:
        """Neither a generated nor a stored file can be a parent."""
        view = await self.view()
        with pytest.raises(NotDirectoryError):
            await view.resolve(path)
        entry = (await view.resolve(path[:-2])).entry
        with pytest.raises(NotDirectoryError):
            await view.children(entry)
        with pytest.raises(NotDirectoryError):
            await view.child(entry, b"x")

    async def test_directories_have_no_content(self) -> None:
        """Neither virtual nor stored directories can be read."""
        view = await self.view()
        for path in ("/", "/A", "/A/redmine/volumes/files"):
            with pytest.raises(IsDirectoryError):
                await view.content((await view.resolve(path)).entry)


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the current time."""
        return self.now


class TestChanges:
    """Backups that are added and removed while the tree is open."""

    async def test_new_and_forgotten_backups(self) -> None:
        """They appear and disappear with the next listing, within one second."""
        repo, clock = MemoryRepo(), Clock()
        first = save_volume(repo, "A")
        view = await view_of(repo, clock=clock)
        assert await names(view) == ["A", "latest"]
        save_volume(repo, "B")
        clock.now += 0.5
        assert await names(view) == ["A", "latest"]
        assert (await view.backups(max_age=0.1)).find("B")
        clock.now += 1.01
        assert await names(view) == ["A", "B", "latest"]
        repo.forget(first)
        clock.now += 1.01
        assert await names(view) == ["B", "latest"]
        with pytest.raises(NotFoundError):
            await view.resolve("/A/redmine")

    async def test_as_they_were_listed_last(self) -> None:
        """The cached list is used inside the context; other tasks refresh it."""
        repo, clock = MemoryRepo(), Clock()
        save_volume(repo, "A")
        view = await view_of(repo, clock=clock)
        with as_listed_last():
            assert await names(view) == ["A", "latest"]  # listed at least once
            save_volume(repo, "B")
            clock.now += 1000
            assert await names(view) == ["A", "latest"]
        assert await names(view) == ["A", "B", "latest"]

    async def test_a_backup_in_the_making(self) -> None:
        """The directory and backup.json grow with the snapshots."""
        repo, clock = MemoryRepo(), Clock()
        tags = ["A", "kind=volumes", "dogu=redmine"]
        volume = save_volume(repo, tags=tags)
        view = await view_of(repo, clock=clock)
        directory = (await view.resolve("/A")).entry
        assert json.loads(await read(view, "/A/backup.json"))["status"] == "incomplete"
        complete(repo, "A", volume)
        clock.now += 2
        assert json.loads(await read(view, "/A/backup.json"))["status"] == "complete"
        save_volume(repo, path="/var/lib/ces/ldap/volumes/db")
        clock.now += 2
        assert b"ldap" in await view.children(directory)

    async def test_entries_stay_the_same_while_nothing_changes(self) -> None:
        """Listing unchanged snapshots reads nothing and keeps the entry objects."""
        repo, clock = MemoryRepo(), Clock()
        save_volume(repo)
        view = await view_of(repo, clock=clock)
        before = await view.children(view.root)
        layout = await view.layout(await view.find_backup("A"))
        clock.now += 2
        repo.storage.reads.clear()
        assert await view.children(view.root) is before
        assert await view.layout(await view.find_backup("A")) is layout
        assert repo.storage.reads == []

    async def test_many_who_ask_share_one_listing(self) -> None:
        """Twenty concurrent readers of the root cause one listing."""
        repo = MemoryRepo()
        save_volume(repo)
        view = await view_of(repo, clock=Clock())
        repo.storage.listings.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(view.children, view.root)
        assert repo.storage.listings[FileType.SNAPSHOT] == 1

    async def test_a_forgotten_backup_is_not_found_rather_than_broken(self) -> None:
        """This also holds for entries obtained before, and after a prune."""
        repo, clock = MemoryRepo(), Clock()
        deep = repo.directory("deep", repo.file("g.txt", b"deep content"))
        gone = save_volume(repo, "A", deep)
        view = await view_of(repo, clock=clock)
        directory = (await view.resolve("/A/redmine/volumes/files/deep")).entry
        file = (await view.resolve("/A/redmine/volumes/files/f.txt")).entry
        assert isinstance(file, SnapshotEntry)
        opened = await view.content(file)
        assert isinstance(opened, FileReader)
        for key in [k for k in repo.storage.files if k[0] in (FileType.PACK, FileType.INDEX)]:
            del repo.storage.files[key]
        with pytest.raises(BlobMissingError):  # still listed: this is damage
            await view.children(directory)
        repo.forget(gone)
        with pytest.raises(NotFoundError):
            await view.children(directory)
        with pytest.raises(NotFoundError):
            await view.child(directory, b"g.txt")
        with pytest.raises(NotFoundError):
            await opened.read(0, 1)
        with pytest.raises(NotFoundError):
            await view.content(file)

    async def test_a_temporary_outage(self) -> None:
        """The error ends with the outage; no wrong state is cached."""
        repo, clock = MemoryRepo(), Clock()
        volume = save_volume(repo, tags=["A", "kind=volumes", "dogu=redmine"])
        complete(repo, "A", volume)
        view = await view_of(repo, clock=clock)
        away = RepositoryUnreachableError("away")
        repo.storage.fail.update(
            dict.fromkeys([k for k in repo.storage.files if k[0] is FileType.PACK], away)
        )
        for _ in range(2):
            with pytest.raises(RepositoryUnreachableError):
                await view.children(view.root)
        repo.storage.fail.clear()
        assert await names(view) == ["A", "latest"]
        assert await names(view, "/A") == ["backup.json", "redmine"]
        assert json.loads(await read(view, "/A/backup.json"))["status"] == "complete"


class TestFarAway:
    """A remote mount answers lookups of cached names without a request."""

    async def test_cached_names_do_not_wait_for_a_slow_server(self, nursery: trio.Nursery) -> None:
        """Backups and their entries are cached; `latest`, unknown names and listings wait."""
        now = 0.0
        repo = MemoryRepo()
        node = repo.path(VOLUME, repo.directory("files", repo.file("a", FILE)))
        repo.snapshot(repo.tree(node), [VOLUME], tags=["b1"])
        view = BackupTree(await repo.open(), clock=lambda: now)
        view.listing.refresh_in(nursery)
        before = await view.at((b"b1", b"redmine", b"volumes", b"files"))
        await view.at((b"latest",))
        now = 30.0
        go_on, listed = trio.Event(), view.repository.snapshots

        async def slowly() -> list[Snapshot]:
            await go_on.wait()
            return await listed()

        view.repository.snapshots = slowly  # type: ignore[method-assign]  # a remote server
        again = await view.at((b"b1", b"redmine", b"volumes", b"files"))
        assert again.node == before.node
        told: list[str] = []

        async def ask(what: str, asking: Callable[[], Awaitable[object]]) -> None:
            await asking()
            told.append(what)

        async with trio.open_nursery() as asking:
            asking.start_soon(ask, "latest", partial(view.at, (b"latest",)))
            asking.start_soon(ask, "unknown", partial(view.child, view.root, b"b2"))
            asking.start_soon(ask, "listing", partial(view.children, view.root))
            await trio.testing.wait_all_tasks_blocked()
            assert not told
            go_on.set()
        assert sorted(told) == ["latest", "listing", "unknown"]

    async def test_a_backup_that_was_forgotten_is_gone_once_that_is_known(
        self, nursery: trio.Nursery
    ) -> None:
        """The first lookup may still find it, the next does not."""
        now = 0.0
        repo = MemoryRepo()
        snapshot = repo.snapshot(repo.tree(repo.file("a", FILE)), tags=["b1"])
        view = BackupTree(await repo.open(), clock=lambda: now)
        view.listing.refresh_in(nursery)
        await view.at((b"b1", b"_snapshots"))
        repo.forget(snapshot)
        now = 30.0
        await view.at((b"b1",))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(NotFoundError):
            await view.at((b"b1",))

    async def test_the_newest_backup_is_laid_out_ahead(self) -> None:
        """Opening it then does not wait for the directories on its paths."""
        repo = MemoryRepo()
        node = repo.path(VOLUME, repo.directory("files", repo.file("a", FILE)))
        repo.snapshot(repo.tree(node), [VOLUME], tags=["b1"])
        view = BackupTree(await repo.open())
        await view.prepare()
        repo.storage.reads.clear()
        await view.at((b"b1", b"redmine", b"volumes", b"files"))
        assert not repo.storage.reads

    async def test_nothing_is_laid_out_where_there_is_no_backup(self) -> None:
        """An empty repository is no error."""
        await BackupTree(await MemoryRepo().open()).prepare()
