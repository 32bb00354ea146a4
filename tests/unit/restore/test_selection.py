"""The selection, and the target paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cesbrfs.errors import NotFoundError, RestoreError, UsageError
from cesbrfs.repo.format.model import Node
from cesbrfs.restore import InPlace, Item, Overwrite, ToDirectory, default_target, make_plan, select
from cesbrfs.restore.targets import place_on_instance
from cesbrfs.vfs.entries import Entry, ResolvedPath
from tests.support.restore_site import BACKUP, VOLUME, Site, names


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A repository, and a target that does not exist yet."""
    return Site(tmp_path / "target")


def _at(*paths: str) -> list[ResolvedPath]:
    entry = Entry(b"", Node(b"", "dir", 0o40755))
    return [
        ResolvedPath(tuple(part.encode() for part in p.split("/") if part), entry) for p in paths
    ]


def test_each_path_is_chosen_once() -> None:
    """Duplicates and paths below other ones are removed; equal prefixes are not enough."""
    selection = select(_at("/B/a/b", "/B/a", "/B/a", "/B/a b", "/B/a-b/c", "/A/x", "/B/a/b/c"))
    assert selection.items == (
        Item(b"A", (b"x",)),
        Item(b"B", (b"a",)),
        Item(b"B", (b"a b",)),
        Item(b"B", (b"a-b", b"c")),
    )
    assert selection.backups == (b"A", b"B")


@pytest.mark.parametrize("paths", [(), ("/",), ("/", "/B/a")])
def test_nothing_and_everything_are_refused(paths: Sequence[str]) -> None:
    """An empty selection and the root cannot be restored."""
    with pytest.raises(UsageError):
        select(_at(*paths))


@pytest.mark.parametrize(
    ("paths", "directory"),
    [
        (("/20261122T213000Z-7f3a9c/redmine",), "restored-20261122T213000Z-7f3a9c"),
        (("/B",), "restored-B"),
        (("/A/x", "/B/y"), "restored"),
        (("/_snapshots/1234abcd/etc", "/_snapshots/1234abcd/srv"), "restored-1234abcd"),
        (("/_snapshots/1234abcd", "/_snapshots/5678abcd"), "restored"),
        (("/_snapshots",), "restored"),
    ],
)
def test_default_target_is_named_by_what_is_restored(paths: Sequence[str], directory: str) -> None:
    """By the only backup, or by the only snapshot without a backup."""
    assert default_target(select(_at(*paths))) == Path(directory)


@pytest.mark.parametrize(
    ("shown", "place"),
    [
        ("redmine/volumes/files/a/b", "var/lib/ces/redmine/volumes/files/a/b"),
        ("_instance/configuration/etc/ces/type", "etc/ces/type"),
        ("_instance/configuration/etc", "etc"),
        ("redmine/volumes", ""),
        ("redmine", ""),
        ("_instance", ""),
        ("", ""),
    ],
)
def test_places_on_the_instance(shown: str, place: str) -> None:
    """Volumes and configuration have a location; directories above them are expanded."""
    found = place_on_instance([part.encode() for part in shown.split("/") if part])
    assert found == tuple(part.encode() for part in place.split("/") if part)


@pytest.mark.parametrize(
    "shown",
    [
        "redmine/dogu.json",
        "redmine/registry.json",
        "_instance/registry.json",
        "backup.json",
        "_snapshots",
        "_snapshots/1234abcd/etc",
        "_instance/configuration/elsewhere",
        "_instance/volumes/x",
        "odd%2Fname/volumes/x",
        "redmine/dumps",
        "redmine/dumps/postgresql.dump",
        "redmine/unheard of",
    ],
)
def test_what_has_no_place_has_a_hint(shown: str) -> None:
    """Registry data, metadata and unplaced snapshots get a reason and a remedy."""
    reason = place_on_instance([part.encode() for part in shown.split("/")])
    assert isinstance(reason, str)
    assert reason.endswith(".")


async def _instance(site: Site) -> None:
    """Back up a volume, configuration, metadata and registry data."""
    site.volume(site.file("a", b"old a"), site.directory("d", site.file("b", b"b")))
    node = site.directory("ces", site.file("type", b"vm"))
    site.snapshot("/etc/ces", node, "configuration")
    site.snapshot(
        "/tmp/redmine/dogu.json", site.file("dogu.json", b"{}"), "metadata", dogu="redmine"
    )
    site.snapshot(
        "/tmp/registry.json", site.file("registry.json", b"{}"), "registry", dogu="redmine"
    )


async def test_in_place_puts_everything_where_it_belongs(site: Site, tmp_path: Path) -> None:
    """Volumes and configuration are restored, other live files stay, the rest is skipped."""
    await _instance(site)
    root = tmp_path / "root"
    live = root / "var/lib/ces/redmine/volumes/files"
    live.mkdir(parents=True)
    (live / "a").write_text("new a")
    (live / "extra").write_text("live")
    (root / "etc").mkdir(mode=0o711)
    report = await site.restore(f"/{BACKUP}", target=InPlace(root), overwrite=Overwrite.ALWAYS)
    assert [failure.path for failure in report.failed] == [b"B1"]  # there is no manifest
    assert (live / "a").read_text() == "old a"
    assert (live / "extra").read_text() == "live"
    assert (root / "etc/ces/type").read_text() == "vm"
    assert (root / "etc").stat().st_mode & 0o777 == 0o711
    left_out = {refused.path for refused in report.left_out}
    assert left_out == {b"backup.json", b"redmine/dogu.json", b"redmine/registry.json"}
    assert not {"backup.json", "dogu.json", "registry.json"} & {Path(p).name for p in names(root)}


@pytest.mark.parametrize("path", ["redmine/dogu.json", "redmine/registry.json", "backup.json"])
async def test_in_place_refuses_what_was_named(site: Site, tmp_path: Path, path: str) -> None:
    """An explicitly selected path without a location is an error."""
    await _instance(site)
    with pytest.raises(UsageError, match="in place"):
        await site.plan(f"/{BACKUP}/{VOLUME}", f"/{BACKUP}/{path}", target=InPlace(tmp_path))
    assert not any(name.startswith("var") for name in names(tmp_path))


async def test_in_place_takes_one_backup(site: Site, tmp_path: Path) -> None:
    """Two backups of the same location cannot both be restored."""
    site.volume(site.file("a", b"1"))
    site.volume(site.file("a", b"2"), backup="B2")
    with pytest.raises(UsageError, match="one backup"):
        await site.plan("/B1", "/B2", target=InPlace(tmp_path))


async def test_in_place_needs_the_root(site: Site, tmp_path: Path) -> None:
    """A missing root directory is not created."""
    site.volume(site.file("a", b"1"))
    with pytest.raises(RestoreError, match="--root"):
        await site.plan("/B1", target=InPlace(tmp_path / "missing"))


async def test_in_place_refuses_snapshots_of_no_backup(site: Site, tmp_path: Path) -> None:
    """Their location on the instance is unknown."""
    loose = site.repo.snapshot(site.repo.tree(site.file("a", b"1")), ["/a"])
    with pytest.raises(UsageError, match="--target"):
        await site.plan(f"/_snapshots/{loose[:8]}/a", target=InPlace(tmp_path))


async def test_several_backups_lie_side_by_side(site: Site) -> None:
    """With more than one backup, each has a separate directory."""
    site.volume(site.file("a", b"1"))
    site.volume(site.file("a", b"2"), backup="B2")
    report = await site.restore(f"/B1/{VOLUME}/a", f"/B2/{VOLUME}")
    assert report.files == 2
    assert (site.target / "B1" / VOLUME / "a").read_bytes() == b"1"
    assert (site.target / "B2" / VOLUME / "a").read_bytes() == b"2"


async def test_a_snapshot_of_no_backup_is_restored_below_its_id(site: Site) -> None:
    """The path contains the short ID of the snapshot."""
    tree = site.repo.tree(site.directory("srv", site.file("a", b"1")))
    loose = site.repo.snapshot(tree, ["/srv"])
    await site.restore(f"/_snapshots/{loose[:8]}/srv/a")
    assert (site.target / loose[:8] / "srv/a").read_bytes() == b"1"


async def test_a_choice_that_is_gone_is_told(site: Site) -> None:
    """A backup removed between selection and planning is an error message, not a crash."""
    snapshot = site.volume(site.file("a", b"1"))
    view = await site.view()
    located = [await view.resolve(f"/{BACKUP}/{VOLUME}/a")]
    site.repo.forget(snapshot)
    with pytest.raises(NotFoundError, match="any more"):
        await make_plan(await site.view(), select(located), ToDirectory(site.target))
