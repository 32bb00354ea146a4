"""Mountpoints: what may be mounted on, and how a mount is taken away."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Final

from cesbrfs.errors import MountError
from cesbrfs.util.mountinfo import mounts, our_mounts

_UNMOUNT_SECONDS: Final = 30
_MOST_LINKS: Final = 40
"""As many as the kernel follows in a path."""

# Flags of mount(2).
_MS_RDONLY: Final = 1
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MS_NOEXEC: Final = 8
_MS_REMOUNT: Final = 32
_MS_NOSYMFOLLOW: Final = 256
_MS_BIND: Final = 4096


def check_mountpoint(mountpoint: str, repository: str | None) -> str:
    """Return the real path of a mountpoint that can be used, or raise MountError saying why not.

    `repository` is the folder of a local one, None for any other.  A mount of ours whose process
    is gone is taken away first.
    """
    _mend(mountpoint)
    real = resolve(mountpoint)
    try:
        status = os.stat(mountpoint)
    except FileNotFoundError:
        raise MountError(
            f"The mountpoint {mountpoint} does not exist; make it with 'mkdir'."
        ) from None
    except OSError as error:
        raise MountError(
            f"The mountpoint {mountpoint} cannot be used: {error.strerror}."
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise MountError(f"The mountpoint {mountpoint} is not a folder; choose a folder.")
    for mounted in mounts():
        # What an automounter has there waits for this very mount.
        if mounted.mountpoint == real and mounted.fstype != "autofs":
            raise MountError(
                f"{mountpoint} is already a mountpoint (of {mounted.fstype}); unmount it with"
                f" 'fusermount3 -u {mountpoint}' or choose another."
            )
    if repository is not None:
        _check_apart(mountpoint, real, repository)
    return real


def _check_apart(mountpoint: str, real: str, repository: str) -> None:
    """Refuse a mount that would hide the repository, or lie within it."""
    folder = os.path.realpath(repository)
    if Path(real).is_relative_to(folder) or Path(folder).is_relative_to(real):
        raise MountError(
            f"The mountpoint {mountpoint} overlaps the repository at {repository}; choose a folder"
            " apart from it."
        )


def resolve(path: str) -> str:
    """Return the real path of a mountpoint, without asking a mount of ours, which may be dead.

    Unlike ``os.path.realpath`` it takes a mountpoint of ours for a directory, unseen.
    """
    ours = {mounted.mountpoint for mounted in our_mounts()}
    pending = os.path.abspath(path).split("/")[::-1]
    real = ""
    links = 0
    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            real = real.rpartition("/")[0]
            continue
        below = f"{real}/{part}"
        target = None
        if below not in ours and links < _MOST_LINKS:
            with contextlib.suppress(OSError):
                target = os.readlink(below)
        if target is None:
            real = below
            continue
        links += 1
        real = "" if target.startswith("/") else real
        pending += target.split("/")[::-1]
    return real or "/"


def _mend(mountpoint: str) -> None:
    """Take away a mount of ours whose process died."""
    real = resolve(mountpoint)
    if not any(mounted.mountpoint == real for mounted in our_mounts()):
        return
    try:
        # Attributes may still be in the kernel's cache; opening always asks the process.
        os.close(os.open(real, os.O_RDONLY | os.O_DIRECTORY))
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            unmount(real, lazy=True)


def set_nosymfollow(mountpoint: str, *, noexec: bool) -> None:
    """Remount `mountpoint` with ``nosymfollow``, which libfuse does not know; raises OSError."""
    flags = _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOSYMFOLLOW
    flags |= _MS_NOEXEC if noexec else 0
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(mountpoint), None, ctypes.c_ulong(flags), None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unmount(mountpoint: str, *, lazy: bool = False) -> None:
    """Unmount with fusermount3; MountError says who keeps it busy."""
    program = shutil.which("fusermount3")
    if program is None:
        raise MountError("fusermount3 is not installed; install the package fuse3.")
    done = subprocess.run(
        [program, "-uz" if lazy else "-u", "--", mountpoint],
        check=False,
        capture_output=True,
        text=True,
        timeout=_UNMOUNT_SECONDS,
    )
    if done.returncode == 0:
        return
    users = busy_processes(mountpoint)
    if users:
        raise MountError(
            f"{mountpoint} is in use by {', '.join(users)}; end them, or unmount it lazily."
        )
    raise MountError(f"{mountpoint} could not be unmounted: {done.stderr.strip()}.")


def busy_processes(mountpoint: str) -> list[str]:
    """Name the processes that have a file or their working folder below `mountpoint`."""
    top = resolve(mountpoint)
    found: list[str] = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        process = f"/proc/{pid}"
        try:
            links = [f"{process}/cwd", f"{process}/root"]
            links += [f"{process}/fd/{number}" for number in os.listdir(f"{process}/fd")]
        except OSError:  # ended, or another user's
            continue
        if any(_points_below(link, top) for link in links):
            found.append(f"{_command(process)} ({pid})")
    return found


def _points_below(link: str, top: str) -> bool:
    try:
        target = os.readlink(link)
    except OSError:
        return False
    return target == top or target.startswith(f"{top}/")


def _command(process: str) -> str:
    try:
        return Path(process, "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "process"
