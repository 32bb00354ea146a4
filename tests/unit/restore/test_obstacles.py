"""The plan, existing files in the target, and changes in the target after planning."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cesbrfs.errors import UsageError
from cesbrfs.restore import Action, Overwrite, PlannedFile
from tests.support.restore_site import BACKUP, TIME_NS, VOLUME, Site, names

_ALL = f"/{BACKUP}/{VOLUME}"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A repository, and a target that does not exist yet."""
    return Site(tmp_path / "target")


def _leftovers(top: Path) -> list[Path]:
    return list(top.rglob(".cesbr-*"))


async def test_plan_writes_nothing_and_tells_all(site: Site) -> None:
    """Totals, existing files and their actions, before anything is written."""
    site.volume(
        site.file("new", b"12345"),
        site.file("there", b"123"),
        site.directory("d", site.file("deep", b"1")),
    )
    site.restored.mkdir(parents=True)
    (site.restored / "there").write_text("x")
    before = names(site.target)
    planned = await site.plan(_ALL, overwrite=Overwrite.ALWAYS)
    assert names(site.target) == before
    assert (planned.files, planned.directories, planned.bytes) == (3, 1, 9)
    assert (planned.existing, planned.will_overwrite, planned.will_skip) == (1, 1, 0)
    assert planned.free is not None
    assert planned.free > 0
    items = {item.path.decode(): item for item in planned.items()}
    assert set(items) == {
        "redmine",
        "redmine/volumes",
        *(f"{VOLUME}{path}" for path in ("", "/new", "/there", "/d", "/d/deep")),
    }
    there = items[f"{VOLUME}/there"]
    assert isinstance(there, PlannedFile)
    assert there.action is Action.OVERWRITE
    told = planned.as_json()
    assert (told["files"], told["overwritten"], told["refused"]) == (3, 1, [])


async def test_plan_of_nothing_there(site: Site) -> None:
    """Planning does not create a missing target."""
    site.volume(site.file("a", b"1"))
    planned = await site.plan(f"/{BACKUP}")
    assert (planned.existing, planned.files, planned.directories) == (0, 2, 3)
    assert not site.target.exists()


async def test_target_in_a_file_is_refused(site: Site) -> None:
    """A file is not a valid target."""
    site.volume(site.file("a", b"1"))
    site.target.write_text("a file")
    with pytest.raises(UsageError, match="not a directory"):
        await site.plan(_ALL)


async def test_names_no_directory_can_hold_fail(site: Site, tmp_path: Path) -> None:
    """Names with path traversal are reported as failures; other entries are restored."""
    site.volume(
        site.file("fine", b"1"),
        site.file("..", b"2"),
        site.file("../../../../escaped", b"3"),
        site.file("", b"4"),
    )
    report = await site.restore(_ALL)
    assert report.exit_code == 3
    assert len(report.failed) == 3
    assert {failure.path.decode() for failure in report.failed} == {VOLUME}
    assert names(site.restored) == {"fine"}
    assert not any("escaped" in path for path in names(tmp_path))


async def test_missing_tree_fails_alone(site: Site) -> None:
    """A directory with a missing tree is reported; everything else is restored."""
    site.volume(
        site.directory("lost", subtree="ee" * 32),
        site.directory("whole", site.file("a", b"1")),
    )
    report = await site.restore(_ALL)
    assert [failure.path.decode() for failure in report.failed] == [f"{VOLUME}/lost"]
    assert report.exit_code == 3
    assert names(site.restored) == {"whole", "whole/a"}


async def test_no_link_in_the_target_is_followed(site: Site, tmp_path: Path) -> None:
    """A symlink in place of a directory fails; nothing is written to its target."""
    outside = tmp_path / "outside"
    outside.mkdir()
    site.volume(site.directory("d", site.file("x", b"1")), site.file("fine", b"2"))
    site.restored.mkdir(parents=True)
    (site.restored / "d").symlink_to(outside)
    report = await site.restore(_ALL, overwrite=Overwrite.ALWAYS)
    assert [failure.path.decode() for failure in report.failed] == [f"{VOLUME}/d"]
    assert "link" in report.failed[0].error
    assert (names(outside), names(site.restored)) == (set(), {"d", "fine"})


async def test_link_put_there_meanwhile_is_not_followed(site: Site, tmp_path: Path) -> None:
    """A directory replaced by a symlink after planning does not lead out of the target."""
    outside = tmp_path / "outside"
    outside.mkdir()
    site.volume(
        site.directory("d", site.file("x", b"1"), site.directory("e", site.file("y", b"1"))),
        site.directory("f", site.file("z", b"1")),
    )
    for name in "df":
        (site.restored / name).mkdir(parents=True)

    def exchange() -> None:
        (site.restored / "d").rmdir()
        (site.restored / "d").symlink_to(outside)

    report = await site.restore(_ALL, between=exchange, overwrite=Overwrite.ALWAYS)
    assert names(outside) == set()
    failed = {f"{VOLUME}/d", f"{VOLUME}/d/x", f"{VOLUME}/d/e"}
    assert {f.path.decode() for f in report.failed} == failed
    assert (site.restored / "f/z").read_bytes() == b"1"


@pytest.mark.parametrize("overwrite", list(Overwrite))
async def test_file_put_there_meanwhile_is_kept(site: Site, overwrite: Overwrite) -> None:
    """A file that is not in the plan is not replaced: skipped by default, else a failure."""
    site.volume(site.file("a", b"from the backup"))

    def appear() -> None:
        site.restored.mkdir(parents=True)
        (site.restored / "a").write_text("live")

    report = await site.restore(_ALL, between=appear, overwrite=overwrite)
    assert (site.restored / "a").read_text() == "live"
    kept = overwrite is Overwrite.NEVER
    assert (report.skipped, len(report.failed)) == ((1, 0) if kept else (0, 1))
    assert not _leftovers(site.target)


async def test_file_made_newer_meanwhile_is_kept(site: Site) -> None:
    """With if-newer, a file changed after planning is not replaced."""
    site.volume(site.file("a", b"from the backup"))
    site.restored.mkdir(parents=True)
    (site.restored / "a").write_text("old")
    os.utime(site.restored / "a", ns=(0, 0))

    def change() -> None:
        (site.restored / "a").write_text("live")
        os.utime(site.restored / "a", ns=(TIME_NS + 1, TIME_NS + 1))

    report = await site.restore(_ALL, between=change, overwrite=Overwrite.IF_NEWER)
    assert ((site.restored / "a").read_text(), report.skipped) == ("live", 1)


async def test_target_may_be_a_link(site: Site, tmp_path: Path) -> None:
    """The target itself may be a symlink."""
    site.volume(site.file("a", b"1"))
    (tmp_path / "real").mkdir()
    site.target.symlink_to("real")
    await site.restore(_ALL)
    assert (tmp_path / "real" / VOLUME / "a").read_bytes() == b"1"


async def test_directory_put_there_meanwhile_is_kept(site: Site) -> None:
    """A directory created after planning is used and keeps its mode."""
    site.volume(site.directory("d", site.file("a", b"1")))

    def appear() -> None:
        (site.restored / "d").mkdir(parents=True)
        (site.restored / "d").chmod(0o711)

    report = await site.restore(_ALL, between=appear, overwrite=Overwrite.ALWAYS)
    assert report.failed == []
    assert (site.restored / "d/a").read_bytes() == b"1"
    assert stat.S_IMODE((site.restored / "d").stat().st_mode) == 0o711
