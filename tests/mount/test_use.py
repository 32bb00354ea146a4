"""Use a mount with system tools: cp, rsync, tar, find, grep, du and df."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.test_life import wait_until
from tests.sample.instance import Instance
from tests.support.compare import differences, records
from tests.support.mounting import Mount
from tests.support.restic_repo import ResticRepo, create

FILES = "b1/redmine/volumes/files"
TAR = "--xattrs --xattrs-include=*"


@pytest.fixture(scope="module")
def sample(
    make_instance: Callable[[Path], Instance], tmp_path_factory: pytest.TempPathFactory
) -> Instance:
    """The tiny sample instance."""
    return make_instance(tmp_path_factory.mktemp("use") / "instance")


@pytest.fixture(scope="module")
def repo(sample: Instance, restic_new: Path) -> ResticRepo:
    """A repository with b1, a restic backup of redmine's files."""
    made = create(restic_new, sample.repository, password=sample.key)
    made.backup(sample.volume("redmine", "files"), tags=["b1"])
    return made


@pytest.mark.parametrize(
    "command",
    [
        "cp -a {source} {target}",
        "rsync -aHAX {source}/ {target}/",
        "mkdir {target}; tar {tar} -C {source} -c . | tar {tar} --same-owner -xp -C {target}",
    ],
    ids=["cp", "rsync", "tar"],
)
def test_copies_are_identical(
    repo: ResticRepo, mount: Callable[..., Mount], tmp_path: Path, command: str
) -> None:
    """Copies by cp, rsync and tar equal the files in the mount."""
    source = mount(repo.access).path / FILES
    target = tmp_path / "copy"
    subprocess.run(["sh", "-ec", command.format(source=source, target=target, tar=TAR)], check=True)
    ours, copied = records(str(source)), records(str(target))
    # The tools themselves cannot copy times this far from 1970.
    far = [path for path, record in ours.items() if abs(record.mtime_ns) >= 1 << 62]
    for path in far:
        del ours[path], copied[path]
    assert not (found := differences(ours, copied)), "\n".join(found)


def test_searching_and_measuring(
    repo: ResticRepo, mount: Callable[..., Mount], sample: Instance
) -> None:
    """find, grep and du print the same for the mount as for the live files."""
    shown, live = mount(repo.access).path / FILES, sample.volume("redmine", "files")

    def output(command: str, directory: Path) -> bytes:
        return subprocess.run(
            ["sh", "-c", f"cd {directory} && {command} | LC_ALL=C sort -z"],
            check=True,
            capture_output=True,
        ).stdout

    for command in (
        "find . ! -type s -printf '%P %y %m %U %G\\0'",
        "grep -rlZ a . --devices=skip",
        "find . -type f -print0 | LC_ALL=C sort -z | du -0b --files0-from=-",
    ):
        assert output(command, shown) == output(command, live), command


def test_nothing_can_be_changed(repo: ResticRepo, mount: Callable[..., Mount]) -> None:
    """Each write operation fails with EROFS."""
    top = mount(repo.access).path
    file = next(p for p in (top / FILES).rglob("*") if p.is_file() and not p.is_symlink())
    attempts: list[Callable[[], object]] = [
        (top / "new").mkdir,
        (top / FILES / "new").touch,
        file.unlink,
        lambda: file.rename(file.with_name("other")),
        lambda: file.chmod(0o600),
        lambda: os.truncate(file, 0),
        lambda: os.setxattr(file, "user.x", b"y"),
    ]
    for attempt in attempts:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what counts
            attempt()
        assert caught.value.errno == errno.EROFS


def test_options(repo: ResticRepo, mount: Callable[..., Mount]) -> None:
    """owner_root, uid= and gid= replace owners; noxattr disables extended attributes."""
    plain = mount(repo.access).path / FILES
    root = mount(repo.access, "-o", "owner_root").path / FILES
    other = mount(repo.access, "-o", "uid=7,gid=8,noxattr").path / FILES
    names = sorted(p.name for p in plain.iterdir())
    assert sorted(p.name for p in root.iterdir()) == names
    for name in names:
        assert (root / name).lstat().st_uid == (root / name).lstat().st_gid == 0
        assert ((other / name).lstat().st_uid, (other / name).lstat().st_gid) == (7, 8)
    with_xattr = [path for path, record in records(str(plain)).items() if record.xattrs]
    assert with_xattr
    for path in with_xattr:
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what counts
            os.listxattr(os.path.join(os.fsencode(other), path), follow_symlinks=False)
        assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_other_users_need_allow_other(repo: ResticRepo, mount: Callable[..., Mount]) -> None:
    """Another user can list the mount only with allow_other."""

    def list_as_nobody(directory: Path) -> int:
        return subprocess.run(
            ["setpriv", "--reuid", "65534", "--clear-groups", "ls", directory],
            check=False,
            capture_output=True,
        ).returncode

    private, public = mount(repo.access).path, mount(repo.access, "-o", "allow_other").path
    for directory in (private, *private.parents):
        if directory != Path("/") and not os.path.ismount(directory):
            directory.chmod(directory.stat().st_mode | 0o011)
    assert list_as_nobody(private) != 0
    assert list_as_nobody(public) == 0


def test_df_reports_the_repository_size(repo: ResticRepo, mount: Callable[..., Mount]) -> None:
    """The size is not zero, and no space is available."""
    status = os.statvfs(mount(repo.access).path)
    assert status.f_blocks > 0
    assert status.f_bavail == 0


def test_backups_appear_disappear_and_survive_a_prune(
    restic_new: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """Without a remount, new backups appear, pruned ones disappear, others stay readable."""
    repo = create(restic_new, tmp_path / "repo")
    file = tmp_path / "var/lib/ces/ldap/volumes/db/data"
    file.parent.mkdir(parents=True)
    file.write_bytes(os.urandom(100_000))
    first = repo.backup(file.parent, tags=["b1"])
    top = mount(repo.access).path
    assert (top / "b1/ldap/volumes/db/data").read_bytes() == file.read_bytes()
    file.write_bytes(os.urandom(100_000))
    repo.backup(file.parent, tags=["b2"])
    wait_until(lambda: "b2" in os.listdir(top))
    wait_until(lambda: os.readlink(top / "latest") == "b2")
    repo.run("forget", first, "--prune")
    wait_until(lambda: "b1" not in os.listdir(top))
    wait_until(lambda: not (top / "b1").exists())
    assert (top / "latest/ldap/volumes/db/data").read_bytes() == file.read_bytes()


def test_a_damaged_pack_affects_only_its_own_files(
    restic_new: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """A flipped bit causes EIO for its file, never wrong data; other files are readable."""
    repo = create(restic_new, tmp_path / "repo")
    files = tmp_path / "var/lib/ces/ldap/volumes/db"
    files.mkdir(parents=True)
    (files / "damaged").write_bytes(os.urandom(100_000))
    repo.backup(files, tags=["b1"])
    (pack,) = [
        p for p in (repo.directory / "data").rglob("*") if p.is_file() and p.stat().st_size > 50_000
    ]
    pack.chmod(0o600)
    with pack.open("r+b") as raw:
        raw.seek(5000)
        byte = raw.read(1)
        raw.seek(5000)
        raw.write(bytes((byte[0] ^ 1,)))
    (files / "intact").write_text("fine\n")
    repo.backup(files, tags=["b2"])
    made = mount(repo.access)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is what counts
        (made.path / "b2/ldap/volumes/db/damaged").read_bytes()
    assert caught.value.errno == errno.EIO
    assert (made.path / "b2/ldap/volumes/db/intact").read_text() == "fine\n"
    assert "Run 'cesbr check" in made.log.read_text()
