"""Caches, refusals and errors when a mount becomes another user."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from cesbrfs.config.settings import Flags, load
from cesbrfs.errors import MountError, UsageError
from cesbrfs.fuse import privileges
from cesbrfs.fuse.privileges import check_readable, drop, find_user, settings_for
from tests.support.rights import without_rights


def user(home: Path) -> pwd.struct_passwd:
    """Describe a user with our ID, so that root is not needed."""
    return pwd.struct_passwd(("mounter", "x", os.getuid(), os.getgid(), "", str(home), "/bin/sh"))


def test_the_cache_is_in_a_home_of_the_user(tmp_path: Path) -> None:
    """Unless a cache directory is configured."""
    settings = settings_for(load(Flags(), {}), user(tmp_path))
    assert settings.cache_dir == tmp_path / ".cache/cesbrfs"
    assert settings.restic_cache == tmp_path / ".cache/restic"
    configured = load(Flags(cache_dir="/configured"), {})
    assert settings_for(configured, user(tmp_path)).cache_dir == Path("/configured")


def test_the_cache_of_a_user_without_a_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is created for the user below /var/cache, and used again."""
    monkeypatch.setattr(privileges, "_CACHES", tmp_path)
    expected = tmp_path / "cesbrfs-mounter"
    for home in (tmp_path / "missing", Path("/dev/null")):
        assert settings_for(load(Flags(), {}), user(home)).cache_dir == expected
        assert expected.stat().st_mode & 0o777 == 0o700
    expected.rmdir()
    expected.touch()
    with pytest.raises(MountError, match="cesbrfs-mounter does not belong to mounter"):
        settings_for(load(Flags(), {}), user(tmp_path / "missing"))
    monkeypatch.setattr(privileges, "_CACHES", tmp_path / "missing")
    with pytest.raises(MountError, match="cannot be created: No such file or directory"):
        settings_for(load(Flags(), {}), user(tmp_path / "missing"))


def test_only_root_can_drop_privileges(tmp_path: Path) -> None:
    """The error says so, and the environment stays."""
    environ = {"HOME": "before"}
    with without_rights():
        with pytest.raises(UsageError, match="Only root"):
            find_user("nobody")
        with pytest.raises(MountError, match="CAP_SETUID"):
            drop(user(tmp_path), environ)
    assert environ == {"HOME": "before"}


def test_missing_parts_are_reported_by_the_repository(tmp_path: Path) -> None:
    """An empty directory is readable; so are directories of packs without packs."""
    check_readable(str(tmp_path), "mounter")
    (tmp_path / "data/00").mkdir(parents=True)
    check_readable(str(tmp_path), "mounter")
