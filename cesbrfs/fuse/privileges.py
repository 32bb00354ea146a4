"""Drop root: run as another user from before the first byte of the repository is read."""

from __future__ import annotations

import ctypes
import os
import pwd
import stat
from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from cesbrfs.config.settings import Settings
from cesbrfs.errors import MountError, UsageError

_PR_SET_NO_NEW_PRIVS: Final = 38
_CACHES: Final = Path("/var/cache")
_OF_A_SESSION: Final = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")
_READ_BEFORE_MOUNTING: Final = ("keys", "snapshots", "index", "data")


def find_user(name: str) -> pwd.struct_passwd:
    """Return the user of this name or ID; UsageError if root cannot become this user."""
    if os.geteuid() != 0:
        raise UsageError("Only root can drop privileges. Leave out --drop-privileges.")
    try:
        user = pwd.getpwuid(int(name)) if name.isascii() and name.isdigit() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise UsageError(
            f"There is no user {name!r}. Create it, or correct --drop-privileges."
        ) from None
    if user.pw_uid == 0:
        raise UsageError("--drop-privileges needs a user other than root.")
    return user


def settings_for(settings: Settings, user: pwd.struct_passwd) -> Settings:
    """Return settings with the caches of `user`. A configured cache directory stays.

    Without a home directory, the cache is a directory below /var/cache, which is created here.
    """
    home = Path(user.pw_dir)
    if "cache_dir" in settings.sources:
        cache = settings.cache_dir
    elif _belongs_to(home, user.pw_uid):
        cache = home / ".cache/cesbrfs"
    else:
        cache = _CACHES / f"cesbrfs-{user.pw_name}"
        _create(cache, user)
    return replace(settings, cache_dir=cache, restic_cache=home / ".cache/restic")


def _belongs_to(directory: Path, uid: int) -> bool:
    try:
        status = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == uid


def _create(directory: Path, user: pwd.struct_passwd) -> None:
    try:
        directory.mkdir(mode=0o700)
        os.chown(directory, user.pw_uid, user.pw_gid)
    except FileExistsError:
        if not _belongs_to(directory, user.pw_uid):
            raise MountError(
                f"{directory} does not belong to {user.pw_name}. Set another directory with"
                " -o cache_dir=."
            ) from None
    except OSError as error:
        raise MountError(
            f"{directory} cannot be created: {error.strerror}. Set another directory with"
            " -o cache_dir=."
        ) from error


def forbid_new_privileges() -> None:
    """Make set-user-ID programs and file capabilities ineffective, for this thread and its future.

    Call it before other threads start: the kernel applies it to one thread.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise MountError(f"New privileges cannot be forbidden: {os.strerror(number)}.")


def drop(user: pwd.struct_passwd, environ: MutableMapping[str, str]) -> None:
    """Become `user` for good, with the groups of this user: all threads lose all capabilities."""
    try:
        os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    except OSError as error:
        raise MountError(
            f"Privileges cannot be dropped to {user.pw_name}: {error.strerror}. In a systemd"
            " service, allow CAP_SETUID and CAP_SETGID."
        ) from error
    for name in _OF_A_SESSION:
        environ.pop(name, None)
    environ.update(HOME=user.pw_dir, USER=user.pw_name, LOGNAME=user.pw_name)


def check_readable(repository: str, name: str) -> None:
    """Raise MountError if this process, which runs as user `name`, cannot read a local repository.

    restic gives all files of a repository the same permissions, so one of each kind is tried.
    """
    for part in _READ_BEFORE_MOUNTING:
        try:
            _read_one(Path(repository, part))
        except FileNotFoundError:
            continue  # opening the repository reports what is missing
        except OSError as error:
            raise MountError(
                f"{name} cannot read {error.filename}: {error.strerror}. Give {name} access to the"
                " repository, or leave out --drop-privileges."
            ) from error


def _read_one(directory: Path) -> None:
    """Open the first file in `directory` or in a directory in it; raises OSError."""
    with os.scandir(directory) as entries:
        for entry in entries:
            path: str | None = entry.path
            if entry.is_dir():
                with os.scandir(entry.path) as below:
                    path = next((file.path for file in below), None)
            if path is not None:
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                return
