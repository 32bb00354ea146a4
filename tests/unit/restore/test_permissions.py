"""Restore again into read-only restored directories, as their owner without root."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cesbrfs.restore import Overwrite, RestoreReport, ToDirectory, execute, make_plan, select
from cesbrfs.restore.journal import Journal
from tests.support.restore_site import BACKUP, VOLUME, Site, as_nobody

_ALL = f"/{BACKUP}/{VOLUME}"
_GO_DIR = 1 << 31


@pytest.fixture(params=[0o555, 0o444, 0o311, 0o000], ids=oct)
def mode(request: pytest.FixtureRequest) -> int:
    """The mode of the directories."""
    return int(request.param)


@pytest.fixture
def site(mode: int) -> Iterator[Site]:
    """Two nested directories with this mode, restored once by an unprivileged user."""
    with as_nobody() as place:
        site = Site(place / "target")
        inner = site.directory("inner", site.file("b", b"2"), mode=_GO_DIR | mode)
        outer = site.directory("outer", site.file("a", b"1"), inner, mode=_GO_DIR | mode)
        site.volume(outer)
        yield site
        _open(site)


def _open(site: Site) -> None:
    for path in (site.restored / "outer", site.restored / "outer/inner"):
        path.chmod(0o700)


def _check(site: Site, mode: int) -> None:
    """Compare modes and contents with the backup."""
    outer = site.restored / "outer"
    assert stat.S_IMODE(outer.stat().st_mode) == mode
    outer.chmod(0o700)
    assert stat.S_IMODE((outer / "inner").stat().st_mode) == mode
    (outer / "inner").chmod(0o700)
    assert (outer / "a").read_bytes() == b"1"
    assert (outer / "inner/b").read_bytes() == b"2"
    assert not list(site.target.rglob(".cesbr-*"))


async def _restore(site: Site, overwrite: Overwrite, journals: Path) -> RestoreReport:
    view = await site.view()
    selection = select([await view.resolve(_ALL)])
    with Journal(journals, site.target) as journal:
        planned = await make_plan(
            view, selection, ToDirectory(site.target), overwrite, past=journal.past
        )
        journal.begin({"repository": "r"})
        return await execute(view, planned, None, journal)


@pytest.mark.parametrize("overwrite", list(Overwrite))
async def test_again(site: Site, mode: int, overwrite: Overwrite) -> None:
    """Missing and changed files are restored, and the directories keep their modes."""
    await site.restore(_ALL)
    _open(site)
    outer = site.restored / "outer"
    (outer / "a").unlink()
    if overwrite in (Overwrite.ALWAYS, Overwrite.IF_CHANGED):
        (outer / "inner/b").write_text("changed")
    else:
        (outer / "inner/b").unlink()
    for path in (outer / "inner", outer):
        path.chmod(mode)
    report = await site.restore(_ALL, overwrite=overwrite)
    assert (report.failed, report.files) == ([], 2)
    _check(site, mode)


async def test_a_plan_changes_nothing(site: Site, mode: int) -> None:
    """Inaccessible directories are reported, without changing their modes."""
    await site.restore(_ALL)
    outer = site.restored / "outer"
    before = outer.stat()
    planned = await site.plan(_ALL, overwrite=Overwrite.ALWAYS)
    after = outer.stat()
    assert (after.st_mode, after.st_ctime_ns) == (before.st_mode, before.st_ctime_ns)
    closed = [f"{VOLUME}/outer"] if mode & 0o100 == 0 else []
    assert [entry["path"] for entry in planned.as_json()["closed"]] == closed  # type: ignore[attr-defined]
    assert planned.refused == []


async def test_after_a_partial_run(site: Site, mode: int, tmp_path: Path) -> None:
    """Failed files are retried below directories that the partial run left read-only."""
    journals = site.target.parent / "journals"
    blocked = site.restored / "outer/inner/b"
    blocked.mkdir(parents=True)
    report = await _restore(site, Overwrite.ALWAYS, journals)
    assert [failure.path for failure in report.failed] == [f"{VOLUME}/outer/inner/b".encode()]
    _open(site)
    blocked.rmdir()
    for path in (blocked.parent, blocked.parent.parent):
        path.chmod(mode)
    report = await _restore(site, Overwrite.ALWAYS, journals)
    assert (report.failed, report.files, report.done) == ([], 1, 1)
    _check(site, mode)


async def test_after_a_killed_run(site: Site, mode: int) -> None:
    """A directory left writable by a killed restore gets its previous mode back."""
    journals = site.target.parent / "journals"
    await site.restore(_ALL)
    _open(site)
    outer = site.restored / "outer"
    (outer / "a").unlink()
    for path in (outer / "inner", outer):
        path.chmod(mode)
    with Journal(journals, site.target) as journal:  # the state of such a run
        journal.begin({"repository": "r"})
        journal.directory(f"{VOLUME}/outer".encode(), dressed=False, mode=mode)
        outer.chmod(mode | 0o700)
    report = await _restore(site, Overwrite.NEVER, journals)
    assert (report.failed, report.files) == ([], 1)
    _check(site, mode)


async def test_the_directory_of_somebody_else_stays_closed(site: Site) -> None:
    """The mode of other users' directories is not changed."""
    if os.getuid() != 0:
        pytest.skip("only root can give a directory away")
    await site.restore(_ALL)
    _open(site)
    outer = site.restored / "outer"
    (outer / "a").unlink()
    outer.chmod(0o555)
    os.seteuid(0)
    os.chown(outer, 12345, 12345)
    os.seteuid(65534)
    report = await site.restore(_ALL)
    assert [failure.path for failure in report.failed] == [f"{VOLUME}/outer/a".encode()]
    assert stat.S_IMODE(outer.stat().st_mode) == 0o555
    os.seteuid(0)
    os.chown(outer, 65534, 65534)
    os.seteuid(65534)
