"""Data that is unreadable, unknown or was not backed up is reported, and not as removed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cesbrfs.catalog.manifest import FailedPath, Point
from cesbrfs.errors import NotFoundError
from cesbrfs.history.diff import Remarks, diff_backups, history
from cesbrfs.history.usage import UsageReport
from cesbrfs.history.versions import versions
from cesbrfs.repo.storage import FileType
from cesbrfs.restore import InPlace
from cesbrfs.vfs.directory_index import DirectoryIndex
from cesbrfs.vfs.timeline import Timeline
from cesbrfs.vfs.tree import BackupTree
from tests.support.memory_repo import Json, MemoryRepo
from tests.support.restore_site import BACKUP, Site
from tests.unit.history.test_history import FILES, each, found, line_of, save

VOLUMES = (b"redmine", b"volumes")


def odd(name: str, kind: str | None, **fields: object) -> Json:
    """Return an entry of an unknown type."""
    return {"name": name, "type": kind, "mode": 0o644, "mtime": "2026-11-22T21:30:00Z"} | fields


async def differences(
    before: Timeline, after: Timeline, parts: tuple[bytes, ...] = ()
) -> tuple[list[str], Remarks]:
    remarks = Remarks()
    changes = diff_backups(before, after, parts, remarks=remarks)
    return [f"{c.mark} {b'/'.join(c.parts).decode()}" async for c in changes], remarks


async def two(repo: MemoryRepo) -> tuple[BackupTree, Timeline, Timeline]:
    """Compare the backups a and b; return the lines."""
    view = BackupTree(await repo.open())
    memo = DirectoryIndex(view.repository)
    return view, await line_of(view, "a", memo=memo), await line_of(view, "b", memo=memo)


def tagged(repo: MemoryRepo, backup: str, hour: int, *volumes: Json) -> str:
    """Back up all volumes of redmine as one item, as cesbr does."""
    path = "/var/lib/ces/redmine/volumes"
    tree = repo.tree(repo.path(path, repo.directory("volumes", *volumes)))
    tags = [backup, "kind=volumes", "dogu=redmine"]
    return repo.snapshot(tree, [path], tags=tags, time=f"2026-11-22T{hour:02}:00:00Z")


def metadata(repo: MemoryRepo, backup: str, hour: int, dogu: str = "redmine") -> str:
    """Back up a dogu.json."""
    tree = repo.tree(repo.file("dogu.json", b"{}"))
    tags = [backup, "kind=metadata", f"dogu={dogu}"]
    return repo.snapshot(tree, ["/dogu.json"], tags=tags, time=f"2026-11-22T{hour:02}:00:00Z")


@pytest.mark.parametrize("kind", ["irregular", "", None, "of the future"])
async def test_an_unknown_type_is_shown_and_named(kind: str | None) -> None:
    """`find` lists it, diff reports a type change, and each reports it once."""
    repo = MemoryRepo()
    save(repo, "a", repo.file("good", b"good"), repo.file("later", b"file"))
    save(repo, "b", repo.file("good", b"good"), odd("later", kind), hour=2)
    view, before, after = await two(repo)
    pairs = each(after, await found(after, FILES, names=["*"]))
    assert pairs == [("b", b"/".join((*FILES, name))) for name in (b"good", b"later")]
    (trouble,) = after.troubles
    assert trouble.message.startswith(
        "redmine/volumes/files: Cannot read the entry 'later': unknown type"
    )
    told, remarks = await differences(before, after)
    assert told == ["T redmine/volumes/files/later"]
    assert [t.message for t in remarks.troubles] == [trouble.message]
    told, _ = await differences(after, before)
    assert told == ["T redmine/volumes/files/later"]
    line = await line_of(view)
    events = (await versions(line, (*FILES, b"later"))).events
    assert [event.what for event in events] == ["appeared", "changed"]
    sizes = UsageReport(view)
    await sizes.measure((b"b",), 1)
    (error,) = sizes.troubles
    assert "/b: Cannot read the entry 'later'" in error.message
    with pytest.raises(NotFoundError, match=r"Cannot read .*: unknown type"):
        await view.resolve("/b/redmine/volumes/files/later")


@pytest.mark.parametrize("above", [True, False])
async def test_an_unknown_type_outside_of_what_is_placed_is_not_hidden(*, above: bool) -> None:
    """The snapshot is also shown unchanged if it has one outside of the volumes."""
    repo = MemoryRepo()
    volume = repo.directory("files", repo.file("f", b"x"))
    beside = () if above else (odd("irregular", "irregular"),)
    volumes = repo.directory("volumes", volume, *beside)
    top = (odd("irregular", "irregular"),) if above else ()
    tree = repo.tree(repo.path("/srv/ces/redmine/volumes", volumes), *top)
    repo.snapshot(tree, ["/srv/ces/redmine/volumes"], tags=["b", "kind=volumes", "dogu=redmine"])
    line = await line_of(BackupTree(await repo.open()))
    assert b"irregular" in {match.parts[-1] for match in await found(line, names=["irregular"])}
    assert len(line.troubles) == 1


async def test_impossible_names_are_named() -> None:
    """Invalid names are not entries, but are reported."""
    repo = MemoryRepo()
    save(repo, "a", repo.file("good", b"good"), repo.file("..", b"evil"))
    line = await line_of(BackupTree(await repo.open()))
    assert [match.parts[-1] for match in await found(line, FILES, names=["*"])] == [b"good"]
    assert ["'..'" in trouble.message for trouble in line.troubles] == [True]


async def test_an_interrupted_backup_says_nothing_about_what_it_lacks() -> None:
    """`log` and diff report no removed volumes in it, and log compares across it."""
    repo = MemoryRepo()
    metadata(repo, "a", 1)
    tagged(repo, "a", 1, repo.directory("files", repo.file("f", b"1"), repo.file("gone", b"1")))
    metadata(repo, "b", 2)
    metadata(repo, "c", 3)
    tagged(repo, "c", 3, repo.directory("files", repo.file("f", b"2")))
    view, before, after = await two(repo)
    told, remarks = await differences(before, after)
    assert (told, remarks.uncovered) == ([], [VOLUMES])
    with pytest.raises(NotFoundError, match="Backup b cannot be compared at 'redmine/volumes"):
        await differences(before, after, FILES)
    line = await line_of(view)
    for path in ((), (b"redmine",), VOLUMES, FILES):
        steps = await history(line, path)
        assert [(step.moment.id, step.what) for step in steps][-1] == ("c", "changed")
        marks = {(change.mark, change.parts[-1]) for change in steps[-1].changes}
        assert marks == {("M", b"f"), ("-", b"gone")}
        assert len(steps) == 2
    gone = await versions(line, (*FILES, b"gone"))
    assert [(event.moment.id, event.what) for event in gone.events] == [
        ("a", "appeared"),
        ("c", "vanished"),
    ]


async def test_a_backup_of_one_dogu_says_nothing_about_the_others() -> None:
    """`diff` reports no other dogu as added or removed."""
    repo = MemoryRepo()
    metadata(repo, "a", 1)
    metadata(repo, "a", 1, "ldap")
    metadata(repo, "b", 2)
    _, before, after = await two(repo)
    assert await differences(before, after) == ([], Remarks(uncovered=[(b"ldap",)]))
    assert await differences(after, before) == ([], Remarks(uncovered=[(b"ldap",)]))


async def test_a_volume_that_is_gone_is_removed() -> None:
    """If all volumes are one item, a volume that is not in it did not exist."""
    repo = MemoryRepo()
    tagged(repo, "a", 1, repo.directory("files", repo.file("f", b"1")), repo.directory("old"))
    tagged(repo, "b", 2, repo.directory("files", repo.file("f", b"1")))
    view, before, after = await two(repo)
    assert (await differences(before, after))[0] == ["- redmine/volumes/old"]
    steps = await history(await line_of(view), (*VOLUMES, b"old"))
    assert [(step.moment.id, step.what) for step in steps] == [("a", "appeared"), ("b", "vanished")]


async def test_a_directory_that_cannot_be_read_is_not_removed() -> None:
    """`diff` compares the rest and reports it; versions and log report nothing removed."""
    repo = MemoryRepo()
    sub = repo.directory("sub", repo.file("f", b"x"))
    save(repo, "a", sub, repo.file("g", b"1"))
    save(repo, "b", sub | {"subtree": "ab" * 32}, repo.file("g", b"2"), hour=2)
    save(repo, "c", sub, repo.file("g", b"2"), hour=3)
    view, before, after = await two(repo)
    told, remarks = await differences(before, after)
    assert told == ["M redmine/volumes/files/g"]
    assert [trouble.parts for trouble in remarks.troubles] == [(*FILES, b"sub")]
    line = await line_of(view)
    assert [e.what for e in (await versions(line, (*FILES, b"sub", b"f"))).events] == ["appeared"]
    assert [trouble.parts for trouble in line.troubles] == [(*FILES, b"sub")]
    line = await line_of(view)
    steps = await history(line, FILES)
    assert [step.what for step in steps] == ["appeared", "changed"]
    assert line.troubles


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return the target of restores."""
    return Site(tmp_path / "target")


@pytest.mark.parametrize("damaged", ["volumes", "metadata"])
@pytest.mark.parametrize("chosen", [f"/{BACKUP}", f"/{BACKUP}/redmine"])
async def test_a_restore_names_the_dogu_whose_snapshot_is_damaged(
    site: Site, damaged: str, chosen: str
) -> None:
    """The rest is restored, and the exit code is 3."""
    snapshots = {
        "volumes": site.volume(site.file("f", b"x")),
        "metadata": metadata(site.repo, BACKUP, 1),
    }
    other = metadata(site.repo, BACKUP, 1, "ldap")
    points = [Point(kind, "redmine", snapshot, 1) for kind, snapshot in snapshots.items()]
    site.manifest(*points, Point("metadata", "ldap", other, 1))
    site.repo.storage.files[FileType.SNAPSHOT, snapshots[damaged]] = b""
    report = await site.restore(chosen)
    assert report.exit_code == 3
    ((path, error),) = report.failed
    place = {"volumes": b"redmine/volumes", "metadata": b"redmine/dogu.json"}[damaged]
    assert path == place
    assert snapshots[damaged][:8] in error
    assert report.files == (3 if chosen == f"/{BACKUP}" else 1)


async def test_a_restore_names_what_the_backup_could_not_read(site: Site, tmp_path: Path) -> None:
    """Only for selected paths, above, at or below them; in place only for placed ones."""
    snapshot = site.volume(site.directory("sub", site.file("f", b"x")), site.file("g", b"x"))
    failed = [FailedPath("/srv/root/var/lib/ces/redmine/volumes/files/sub/secret", "no access")]
    site.manifest(
        Point("volumes", "redmine", snapshot, 1, failed),
        Point("registry", "redmine", None, None, [FailedPath("registry", "no answer")]),
    )
    volume = f"/{BACKUP}/redmine/volumes"
    expected = {
        f"/{BACKUP}": 2,
        volume: 1,
        f"{volume}/files": 1,
        f"{volume}/files/sub": 1,
        f"{volume}/files/g": 0,
        f"{volume}/files/sub/f": 0,
    }
    for path, number in expected.items():
        planned = await site.plan(path)
        assert len(planned.refused) == number, path
    root = tmp_path / "root"
    root.mkdir()
    (refused,) = (await site.plan(f"/{BACKUP}", target=InPlace(root))).refused
    assert "sub/secret was not backed up: no access" in refused.reason


async def test_a_blob_that_cannot_be_read_is_no_other_content() -> None:
    """`diff` reports files that cannot be compared, and not as changed."""
    repo = MemoryRepo()
    save(repo, "a", repo.file("f", b"one", b"two"), repo.file("g", b"1"))
    other = repo.file("f", b"on", b"etwo")
    other["content"][0] = "ab" * 32
    save(repo, "b", other, repo.file("g", b"2"), hour=2)
    view, before, after = await two(repo)
    told, remarks = await differences(before, after)
    assert told == ["M redmine/volumes/files/g"]
    assert [trouble.parts for trouble in remarks.troubles] == [(*FILES, b"f")]
    line = await line_of(view)
    assert len(await found(line, names=["f"])) == 2
    assert [trouble.parts for trouble in line.troubles] == [(*FILES, b"f")]
