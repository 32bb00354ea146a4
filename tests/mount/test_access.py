"""Permissions on a mount with allow_other equal those of the original files."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.mounting import Mount, mounting
from tests.support.restic_repo import ResticRepo, create

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")

_USERS = {
    "owner": (41000, 41000), "named": (41001, 41001), "group": (41002, 42000),
    "other": (41003, 41003),
}  # fmt: skip


_SHIFT = 2000


_READ = """
for file in "$@"; do
    if message=$(cat "$file" 2>&1 >/dev/null); then printf '%s\\0' "$file"
    else case $message in *"Permission denied"*) ;; *) echo "$message" >&2; exit 1 ;; esac; fi
done
"""


def readable(user: str, top: Path, paths: Sequence[Path], shift: int = 0) -> set[Path]:
    """Return which files below `top` a user can read; `shift` is added to its IDs."""
    uid, gid = (number + shift for number in _USERS[user])
    command = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "sh", "-c", _READ]
    done = subprocess.run([*command, "sh", *(top / path for path in paths)],
        check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    return {Path(os.fsdecode(name)).relative_to(top) for name in done.stdout.split(b"\0")[:-1]}


def may_read(user: str, path: Path) -> bool:
    """Return whether `user` can read the file at `path`."""
    return bool(readable(user, path.parent, [Path(path.name)]))


@pytest.fixture
def public_dir() -> Iterator[Path]:
    """A directory accessible to all users, unlike pytest's tmp_path (0700)."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def mount(public_dir: Path) -> Iterator[Callable[..., Mount]]:
    """Mount a repository below `public_dir`."""
    with mounting(public_dir) as start:
        yield start


@pytest.fixture
def originals(public_dir: Path) -> Path:
    """Files with different modes, and with ACLs that grant or deny access."""
    return make_files(public_dir / "originals")


def make_files(top: Path, shift: int = 0) -> Path:
    """Make these files; `shift` is added to all IDs."""
    acls = {
        "mode-0644": ("644", ""), "mode-0640": ("640", ""), "mode-0600": ("600", ""),
        "mode-0000": ("000", ""), "acl-grants": ("600", f"u:{41001 + shift}:r,m::r"),
        "acl-denies-group": ("640", f"u:{41001 + shift}:r,g::-,m::r"),
        "acl-mask": ("640", f"u:{41001 + shift}:rw,m::-"),
        "acl-other": ("644", f"u:{41001 + shift}:-"),
    }  # fmt: skip
    for name, (mode, acl) in acls.items():
        for made in (top / "files", top / "directories" / name):
            made.mkdir(parents=True, exist_ok=True)
        file = top / "files" / name
        file.write_text("text")
        os.chown(file, 41000 + shift, 42000 + shift)
        file.chmod(int(mode, 8))
        directory = top / "directories" / name
        (directory / "file").write_text("text")
        os.chown(directory, 41000 + shift, 42000 + shift)
        directory.chmod(int(mode, 8) | (int(mode, 8) & 0o444) >> 2)
        if acl:
            subprocess.run(["setfacl", "-m", acl, file], check=True)
            subprocess.run(["setfacl", "-m", acl.replace(":r", ":rx"), directory], check=True)
    return top


@pytest.mark.parametrize("options", ["allow_other", "allow_other,noxattr"])
def test_permissions_are_those_of_the_original(
    options: str, originals: Path, restic_new: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """Each user can read the same files as in the original, ACLs included."""
    repo = create(restic_new, tmp_path / "repo")
    repo.backup(originals.name, tags=["b1"], cwd=originals.parent)
    made = mount(repo.access, "-o", options)
    (copy,) = (made.path / "b1/_snapshots").glob(f"*/{originals.name}")
    paths = [path.relative_to(originals) for path in sorted(originals.rglob("*")) if path.is_file()]
    assert len(paths) == 16
    for user in _USERS:
        expected = readable(user, originals, paths)
        assert readable(user, copy, paths) == expected, user


def test_masks_and_id_map_act_like_chmod_and_chown(
    originals: Path,
    public_dir: Path,
    restic_new: Path,
    mount: Callable[..., Mount],
    tmp_path: Path,
) -> None:
    """Each user can read the same files as after chmod and chown, ACLs included."""
    repo = create(restic_new, tmp_path / "repo")
    repo.backup(originals.name, tags=["b1"], cwd=public_dir)
    changed = make_files(public_dir / "changed", _SHIFT)
    for path in changed.rglob("*"):
        path.chmod(path.stat().st_mode & ~(0o036 if path.is_dir() else 0o037))
    ids = tmp_path / "ids"
    ids.write_text(f"# all test users\n41000:{41000 + _SHIFT}:1001\n0:0\n")
    made = mount(repo.access, "-o", f"allow_other,umask=37,dmask=036,idmap={ids}")
    (copy,) = (made.path / "b1/_snapshots").glob(f"*/{originals.name}")
    assert (copy.stat().st_uid, copy.stat().st_gid) == (0, 0)
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o541
    for path in sorted(changed.rglob("*")):
        ours = copy / path.relative_to(changed)
        one, two = path.stat(), ours.stat()
        assert (one.st_mode, one.st_uid, one.st_gid) == (two.st_mode, two.st_uid, two.st_gid), path
        assert acl_of(path) == acl_of(ours)
    paths = [path.relative_to(changed) for path in changed.rglob("*") if path.is_file()]
    for user in _USERS:
        expected = readable(user, changed, paths, _SHIFT)
        assert readable(user, copy, paths, _SHIFT) == expected, user
    assert len(readable("owner", copy, paths, _SHIFT)) > 1


def acl_of(path: Path) -> str:
    """Return the ACL of a file as text with numeric IDs."""
    command = ["getfacl", "--omit-header", "--numeric", "--absolute-names", str(path)]
    return subprocess.run(command, check=True, capture_output=True).stdout.decode()


def test_without_allow_other_only_the_mounting_user_reads(
    originals: Path, restic_new: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """Without allow_other the kernel checks no modes and refuses other users."""
    repo = create(restic_new, tmp_path / "repo")
    repo.backup(originals.name, tags=["b1"], cwd=originals.parent)
    made = mount(repo.access)
    with open(f"/proc/{made.process.pid}/mountinfo", encoding="utf-8") as lines:
        (line,) = (line for line in lines if f" {made.path} " in line)
    assert "default_permissions" not in line
    assert not any(may_read(user, made.path / "b1/backup.json") for user in _USERS)


def tagged(repo: ResticRepo, name: str, kind: str, dogu: str | None) -> None:
    """Back up registry data or a dump like `cesbr backup`: from stdin, with tags."""
    tags = ["b1", f"kind={kind}", *([f"dogu={dogu}"] if dogu else [])]
    for tag in tags:
        assert tag
    repo.backup(tags=tags, stdin=(name, b"{}"))


@pytest.mark.parametrize(
    "options",
    ["allow_other", "allow_other,uid=41003,gid=41003", "allow_other,idmap={ids},umask=022"],
)
def test_only_the_owner_reads_secrets(
    options: str, restic_new: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """Other users cannot read registry data and dumps at any path of the mount."""
    repo = create(restic_new, tmp_path / "repo")
    volume = tmp_path / "var/lib/ces/redmine/volumes/dumps"  # a volume may have this name
    volume.mkdir(parents=True)
    (volume / "mine").write_text("text")
    repo.backup(volume.parent, tags=["b1", "kind=volumes", "dogu=redmine"])
    tagged(repo, "/registry.json", "registry", None)
    tagged(repo, "/registry.json", "registry", "redmine")
    tagged(repo, "/postgresql.dump", "dump", "redmine")
    repo.backup(tags=["kind=registry"], stdin=("/registry.json", b"{}"))  # belongs to no backup
    ids = tmp_path / "ids"
    ids.write_text("0:41003\n")
    made = mount(repo.access, "-o", options.format(ids=ids))
    secret = [
        path
        for path in made.path.rglob("*")
        if path.is_file() and path.name in ("registry.json", "postgresql.dump")
    ]
    assert {str(path.relative_to(made.path)) for path in secret} >= {
        "b1/_instance/registry.json", "b1/redmine/registry.json",
        "b1/redmine/dumps/postgresql.dump",
    }  # fmt: skip
    assert any(path.is_relative_to(made.path / "_snapshots") for path in secret)
    versions = made.path / "_versions"
    below = [path for path in versions.rglob("*") if path.is_file()]
    mine = [path for path in below if path.parent.name == "mine"]
    assert (len(below), len(mine)) == (4, 1)
    for path in (*secret, *(path for path in below if path not in mine)):
        assert not may_read("other", path), path
        assert path.read_bytes() == b"{}"
    assert may_read("other", made.path / "b1/redmine/volumes/dumps/mine")
    assert may_read("other", mine[0])
