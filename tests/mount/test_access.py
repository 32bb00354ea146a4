"""Permissions on a mount with allow_other equal those of the original files."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounting import Mount, mounting
from tests.support.restic_repo import ResticRepo, create

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")

_USERS = {
    "owner": (41000, 41000), "named": (41001, 41001), "group": (41002, 42000),
    "other": (41003, 41003),
}  # fmt: skip


def may_read(user: str, path: Path) -> bool:
    """Return whether `user` can read the file at `path`."""
    uid, gid = _USERS[user]
    done = subprocess.run(
        ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "cat", path],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 or "Permission denied" in done.stderr, done.stderr
    return done.returncode == 0


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
    top = public_dir / "originals"
    acls = {
        "mode-0644": ("644", ""), "mode-0640": ("640", ""), "mode-0600": ("600", ""),
        "mode-0000": ("000", ""), "acl-grants": ("600", "u:41001:r,m::r"),
        "acl-denies-group": ("640", "u:41001:r,g::-,m::r"),
        "acl-mask": ("640", "u:41001:rw,m::-"), "acl-other": ("644", "u:41001:-"),
    }  # fmt: skip
    for name, (mode, acl) in acls.items():
        for made in (top / "files", top / "directories" / name):
            made.mkdir(parents=True, exist_ok=True)
        file = top / "files" / name
        file.write_text("text")
        os.chown(file, 41000, 42000)
        file.chmod(int(mode, 8))
        directory = top / "directories" / name
        (directory / "file").write_text("text")
        os.chown(directory, 41000, 42000)
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
    for path in paths:
        for user in _USERS:
            expected = may_read(user, originals / path)
            assert may_read(user, copy / path) == expected, f"{user}, {path}"


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


@pytest.mark.parametrize("options", ["allow_other", "allow_other,uid=41003,gid=41003"])
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
    made = mount(repo.access, "-o", options)
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
