"""Everyday programs give the same results on a mount as on the tree restored by restic."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.mounting import mounting
from tests.support.restic_repo import create

_TAR = (
    "tar --acls --xattrs --xattrs-include='*' --sort=name"
    " --format=posix --pax-option=delete=atime,delete=ctime"
)
_GIT = "git -c safe.directory='*'"


@dataclass(frozen=True)
class Trees:
    """The same files in a mount and restored by restic, and a directory for copies."""

    mounted: Path
    restored: Path
    work: Path

    def both(self, command: str) -> tuple[str, str]:
        """Return the output of a shell command in the mount and in the restored tree."""
        return run(command, self.mounted), run(command, self.restored)


def run(command: str, directory: Path) -> str:
    """Run a shell command in `directory` and return its output."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=directory, check=False, capture_output=True, text=True,
        env={**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "HOME": str(directory)},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def trees(restic_new: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trees]:
    """Text, a database, a git repository, images, links, a FIFO, attributes, ACLs and holes."""
    for program in ("git", "less", "mkfs.ext4", "setfacl", "sqlite3"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    top = tmp_path_factory.mktemp("programs")
    files = top / "var/lib/ces/redmine/volumes/files"
    (files / "plans/old").mkdir(parents=True)
    for number in range(30):
        (files / f"plans/old/plan {number}.txt").write_text(f"{number}\n" * number)
    (files / "long.txt").write_text("".join(f"{number}\n" for number in range(200_000)))
    (files / "link").symlink_to("long.txt")
    os.link(files / "long.txt", files / "plans/second name")
    os.mkfifo(files / "fifo")
    os.truncate(os.open(files / "sparse", os.O_CREAT | os.O_WRONLY), 4 << 20)
    os.setxattr(files / "long.txt", "user.colour", b"red\0blue")
    run(
        "setfacl -m u:1234:r,g:42:rw long.txt; setfacl -m d:u:1234:rx plans;"
        " git init -q code; cd code; cp -r ../plans .; git add .;"
        " git -c user.name=a -c user.email=b commit -qm first; touch untracked; cd ..;"
        " truncate -s 4M image.ext4; mkfs.ext4 -q -d plans/old image.ext4;"
        " sqlite3 data.sqlite 'create table t(a); insert into t values (1), (2);'",
        files,
    )
    repo = create(restic_new, top / "repo")
    snapshot = repo.backup(files, tags=["b1"])
    repo.run("restore", snapshot, "--sparse", "--target", top / "restored")
    work = top / "work"
    work.mkdir()
    with mounting(top) as mount:
        mounted = mount(repo.access).path / "b1/redmine/volumes/files"
        yield Trees(mounted, top / "restored" / files.relative_to("/"), work)


@pytest.mark.parametrize(
    "command",
    [
        "find . -type d -printf '%P %m %U %G %T@\\n' | sort",
        "find . ! -type d -printf '%P %y %m %n %s %U %G %l %T@\\n' | sort",
        "find . -type f -exec sha256sum {} + | sort",
        "find . -print0 | sort -z | xargs -0 getfacl --numeric",
        "find . ! -type l -print0 | sort -z | xargs -0 getfattr -d -m 'user.*'",
        f"{_TAR} -c . | sha256sum",
        "du -b plans/old/*; du -k sparse",
        "less long.txt | sha256sum; less -F link | tail -1",
        f"{_GIT} -C code status --short; {_GIT} -C code log --stat; {_GIT} -C code fsck --strict",
        "sqlite3 -readonly data.sqlite 'select sum(a) from t; pragma integrity_check'",
        "wc plans/old/*; tac long.txt | tail -3; cmp long.txt link",
    ],
    ids=[
        "directories", "files", "sha256sum", "getfacl", "getfattr", "tar", "du", "less", "git",
        "sqlite3", "wc",
    ],
)  # fmt: skip
def test_output_is_the_same(trees: Trees, command: str) -> None:
    """Programs that read print the same for both trees."""
    ours, theirs = trees.both(command)
    assert ours == theirs
    assert ours


def test_diff_finds_no_difference(trees: Trees) -> None:
    """Contents, names and links; FIFOs are always reported."""
    done = subprocess.run(
        ["diff", "-r", "--no-dereference", trees.mounted, trees.restored],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 1, lines
    assert "is a fifo while" in lines[0]


def test_git_clones(trees: Trees) -> None:
    """A repository in a mount can be cloned."""
    target = trees.work / "clone"
    run(f"{_GIT} clone -q {trees.mounted}/code {target}", trees.work)
    run(f"diff -r plans {trees.restored}/code/plans", target)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount images")
def test_loop_mount(trees: Trees) -> None:
    """An image in a mount can be mounted itself."""
    if not os.path.exists("/dev/loop-control"):
        pytest.skip("there is no /dev/loop-control")
    target = trees.work / "loop"
    target.mkdir()
    run(f"mount -o loop,ro {shlex.quote(str(trees.mounted / 'image.ext4'))} {target}", trees.work)
    try:
        run(f"diff -r --exclude=lost+found {target} {trees.mounted}/plans/old", trees.work)
    finally:
        run(f"umount {target}", trees.work)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount an overlay")
def test_overlay(trees: Trees) -> None:
    """An overlay makes a backup writable; changes stay in the upper directory."""
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        pytest.skip("the kernel has no overlayfs")
    upper, work, target = (trees.work / name for name in ("upper", "overlay-work", "merged"))
    for directory in (upper, work, target):
        directory.mkdir()
    options = f"lowerdir={trees.mounted},upperdir={upper},workdir={work}"
    run(f"mount -t overlay overlay -o {options} {target}", trees.work)
    try:
        run(
            "echo new > link; rm -r plans/old; sqlite3 data.sqlite 'insert into t values (3)'",
            target,
        )
        assert run("sqlite3 data.sqlite 'select sum(a) from t'; ls plans; cat link", target) == (
            "6\nsecond name\nnew\n"
        )
        assert shutil.copy(target / "sparse", trees.work / "copy")
    finally:
        run(f"umount {target}", trees.work)
    assert sorted(path.name for path in upper.iterdir()) == ["data.sqlite", "long.txt", "plans"]
    assert run("sqlite3 -readonly data.sqlite 'select sum(a) from t'", trees.mounted) == "3\n"
