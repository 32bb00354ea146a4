"""Resume an interrupted restore; files it has finished do not count as existing files."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from cesbrfs.errors import RestoreRunningError
from cesbrfs.restore import (
    Overwrite,
    Progress,
    RestoreReport,
    ToDirectory,
    execute,
    make_plan,
    select,
)
from cesbrfs.restore.journal import Journal, _boot, file_of, last_request, read
from tests.support.killed import killed_at_each_step
from tests.support.project import PROJECT
from tests.support.restore_site import BACKUP, VOLUME, Site

_ALL = f"/{BACKUP}/{VOLUME}"
_FILES = 300
_BLOBS = 40


def _fill(site: Site) -> Site:
    """Back up a directory with small files, hard links, and a large file."""
    small = [
        site.file(f"{n:04}", b"%d" % n, inode=n // 2 + 1, device_id=1, links=2)
        if n % 10 < 2
        else site.file(f"{n:04}", b"%d" % n)
        for n in range(_FILES)
    ]
    for n in range(1, _FILES, 10):
        small[n]["content"], small[n]["size"] = small[n - 1]["content"], small[n - 1]["size"]
    large = site.file("large", *(bytes([n]) * 300_000 for n in range(1, _BLOBS)))
    site.volume(site.directory("small", *small, mode=1 << 31 | 0o750), site.directory("z", large))
    return site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A repository, and a target that does not exist yet."""
    return _fill(Site(tmp_path / "target"))


@pytest.fixture
def journals(tmp_path: Path) -> Path:
    """The directory of the journals."""
    return tmp_path / "journals"


async def _restore(
    site: Site,
    journals: Path,
    overwrite: Overwrite = Overwrite.NEVER,
    *,
    stop: bool = False,
    kill: bool = False,
) -> RestoreReport | None:
    """Restore everything with a journal; return None if stopped after the first file."""
    view = await site.view()
    selection = select([await view.resolve(_ALL)])
    with Journal(journals, site.target) as journal:
        target = ToDirectory(site.target)
        planned = await make_plan(view, selection, target, overwrite, past=journal.past)
        journal.begin({"repository": "r", "what": _ALL})
        with trio.CancelScope() as scope:

            def told(progress: Progress) -> None:
                # Small files are complete, and the large file was started.
                if kill and progress.files and progress.bytes > 1_000_000:
                    os.kill(os.getpid(), signal.SIGKILL)
                if stop and progress.files:
                    scope.cancel()

            return await execute(view, planned, told, journal)
    return None


def _inodes(site: Site) -> dict[str, tuple[int, int]]:
    found = {p.name: p.stat() for p in site.restored.rglob("*") if p.is_file()}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


def _single(site: Site) -> list[Path]:
    """Return the restored files with a single name."""
    return sorted(p for p in site.restored.rglob("0*") if p.stat().st_nlink == 1)


def _check(site: Site) -> None:
    small = site.restored / "small"
    assert len(list(small.iterdir())) == _FILES
    assert all((small / f"{n:04}").read_bytes() == b"%d" % n for n in range(2, _FILES, 10))
    assert all((small / f"{n:04}").samefile(small / f"{n + 1:04}") for n in range(0, _FILES, 10))
    assert (site.restored / "z/large").stat().st_size == 300_000 * (_BLOBS - 1)
    assert stat.S_IMODE(small.stat().st_mode) == 0o750
    assert not list(site.target.rglob(".cesbr-*"))


@pytest.mark.parametrize("overwrite", [Overwrite.NEVER, Overwrite.ALWAYS])
async def test_interrupted(site: Site, journals: Path, overwrite: Overwrite) -> None:
    """The next run completes it, writes nothing twice, and removes the journal."""
    existing = site.restored / "small/0002"
    existing.parent.mkdir(parents=True)
    existing.write_text("mine")
    before = existing.stat().st_ino
    existing.parent.chmod(0o750)
    assert await _restore(site, journals, overwrite, stop=True) is None
    done = _inodes(site)
    del done[existing.name]
    assert 0 < len(done) < _FILES
    report = await _restore(site, journals, overwrite)
    assert report is not None
    assert not report.failed
    assert report.done >= len(done)
    assert report.skipped == (overwrite is Overwrite.NEVER)
    assert report.files + report.done + report.skipped == _FILES + 1
    after = _inodes(site)
    assert {name: after[name] for name in done} == done
    if overwrite is Overwrite.NEVER:
        assert existing.stat().st_ino == before
        existing.write_text("2")
    _check(site)
    assert os.listdir(journals) == []


async def test_changed_since(site: Site, journals: Path) -> None:
    """A restored file that was changed or moved since counts as an existing file."""
    assert await _restore(site, journals, stop=True) is None
    changed, replaced, gone = _single(site)[:3]
    changed.write_text("mine")
    replaced.rename(replaced.with_name("away"))
    replaced.write_text("mine")
    gone.unlink()
    report = await _restore(site, journals)
    assert report is not None
    assert (report.skipped, changed.read_text(), replaced.read_text()) == (2, "mine", "mine")
    assert int(gone.read_text()) == int(gone.name)


async def test_killed(site: Site, journals: Path, tmp_path: Path) -> None:
    """SIGKILL leaves a temporary file; the next run removes it and completes the restore."""
    script = (
        "import sys, trio; from pathlib import Path; from tests.support.restore_site import Site\n"
        "from tests.unit.restore.test_resume import _fill, _restore\n"
        "async def run(top):\n"
        "    await _restore(_fill(Site(top / 'target')), top / 'journals', kill=True)\n"
        "trio.run(run, Path(sys.argv[1]))\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = await trio.run_process(command, env=environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert list((site.restored / "z").glob(".cesbr-restore-*"))
    assert not (site.restored / "z/large").exists()
    foreign = site.restored / "z/.cesbr-restore-0123456789abcdef"
    foreign.write_text("of another restore, which may be alive")
    finished = {p.name for p in (site.restored / "small").iterdir() if p.name[0] != "."}
    report = await _restore(site, journals)
    assert report is not None
    assert report.done == len(finished) > 0
    assert (report.skipped, report.failed) == (0, [])
    foreign.unlink()
    _check(site)


def test_a_directory_is_completed_after_a_kill_at_any_step(tmp_path: Path) -> None:
    """A directory that a killed restore created gets its mode and time from the next one."""
    site, journals = Site(tmp_path / "target"), tmp_path / "journals"
    site.volume(site.directory("empty", mode=1 << 31 | 0o751))
    work = partial(trio.run, _restore, site, journals)
    work()
    before = os.stat(site.restored / "empty")
    steps = 0
    shutil.rmtree(site.target)
    for _ in killed_at_each_step(work, 2):
        steps += 1
        work()
        after = os.stat(site.restored / "empty")
        assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
        shutil.rmtree(site.target)
    assert steps > 5


async def test_machine_went_down(site: Site, journals: Path) -> None:
    """Files written before a system crash, which may be incomplete, are written again."""
    assert await _restore(site, journals, stop=True) is None
    known, unknown = _single(site)[:2]
    file = file_of(journals, site.target)
    lines = [line for line in file.read_text().splitlines() if unknown.name not in line]
    file.write_text("\n".join(lines).replace(_boot(), "another") + '\n["file", "x')
    assert read(journals, site.target).crashed
    for torn in (known, unknown):
        times = torn.stat()
        os.truncate(torn, 0)
        os.utime(torn, ns=(times.st_atime_ns, times.st_mtime_ns))
    report = await _restore(site, journals)
    assert report is not None
    assert (report.done, report.skipped, report.failed) == (0, 0, [])
    _check(site)


async def test_what_failed_is_tried_again(site: Site, journals: Path) -> None:
    """After a partial restore the journal is kept; the next run retries only failures."""
    blocked = site.restored / "small/0002"
    blocked.mkdir(parents=True)
    blocked.parent.chmod(0o750)
    report = await _restore(site, journals)
    assert report is not None
    assert len(report.failed) == 1
    assert last_request(journals, "r") == {"repository": "r", "what": _ALL}
    assert last_request(journals, "other") is None
    blocked.rmdir()
    report = await _restore(site, journals)
    assert report is not None
    assert (report.files, report.done, report.failed) == (1, _FILES, [])
    _check(site)
    assert last_request(journals, "r") is None


def test_one_at_a_time(journals: Path, tmp_path: Path) -> None:
    """Concurrent restores to the same target are refused, whatever path is used for it."""
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with Journal(journals, tmp_path / "target") as journal:
        with pytest.raises(RestoreRunningError, match="is running"):
            Journal(journals, tmp_path / "link")
        with Journal(journals, tmp_path / "other"):
            pass
        journal.begin({})
        (file,) = journals.iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        journal.complete()
    with Journal(journals, tmp_path / "target") as journal:
        assert journal.past.request is None
