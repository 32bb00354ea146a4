"""restore --delete: what the backup does not have is deleted, and nothing else."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
from functools import partial
from pathlib import Path

import pytest
import trio

from cesbrfs.catalog.manifest import FailedPath, Point
from cesbrfs.errors import RestoreError, UsageError
from cesbrfs.restore import (
    InPlace,
    Overwrite,
    RestorePlan,
    RestoreReport,
    Target,
    ToDirectory,
    execute,
    make_plan,
    select,
)
from cesbrfs.restore.owners import OwnerNames
from cesbrfs.restore.patterns import Patterns
from cesbrfs.restore.replaced import KeepPlan
from cesbrfs.restore.undo import Undo
from cesbrfs.restore.undo_log import NewUndo, log_file, read_log
from tests.support.compare import differences, records
from tests.support.killed import killed_at_each_step
from tests.support.restore_site import BACKUP, VOLUME, Site

_ALL = f"/{BACKUP}/{VOLUME}"


def _back_up(site: Site) -> str:
    return site.volume(
        site.file("kept", b"kept"),
        site.directory("sub", site.file("file", b"file"), site.directory("empty")),
    )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A backup, and a target that has more than the backup."""
    made = Site(tmp_path / "target")
    made.manifest(Point("volumes", "redmine", _back_up(made)))
    _fill(made)
    return made


def _fill(site: Site) -> None:
    """Create files that the backup does not have, in and outside of the volume."""
    volume = site.restored
    (volume / "sub/old/deep").mkdir(parents=True)
    (volume / "sub/old/deep/file").write_text("deep")
    (volume / "sub/old/twin").hardlink_to(volume / "sub/old/deep/file")
    (volume / "extra").write_text("extra")
    (volume / "extra link").symlink_to("/etc/passwd")
    os.mkfifo(volume / "sub/empty.fifo")
    (volume.parent / "other").mkdir()
    (volume.parent / "other/file").write_text("other volume")
    (volume.parent / "outside").write_text("outside")
    os.setxattr(volume / "sub/old", "user.mine", b"x")
    os.utime(volume / "sub/old", ns=(1, 1))


async def _plan(
    site: Site,
    *paths: str,
    target: Target | None = None,
    keep: KeepPlan | None = None,
    **patterns: tuple[str, ...],
) -> RestorePlan:
    view = await site.view()
    selection = select([await view.resolve(path) for path in paths or (_ALL,)])
    return await make_plan(
        view,
        selection,
        target or ToDirectory(site.target),
        Overwrite.IF_CHANGED,
        delete=True,
        keep=keep,
        patterns=Patterns.of(**patterns),
    )


async def _mirror(
    site: Site, keep: KeepPlan | None = None, undo: Path | None = None
) -> RestoreReport:
    planned = await _plan(site, keep=keep)
    new = NewUndo(undo, BACKUP) if undo else None
    return await execute(await site.view(), planned, undo=new)


def _extras(planned: RestorePlan) -> set[str]:
    return {os.fsdecode(extra.path).removeprefix(VOLUME + "/") for extra in planned.extras}


_EXPECTED = {
    "extra", "extra link", "sub/old", "sub/old/deep", "sub/old/deep/file", "sub/old/twin",
    "sub/empty.fifo",
}  # fmt: skip


async def test_the_named_directory_equals_the_backup(site: Site) -> None:
    """Exactly the extra files are deleted; nothing outside of the named paths is."""
    assert _extras(await _plan(site)) == _EXPECTED
    report = await _mirror(site)
    assert (report.failed, report.deleted, report.deleted_directories) == ([], 5, 2)
    found = {str(path.relative_to(site.restored)) for path in site.restored.rglob("*")}
    assert found == {"kept", "sub", "sub/file", "sub/empty"}
    assert (site.restored.parent / "other/file").exists()
    assert (site.restored.parent / "outside").exists()
    assert _extras(await _plan(site)) == set()


async def test_sockets_stay(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """No backup has them, and a running program may listen on one."""
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(site.restored / "sub/old/deep")  # a longer path is too long for bind
        listening.bind("socket")
        await _mirror(site)
    found = {str(path.relative_to(site.restored)) for path in site.restored.rglob("*")}
    stay = {"sub/old", "sub/old/deep", "sub/old/deep/socket"}
    assert found == {"kept", "sub", "sub/file", "sub/empty"} | stay
    assert _extras(await _plan(site)) == set()


async def test_only_below_named_directories(site: Site) -> None:
    """A named file deletes nothing, a named subdirectory only its content."""
    assert _extras(await _plan(site, f"{_ALL}/kept")) == set()
    assert _extras(await _plan(site, f"{_ALL}/sub")) == {
        name for name in _EXPECTED if name.startswith("sub/")
    }
    assert _extras(await _plan(site, f"/{BACKUP}/redmine")) == _EXPECTED, "no other volume"


async def test_parents_of_backed_up_paths_are_not_mirrored(tmp_path: Path) -> None:
    """Of /etc, only what was backed up is compared: /etc/ces."""
    site = Site(tmp_path / "target")
    node = site.directory("ces", site.file("type", b"vm"))
    snapshot = site.snapshot("/etc/ces", node, "configuration")
    site.manifest(Point("configuration", None, snapshot))
    (site.target / "etc/ces").mkdir(parents=True)
    (site.target / "etc/passwd").write_text("root")
    (site.target / "etc/ces/extra").write_text("x")
    for path in ("", "/_instance", "/_instance/configuration/etc"):
        planned = await _plan(site, f"/{BACKUP}{path}", target=InPlace(site.target))
        assert [extra.path for extra in planned.extras] == [b"etc/ces/extra"], path


async def test_excluded_names_and_mounts_stay(site: Site, tmp_path: Path) -> None:
    """Names excluded now or by the backup stay, with the directories that contain them."""
    assert _extras(await _plan(site, exclude=("deep",))) == _EXPECTED - {
        "sub/old", "sub/old/deep", "sub/old/deep/file",
    }  # fmt: skip
    assert "extra" not in _extras(await _plan(site, exclude=("files/ext*",)))
    assert "extra" in _extras(await _plan(site, exclude=("sub/extra",)))
    (site.restored / "lost+found").mkdir()
    (site.restored / ".cesbr-undo").mkdir()
    assert _extras(await _plan(site)) == _EXPECTED
    other = Site(site.target)
    path = "/var/lib/ces/redmine/volumes/files"
    tree = other.repo.tree(other.repo.path(path, other.directory("files")))
    tags = [BACKUP, "kind=volumes", "dogu=redmine"]
    other.repo.snapshot(tree, [path], tags=tags, excludes=["*.fifo", "/var/**/old/deep"])
    assert _extras(await _plan(other)) == {"extra", "extra link", "sub/old/twin"}
    if os.geteuid() == 0:
        deep = site.restored / "sub/old/deep"
        await trio.run_process(["mount", "--bind", tmp_path, deep])
        try:
            assert _extras(await _plan(site)) == _EXPECTED - {
                "sub/old", "sub/old/deep", "sub/old/deep/file",
            }  # fmt: skip
        finally:
            await trio.run_process(["umount", deep])


async def test_a_backup_that_lacks_something_deletes_nothing(site: Site) -> None:
    """Damaged trees, failed paths and unreadable entries refuse the plan."""
    damaged = Site(site.target)
    lost = damaged.directory("lost") | {"subtree": "ab" * 32}
    damaged.volume(damaged.file("kept", b"kept"), lost)
    with pytest.raises(RestoreError, match="--delete"):
        await _plan(damaged)
    failed = Site(site.target)
    snapshot = failed.volume(failed.file("kept", b"kept"))
    path = f"/var/lib/ces/{VOLUME}/extra"
    failed.manifest(Point("volumes", "redmine", snapshot, failed=[FailedPath(path, "denied")]))
    with pytest.raises(RestoreError, match="denied"):
        await _plan(failed)
    unreadable = Site(site.target)
    unreadable.volume(unreadable.node("odd", "strange", 0o644))
    with pytest.raises(RestoreError, match="odd"):
        await _plan(unreadable)
    missing = Site(site.target)
    snapshot = missing.volume(missing.file("kept", b"kept"))
    missing.manifest(Point("volumes", "redmine", snapshot))
    missing.repo.forget(snapshot)
    missing.snapshot("/x", missing.file("x", b"x"), "configuration")
    with pytest.raises(RestoreError):
        await _plan(missing, f"/{BACKUP}")
    assert (site.restored / "extra").exists()


async def test_nothing_is_deleted_after_a_failure(site: Site) -> None:
    """If a file cannot be restored, what is extra stays."""
    (site.restored / "kept").mkdir()
    report = await _mirror(site)
    assert [failure.path for failure in report.failed] == [f"{VOLUME}/kept".encode()]
    assert "Nothing was deleted" in report.warnings[0]
    assert (site.restored / "extra").exists()


def test_a_killed_mirror_is_undone(site: Site, tmp_path: Path) -> None:
    """After a kill at any step, undo puts everything back."""
    file = log_file(tmp_path / "undo", "1")
    before = records(str(site.restored.parent))
    steps = 0
    work = partial(trio.run, _mirror, site, KeepPlan(), file)
    for step in killed_at_each_step(work, 2):
        steps += 1
        if file.exists():
            with Undo(read_log(file), [b""]) as undo:
                assert undo.run(undo.plan(), lambda _done, _all: None).failed == [], step
        after = records(str(site.restored.parent))
        assert differences(after, before) == [], step
        shutil.rmtree(tmp_path / "undo", ignore_errors=True)
    assert steps > 15
    with Undo(read_log(file), [b""]) as undo:
        assert undo.run(undo.plan(), lambda _done, _all: None).failed == []
    after = records(str(site.restored.parent))
    assert differences(after, before) == []
    assert (site.restored / "sub/old").stat().st_mtime_ns == 1


@pytest.fixture
def root() -> None:
    """Only root can give files away."""
    if os.geteuid():
        pytest.skip("needs root")


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("workers", [0, 2])
async def test_owners_by_name(tmp_path: Path, workers: int) -> None:
    """Names that exist here decide, others keep their numbers."""
    site = Site(tmp_path / "target", local=tmp_path / "repository")
    user = pwd.getpwnam("daemon")
    mine = {"uid": 4242, "gid": 4243}
    site.volume(
        site.file("named", b"x", user="daemon", group="daemon", **mine),
        site.file("unknown", b"x", user="nobody here", group="", **mine),
        site.directory("sub", user="daemon", group="daemon", **mine),
    )
    view = await site.view()
    selection = select([await view.resolve(_ALL)])
    target = ToDirectory(site.target)
    planned = await make_plan(view, selection, target, owners=OwnerNames())
    report = await execute(view, planned, workers=workers)
    assert report.failed == []
    found = {
        path.name: (path.stat().st_uid, path.stat().st_gid) for path in site.restored.iterdir()
    }
    theirs = user.pw_uid, user.pw_gid
    assert found == {"named": theirs, "sub": theirs, "unknown": (4242, 4243)}
    again = await make_plan(view, selection, target, Overwrite.IF_CHANGED, owners=OwnerNames())
    assert (again.unchanged, again.files) == (2, 0)


async def test_include_and_exclude(site: Site, tmp_path: Path) -> None:
    """Only what matches is restored, with its directories."""
    view = await site.view()
    selection = select([await view.resolve(_ALL)])

    async def planned(**patterns: tuple[str, ...]) -> set[str]:
        plan = await make_plan(
            view, selection, ToDirectory(tmp_path / "new"), patterns=Patterns.of(**patterns)
        )
        found = [b"/".join((*d.parts, f.name)) for d in plan.order for f in d.files]
        found += [directory.path for directory in plan.order]
        return {os.fsdecode(path).removeprefix(VOLUME).strip("/") for path in found if path}

    above = {"redmine", "redmine/volumes", ""}
    assert await planned(include=("file",)) == {*above, "sub", "sub/file"}
    assert await planned(include=("sub",)) == {*above, "sub", "sub/file", "sub/empty"}
    assert await planned(exclude=("s?b",)) == {*above, "kept"}
    assert await planned(include=("*",), exclude=("sub/file",)) == {
        *above, "kept", "sub", "sub/empty",
    }  # fmt: skip
    with pytest.raises(UsageError):
        Patterns.of(exclude=("/",))
