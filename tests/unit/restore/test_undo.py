"""Undo of a restore: everything is as before, also after a kill at any step."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from cesbrfs.errors import NotFoundError, RestoreError
from cesbrfs.restore import Overwrite, RestoreReport, ToDirectory, execute, make_plan, select
from cesbrfs.restore.journal import Journal
from cesbrfs.restore.journal import read as read_journal
from cesbrfs.restore.replaced import KeepPlan
from cesbrfs.restore.undo import Undo, kept_size, remove_record
from cesbrfs.restore.undo_log import (
    NewUndo,
    UndoLog,
    UndoRecord,
    find_log,
    log_file,
    new_undo_id,
    read_log,
    read_logs,
)
from cesbrfs.restore.undo_report import UndoReport
from tests.support.compare import Record, differences, records
from tests.support.killed import killed_at_each_step
from tests.support.restore_site import BACKUP, VOLUME, WRITERS, Site

_ALL = f"/{BACKUP}/{VOLUME}"
_TIME = 1_600_000_000_123_456_789


def _back_up(site: Site) -> None:
    """Back up files that replace existing ones, and new ones."""
    twin = {"inode": 5, "device_id": 1, "links": 2}
    site.volume(
        site.file("twin1", b"new twin", **twin),
        site.file("twin2", b"new twin", **twin),
        site.directory(
            "sub",
            site.file("file", b"new file"),
            site.file("large", *(bytes([n]) * 200_000 for n in range(1, 4))),
            site.node("link", "symlink", 0o777 | 1 << 27, linktarget="elsewhere"),
            mode=1 << 31 | 0o755,
        ),
        site.directory("created", site.directory("below", site.file("x", b"x"))),
        site.file("same", b"same"),
    )


def _existing(top: Path) -> None:
    """Create what exists before the restore."""
    volume = top / VOLUME
    (volume / "sub").mkdir(parents=True)
    (volume / "twin1").write_text("old twin")
    (volume / "twin2").hardlink_to(volume / "twin1")
    (volume / "other twin").hardlink_to(volume / "twin1")
    (volume / "twin1").chmod(0o4750)
    (volume / "sub/file").write_text("old file")
    (volume / "sub/file").chmod(0o604)
    os.setxattr(volume / "sub/file", "user.mine", b"kept")
    (volume / "sub/large").write_bytes(b"old" + bytes(300_000))
    (volume / "sub/link").symlink_to("old target")
    (volume / "other").write_text("not in the backup")
    for path in (*volume.rglob("*"), volume, volume.parent, volume.parent.parent):
        os.utime(path, ns=(_TIME, _TIME), follow_symlinks=False)
    (volume / "sub").chmod(0o510)
    os.setxattr(volume, "user.directory", b"mine")
    os.utime(volume, ns=(_TIME, _TIME))


def _state(top: Path) -> dict[bytes, Record]:
    found = records(str(top))
    del found[b""]
    return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A repository, and a target with existing files."""
    made = Site(tmp_path / "target")
    _back_up(made)
    return made


async def _restore(
    site: Site, directory: Path, keep: KeepPlan | None = None, undo_id: str = "1"
) -> RestoreReport:
    """Restore everything as the shell does, into the target of the site."""
    view = await site.view()
    selection = select([await view.resolve(_ALL)])
    file = log_file(directory / "undo", undo_id)
    with Journal(directory / "journals", site.target) as journal:
        planned = await make_plan(
            view,
            selection,
            ToDirectory(site.target),
            Overwrite.ALWAYS,
            past=journal.past,
            keep=keep or KeepPlan(),
        )
        journal.begin({"repository": "r"})
        return await execute(view, planned, journal=journal, undo=NewUndo(file, BACKUP))


def _record(directory: Path, undo_id: str = "1") -> UndoRecord:
    return read_log(log_file(directory / "undo", undo_id))


def _undo(directory: Path, undo_id: str = "1") -> UndoReport:
    record = _record(directory, undo_id)
    tags = read_journal(directory / "journals", record.target).tags
    with Undo(record, tags) as undo:
        return undo.run(undo.plan(), lambda _done, _total: None)


@pytest.mark.parametrize("writers", WRITERS)
async def test_everything_is_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writers: str
) -> None:
    """Content, modes, owners, times, attributes and hard links, and the same inodes."""
    site = Site.by_writers(writers, tmp_path, monkeypatch)
    _back_up(site)
    _existing(site.target)
    before = _state(site.target)
    inode = (site.restored / "twin1").stat().st_ino
    report = await _restore(site, tmp_path)
    assert (report.failed, (site.restored / "sub/file").read_text()) == ([], "new file")
    assert (site.restored / "created/below/x").exists()
    assert kept_size(_record(tmp_path))[0] == 5
    undone = await trio.to_thread.run_sync(_undo, tmp_path)
    assert (undone.failed, undone.warnings, undone.files, undone.removed) == ([], [], 5, 2)
    assert differences(_state(site.target), before) == []
    assert (site.restored / "twin1").stat().st_ino == inode
    assert not (tmp_path / "undo/1.undo").exists(), "it can be undone once"


async def test_a_new_directory_is_removed(site: Site, tmp_path: Path) -> None:
    """Undo of a restore that replaces nothing removes what it created."""
    await _restore(site, tmp_path)
    assert _record(tmp_path).empty, "no directory is left for replaced files"
    (site.restored / "mine").write_text("mine")
    (site.restored / "sub/file").write_text("changed")
    plan_of = partial(Undo, _record(tmp_path))
    with plan_of() as undo:
        planned = undo.plan()
    assert planned.changed == [(*VOLUME.encode().split(b"/"), b"sub", b"file")]
    undone = _undo(tmp_path)
    assert {path.name for path in site.restored.iterdir()} == {"mine"}
    assert [(place / "changed" / VOLUME / "sub/file").read_text() for place in undone.kept] == [
        "changed"
    ]
    assert "Directory not empty" in "".join(undone.warnings)


async def test_changed_files_are_kept(site: Site, tmp_path: Path) -> None:
    """A file that was changed after the restore is replaced, and kept; an undo happens once."""
    _existing(site.target)
    await _restore(site, tmp_path)
    (site.restored / "sub/file").write_text("changed")
    (site.restored / "twin1").unlink()
    (tmp_path / "another").write_text("another file")  # with another inode
    (tmp_path / "another").rename(site.restored / "created/below/x")
    undone = _undo(tmp_path)
    assert (undone.failed, undone.files) == ([], 5)
    assert (site.restored / "sub/file").read_text() == "old file"
    assert (site.restored / "twin1").read_text() == "old twin"
    assert (site.restored / "created/below/x").read_text() == "another file"
    (kept,) = undone.kept
    assert (kept / "changed" / VOLUME / "sub/file").read_text() == "changed"
    record = _record(tmp_path)
    assert record.undone
    with pytest.raises(NotFoundError):
        find_log(read_logs(tmp_path / "undo"), None)
    remove_record(record)
    assert not kept.exists()
    assert read_logs(tmp_path / "undo") == []


async def test_obstacles_are_reported(site: Site, tmp_path: Path) -> None:
    """What cannot be put back fails by path and stays; the next undo puts it back."""
    _existing(site.target)
    before = _state(site.target)
    await _restore(site, tmp_path)
    (site.restored / "twin2").unlink()
    (site.restored / "twin2").mkdir()
    undone = _undo(tmp_path)
    assert [failure.path for failure in undone.failed] == [f"{VOLUME}/twin2".encode()]
    (site.restored / "twin2").rmdir()
    assert _undo(tmp_path).exit_code == 0
    assert differences(_state(site.target), before) == []


async def test_kept_files_that_are_gone(site: Site, tmp_path: Path) -> None:
    """Nothing is changed; the log can be removed."""
    _existing(site.target)
    await _restore(site, tmp_path)
    restored = _state(site.target)
    record = _record(tmp_path)
    (place,) = record.places
    place.rename(tmp_path / "away")
    with pytest.raises(RestoreError, match=r"No such file or directory.*undo --remove 1"):
        _undo(tmp_path)
    (tmp_path / "away").rename(place)
    if os.geteuid() == 0:
        os.chown(place, 1, 1)
        with pytest.raises(RestoreError, match="belongs to another user"):
            _undo(tmp_path)
        os.chown(place, 0, 0)
    after = _state(site.target)
    assert after.keys() == restored.keys()
    del after[b".cesbr-undo"], restored[b".cesbr-undo"]  # its modification time
    assert differences(after, restored) == []
    shutil.rmtree(place)
    remove_record(record)
    assert read_logs(tmp_path / "undo") == []


async def test_new_attributes_of_directories_are_removed(site: Site, tmp_path: Path) -> None:
    """A directory has the attributes from before the restore, no others."""
    _existing(site.target)
    before = _state(site.target)
    await _restore(site, tmp_path)
    os.setxattr(site.restored, "user.new", b"set after the restore")
    assert _undo(tmp_path).failed == []
    assert differences(_state(site.target), before) == []


def test_ids_of_restores(tmp_path: Path) -> None:
    """A unique prefix is enough."""
    records = [UndoRecord(name, tmp_path / name) for name in ("12", "13")]
    assert find_log(records, "13") is records[1]
    assert find_log(records, None) is records[1]
    for wanted, reason in (("1", "several restores begin with '1'"), ("9", "no restore '9'")):
        with pytest.raises(NotFoundError, match=reason):
            find_log(records, wanted)


def test_logs_that_cannot_be_used(tmp_path: Path) -> None:
    """The error names the file or directory."""
    (tmp_path / "1.undo").mkdir()
    with pytest.raises(RestoreError, match=r"Cannot read the undo logs in .*Is a directory"):
        read_logs(tmp_path)
    with pytest.raises(RestoreError, match=r"Cannot write the undo log .*/1\.undo"):
        UndoLog.open(tmp_path / "1.undo")


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory of another file system."""
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    with tempfile.TemporaryDirectory(dir=shm) as made:
        yield Path(made)


async def test_on_another_file_system(site: Site, tmp_path: Path, elsewhere: Path) -> None:
    """Files are copied there and back with all attributes."""
    _existing(site.target)
    before = _state(site.target)
    await _restore(site, tmp_path, KeepPlan(elsewhere / "kept"))
    assert kept_size(_record(tmp_path))[0] == 5
    assert (elsewhere / "kept/1/replaced" / VOLUME / "sub/file").stat().st_mode & 0o777 == 0o604
    restored = _state(site.target)
    with Undo(_record(tmp_path)) as undo:
        planned = undo.plan()
        (room,) = planned.rooms.values()
        assert 300_003 <= room.needed <= planned.size + 5 * room.block
        assert planned.warnings == []
        room.free = room.needed - 1
        with pytest.raises(RestoreError, match="Not enough free space"):
            undo.run(planned, lambda _done, _total: None)
    assert differences(_state(site.target), restored) == []
    assert _undo(tmp_path).failed == []
    after = _state(site.target)
    for name in (b"twin1", b"twin2", b"other twin"):  # copies are separate files
        path = VOLUME.encode() + b"/" + name
        assert after.pop(path).content == before.pop(path).content
    assert differences(after, before) == []
    assert list((elsewhere / "kept").iterdir()) == []


def _again(site: Site, tmp_path: Path) -> None:
    """Set up the target again, without undo logs and journals."""
    for name in ("undo", "journals", "target"):
        if (tmp_path / name).exists():
            subprocess.run(["chmod", "-R", "u+rwx", tmp_path / name], check=True)
            shutil.rmtree(tmp_path / name)
    _existing(site.target)


def test_a_killed_restore_is_undone(site: Site, tmp_path: Path) -> None:
    """After a kill at any step, everything is put back; so it is if the restore was resumed."""
    _again(site, tmp_path)
    before = _state(site.target)
    steps = 0
    work = partial(trio.run, _restore, site, tmp_path)
    for step in killed_at_each_step(work, 2):
        steps += 1
        if steps % 3 == 0:
            trio.run(_restore, site, tmp_path)
            assert (site.restored / "sub/file").read_text() == "new file"
        if (tmp_path / "undo/1.undo").exists():
            assert _undo(tmp_path).failed == [], step
        assert differences(_state(site.target), before) == [], step
        _again(site, tmp_path)
    assert steps > 30


def test_a_killed_undo_continues(site: Site, tmp_path: Path) -> None:
    """After a kill at any step of an undo, the next one completes it."""
    _again(site, tmp_path)
    before = _state(site.target)

    def work() -> None:
        trio.run(_restore, site, tmp_path)
        (site.restored / "sub/file").write_text("changed")

    work()
    steps = 0
    for step in killed_at_each_step(partial(_undo, tmp_path)):
        steps += 1
        kept = [path for path in site.target.rglob("changed/**/file*") if path.is_file()]
        if (tmp_path / "undo/1.undo").exists() and not _record(tmp_path).undone:
            undone = _undo(tmp_path)
            assert undone.failed == [], step
            kept = [path for path in site.target.rglob("changed/**/file*") if path.is_file()]
        assert {path.read_text() for path in kept} == {"changed"}, step
        shutil.rmtree(site.target / ".cesbr-undo")
        assert differences(_state(site.target), before) == [], step
        _again(site, tmp_path)
        work()
    assert steps > 15


async def test_a_directory_of_another_user(site: Site, tmp_path: Path) -> None:
    """Replaced files are not kept where another user could exchange them."""
    if os.geteuid():
        pytest.skip("needs root")
    _existing(site.target)
    (site.target / ".cesbr-undo").mkdir()
    os.chown(site.target / ".cesbr-undo", 65534, 65534)
    with pytest.raises(RestoreError, match="belongs to another user"):
        await _restore(site, tmp_path)
    assert (site.restored / "sub/file").read_text() == "old file"


def test_ids_sort_by_time() -> None:
    """Restores of the same second are undone in reverse order."""
    ids = [new_undo_id() for _ in range(50)]
    assert ids == sorted(ids)
    assert {len(one) for one in ids} == {len("20261122T213000Z-7f3a9c")}
