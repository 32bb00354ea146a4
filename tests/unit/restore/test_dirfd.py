"""Open directories below the target, refuse targets, and explain errors of the target."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cesbrfs.errors import RestoreError, UsageError
from cesbrfs.restore import dirfd
from cesbrfs.restore.dirfd import (
    CACHED_DIRECTORIES,
    DirFd,
    Followed,
    ForbiddenTargets,
    Room,
    explain_flags,
    follow,
    inspect,
    listed,
    lookup,
    obstacle,
    one_file,
    open_target,
    space_warnings,
    spelled,
    tell,
)
from tests.sample.oddities import acl
from tests.support.restore_site import as_nobody

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do this")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _identity_of(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_descent_follows_no_link(tmp_path: Path) -> None:
    """The target may be a symlink; symlinks below it are not followed."""
    (tmp_path / "real/a/b").mkdir(parents=True)
    (tmp_path / "target").symlink_to("real")
    (tmp_path / "real/link").symlink_to("a")
    target = open_target(tmp_path / "target", create=True)
    try:
        with DirFd(target) as descent:
            inner = os.stat(descent.open([b"a", b"b"]))
            assert (inner.st_dev, inner.st_ino) == _identity(tmp_path / "real/a/b")
            assert os.stat(descent.open([])).st_ino == (tmp_path / "real").stat().st_ino
            for parts in ([b"link"], [b"link", b"b"]):
                with pytest.raises(OSError, match="Not a directory"):
                    descent.open(parts)
            again = os.stat(descent.open([b"a"]))
            assert (again.st_dev, again.st_ino) == _identity(tmp_path / "real/a")
    finally:
        os.close(target)


def test_new_target_is_its_owners_alone(tmp_path: Path) -> None:
    """A new target is private; an existing one keeps its mode."""
    os.close(open_target(tmp_path / "a/b/c", create=True))
    assert stat.S_IMODE((tmp_path / "a/b/c").stat().st_mode) == 0o700
    (tmp_path / "there").mkdir(mode=0o755)
    os.close(open_target(tmp_path / "there", create=True))
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o755


@pytest.mark.parametrize("target", ["kept", "kept/new", "kept/a/b/new", "link/x", "file"])
def test_targets_that_are_refused(tmp_path: Path, target: str) -> None:
    """A file, and any path in a guarded directory, even through a symlink."""
    (tmp_path / "kept/a").mkdir(parents=True)
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "file").touch()
    guard = ForbiddenTargets.of({str(tmp_path / "kept"): "the repository"})
    with pytest.raises(UsageError):
        inspect(tmp_path / target, guard)
    assert not inspect(tmp_path / "elsewhere/new", guard).exists
    assert inspect(tmp_path, guard).exists


def test_whole_devices_are_guarded(tmp_path: Path) -> None:
    """Nothing is restored to a mount of backups."""
    guard = ForbiddenTargets(devices={tmp_path.stat().st_dev: "a mount of the backups"})
    with pytest.raises(UsageError, match="mount"):
        inspect(tmp_path / "new", guard)


def test_the_nearest_directory_of_a_new_target(tmp_path: Path) -> None:
    """Device, free space and path are those of the directory in which the target will be."""
    state = inspect(tmp_path / "a/b/c", ForbiddenTargets())
    assert (state.exists, state.device) == (False, tmp_path.stat().st_dev)
    assert state.room is not None
    assert state.room.path == os.fsencode(tmp_path)
    found = os.statvfs(tmp_path)
    assert state.room.block == found.f_frsize
    assert state.room.free == pytest.approx(found.f_bavail * found.f_frsize, rel=0.1)
    assert state.room.free % found.f_frsize == 0


def test_mounts_of_backups_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mount of cesbrfs is forbidden, also if a forbidden directory does not exist."""
    device = tmp_path.stat().st_dev
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        f"36 35 {os.major(device)}:{os.minor(device)} / /mnt rw - fuse.cesbrfs cesbrfs rw\n"
    )
    monkeypatch.setattr("cesbrfs.util.mountinfo._MOUNTINFO_FILE", str(mountinfo))
    guard = ForbiddenTargets.of({str(tmp_path / "missing"): "the repository"})
    assert guard.against(tmp_path.stat()) == "a mount of the backups"
    assert guard.against(Path("/proc").stat()) is None
    mountinfo.unlink()
    assert ForbiddenTargets.of({}).against(tmp_path.stat()) is None


@pytest.mark.parametrize(("size", "taken"), [(0, 0), (1, 512), (512, 512), (513, 1024)])
def test_files_take_whole_blocks(size: int, taken: int) -> None:
    """The space of a file is rounded up."""
    assert Room(b"", free=0, block=512).rounded(size) == taken


def test_a_warning_for_each_file_system_that_is_too_small() -> None:
    """With the directory and both sizes; exactly as much as needed is enough."""
    rooms = [
        Room(b"/enough", free=2048, block=512, needed=2048),
        Room(b"/small\n", free=2048, block=512, needed=2049),
    ]
    (warning,) = space_warnings(rooms)
    assert warning == (
        "Not enough free space in the target: up to 2,049 bytes are needed in /small\\n, and 2,048"
        " are free. Free some space first."
    )


def test_names_are_looked_up_in_the_directory_itself(directory: Path, opened: int) -> None:
    """A symlink is not followed; a missing name is None."""
    (directory / "link").symlink_to("missing")
    status = lookup(opened, b"link")
    assert status is not None
    assert stat.S_ISLNK(status.st_mode)
    assert lookup(opened, b"missing") is None


def test_what_cannot_be_replaced(directory: Path) -> None:
    """A directory is no place for a file, and only a directory is one for a directory."""
    (directory / "d").mkdir()
    (directory / "f").touch()
    (directory / "l").symlink_to("d")
    d, f, link = (os.lstat(directory / name) for name in "dfl")
    assert obstacle(d, to_directory=True) is None
    assert obstacle(f, to_directory=False) is None
    assert obstacle(link, to_directory=False) is None
    moved = "Move it aside and restore again."
    assert obstacle(d, to_directory=False) == f"A directory exists in its place. {moved}"
    found = obstacle(f, to_directory=True)
    assert found == f"A file exists in the place of this directory. {moved}"
    found = obstacle(link, to_directory=True)
    assert found is not None
    assert found.startswith("A symbolic link exists in the place of this directory, and is not")


def test_links_that_may_be_followed(tmp_path: Path, directory: Path, opened: int) -> None:
    """To a directory outside all forbidden ones; not to a file, and not into a forbidden one."""
    (tmp_path / "disk/kept/inner").mkdir(parents=True)
    (tmp_path / "disk/file").touch()
    for name in ("", "kept", "kept/inner", "file", "missing"):
        (directory / (name.replace("/", "-") or "disk")).symlink_to(f"../disk/{name}")
    guard = ForbiddenTargets.of({str(tmp_path / "disk/kept"): "the repository"})
    status = follow(opened, b"disk", guard)
    assert (status.st_dev, status.st_ino) == _identity(tmp_path / "disk")
    for name, reason in (
        ("kept", f"points to {tmp_path}/disk/kept, which is the repository. Correct"),
        ("kept-inner", f"points to {tmp_path}/disk/kept/inner, which is the repository. Correct"),
        ("file", f"points to {tmp_path}/disk/file, which is not a directory. Correct"),
        ("missing", "points to: No such file or directory. Mount"),
    ):
        with pytest.raises(RestoreError) as caught:
            follow(opened, name.encode(), guard)
        assert reason in caught.value.message


def test_names_are_listed_as_bytes(directory: Path, opened: int) -> None:
    """Names that are not UTF-8 are unchanged; a directory that cannot be read has no list."""
    for name in (b"a", b"\xff", "ä".encode()):
        (directory / os.fsdecode(name)).touch()
    before = _open_descriptors()
    assert listed(opened) == {b"a", b"\xff", "ä".encode()}
    assert _open_descriptors() == before
    with as_nobody() as place:
        closed = place / "closed"
        closed.mkdir(mode=0o300)
        descriptor = os.open(closed, os.O_PATH)
        assert listed(descriptor) is None
        os.close(descriptor)


def test_another_spelling_of_a_name(
    directory: Path, opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that exists, but is not listed, is the listed name of the same file."""
    for name in ("A", "B", "C"):
        (directory / name).touch()
    assert spelled(opened, b"A") is None
    assert spelled(opened, b"missing") is None
    for stored in (b"A", b"B", b"C"):  # a path is another spelling on each file system
        assert spelled(opened, b"./" + stored) == stored
    monkeypatch.setattr(dirfd, "listed", lambda _: {b"removed after it was listed"})
    assert spelled(opened, b"A") is None
    monkeypatch.setattr(dirfd, "listed", lambda _: None)
    assert spelled(opened, b"./A") is None


@pytest.mark.parametrize(
    ("name", "other", "shown"),
    [
        (b"A", b"a", "'A' and 'a'"),
        ("ä".encode(), "a\u0308".encode(), r"'\xe4' and 'a\u0308'"),
        ("xäy".encode(), "XÄY".encode(), "'xäy' and 'XÄY'"),
    ],
)
def test_names_that_are_one_file(name: bytes, other: bytes, shown: str) -> None:
    """Names that look the same are shown with escapes."""
    said = one_file(name, other)
    assert said.startswith(f"This file system does not distinguish the names {shown}. Restore")


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "free some space and restore again"),
        (errno.EDQUOT, "raise the quota or free some space, and restore again"),
        (errno.EROFS, "choose a writable target"),
        (errno.ELOOP, "move the symbolic link aside"),
        (errno.EIO, "check the disk, and restore again"),
        (None, "check the file"),
    ],
)
def test_errors_say_what_to_do(number: int | None, hint: str) -> None:
    """An OSError becomes one sentence with a hint; one without a number is an EIO."""
    error = OSError() if number is None else OSError(number, "x")
    assert tell(error) == f"{os.strerror(number or errno.EIO)}: {hint}."


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_who_is_denied(number: int) -> None:
    """Root can only look at the mount; all others can become root."""
    error = OSError(number, "x")
    with as_nobody():
        hint = "run this command as root, or choose a target that you own"
        assert tell(error) == f"{os.strerror(number)}: {hint}."
    if os.geteuid() == 0:
        assert tell(error) == f"{os.strerror(number)}: check how its file system is mounted."


@pytest.fixture
def flagged(directory: Path) -> Iterator[Path]:
    """An immutable file, an append-only one, and a directory with a file, which is immutable."""
    (directory / "d").mkdir()
    for name in ("plain", "fixed", "log", "d/f"):
        (directory / name).touch()
    changes = {"i": ("fixed", "d"), "a": ("log",)}
    for flag, names in changes.items():
        if subprocess.run(["chattr", f"+{flag}", *names], cwd=directory, check=False).returncode:
            pytest.skip("this file system has no immutable files")
    yield directory
    for flag, names in changes.items():
        subprocess.run(["chattr", f"-{flag}", *names], cwd=directory, check=True)


@as_root
def test_flags_that_stop_even_root(flagged: Path, opened: int) -> None:
    """The error names the file or its directory, and the command that removes the flag."""
    denied = PermissionError(errno.EPERM, "Operation not permitted")
    inner = os.open(flagged / "d", os.O_PATH)
    before = _open_descriptors()
    for place, name, reason in (
        (
            opened,
            b"fixed",
            "It is immutable (see lsattr): run 'chattr -i' on it and restore again.",
        ),
        (opened, b"log", "It is append-only (see lsattr): run 'chattr -a' on it and restore"),
        (inner, b"f", "Its directory is immutable (see lsattr): run 'chattr -i' on it and"),
        (inner, b"missing", "Its directory is immutable"),
        (inner, b".", "It is immutable"),
    ):
        with pytest.raises(RestoreError) as caught:
            explain_flags(place, name, denied)
        assert caught.value.message.startswith(reason)
        assert caught.value.__cause__ is denied
        explain_flags(place, name, PermissionError(errno.EACCES, "Permission denied"))
    explain_flags(opened, b"plain", denied)
    assert _open_descriptors() == before
    os.close(inner)


@as_root
def test_flags_of_special_files_are_not_read(flagged: Path, opened: int) -> None:
    """Symlinks are not followed to an immutable file, and devices are not opened."""
    (flagged / "link").symlink_to("fixed")
    os.mknod(flagged / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mkfifo(flagged / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fsencode(f"/proc/self/fd/{opened}/socket"))
    for name in (b"link", b"device", b"fifo", b"socket"):
        explain_flags(opened, name, PermissionError(errno.EPERM, "Operation not permitted"))


def test_descriptors_are_cached(directory: Path, opened: int) -> None:
    """A directory is opened once, from its parent, and all descriptors are closed at the end."""
    (directory / "a/b/c/d/e").mkdir(parents=True)
    before = _open_descriptors()
    with DirFd(opened) as descent:
        steps = [[b"a"], [b"a", b"b"], [b"a", b"b", b"c"]]
        found = [descent.open(parts) for parts in steps]
        assert len(set(found)) == 3
        assert [descent.open(parts) for parts in steps] == found
        assert descent.open([]) == opened
        (directory / "a").rename(directory / "moved")
        assert _identity_of(descent.open([b"a", b"b", b"c", b"d", b"e"])) == _identity(
            directory / "moved/b/c/d/e"
        )
        assert len(_open_descriptors()) == len(before) + 5
    assert _open_descriptors() == before


def test_the_descriptor_of_least_recent_use_is_closed(directory: Path, opened: int) -> None:
    """The number of descriptors is limited; others are opened again."""
    names = [b"%03d" % number for number in range(CACHED_DIRECTORIES + 2)]
    for name in names:
        (directory / os.fsdecode(name)).mkdir()
    before = len(_open_descriptors())
    with DirFd(opened) as descent:
        first = descent.open(names[:1])
        for name in names[1:]:
            here = descent.open([name])
            assert _identity_of(here) == _identity(directory / os.fsdecode(name))
            assert descent.open(names[:1]) == first
        assert len(_open_descriptors()) == before + CACHED_DIRECTORIES
        for name in names:
            assert _identity_of(descent.open([name])) == _identity(directory / os.fsdecode(name))
    assert len(_open_descriptors()) == before


def test_only_a_planned_link_is_followed(tmp_path: Path, directory: Path, opened: int) -> None:
    """It must still point to the planned directory; no descriptor is left open if it does not."""
    (tmp_path / "disk/inner").mkdir(parents=True)
    (tmp_path / "other/inner").mkdir(parents=True)
    (directory / "link").symlink_to("../disk")
    followed: Followed = {(b"link",): _identity(tmp_path / "disk")}
    with DirFd(opened, followed) as descent:
        assert _identity_of(descent.open([b"link", b"inner"])) == _identity(tmp_path / "disk/inner")
    (directory / "link").unlink()
    (directory / "link").symlink_to("../other")
    before = _open_descriptors()
    with DirFd(opened, followed) as descent:
        with pytest.raises(OSError, match="Too many levels of symbolic links") as caught:
            descent.open([b"link", b"inner"])
        assert caught.value.errno == errno.ELOOP
        assert _open_descriptors() == before


def test_default_acls(directory: Path, opened: int) -> None:
    """They are read once for each directory, of a limited number of directories."""
    none = 0xFFFFFFFF
    for name in ("with", "without"):
        (directory / name).mkdir()
    entries = ((1, 7, none), (4, 5, none), (32, 5, none))
    try:
        os.setxattr(directory / "with", "system.posix_acl_default", acl(*entries))
    except OSError as error:
        pytest.skip(f"no ACLs here: {error}")
    with DirFd(opened) as descent:
        assert descent.has_default_acl([b"with"]) is True
        assert descent.has_default_acl([b"without"]) is False
        for name in ("with", "without"):
            (directory / name).rmdir()
        descent.close()
        assert descent.has_default_acl([b"with"]) is True
        assert descent.has_default_acl([b"without"]) is False
        for number in range(2 * CACHED_DIRECTORIES):
            (directory / str(number)).mkdir()
            assert not descent.has_default_acl([b"%d" % number])
            assert len(descent._default_acls) <= CACHED_DIRECTORIES
    without_acls = os.open("/proc/self", os.O_PATH)
    with DirFd(without_acls) as descent:
        assert descent.has_default_acl([b"fd"]) is False
    os.close(without_acls)
