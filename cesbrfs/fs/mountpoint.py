"""Mountpoints: what may be mounted on, and how a mount is taken away."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Final

from cesbrfs.errors import MountError
from cesbrfs.mounts import mounts, our_mounts

_UNMOUNT_SECONDS: Final = 30


def check_mountpoint(mountpoint: str, repository: str | None) -> str:
    """Return the real path of a mountpoint that can be used, or raise MountError saying why not.

    `repository` is the folder of a local one, None for any other.  A mount of ours whose process
    is gone is taken away first.
    """
    _mend(mountpoint)
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
    real = os.path.realpath(mountpoint)
    for mounted in mounts():
        if mounted.mountpoint == real:
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


def _mend(mountpoint: str) -> None:
    """Take away a mount of ours whose process died."""
    real = os.path.abspath(mountpoint)
    if not any(mounted.mountpoint == real for mounted in our_mounts()):
        return
    try:
        # Attributes may still be in the kernel's cache; opening always asks the process.
        os.close(os.open(real, os.O_RDONLY | os.O_DIRECTORY))
    except OSError as error:
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            unmount(real, lazy=True)


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
    top = os.path.abspath(mountpoint)
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
