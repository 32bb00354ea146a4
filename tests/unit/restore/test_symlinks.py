"""In place: symlinks above a volume are followed, as in a backup; no others are."""

from __future__ import annotations

from pathlib import Path

import pytest

from cesbrfs.catalog.manifest import Point
from cesbrfs.restore import InPlace, Overwrite, RestorePlan, execute
from tests.support.restore_site import BACKUP, Site, names

_ABOVE = ("var", "var/lib", "var/lib/ces", "var/lib/ces/redmine", "var/lib/ces/redmine/volumes")
_VOLUME = "var/lib/ces/redmine/volumes/files"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A volume with a directory, the instance's configuration, and a live instance."""
    site = Site(tmp_path / "root")
    volume = site.volume(site.file("a", b"old"), site.directory("d", site.file("b", b"old")))
    node = site.directory("ces", site.file("type", b"old"))
    configuration = site.snapshot("/etc/ces", node, "configuration")
    site.manifest(
        Point("volumes", "redmine", volume, 6), Point("configuration", None, configuration, 3)
    )
    live = site.target / _VOLUME
    (live / "d").mkdir(parents=True)
    (site.target / "etc/ces").mkdir(parents=True)
    for path in (live / "a", live / "d/b", site.target / "etc/ces/type"):
        path.write_text("new")
    return site


def _move(site: Site, path: str) -> Path:
    """Move a directory of the instance elsewhere, and replace it with a symlink."""
    moved = site.target.parent / "disk/moved"
    moved.parent.mkdir()
    (site.target / path).rename(moved)
    (site.target / path).symlink_to(moved)
    return moved


async def _plan(site: Site) -> RestorePlan:
    return await site.plan(
        f"/{BACKUP}", target=InPlace(site.target), overwrite=Overwrite.IF_CHANGED
    )


@pytest.mark.parametrize("moved", [*_ABOVE, "etc"])
async def test_what_was_moved_is_followed(site: Site, moved: str) -> None:
    """Files are restored to the target of the link, and the link is kept."""
    _move(site, moved)
    report = await execute(await site.view(), await _plan(site))
    assert report.failed == []
    for path in (f"{_VOLUME}/a", f"{_VOLUME}/d/b", "etc/ces/type"):
        assert (site.target / path).read_text() == "old"
    assert (site.target / moved).is_symlink()


@pytest.mark.parametrize("moved", [_VOLUME, f"{_VOLUME}/d", "etc/ces"])
async def test_a_volume_or_below_is_not_followed(site: Site, moved: str) -> None:
    """A link there is refused with a hint, and nothing is written to its target."""
    there = _move(site, moved)
    planned = await _plan(site)
    report = await execute(await site.view(), planned)
    assert [failure.path.decode() for failure in report.failed] == [moved]
    assert "bind mount" in report.failed[0].error
    assert {path.read_text() for path in there.rglob("*") if path.is_file()} == {"new"}


async def test_below_a_target_nothing_is_followed(site: Site, tmp_path: Path) -> None:
    """With --target the directory names of the instance have no special meaning."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    target = tmp_path / "target"
    target.mkdir()
    (target / "redmine").symlink_to(elsewhere)
    site.target = target
    report = await site.restore(f"/{BACKUP}/redmine")
    assert [failure.path for failure in report.failed] == [b"redmine"]
    assert names(elsewhere) == set()


async def test_a_link_to_nothing(site: Site) -> None:
    """The disk with the volumes is not mounted: refused, and nothing is created."""
    moved = _move(site, "var/lib/ces")
    moved.rename(moved.with_name("gone"))
    report = await execute(await site.view(), await _plan(site))
    assert [failure.path for failure in report.failed] == [b"var/lib/ces"]
    assert "Mount or create it" in report.failed[0].error
    assert not moved.exists()
    assert (site.target / "etc/ces/type").read_text() == "old"


async def test_a_link_into_what_is_kept_out_of(site: Site) -> None:
    """A link to the repository, or to a directory inside it, is refused."""
    from cesbrfs.restore import make_plan, select

    moved = _move(site, "var/lib/ces")
    view = await site.view()
    planned = await make_plan(
        view,
        select([await view.resolve(f"/{BACKUP}")]),
        InPlace(site.target),
        Overwrite.ALWAYS,
        keep_out=[moved.parent],
    )
    assert [refused.path for refused in planned.refused] == [b"var/lib/ces"]
    assert "is excluded" in planned.refused[0].reason


async def test_a_link_that_was_changed_after_the_plan(site: Site) -> None:
    """A location that is not in the plan is not written to."""
    _move(site, "var/lib/ces")
    elsewhere = site.target.parent / "elsewhere"
    (elsewhere / "redmine/volumes/files").mkdir(parents=True)
    planned = await _plan(site)
    link = site.target / "var/lib/ces"
    link.unlink()
    link.symlink_to(elsewhere)
    report = await execute(await site.view(), planned)
    files = "var/lib/ces/redmine/volumes/files"
    failed = {files, f"{files}/a", f"{files}/d", f"{files}/d/b"}
    assert {failure.path.decode() for failure in report.failed} == failed
    assert not any(path.is_file() for path in elsewhere.rglob("*"))
    assert (site.target / "etc/ces/type").read_text() == "old"
