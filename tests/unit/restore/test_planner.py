"""The planned tree: which entries it has, with which metadata, and what is refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cesbrfs.catalog.manifest import Point
from cesbrfs.errors import RepositoryUnreachableError, RestoreError, UsageError
from cesbrfs.repo.storage import FileType
from cesbrfs.restore import (
    InPlace,
    Overwrite,
    PlannedDirectory,
    PlannedFile,
    RestorePlan,
    Target,
    ToDirectory,
    make_plan,
    select,
)
from cesbrfs.restore.dirfd import Room
from cesbrfs.restore.journal import FinishedFile, PreviousRun, key_of, node_key
from cesbrfs.restore.owners import OwnerNames
from cesbrfs.restore.patterns import Patterns
from cesbrfs.restore.plan import FILE_MODE, Extra, HardLinks, Looks
from cesbrfs.restore.planner import _Grower
from cesbrfs.restore.replaced import KeepPlan, KeptOnMount
from cesbrfs.restore.targets import Refused
from tests.support.restore_site import BACKUP, MINE, TIME_NS, VOLUME, Site

_ALL = f"/{BACKUP}/{VOLUME}"
_OWNER = (MINE["uid"], MINE["gid"])
_LINKED = {"inode": 7, "device_id": 1, "links": 2}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A repository, and a target that does not exist yet."""
    return Site(tmp_path / "target")


async def _plan(
    site: Site, *paths: str, target: Target | None = None, **options: Any
) -> RestorePlan:
    view = await site.view()
    selection = select([await view.resolve(path) for path in paths])
    return await make_plan(view, selection, target or ToDirectory(site.target), **options)


def _items(planned: RestorePlan) -> dict[str, PlannedDirectory | PlannedFile]:
    """Return what is planned by path, relative to the volume where it is in it."""
    return {os.fsdecode(i.path).removeprefix(f"{VOLUME}/"): i for i in planned.items()}


def _files(planned: RestorePlan) -> dict[str, PlannedFile]:
    return {n: file for n, file in _items(planned).items() if isinstance(file, PlannedFile)}


async def test_metadata_of_planned_files(site: Site) -> None:
    """Of all types; files with equal metadata share it, and only regular files have a size."""
    xattrs = [{"name": "user.a", "value": "YQ=="}]
    site.volume(
        site.file("one", b"12345"),
        site.file("two", b"1234567"),
        site.file("attributes", b"1", extended_attributes=xattrs),
        site.node("link", "symlink", 1 << 27 | 0o777, linktarget="one"),
        site.node("null", "chardev", 1 << 26 | 1 << 21 | 0o666, device=259),
    )
    files = _files(await _plan(site, _ALL))
    assert {name: (file.type, file.size) for name, file in files.items()} == {
        "one": ("file", 5),
        "two": ("file", 7),
        "attributes": ("file", 1),
        "link": ("symlink", 0),
        "null": ("chardev", 0),
    }
    assert {file.mtime_ns for file in files.values()} == {TIME_NS}
    assert files["one"].looks == Looks(stat.S_IFREG | 0o644, _OWNER)
    assert files["one"].looks is files["two"].looks
    assert files["attributes"].looks == Looks(
        stat.S_IFREG | 0o644, _OWNER, xattrs=((b"user.a", b"a"),)
    )
    assert files["link"].looks == Looks(stat.S_IFLNK | 0o777, _OWNER, target_bytes=3)
    assert files["null"].looks == Looks(stat.S_IFCHR | 0o666, _OWNER, rdev=259)
    assert {file.links for file in files.values()} == {None}
    assert {(file.entry, file.key) for file in files.values()} == {(None, None)}


async def test_generated_files(site: Site) -> None:
    """They have no recorded owner, and are planned with their size."""
    site.volume(site.file("a", b"1"))
    past = PreviousRun(files={b"backup.json": FinishedFile(1, 1, 1, "key")})
    planned = await _plan(site, f"/{BACKUP}/backup.json", past=past)
    (file,) = _files(planned).values()
    assert file.looks == Looks(FILE_MODE)
    assert file.size > 10
    assert file.links is None
    entry = (await (await site.view()).resolve(f"/{BACKUP}/backup.json")).entry
    assert file.key == key_of(entry)
    assert file.key != node_key(entry.node)


async def test_hard_links_are_those_of_one_snapshot(site: Site) -> None:
    """Inodes of two snapshots have nothing to do with each other."""
    nodes = [site.file(name, b"linked", **_LINKED) for name in ("a", "b")]
    site.volume(*nodes, site.file("other", b"linked", **{**_LINKED, "inode": 8}))
    site.volume(*nodes, dogu="ldap")
    planned = await _plan(site, f"/{BACKUP}/redmine", f"/{BACKUP}/ldap")
    links = {name: file.links for name, file in _files(planned).items()}
    assert None not in links.values()
    assert links["a"] is links["b"]
    assert links["ldap/volumes/files/a"] is links["ldap/volumes/files/b"]
    assert len(set(links.values())) == 3
    assert planned.bytes == 3 * len(b"linked")


async def test_directories_above_a_choice(site: Site) -> None:
    """They are planned once, without their other content, and not as chosen."""
    site.volume(
        site.directory("d", site.directory("inner", site.file("a", b"1"))),
        site.directory("e", site.file("b", b"1")),
        site.file("f", b"1"),
    )
    planned = await _plan(site, f"{_ALL}/d", f"{_ALL}/e/b")
    assert [(i.path, getattr(i, "chosen", None)) for i in planned.items()] == [
        (b"redmine", False),
        (b"redmine/volumes", False),
        (VOLUME.encode(), False),
        (f"{VOLUME}/d".encode(), True),
        (f"{VOLUME}/d/inner".encode(), True),
        (f"{VOLUME}/d/inner/a".encode(), None),
        (f"{VOLUME}/e".encode(), False),
        (f"{VOLUME}/e/b".encode(), None),
    ]
    root, *directories = planned.order
    assert (root.parts, root.chosen, root.dressed) == ((), False, False)
    assert all(directory.dressed for directory in directories)
    assert [directory.entry is not None for directory in directories] == [True] * 6
    assert (planned.directories, planned.files) == (6, 2)


async def test_a_whole_backup(site: Site) -> None:
    """The target itself is chosen."""
    site.volume(site.file("a", b"1"))
    planned = await _plan(site, f"/{BACKUP}")
    assert planned.order[0].chosen
    assert "a" in _files(planned)


async def test_a_suffix(site: Site) -> None:
    """A renamed file keeps the entry to read; names in a renamed directory are unchanged."""
    site.volume(site.file("f", b"1"), site.directory("d", site.file("g", b"1")))
    planned = await _plan(site, f"{_ALL}/f", f"{_ALL}/d", suffix=".old")
    items = _items(planned)
    assert items.keys() - {"redmine", "redmine/volumes", VOLUME} == {"f.old", "d.old", "d.old/g"}
    renamed = items["f.old"].entry
    assert renamed is not None
    assert renamed.name == b"f"
    assert items["d.old/g"].entry is None


async def test_patterns_restrict_the_plan(site: Site) -> None:
    """Directories stay only if they are included, or contain something that is."""
    site.volume(
        site.directory("d", site.file("a.txt", b"1"), site.file("b", b"1")),
        site.directory("e", site.directory("deep", site.file("b", b"1"))),
        site.directory("wanted", site.directory("empty")),
        site.directory("tmp", site.file("a.txt", b"1")),
        site.file("c.txt", b"1"),
    )
    patterns = Patterns.of(["*.txt", "wanted"], ["tmp", "c.*"])
    planned = await _plan(site, _ALL, patterns=patterns)
    assert planned.patterns is patterns
    items = _items(planned).keys() - {"redmine", "redmine/volumes", VOLUME}
    assert items == {"d", "d/a.txt", "wanted", "wanted/empty"}
    assert planned.order[-1].parent is not None
    planned = await _plan(site, _ALL, patterns=Patterns.of(exclude=["*.txt", "e"]))
    items = _items(planned).keys() - {"redmine", "redmine/volumes", VOLUME}
    assert items == {"d", "d/b", "wanted", "wanted/empty", "tmp"}
    nothing = await _plan(site, f"{_ALL}/c.txt", patterns=patterns)
    assert (nothing.files, nothing.directories) == (0, 0)


async def test_files_of_an_earlier_run(site: Site) -> None:
    """Only those that the journal names get a key, of the content and metadata to restore."""
    owned = {"user": "root", "group": "no such group", "uid": 12345, "gid": 54321}
    site.volume(site.file("a", b"1", **owned), site.file("b", b"2", **owned))
    past = PreviousRun(files={f"{VOLUME}/a".encode(): FinishedFile(1, 1, 1, "key")})
    planned = await _plan(site, _ALL, past=past)
    assert planned.past is past
    files = _files(planned)
    view = await site.view()
    node = (await view.resolve(f"{_ALL}/a")).entry.node
    assert (files["a"].key, files["b"].key) == (node_key(node), None)
    assert files["a"].looks.owner == (12345, 54321)
    owners = OwnerNames()
    planned = await _plan(site, _ALL, past=past, owners=owners)
    assert planned.owners is owners
    files = _files(planned)
    assert files["a"].key == node_key(msgspec.structs.replace(node, uid=0))
    assert files["b"].key is None
    assert files["a"].looks.owner == (0, 54321)


async def test_what_the_repository_lacks(site: Site) -> None:
    """A directory below the target that cannot be read is refused, with the path and reason."""
    site.volume(
        site.directory("lost", subtree="ee" * 32),
        site.directory("d", site.file("..", b"1"), site.file("fine", b"1")),
    )
    planned = await _plan(site, _ALL)
    reasons = {refused.path.decode(): refused.reason for refused in planned.refused}
    assert reasons.keys() == {f"{VOLUME}/lost", f"{VOLUME}/d"}
    assert "eeeeeeee" in reasons[f"{VOLUME}/lost"]
    assert reasons[f"{VOLUME}/d"] == "Cannot restore the entry '..': invalid file name."
    assert _items(planned).keys() - {"redmine", "redmine/volumes", VOLUME} == {"d", "d/fine"}


async def test_a_target_that_cannot_be_read(site: Site) -> None:
    """Without the content of the chosen backup there is no plan."""
    site.volume(site.file("a", b"1"))
    view = await site.view()
    selection = select([await view.resolve(f"/{BACKUP}")])
    for key in site.repo.storage.files:
        if key[0] is FileType.PACK:
            site.repo.storage.fail[key] = RepositoryUnreachableError("away")
    with pytest.raises(RepositoryUnreachableError, match="away"):
        await make_plan(view, selection, ToDirectory(site.target))


async def test_a_missing_part_is_refused(site: Site) -> None:
    """What the manifest lists is refused if it is not in the backup."""
    snapshot = site.volume(site.file("a", b"1"))
    site.manifest(Point("volumes", "redmine", snapshot), Point("volumes", "ldap", "ab" * 32))
    planned = await _plan(site, f"/{BACKUP}")
    assert [refused.parts for refused in planned.refused] == [(b"ldap", b"volumes")]
    with pytest.raises(RestoreError, match=r"^Cannot delete .* missing: ldap/volumes: Its snap"):
        await _plan(site, f"/{BACKUP}", delete=True)


async def test_a_missing_part_without_a_place(site: Site) -> None:
    """It is not looked for if it is not restored in place."""
    site.target.mkdir()
    snapshot = site.volume(site.file("a", b"1"))
    site.manifest(Point("volumes", "redmine", snapshot), Point("metadata", "redmine", "ab" * 32))
    planned = await _plan(site, f"/{BACKUP}", target=InPlace(site.target))
    assert planned.refused == []
    planned = await _plan(site, f"/{BACKUP}")
    assert [refused.path for refused in planned.refused] == [b"redmine/dogu.json"]


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/", b"a\0b"])
async def test_names_that_the_parser_lets_through(site: Site, name: bytes) -> None:
    """The planner never accepts a name that leads to another directory."""
    site.volume(site.file("a", b"1"))
    view = await site.view()
    entry = (await view.resolve(f"{_ALL}/a")).entry
    grower = _Grower(view, PreviousRun(), Patterns(), None)
    with pytest.raises(AssertionError):
        grower._add(PlannedDirectory(b"", None, None), name, entry)


@pytest.mark.parametrize("entries", [3, 2])
async def test_the_number_of_entries_is_limited(
    site: Site, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directories and files count, and the message has the limit."""
    site.volume(site.directory("d", site.file("a", b"1")))
    monkeypatch.setattr("cesbrfs.restore.planner.ENTRIES_MAX", entries)
    if entries == 3:
        assert (await _plan(site, _ALL)).files == 1
    else:
        with pytest.raises(RestoreError, match="contain more than 2 entries"):
            await _plan(site, _ALL)


async def test_targets_that_are_forbidden(tmp_path: Path) -> None:
    """The repository, and directories to keep out of, with their description."""
    site = Site(tmp_path / "target", local=tmp_path / "repository")
    site.volume(site.file("a", b"1"))
    inside = ToDirectory(tmp_path / "repository/new")
    with pytest.raises(UsageError, match=r"repository/new is in the repository\. Choose"):
        await _plan(site, _ALL, target=inside)
    kept = tmp_path / "kept"
    kept.mkdir()
    with pytest.raises(UsageError) as caught:
        await _plan(site, _ALL, target=ToDirectory(kept), keep_out=[kept])
    assert f"{kept} is in {kept}, which is excluded." in caught.value.message
    planned = await _plan(site, _ALL, keep_out=[kept])
    assert planned.guard.against(kept.stat()) == f"{kept}, which is excluded"
    assert planned.guard.against((tmp_path / "repository").stat()) == "the repository"
    assert not (tmp_path / "repository/new").exists()


async def test_a_plan_in_place(site: Site, tmp_path: Path) -> None:
    """Parents that are in no backup have no entry, and are those that symlinks may replace."""
    site.volume(site.directory("d", site.file("a", b"1")))
    with pytest.raises(RestoreError, match="target does not exist"):
        await _plan(site, f"/{BACKUP}", target=InPlace(site.target))
    site.target.mkdir()
    planned = await _plan(site, f"/{BACKUP}", target=InPlace(site.target))
    above = (b"var", b"lib", b"ces", b"redmine", b"volumes")
    assert planned.fixed == {above[:end] for end in range(1, 6)}
    found = {d.parts: (d.entry is None, d.chosen, d.ours) for d in planned.order}
    assert found == {
        (): (True, False, True),
        (b"var",): (True, False, True),
        (b"var", b"lib"): (True, False, True),
        (b"var", b"lib", b"ces"): (True, False, True),
        above[:4]: (False, False, True),
        above: (False, False, True),
        (*above, b"files"): (False, True, False),
        (*above, b"files", b"d"): (False, True, False),
    }
    assert [item.source for item in planned.landings] == [(b"B1", b"redmine", b"volumes", b"files")]
    assert [refused.path for refused in planned.left_out] == [b"backup.json"]
    assert (await _plan(site, _ALL)).fixed == frozenset()


async def test_a_plan_that_deletes(site: Site) -> None:
    """Only in the chosen directories; an excluded one deletes nothing."""
    snapshot = site.volume(site.directory("d", site.file("a", b"1")), site.directory("e"))
    site.manifest(Point("volumes", "redmine", snapshot))
    for name in ("d/extra", "e/extra", "extra"):
        (site.restored / name).parent.mkdir(parents=True, exist_ok=True)
        (site.restored / name).write_text("extra")
    keep = KeepPlan()
    planned = await _plan(site, f"{_ALL}/d", delete=True, keep=keep)
    assert planned.delete
    assert planned.keep is keep
    assert planned.extras == [
        Extra((*VOLUME.encode().split(b"/"), b"d", b"extra"), 5, is_directory=False)
    ]
    assert (keep.files, keep.size) == (1, 5)
    everything = await _plan(site, _ALL, delete=True)
    assert len(everything.extras) == 3
    for patterns in (Patterns.of(exclude=["d"]), Patterns.of(["no such name"])):
        nothing = await _plan(site, f"{_ALL}/d", delete=True, patterns=patterns)
        assert nothing.extras == []
    unasked = await _plan(site, _ALL)
    assert (unasked.delete, unasked.extras, unasked.keep) == (False, [], None)


def _planned(target: Path) -> RestorePlan:
    """Return a plan whose figures are all different."""
    root = PlannedDirectory(b"", None, None)
    below = PlannedDirectory(b"d\xff", root, None)
    root.directories[below.name] = below
    looks = Looks(FILE_MODE)
    root.files += [PlannedFile(root, name, "file", 1, 2, looks) for name in (b"f1", b"f2")]
    below.files.append(PlannedFile(below, b"f3", "file", 1, 2, looks))
    return RestorePlan(
        target,
        Overwrite.ALWAYS,
        [root, below],
        left_out=(Refused((b"left", b"out"), "It has no place."),),
        files=1,
        directories=2,
        bytes=3,
        existing=4,
        will_overwrite=5,
        will_skip=6,
        unchanged=7,
        done=8,
        refused=[Refused((b"d\xff", b"x"), "It is damaged.")],
        closed=[below],
        rooms={1: Room(b"/t", free=9, block=1, needed=10), 2: Room(b"/u", free=11, block=1)},
        extras=[
            Extra((b"a", b"b"), 12, is_directory=False),
            Extra((b"c",), 13, is_directory=False),
            Extra((b"e",), 0, is_directory=True),
        ],
    )


def test_a_plan_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each figure under its name, and paths in a form that JSON can hold."""
    planned = _planned(Path("/t"))
    path = {"path": r"d\xff", "path_b64": "ZP8="}
    expected: dict[str, object] = {
        "target": "/t",
        "files": 1,
        "folders": 2,
        "bytes": 3,
        "existing": 4,
        "overwritten": 5,
        "skipped": 6,
        "unchanged": 7,
        "done": 8,
        "free": 9,
        "kept": None,
        "warnings": planned.warnings,
        "closed": [path],
        "deleted": {
            "files": 2,
            "folders": 1,
            "bytes": 25,
            "paths": [{"path": "a/b"}, {"path": "c"}, {"path": "e"}],
        },
        "refused": [{"path": r"d\xff/x", "path_b64": "ZP8veA==", "error": "It is damaged."}],
        "left_out": [{"path": "left/out", "reason": "It has no place."}],
    }
    assert planned.as_json() == expected
    (warning,) = planned.warnings
    assert "10 bytes are needed in /t, and 9 are free" in warning
    planned.keep = KeepPlan(Path("/k"), mounts={1: KeptOnMount((), 14, 15)})
    expected["kept"] = {"files": 14, "bytes": 15, "directories": ["/k"]}
    assert planned.as_json() == expected
    planned.keep = KeepPlan(mounts={1: KeptOnMount((b"d\xff",), 14, 15)})
    directories = [r"/t/d\xff/.cesbr-undo"]
    expected["kept"] = {"files": 14, "bytes": 15, "directories": directories}
    assert planned.as_json() == expected
    monkeypatch.setattr("cesbrfs.restore.plan.LISTED_MAX", 1)
    expected["deleted"] = {"files": 2, "folders": 1, "bytes": 25, "paths": [{"path": "a/b"}]}
    assert planned.as_json() == expected
    planned.rooms = {}
    assert (planned.free, planned.warnings) == (None, [])


def test_items_are_in_the_order_of_directories() -> None:
    """Each directory except for the target, followed by its files."""
    planned = _planned(Path("/t"))
    assert [item.path for item in planned.items()] == [b"f1", b"f2", b"d\xff", b"d\xff/f3"]


def test_files_that_are_written_as_links() -> None:
    """All names except for the leader, once there is one."""
    directory = PlannedDirectory(b"", None, None)
    links = HardLinks()
    one, two = (
        PlannedFile(directory, name, "file", 1, 2, Looks(FILE_MODE), links) for name in (b"1", b"2")
    )
    assert not one.follows
    links.leader = one
    assert (one.follows, two.follows) == (False, True)
    assert not PlannedFile(directory, b"3", "file", 1, 2, Looks(FILE_MODE)).follows
