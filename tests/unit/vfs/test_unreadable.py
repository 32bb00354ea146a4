"""Data whose trees cannot be read is shown, gives errors, and is named: it is never missing."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cesbrfs.catalog.manifest import Point
from cesbrfs.catalog.rules import DEFAULT_RULES
from cesbrfs.errors import BlobMissingError, CesbrError, DamagedError
from cesbrfs.repo.storage import FileType
from cesbrfs.vfs.directory_index import DirectoryIndex
from cesbrfs.vfs.entries import SnapshotEntry, VirtualFile
from cesbrfs.vfs.timeline import of_backups
from cesbrfs.vfs.tree import BackupTree
from tests.support.memory_repo import Json, MemoryRepo
from tests.support.restore_site import Site, names

VOLUMES = "/var/lib/ces/redmine/volumes"
LOST = "ab" * 32
"""The ID of a tree that does not exist."""
KINDS = {
    "volumes": (VOLUMES, "redmine/volumes"),
    "one volume": (f"{VOLUMES}/files", "redmine/volumes/files"),
    "configuration": ("/etc/ces", "_instance/configuration/etc/ces"),
    "metadata": ("/dogu.json", "redmine/dogu.json"),
    "registry": ("/registry.json", "redmine/registry.json"),
    "dump": ("/all.sql", "redmine/dumps/all.sql"),
}


def lose(repo: MemoryRepo, name: str) -> tuple[str, str]:
    """Back up one of KINDS with a lost tree; return the snapshot and where its data would be."""
    path, place = KINDS[name]
    kind = "volumes" if name == "one volume" else name
    tags = ["A", f"kind={kind}", *(["dogu=redmine"] if kind != "configuration" else [])]
    return repo.snapshot(LOST, [path], tags=tags), place


async def described(view: BackupTree) -> Json:
    entry = await view.at((b"A", b"backup.json"))
    assert isinstance(entry, VirtualFile)
    found: Json = json.loads(entry.content)
    return found


@pytest.mark.parametrize("name", KINDS)
async def test_data_of_a_tagged_snapshot_gives_an_error(name: str) -> None:
    """It has its name and type; the backup is incomplete, and the snapshot is named."""
    repo = MemoryRepo()
    snapshot, place = lose(repo, name)
    repository = await repo.open()
    view = BackupTree(repository)
    entry = await view.at((b"A", *os.fsencode(place).split(b"/")))
    if entry.node.type == "dir":
        with pytest.raises(DamagedError):
            await view.children(entry)
    else:
        with pytest.raises(BlobMissingError):
            await view.content(entry)
    found = await described(view)
    assert found["status"] == "incomplete"
    assert found["unreadable"] == [f"_snapshots/{snapshot[:8]}"]
    assert [point["shown"] for point in found["points"]] == [[place]]
    assert "backup A" in repository.damaged[f"trees/{snapshot}"]


async def test_other_data_of_the_same_path_has_precedence() -> None:
    """A readable snapshot of the same volume is shown instead."""
    repo = MemoryRepo()
    path, place = KINDS["one volume"]
    tree = repo.tree(repo.path(path, repo.directory("files", repo.file("f.txt", b"content"))))
    tags = ["A", "kind=volumes", "dogu=redmine"]
    repo.snapshot(tree, [path], tags=tags)
    lose(repo, "one volume")
    view = BackupTree(await repo.open())
    assert list(await view.children(await view.at((b"A", *os.fsencode(place).split(b"/")))))
    assert (await described(view))["status"] == "incomplete"


async def test_the_volumes_of_a_dogu_that_rules_place() -> None:
    """The directory of volumes gives an error, and other dogus are shown."""
    repo = MemoryRepo()
    ldap = repo.directory("ldap", repo.directory("volumes", repo.directory("db", repo.file("f"))))
    redmine = repo.directory("redmine", repo.directory("volumes") | {"subtree": LOST})
    tree = repo.tree(repo.path("/var/lib/ces", repo.directory("ces", ldap, redmine)))
    snapshot = repo.snapshot(tree, ["/var/lib/ces"], tags=["A"])
    repository = await repo.open()
    view = BackupTree(repository, rules=DEFAULT_RULES)
    assert await view.children(await view.at((b"A", b"ldap", b"volumes", b"db")))
    entry = await view.at((b"A", b"redmine", b"volumes"))
    with pytest.raises(DamagedError):
        await view.children(entry)
    assert repository.damaged.keys() == {f"trees/{snapshot}"}
    assert (await described(view))["status"] == "incomplete"


async def test_it_is_shown_once_it_can_be_read() -> None:
    """The layout is computed again after a minute."""
    repo = MemoryRepo()
    path, _ = KINDS["one volume"]
    tree = repo.tree(repo.path(path, repo.directory("files", repo.file("f.txt", b"content"))))
    repo.snapshot(tree, [path], tags=["A", "kind=volumes", "dogu=redmine"])
    (pack,) = [key for key in repo.storage.files if key[0] is FileType.PACK]
    whole = repo.storage.files.pop(pack)
    repository = await repo.open()
    now = [0.0]
    view = BackupTree(repository, clock=lambda: now[0])
    at = (b"A", b"redmine", b"volumes", b"files")
    with pytest.raises(CesbrError):
        await view.children(await view.at(at))
    repo.storage.files[pack] = whole
    now[0] = 30
    assert (await described(view))["status"] == "incomplete"
    now[0] = 61
    assert list(await view.children(await view.at(at))) == [b"f.txt"]
    assert not repository.damaged
    entry = await view.at(at)
    assert isinstance(entry, SnapshotEntry)
    assert not entry.unreadable


async def test_a_root_is_saved_only_from_one_layout() -> None:
    """Whenever the layout is computed again, no placeholder gets into the cache on disk."""
    repo = MemoryRepo()
    path, _ = KINDS["one volume"]
    tree = repo.tree(repo.path(path, repo.directory("files", repo.file("f.txt", b"content"))))
    repo.snapshot(tree, [path], tags=["A", "kind=volumes", "dogu=redmine"])
    (pack,) = [key for key in repo.storage.files if key[0] is FileType.PACK]
    whole = repo.storage.files[pack]
    saved = set()
    for start in range(61, 20, -1):
        now: Iterator[float] = itertools.repeat(0.0)
        repository = await repo.open()
        view = BackupTree(repository, clock=lambda: next(now))  # noqa: B023 - used in this turn
        backup = await view.find_backup("A")
        del repo.storage.files[pack]
        assert (await view.layout(backup)).unreadable
        repo.storage.files[pack] = whole
        now = itertools.count(float(start))
        index = DirectoryIndex(repository)
        await of_backups(view, index, [backup])
        saved.add(index.root(view.layout_key(backup)))
    assert len(saved - {None}) == 1


async def test_a_restore_names_it(tmp_path: Path) -> None:
    """The directory and the file fail by name, and no empty file is written."""
    site = Site.by_writers("threads", tmp_path, pytest.MonkeyPatch())
    volume, metadata = (lose(site.repo, name)[0] for name in ("one volume", "metadata"))
    points = [Point("volumes", "redmine", volume), Point("metadata", "redmine", metadata)]
    site.manifest(*points, backup="A")
    report = await site.restore("/A/redmine")
    failed = {failure.path: failure.error for failure in report.failed}
    assert failed.keys() == {b"redmine/dogu.json", b"redmine/volumes/files"}
    assert "cesbr check" in failed[b"redmine/volumes/files"]
    assert names(site.target) == {"redmine", "redmine/volumes"}
