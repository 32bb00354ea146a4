"""Test the status of backups and the content of backup.json."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

from cesbrfs.catalog.backups import Backups, group
from cesbrfs.catalog.layout import lay_out
from cesbrfs.catalog.manifest import FailedPath, Manifest, Point, write_manifest
from cesbrfs.catalog.status import Reports, Status, describe, make_report, may_be_latest
from cesbrfs.errors import (
    BlobMissingError,
    DamagedError,
    RepositoryUnreachableError,
    StorageError,
)
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import FileType
from cesbrfs.vfs.entries import SnapshotEntry, TreeRef
from cesbrfs.vfs.tree import BackupTree
from tests.support.memory_repo import Json, MemoryRepo

VOLUME = "/var/lib/ces/redmine/volumes/files"


def save_volume(repo: MemoryRepo, backup: str = "A", **fields: Any) -> str:
    """Save a snapshot of a volume as cesbr does."""
    tree = repo.tree(repo.path(VOLUME, repo.directory("files", repo.file("f.txt", b"content"))))
    tags = [backup, "kind=volumes", "dogu=redmine"]
    return repo.snapshot(tree, [VOLUME], **{"tags": tags} | fields)


def save_manifest(repo: MemoryRepo, *points: Point, backup: str = "A", **fields: Any) -> str:
    """Save a manifest of these items."""
    data = write_manifest(Manifest(1, backup, "2026-11-22T20:30:00Z", "ces", list(points)))
    tree = repo.tree(repo.file("manifest.json", data))
    tags = [backup, "kind=manifest"]
    return repo.snapshot(tree, ["/manifest.json"], **{"tags": tags} | fields)


async def opened(repo: MemoryRepo) -> tuple[Repository, Backups]:
    repository = await repo.open()
    return repository, group(await repository.snapshots())


async def status(repo: MemoryRepo) -> Status:
    repository, backups = await opened(repo)
    return (await make_report(repository, backups.find("A"))).status


async def test_an_index_file_that_comes_back() -> None:
    """A tree in no index file is looked for again after a minute."""
    repo = MemoryRepo()
    volume = save_volume(repo)
    (index,) = [key for key in repo.storage.files if key[0] is FileType.INDEX]
    save_manifest(repo, Point("volumes", "redmine", volume, 7))
    kept = repo.storage.files.pop(index)
    repository, backups = await opened(repo)
    now = [0.0]
    reports = Reports(repository, lambda: now[0])
    (backup,) = backups.by_name.values()
    assert (await reports.of(backup)).status is Status.INCOMPLETE
    repo.storage.files[index] = kept
    now[0] = 59
    assert (await reports.of(backup)).status is Status.INCOMPLETE
    now[0] = 61
    assert (await reports.of(backup)).status is Status.COMPLETE
    assert not repository.damaged


async def test_a_complete_backup() -> None:
    """Every item has a snapshot and no path failed."""
    repo = MemoryRepo()
    save_manifest(repo, Point("volumes", "redmine", save_volume(repo), 7))
    assert await status(repo) is Status.COMPLETE


async def test_a_backup_that_other_tools_made() -> None:
    """Without a manifest the status is unverified."""
    repo = MemoryRepo()
    save_volume(repo, tags=["A"])
    assert await status(repo) is Status.UNVERIFIED


async def test_a_backup_of_ours_without_its_manifest() -> None:
    """The backup was interrupted or is still running."""
    repo = MemoryRepo()
    save_volume(repo)
    assert await status(repo) is Status.INCOMPLETE


@pytest.mark.parametrize(
    "point",
    [
        Point("volumes", "ldap", "ab" * 32, 7),
        Point("volumes", "ldap", None, None, [FailedPath("/x", "denied")]),
        Point("volumes", "ldap", None),
        Point("volumes", "ldap", None, None, []),
    ],
    ids=["forgotten", "failed", "whole", "without a reason"],
)
async def test_a_point_that_is_missing(point: Point) -> None:
    """Its snapshot is missing, with or without a recorded error."""
    repo = MemoryRepo()
    save_manifest(repo, Point("volumes", "redmine", save_volume(repo), 7), point)
    assert await status(repo) is Status.INCOMPLETE
    repository, backups = await opened(repo)
    backup = backups.find("A")
    said = describe(backup, await make_report(repository, backup))
    assert said["missing"] == [
        {
            "kind": "volumes",
            "dogu": "ldap",
            "snapshot": point.snapshot,
            "failed": [{"path": f.path, "error": f.error} for f in point.failed],
        }
    ]


async def test_a_point_of_which_a_path_failed() -> None:
    """The snapshot exists, but one of its files could not be read."""
    repo = MemoryRepo()
    failed = [FailedPath("/x", "denied")]
    save_manifest(repo, Point("volumes", "redmine", save_volume(repo), 7, failed))
    assert await status(repo) is Status.INCOMPLETE


async def test_snapshots_whose_ids_restic_changed() -> None:
    """``restic tag`` and ``rewrite`` assign new IDs and record the old one as `original`."""
    repo = MemoryRepo()
    old = save_volume(repo)
    save_manifest(repo, Point("volumes", "redmine", old, 7))
    repo.forget(old)
    assert await status(repo) is Status.INCOMPLETE
    save_volume(repo, original=old, username="somebody")
    assert await status(repo) is Status.COMPLETE


def saved_tree(repo: MemoryRepo, *files: Json) -> str:
    """Save a tree with these files in the volume."""
    return repo.tree(repo.path(VOLUME, repo.directory("files", *files)))


class TestSuccessors:
    """Snapshots that restic rewrote or copied."""

    TAGS: ClassVar = ["A", "kind=volumes", "dogu=redmine"]

    def backed_up(self, repo: MemoryRepo, *, with_tree: bool) -> tuple[str, str]:
        """Make a backup of one volume; return its snapshot and its tree."""
        tree = saved_tree(repo, repo.file("f", b"content"), repo.file("g", b"more"))
        snapshot = repo.snapshot(tree, [VOLUME], tags=self.TAGS)
        point = Point("volumes", "redmine", snapshot, 11)
        if with_tree:
            point.tree = tree
        save_manifest(repo, point)
        return snapshot, tree

    @pytest.mark.parametrize("forget", [True, False], ids=["forgotten", "kept"])
    @pytest.mark.parametrize("with_tree", [True, False], ids=["tree", "bytes"])
    @pytest.mark.parametrize("tags", [[], ["repaired"], ["rewrite"]], ids=" ".join)
    async def test_one_that_lost_content(
        self, tags: list[str], *, with_tree: bool, forget: bool
    ) -> None:
        """After a repair files are empty; after a rewrite some are missing."""
        for files in (("f", b""), ("g", b"more")), (("g", b"more"),):
            repo = MemoryRepo()
            old, _ = self.backed_up(repo, with_tree=with_tree)
            tree = saved_tree(repo, *(repo.file(*file) for file in files))
            repo.snapshot(tree, [VOLUME], tags=self.TAGS + tags, original=old)
            if forget:
                repo.forget(old)
            assert await status(repo) is Status.INCOMPLETE

    @pytest.mark.parametrize("forget", [True, False], ids=["forgotten", "kept"])
    @pytest.mark.parametrize("with_tree", [True, False], ids=["tree", "bytes"])
    async def test_one_of_the_same_content(self, *, with_tree: bool, forget: bool) -> None:
        """The result of ``restic tag`` and ``copy``, also combined."""
        repo = MemoryRepo()
        old, tree = self.backed_up(repo, with_tree=with_tree)
        tagged = repo.snapshot(tree, [VOLUME], tags=[*self.TAGS, "x=y"], original=old)
        if forget:
            repo.forget(old)
        assert await status(repo) is Status.COMPLETE
        repo.snapshot(tree, [VOLUME], tags=[*self.TAGS, "x=z"], original=tagged)
        assert await status(repo) is Status.COMPLETE

    async def test_one_whose_tree_cannot_be_read(self) -> None:
        """The tree is needed because the size must be computed."""
        repo = MemoryRepo()
        old, _ = self.backed_up(repo, with_tree=False)
        repo.snapshot("ab" * 32, [VOLUME], tags=self.TAGS, original=old)
        repo.forget(old)
        repository, backups = await opened(repo)
        report = await make_report(repository, backups.find("A"))
        assert report.status is Status.INCOMPLETE
        assert report.problem is not None

    async def test_trees_that_double_are_counted_once_each(self) -> None:
        """2**60 paths: each tree is read once."""
        repo = MemoryRepo()
        node = repo.directory("files", repo.file("f", b"1234567"))
        for _ in range(60):
            node = repo.directory("files", node, dict(node, name="again"))
        old = save_volume(repo)
        save_manifest(repo, Point("volumes", "redmine", old, 7 << 60))
        repo.forget(old)
        repo.snapshot(repo.tree(node), [VOLUME], tags=self.TAGS, original=old)
        assert await status(repo) is Status.COMPLETE

    async def test_a_repaired_backup_of_another_tool(self) -> None:
        """Restic's tag shows that content was removed."""
        repo = MemoryRepo()
        save_volume(repo, tags=["A", "repaired"])
        assert await status(repo) is Status.INCOMPLETE


@pytest.mark.parametrize("name", ["manifest.json", "other.json"])
async def test_a_manifest_that_cannot_be_read(name: str) -> None:
    """A backup with an unreadable manifest is incomplete."""
    repo = MemoryRepo()
    tree = repo.tree(repo.file(name, b"no json"))
    repo.snapshot(tree, ["/manifest.json"], tags=["A", "kind=manifest"])
    save_volume(repo)
    repository, backups = await opened(repo)
    report = await make_report(repository, backups.find("A"))
    assert (report.status, report.manifest) == (Status.INCOMPLETE, None)
    assert report.problem is not None
    assert "manifest" in report.problem


async def test_a_manifest_whose_blob_is_damaged(caplog: pytest.LogCaptureFixture) -> None:
    """A damaged manifest counts as missing."""
    repo = MemoryRepo()
    save_manifest(repo, Point("volumes", "redmine", save_volume(repo), 7))
    for (kind, name), data in repo.storage.files.items():
        if kind is FileType.PACK:
            repo.storage.files[kind, name] = bytes(len(data))
    repository, backups = await opened(repo)
    reports = Reports(repository)
    assert (await reports.of(backups.find("A"))).status is Status.INCOMPLETE
    said = caplog.records[-1].getMessage()
    assert said.startswith("Cannot read manifests/")
    assert "Backup A counts as incomplete" in said


async def test_a_manifest_that_can_be_read_again() -> None:
    """`latest` is an older backup for a minute, and that is remembered until it is reported."""
    repo = MemoryRepo()
    volume = save_volume(repo, "A", time="2026-01-01T00:00:00Z")
    save_manifest(repo, Point("configuration", None, volume, 7))
    files = repo.storage.files
    first = set(files)
    volume = save_volume(repo, "B", time="2026-01-02T00:00:00Z")
    manifest = save_manifest(repo, Point("configuration", None, volume, 7), backup="B")
    repository = await repo.open()
    later = [key for key in files.keys() - first if key[0] is FileType.PACK]
    now = [0.0]
    view = BackupTree(repository, clock=lambda: now[0])
    repo.storage.fail.update(dict.fromkeys(later, StorageError("I/O error")))
    assert (await view.find_backup("latest")).id == "A"
    entry = await view.at((b"latest",))
    assert entry.node.target == b"A"
    reason = "Backup B counts as incomplete, because its manifest cannot be checked: I/O error"
    damaged = {f"manifests/{manifest}": reason}
    assert repository.damaged == damaged
    repo.storage.fail.clear()
    now[0] = 30
    assert (await view.find_backup("latest")).id == "A"
    now[0] = 61
    assert (await view.find_backup("latest")).id == "B"
    assert repository.damaged == {}
    assert repository.damaged_files.all == damaged
    repository.damaged_files.drop_readable()
    assert repository.damaged_files.all == {}


async def test_a_damaged_manifest_that_is_removed() -> None:
    """It is not reported any more."""
    repo = MemoryRepo()
    manifest = save_manifest(repo, Point("volumes", "redmine", save_volume(repo), 7))
    repository, backups = await opened(repo)
    for key in [key for key in repo.storage.files if key[0] is FileType.PACK]:
        repo.storage.fail[key] = StorageError("I/O error")
    await Reports(repository).of(backups.find("A"))
    assert f"manifests/{manifest}" in repository.damaged_files.all
    repo.forget(manifest)
    await repository.snapshots()
    assert repository.damaged_files.all == {}


async def test_an_unreachable_storage_is_not_cached() -> None:
    """A network outage must not mark a complete backup as incomplete."""
    repo = MemoryRepo()
    save_manifest(repo, Point("volumes", "redmine", save_volume(repo), 7))
    repository, backups = await opened(repo)
    packs = [key for key in repo.storage.files if key[0] is FileType.PACK]
    repo.storage.fail.update(dict.fromkeys(packs, RepositoryUnreachableError("away")))
    reports = Reports(repository)
    with pytest.raises(RepositoryUnreachableError):
        await reports.of(backups.find("A"))
    repo.storage.fail.clear()
    assert (await reports.of(backups.find("A"))).status is Status.COMPLETE


class TestLatest:
    """The target of ``latest``."""

    async def latest(self, repo: MemoryRepo) -> str | None:
        """Return the ID of the latest backup."""
        repository, backups = await opened(repo)
        found = await Reports(repository).latest(backups)
        return found.id if found else None

    async def test_none(self) -> None:
        """An empty repository and one with only incomplete backups have no latest."""
        repo = MemoryRepo()
        assert await self.latest(repo) is None
        save_volume(repo)
        assert await self.latest(repo) is None

    async def test_the_newest_complete_one(self) -> None:
        """Newer incomplete and unverified backups are ignored."""
        repo = MemoryRepo()
        for day, backup in enumerate(("A", "B"), 1):
            time = f"2026-01-0{day}T00:00:00Z"
            volume = save_volume(repo, backup, time=time)
            whole = (Point("volumes", "redmine", volume), Point("registry", None, volume))
            save_manifest(repo, *whole, backup=backup, time=time)
        save_volume(repo, "C", time="2026-01-03T00:00:00Z")
        save_volume(repo, time="2026-01-04T00:00:00Z", tags=["D"])
        assert await self.latest(repo) == "B"

    def whole(self, repo: MemoryRepo, backup: str, time: str, *tags: str) -> None:
        """Save a complete backup of the whole instance."""
        tags = (backup, "kind=volumes", "dogu=redmine", *tags)
        volume = save_volume(repo, backup, time=time, tags=tags)
        points = Point("volumes", "redmine", volume), Point("registry", None, volume)
        save_manifest(repo, *points, backup=backup, time=time)

    async def test_backups_that_never_are_the_latest(self) -> None:
        """Backups of some dogus, safety backups and backups with a time in the future."""
        repo = MemoryRepo()
        self.whole(repo, "A", "2026-01-01T00:00:00Z")
        self.whole(repo, "safety", "2026-01-02T00:00:00Z", "purpose=safety")
        self.whole(repo, "future", "2999-01-01T00:00:00Z")
        volume = save_volume(repo, "part", time="2026-01-03T00:00:00Z")
        save_manifest(repo, Point("volumes", "redmine", volume), backup="part")
        save_volume(repo, time="2998-01-04T00:00:00Z", tags=["unverified"])
        assert await self.latest(repo) == "A"

    async def test_none_of_the_whole_instance(self) -> None:
        """A backup of one dogu is not a backup of the instance."""
        repo = MemoryRepo()
        volume = save_volume(repo, "part")
        save_manifest(repo, Point("volumes", "redmine", volume), backup="part")
        assert await self.latest(repo) is None

    async def test_else_the_newest_unverified_one(self) -> None:
        """Repositories of other tools have only unverified backups."""
        repo = MemoryRepo()
        save_volume(repo, time="2026-01-01T00:00:00Z", tags=["A"])
        save_volume(repo, time="2026-01-02T00:00:00Z", tags=["B"])
        save_volume(repo, "C", time="2026-01-03T00:00:00Z")
        assert await self.latest(repo) == "B"


async def test_a_report_is_made_once_for_the_same_snapshots() -> None:
    """A changed backup gets a new report; the report of a removed one is evicted."""
    repo = MemoryRepo()
    volume = save_volume(repo)
    manifest = save_manifest(repo, Point("volumes", "redmine", volume, 7))
    repository, backups = await opened(repo)
    reports = Reports(repository)
    first = await reports.of(backups.find("A"))
    repo.storage.reads.clear()
    assert await reports.of(backups.find("A")) is first
    assert repo.storage.reads == []
    repo.forget(volume)
    told = await reports.of(group(await repository.snapshots()).find("A"))
    assert told.status is Status.INCOMPLETE
    repo.forget(manifest)
    await reports.latest(group(await repository.snapshots()))
    assert reports._cache == {}


async def test_what_backup_json_says() -> None:
    """Every snapshot has its path and size; names that are not UTF-8 are escaped."""
    repo = MemoryRepo()
    tree = repo.tree(
        repo.path("/ces/redmine/volumes/x", repo.directory(r"v\xff", repo.file("f", b"1234567")))
    )
    tags = ["A", "kind=volumes", "dogu=redmine"]
    path = "/ces/redmine/volumes"
    volume = repo.snapshot(tree, [path], tags=tags, time="2026-11-22T20:00:00Z")
    save_manifest(repo, Point("volumes", "redmine", volume, 7, [FailedPath("/x", "denied")]))
    repository, backups = await opened(repo)
    backup = backups.find("A")
    said: Json = describe(
        backup, await make_report(repository, backup), await lay_out(repository, backup)
    )
    assert json.loads(json.dumps(said)) == {
        "id": "A",
        "time": "2026-11-22T20:00:00.000000000Z",
        "status": "incomplete",
        "size": 7,
        "points": [
            {
                "kind": "volumes",
                "dogu": "redmine",
                "snapshot": volume,
                "time": "2026-11-22T20:00:00.000000000Z",
                "size": 7,
                "paths": [path],
                "shown": ["redmine/volumes/v\\xff"],
                "failed": [{"path": "/x", "error": "denied"}],
            }
        ],
        "missing": [],
    }


async def test_sizes_of_other_tools_backups() -> None:
    """The size is the sum of restic's summaries, or null if one is missing."""
    repo = MemoryRepo()
    save_volume(repo, tags=["A"], summary={"total_bytes_processed": 5})
    save_volume(repo, tags=["A", "B"], summary={"total_bytes_processed": 6})
    save_volume(repo, tags=["B"])
    repository, backups = await opened(repo)
    sizes = [(await make_report(repository, backups.find(b))).size(backups.find(b)) for b in "AB"]
    assert sizes == [11, None]


async def test_a_manifest_without_points() -> None:
    """The backup of an empty instance is complete."""
    repo = MemoryRepo()
    save_manifest(repo)
    assert await status(repo) is Status.COMPLETE


@pytest.mark.parametrize("tree", [None, "00" * 32, "ab" * 32], ids=["null", "zeros", "lost"])
class TestASnapshotWithoutATree:
    """Its content is unknown: the backup is neither complete nor unverified."""

    async def test_of_another_tool(self, tree: str | None) -> None:
        """An older readable backup is `latest` instead, and policies keep that one."""
        repo = MemoryRepo()
        save_volume(repo, "A", tags=["A"], time="2026-11-01T00:00:00Z")
        repo.snapshot(tree, [VOLUME], tags=["B"])
        repository, backups = await opened(repo)
        reports = Reports(repository)
        assert (await reports.of(backups.find("B"))).status is Status.INCOMPLETE
        assert (await reports.of(backups.find("A"))).status is Status.UNVERIFIED
        assert await reports.latest(backups) is backups.find("A")
        (reason,) = repository.damaged.values()
        assert "backup B" in reason

    async def test_that_a_manifest_names(self, tree: str | None) -> None:
        """The manifest shows that the backup was complete before."""
        repo = MemoryRepo()
        tags = ["A", "kind=volumes", "dogu=redmine"]
        save_manifest(
            repo,
            Point("volumes", "redmine", save_volume(repo), 7),
            Point("volumes", "ldap", repo.snapshot(tree, [VOLUME], tags=tags), 7),
        )
        repository, backups = await opened(repo)
        reports = Reports(repository)
        assert (await reports.of(backups.find("A"))).status is Status.INCOMPLETE
        assert await reports.latest(backups) is None

    async def test_is_shown_and_cannot_be_listed(self, tree: str | None) -> None:
        """Showing an empty directory instead would be wrong."""
        repo = MemoryRepo()
        snapshot = repo.snapshot(tree, [VOLUME], tags=["A", "kind=volumes", "dogu=redmine"])
        repository, backups = await opened(repo)
        layout = await lay_out(repository, backups.find("A"))
        assert [s.id for s in layout.whole] == [snapshot]
        assert layout.unreadable.keys() == {snapshot}
        view = BackupTree(repository)
        whole = (b"_snapshots", snapshot[:8].encode())
        for parts in (whole, (b"redmine", b"volumes", b"files")):
            entry = await view.at((b"A", *parts))
            with pytest.raises((DamagedError, BlobMissingError)):
                await view.children(entry)
            assert isinstance(entry, SnapshotEntry)
            assert view.stored.entries_nowait(TreeRef.of(entry)) is None
            with pytest.raises((DamagedError, BlobMissingError)):
                await view.stored.entries(TreeRef.of(entry))


async def test_a_tree_that_an_index_names_again() -> None:
    """After the index is repaired, the backup is complete again."""
    repo = MemoryRepo()
    snapshot = save_volume(repo, tags=["A"])
    files = repo.storage.files
    lost = {key: files.pop(key) for key in list(files) if key[0] is FileType.INDEX}
    repository, backups = await opened(repo)
    reports = Reports(repository)
    backup = backups.find("A")
    assert (await reports.of(backup)).status is Status.INCOMPLETE
    assert list(repository.damaged) == [f"trees/{snapshot}"]
    files.update(lost)
    await repository.trees.root(backup.snapshots[0])
    assert (await reports.of(backup)).status is Status.UNVERIFIED
    assert not repository.damaged


async def test_a_directory_without_a_tree_of_its_own() -> None:
    """Every directory node needs a tree, even if it is empty."""
    repo = MemoryRepo()
    repo.snapshot(repo.tree(repo.directory("d", subtree=None), repo.file("f", b"good")), tags=["A"])
    view = BackupTree(await repo.open())
    (snapshot,) = (await view.backups()).find("A").snapshots
    top = (b"A", b"_snapshots", snapshot.id[:8].encode())
    assert set(await view.children(await view.at(top))) == {b"d", b"f"}
    with pytest.raises(DamagedError, match="tree is missing"):
        await view.children(await view.at((*top, b"d")))


@pytest.mark.parametrize(
    ("expected", "tags", "more"),
    [
        (True, ["A"], {}),
        (True, ["A", "kind=configuration"], {"manifest": True}),
        (False, ["A", "kind=configuration"], {}),
        (False, ["A", "repaired"], {}),
        (False, ["A", "kind=volumes", "dogu=redmine"], {"manifest": True}),
        (False, ["A", "purpose=safety"], {}),
        (False, ["A"], {"tree": None}),
        (False, ["A"], {"time": "2999-01-01T00:00:00Z"}),
    ],
)
async def test_which_backups_may_be_the_latest(
    expected: bool, tags: list[str], more: dict[str, Any]
) -> None:
    """The snapshots decide: no manifest, tree or index file is read. `latest` agrees."""
    repo = MemoryRepo()
    dogu = "redmine" if "dogu=redmine" in tags else None
    fields = {"tree": repo.tree(repo.file("f.txt", b"content")), "paths": [VOLUME], "tags": tags}
    snapshot = repo.snapshot(**fields | {key: more[key] for key in more if key != "manifest"})
    if "manifest" in more:
        save_manifest(repo, Point("volumes", dogu, snapshot, 7))
    repository, backups = await opened(repo)
    repo.storage.reads.clear()
    assert may_be_latest(backups.find("A")) is expected
    assert not repo.storage.reads
    assert (await Reports(repository).latest(backups) is not None) is expected
