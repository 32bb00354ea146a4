"""Mountpoints that cannot be used, and unmounting that fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cesbrfs.errors import MountError
from cesbrfs.fuse import mountpoint
from cesbrfs.fuse.mountpoint import (
    check_mountpoint,
    find_mount,
    resolve,
    set_nosymfollow,
    unmount,
)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "does not exist. Create it"),
        ("file", "is not a directory"),
        ("file/below", "cannot be used: Not a directory"),
        ("loop", "cannot be used: Too many levels of symbolic links"),
        ("repo", "overlaps the repository"),
        ("repo/data", "overlaps the repository"),
        ("link", "overlaps the repository"),
        (".", "overlaps the repository"),
        ("home", "contains the cache at"),
        ("home/.cache", "contains the cache at"),
        ("/proc", "already a mount point (of proc)"),
    ],
)
def test_what_is_no_mountpoint(tmp_path: Path, name: str, reason: str) -> None:
    """Each has its reason."""
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("repo/data")
    (tmp_path / "repo/data").mkdir(parents=True)
    (tmp_path / "home/.cache").mkdir(parents=True)
    cache = tmp_path / "home/.cache/cesbrfs"  # not created yet
    with pytest.raises(MountError) as caught:
        check_mountpoint(str(tmp_path / name), str(tmp_path / "repo"), cache)
    assert reason in caught.value.message


def test_real_paths(tmp_path: Path) -> None:
    """As `os.path.realpath` finds them."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "relative").symlink_to("a/../a/./b")
    (tmp_path / "absolute").symlink_to(tmp_path / "relative")
    for path in ("a//b/", "relative", "absolute/..", "absolute/missing", ".."):
        assert resolve(str(tmp_path / path)) == os.path.realpath(tmp_path / path)
    assert resolve("/") == "/"


def test_other_mounts(tmp_path: Path) -> None:
    """Only mounts of backups are found."""
    with pytest.raises(MountError, match="is not a mount point"):
        find_mount(str(tmp_path))
    with pytest.raises(MountError, match="not a mount of backups, but of proc"):
        find_mount("/proc")
    with pytest.raises(OSError, match=r"Invalid argument|not permitted"):
        set_nosymfollow(str(tmp_path), noexec=True)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'x: Device or resource busy' >&2; exit 1", "is in use. 'fuser -vm"),
        ("echo 'no such thing' >&2; exit 1", "could not be unmounted: no such thing."),
        ("exec /bin/sleep 60", "was not unmounted within 0.1 s. Pass --lazy."),
        (None, "fusermount3 is not installed"),
    ],
)
def test_unmounting_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, reason: str
) -> None:
    """The error has the reason of fusermount3, and what to do."""
    program = tmp_path / "fusermount3"
    if script is not None:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(mountpoint, "_UNMOUNT_SECONDS", 0.1 if "sleep" in (script or "") else 30)
    with pytest.raises(MountError) as caught:
        unmount(str(tmp_path / "mount"))
    assert reason in caught.value.message
