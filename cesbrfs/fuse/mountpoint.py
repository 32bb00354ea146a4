"""Check mountpoints, repair dead mounts, and unmount."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shlex
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Final

from cesbrfs.errors import MountError
from cesbrfs.util.environment import public_environment
from cesbrfs.util.mountinfo import OUR_TYPE, Mounted, mounts, our_mounts

_UNMOUNT_SECONDS: Final = 30
_MOST_LINKS: Final = 40
"""As many as the kernel follows in a path."""

# Flags of mount(2).
MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
_MS_REMOUNT: Final = 32
MS_NOSYMFOLLOW: Final = 256
_MS_BIND: Final = 4096


def check_mountpoint(mountpoint: str, repository: str | None, cache_dir: Path) -> str:
    """Return the real path of a usable mountpoint; MountError otherwise.

    `repository` is the directory of a local repository, None for a remote one. A dead mount of ours
    is unmounted first.
    """
    _mend(mountpoint)
    real = resolve(mountpoint)
    try:
        status = os.stat(mountpoint)
    except FileNotFoundError:
        raise MountError(
            f"The mount point {mountpoint} does not exist. Create it with 'mkdir'."
        ) from None
    except OSError as error:
        raise MountError(
            f"The mount point {mountpoint} cannot be used: {error.strerror}."
        ) from error
    if not stat.S_ISDIR(status.st_mode):
        raise MountError(f"The mount point {mountpoint} is not a directory.")
    for mounted in mounts():
        # An automounter's mount waits for this one.
        if mounted.mountpoint == real and mounted.fstype != "autofs":
            raise MountError(
                f"{mountpoint} is already a mount point (of {mounted.fstype}). Unmount it with"
                f" 'fusermount3 -u {mountpoint}', or choose another one."
            )
    if repository is not None:
        _check_apart(mountpoint, real, repository)
    # The mount would wait for itself as soon as it used its cache.
    if Path(os.path.realpath(cache_dir)).is_relative_to(real):
        raise MountError(
            f"The mount point {mountpoint} contains the cache at {cache_dir}. Choose another"
            " directory, or pass -o cache_dir=DIR."
        )
    return real


def _check_apart(mountpoint: str, real: str, repository: str) -> None:
    """Refuse a mount over or inside the repository."""
    directory = os.path.realpath(repository)
    if Path(real).is_relative_to(directory) or Path(directory).is_relative_to(real):
        raise MountError(
            f"The mount point {mountpoint} overlaps the repository at {repository}. Choose another"
            " directory."
        )


def resolve(path: str) -> str:
    """Return the real path of a mountpoint without touching mounts of ours, which may be dead.

    Unlike ``os.path.realpath`` it assumes that a mountpoint of ours is a directory.
    """
    ours = {mounted.mountpoint for mounted in our_mounts()}
    pending = os.path.join(os.getcwd(), path).split("/")[::-1]
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
    """Unmount a mount of ours whose process died."""
    real = resolve(mountpoint)
    if not any(mounted.mountpoint == real for mounted in our_mounts()):
        return
    try:
        # Attributes may be cached by the kernel; opening always reaches the process.
        os.close(os.open(real, os.O_RDONLY | os.O_DIRECTORY))
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            unmount(real, lazy=True)


def set_nosymfollow(mountpoint: str, *, noexec: bool) -> None:
    """Remount `mountpoint` with ``nosymfollow``, which libfuse does not know; raises OSError."""
    flags = _MS_REMOUNT | _MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOSYMFOLLOW
    flags |= MS_NOEXEC if noexec else 0
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", os.fsencode(mountpoint), None, ctypes.c_ulong(flags), None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def find_mount(path: str) -> Mounted:
    """Return the mount of ours on `path`; MountError if there is none."""
    real = resolve(path)
    found: Mounted | None = None
    for mounted in mounts():
        if mounted.mountpoint == real:
            found = mounted  # the last one covers the others
    if found is None:
        raise MountError(f"{path} is not a mount point. 'cesbr status' lists the mounts.")
    if found.fstype != OUR_TYPE:
        raise MountError(
            f"{path} is not a mount of backups, but of {found.fstype}. 'cesbr status' lists the"
            " mounts."
        )
    return found


def unmount(mountpoint: str, *, lazy: bool = False) -> None:
    """Unmount with fusermount3; MountError names the processes that keep it busy."""
    program = shutil.which("fusermount3")
    if program is None:
        raise MountError("fusermount3 is not installed. Install the package fuse3.")
    try:
        done = subprocess.run(
            [program, "-uz" if lazy else "-u", "--", mountpoint],
            check=False,
            capture_output=True,
            text=True,
            env=public_environment(os.environ),
            timeout=_UNMOUNT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise MountError(
            f"{mountpoint} was not unmounted within {_UNMOUNT_SECONDS} s. Pass --lazy."
        ) from None
    if done.returncode == 0:
        return
    if users := busy_processes(mountpoint):
        raise MountError(f"{mountpoint} is in use by {', '.join(users)}. End them, or pass --lazy.")
    if os.strerror(errno.EBUSY) in done.stderr:
        raise MountError(
            f"{mountpoint} is in use. 'fuser -vm {shlex.quote(mountpoint)}' as root shows by what;"
            " end it, or pass --lazy."
        )
    mounted_by = {mounted.user for mounted in our_mounts() if mounted.mountpoint == mountpoint}
    if os.geteuid() and mounted_by and os.geteuid() not in mounted_by:
        raise MountError(f"{mountpoint} was mounted by another user. Unmount it as that user.")
    raise MountError(f"{mountpoint} could not be unmounted: {done.stderr.strip()}.")


def busy_processes(mountpoint: str) -> list[str]:
    """Return the processes with an open file or their working directory below `mountpoint`."""
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
