"""Errors of one file are reported, do not affect others, and leave no temporary files."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from cesbrfs.errors import RepositoryUnreachableError, RestoreError
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.storage import FileType
from cesbrfs.restore import Overwrite, Progress, execute, files
from cesbrfs.restore.dirfd import lookup
from tests.sample.oddities import acl
from tests.support.restore_site import BACKUP, VOLUME, WRITERS, Site, as_nobody, names

_ALL = f"/{BACKUP}/{VOLUME}"
_NOBODY = 65534
_GO_SETUID = 1 << 23
_GO_DEVICE = 1 << 26 | 1 << 21

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")


@pytest.fixture(params=WRITERS)
def site(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A repository, and a target that does not exist yet."""
    return Site.by_writers(request.param, tmp_path, monkeypatch)


@pytest.fixture(params=WRITERS[:2])
def memory_site(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Site:
    """The same, with an in-memory repository."""
    return Site.by_writers(request.param, tmp_path, monkeypatch)


def _leftovers(top: Path) -> list[Path]:
    return list(top.rglob(".cesbr-*"))


async def test_lost_content_fails_alone(site: Site) -> None:
    """Files with missing blobs leave nothing behind; the rest is restored."""
    small = site.file("small", b"1")
    small["content"] = ["aa" * 32]
    large = site.file("large", *(bytes([n]) * 100_000 for n in range(1, 7)))
    large["content"][-1] = "bb" * 32
    site.volume(small, large, site.file("fine", b"3"))
    report = await site.restore(_ALL)
    failed = {failure.path.decode() for failure in report.failed}
    assert failed == {f"{VOLUME}/small", f"{VOLUME}/large"}
    assert (report.exit_code, report.files) == (3, 1)
    assert names(site.restored) == {"fine"}


async def test_damaged_content_fails_alone(site: Site) -> None:
    """A pack with flipped bits affects only its own files."""
    blob = site.repo.blob(BlobType.DATA, b"broken")
    pack, entries = site.repo.pack(blob)
    site.repo.index((pack, entries))
    raw = bytearray(site.repo.storage.files[FileType.PACK, pack])
    raw[20] ^= 1
    site.repo.storage.files[FileType.PACK, pack] = bytes(raw)
    broken = site.file("broken", b"")
    broken |= {"content": [blob.id.hex()], "size": 6}
    site.volume(broken, site.file("fine", b"1"))
    existing = site.restored / "broken"
    existing.parent.mkdir(parents=True)
    existing.write_text("live")
    report = await site.restore(_ALL, overwrite=Overwrite.ALWAYS)
    assert [failure.path.decode() for failure in report.failed] == [f"{VOLUME}/broken"]
    assert existing.read_text() == "live"
    assert names(site.restored) == {"fine", "broken"}


async def test_unreachable_repository_is_given_up(memory_site: Site) -> None:
    """Once nothing can be read, the remaining files fail without an attempt."""
    memory_site.volume(
        *(memory_site.file(f"{number:04}", b"%d" % number) for number in range(2000))
    )
    view = await memory_site.view()
    planned = await memory_site.plan(_ALL, view=view)
    error = RepositoryUnreachableError("The repository does not answer.")
    for key in memory_site.repo.storage.files:
        if key[0] is FileType.PACK:
            memory_site.repo.storage.fail[key] = error
    memory_site.repo.storage.reads.clear()
    report = await execute(view, planned)
    assert (len(report.failed), report.files) == (2000, 0)
    assert len({failure.path for failure in report.failed}) == 2000
    assert len(memory_site.repo.storage.reads) < 1000  # files that were read at the same time
    assert "Not tried" in report.failed[-1].error


async def test_backup_gone_meanwhile(memory_site: Site) -> None:
    """Generated files of a backup that was removed are reported when their turn comes."""
    snapshot = memory_site.volume(memory_site.file("a", b"1"))
    view = await memory_site.view()
    planned = await memory_site.plan(f"/{BACKUP}/backup.json", view=view)
    memory_site.repo.forget(snapshot)
    await view.backups(max_age=0)
    report = await execute(view, planned)
    assert "removed" in report.failed[0].error


async def test_a_last_check_that_fails_concerns_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With if-newer, an existing file that cannot be examined any more fails alone."""
    site = Site(tmp_path / "target")
    site.volume(*(site.file(name, b"new") for name in ("a", "b", "c")))
    site.restored.mkdir(parents=True)
    for name in ("a", "b", "c"):
        (site.restored / name).write_text("old")
        os.utime(site.restored / name, (0, 0))

    def deny(directory: int, name: bytes) -> os.stat_result | None:
        if name == b"b":
            raise PermissionError(errno.EACCES, "Permission denied")
        return lookup(directory, name)

    monkeypatch.setattr(files, "lookup", deny)
    report = await site.restore(_ALL, overwrite=Overwrite.IF_NEWER)
    assert [failure.path.decode() for failure in report.failed] == [f"{VOLUME}/b"]
    assert [(site.restored / name).read_text() for name in "abc"] == ["new", "old", "new"]
    assert not _leftovers(site.target)


async def test_target_that_cannot_be_made(site: Site, tmp_path: Path) -> None:
    """A target that became invalid is a single error."""
    site.volume(site.file("a", b"1"))
    view = await site.view()
    planned = await site.plan(_ALL, view=view)
    site.target.write_text("a file")
    with pytest.raises(RestoreError, match="target"):
        await execute(view, planned)


@pytest.mark.parametrize("large", [False, True])
async def test_cancelling_leaves_no_temporary_files(site: Site, large: bool) -> None:
    """Finished files stay, unfinished ones are removed, and directories are accessible."""
    begun = (
        [site.file("large", *(bytes([n]) * 300_000 for n in range(1, 13)))]
        if large
        else [site.file(f"{n:04}", b"%d" % n) for n in range(1000)]
    )
    site.volume(site.directory("d", *begun))
    told: list[Progress] = []
    with trio.CancelScope() as scope:

        def stop(progress: Progress) -> None:
            told.append(progress)
            scope.cancel()

        await site.restore(_ALL, on_progress=stop)
    assert scope.cancelled_caught
    assert told
    assert not _leftovers(site.target)
    found = names(site.restored / "d")
    if large:
        assert told[0].bytes > 0
        assert found == set()
    else:
        assert 0 < len(found) < 1000
    assert stat.S_IMODE((site.restored / "d").stat().st_mode) == 0o755


@pytest.fixture
def small_disk(site: Site) -> Iterator[None]:
    """Mount a file system of one MiB as the target."""
    site.target.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m", "none"]
    if subprocess.run(["mount", *options, site.target], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield
    subprocess.run(["umount", site.target], check=True)


@as_root
async def test_no_room(site: Site, small_disk: None) -> None:
    """A full disk fails the files that do not fit, with a hint, and leaves no partial files."""
    large = site.file("1 large", *(os.urandom(90_000) for _ in range(24)))
    small = [f"{number:03}" for number in range(2, 100)]
    site.volume(large, *(site.file(name, name.encode()) for name in small))
    told: list[Progress] = []
    report = await site.restore(_ALL, on_progress=told.append)
    (failure,) = report.failed
    assert failure.path.endswith(b"1 large")
    assert "free some space" in failure.error
    for name in small:  # although the large one temporarily used their space
        assert (site.restored / name).read_text() == name
    assert not _leftovers(site.target)
    assert told[-1].files == told[-1].total_files == 99
    assert all(progress.bytes <= progress.total_bytes for progress in told)


@as_root
async def test_no_room_for_anything(site: Site, small_disk: None) -> None:
    """If nothing fits, most files are not read, and everything is reported once."""
    (site.target / "full").write_bytes(bytes(1 << 20))
    site.volume(*(site.file(f"{number:04}", b"%d" % number) for number in range(2000)))
    view = await site.view()
    planned = await site.plan(_ALL, view=view)
    report = await execute(view, planned)
    assert len({failure.path for failure in report.failed}) == len(report.failed) == 2000
    assert "free some space" in report.failed[-1].error
    assert "Not tried" in report.failed[-1].error


async def test_without_root(memory_site: Site) -> None:
    """Owners and devices need root: the rest is restored without setuid, with one note."""
    theirs = {"uid": 12345, "gid": 54321}
    memory_site.volume(
        memory_site.file("program", b"run", mode=_GO_SETUID | 0o755, **theirs),
        memory_site.file("closed", b"secret", mode=0o000, **theirs),
        memory_site.node("link", "symlink", 1 << 27 | 0o777, linktarget="program", **theirs),
        memory_site.node("null", "chardev", _GO_DEVICE | 0o666, device=os.makedev(1, 3)),
        memory_site.file(
            "attributes",
            b"1",
            extended_attributes=[
                {"name": "user.a", "value": "YQ=="},
                {"name": "trusted.b", "value": "Yg=="},
            ],
        ),
    )
    with as_nobody() as place:
        memory_site.target = place / "target"
        report = await memory_site.restore(_ALL)
        program = (memory_site.restored / "program").stat()
        assert (program.st_uid, stat.S_IMODE(program.st_mode)) == (os.geteuid(), 0o755)
        assert stat.S_IMODE((memory_site.restored / "closed").stat().st_mode) == 0
        assert (memory_site.restored / "link").is_symlink()
        assert os.getxattr(memory_site.restored / "attributes", "user.a") == b"a"
        assert [failure.path.decode() for failure in report.failed] == [f"{VOLUME}/null"]
        assert "root" in report.failed[0].error
        owners = [warning for warning in report.warnings if "owner" in warning]
        assert len(owners) == 1
        assert "root" in owners[0]
        assert any("trusted.b" in warning for warning in report.warnings)
        assert not _leftovers(memory_site.target)


async def test_inherited_acl_is_not_kept(site: Site) -> None:
    """A default ACL of the target does not affect restored files."""
    site.volume(site.directory("d", site.file("a", b"1")))
    site.target.mkdir()
    none = 0xFFFFFFFF
    entries = ((1, 7, none), (2, 7, _NOBODY), (4, 5, none), (16, 7, none), (32, 5, none))
    try:
        os.setxattr(site.target, "system.posix_acl_default", acl(*entries))
    except OSError as error:
        pytest.skip(f"no ACLs here: {error}")
    (site.target / "witness").mkdir()
    assert os.listxattr(site.target / "witness") != []
    await site.restore(_ALL)
    for path in (site.restored, site.restored / "d", site.restored / "d/a"):
        assert os.listxattr(path) == []


@as_root
async def test_what_cannot_be_replaced(site: Site, tmp_path: Path) -> None:
    """A mountpoint, an immutable file and an immutable directory: the error has the cause."""
    site.volume(
        *(site.file(name, b"new") for name in ("fine", "mounted", "frozen")),
        site.directory("closed", site.file("inside", b"new")),
    )
    (site.restored / "closed").mkdir(parents=True)
    for name in ("fine", "mounted", "frozen"):
        (site.restored / name).write_bytes(b"old")
    (tmp_path / "other").write_bytes(b"old")
    with ExitStack() as stack:
        _bind(tmp_path / "other", site.restored / "mounted", stack)
        _freeze(site.restored / "frozen", stack)
        _freeze(site.restored / "closed", stack)
        report = await site.restore(_ALL, overwrite=Overwrite.ALWAYS)
        failed = {f.path.rpartition(b"/")[2]: f.error for f in report.failed}
        assert failed.keys() == {b"mounted", b"frozen", b"inside"}
        assert "unmount" in failed[b"mounted"]
        assert "It is immutable" in failed[b"frozen"]
        assert "Its directory is immutable" in failed[b"inside"]
        assert "as root" not in "".join(failed.values())
        assert (site.restored / "fine").read_bytes() == b"new"
        assert (site.restored / "mounted").read_bytes() == b"old"
        assert (site.restored / "frozen").read_bytes() == b"old"
        assert not _leftovers(site.target)


def _bind(source: Path, target: Path, stack: ExitStack) -> None:
    if subprocess.run(["mount", "--bind", source, target], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    stack.callback(lambda: subprocess.run(["umount", target], check=True))


def _freeze(path: Path, stack: ExitStack) -> None:
    if subprocess.run(["chattr", "+i", path], check=False).returncode:
        pytest.skip("this file system has no immutable files")
    stack.callback(lambda: subprocess.run(["chattr", "-i", path], check=True))


async def test_too_small_a_target_is_foreseen(site: Site) -> None:
    """The plan warns if the size exceeds the free space plus that of replaced files."""
    huge = site.file("huge", b"x")
    huge["size"] = 1 << 60
    site.volume(huge, site.file("a", b"1"))
    planned = await site.plan(_ALL)
    (warning,) = planned.warnings
    assert "Not enough free space" in warning
    assert planned.as_json()["warnings"] == [warning]
    assert (await site.plan(f"{_ALL}/a")).warnings == []
    site.restored.mkdir(parents=True)
    with (site.restored / "huge").open("wb") as file:
        file.truncate(1 << 40)
    huge["size"] = 1 << 40
    site.volume(huge, backup="B2")
    again = await site.plan(f"/B2/{VOLUME}", overwrite=Overwrite.ALWAYS)
    assert (again.will_overwrite, again.warnings) == (1, [])
