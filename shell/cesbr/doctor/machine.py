"""Check what this machine provides: restic, FUSE, the cache directory, and free space."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

from cesbr.doctor.finding import Finding, State, error, failure, in_thread, ok, skipped, warning
from cesbr.ui import humanize
from cesbrfs.config.settings import Settings
from cesbrfs.errors import CesbrError
from cesbrfs.repo.location import local_directory
from cesbrfs.restic import find_restic, read_version

RESTIC: Final = "restic"
FUSE: Final = "FUSE"
CACHE: Final = "cache"
REPOSITORY_SPACE: Final = "space, repository"
CACHE_SPACE: Final = "space, cache"
_DEVICE: Final = Path("/dev/fuse")
_FUSE_CONF: Final = Path("/etc/fuse.conf")
_MEASURE_SECONDS: Final = 5.0
_LEAST: Final = 64 << 20
"""Bytes of free space below which nothing useful can be written."""
_LOW: Final = 0.05


async def check_restic(configured: str | None) -> Finding:
    """Check that restic is installed, and its version."""
    try:
        path = await find_restic(configured)
        return ok(RESTIC, f"{await read_version(path)} ({path})")
    except CesbrError as problem:
        finding = failure(RESTIC, problem, State.WARNING)
        return warning(
            RESTIC, f"{finding.found}; reading and restoring work without it", finding.action
        )


async def check_fuse() -> Finding:
    """Check what a mount needs."""
    return await in_thread(_fuse)


def _fuse() -> Finding:
    missing, actions = [], []
    if problem := _device_problem():
        missing.append(f"{_DEVICE} cannot be opened ({problem})")
        actions.append("load the kernel module 'fuse', or allow the device in this container")
    if shutil.which("fusermount3") is None:
        missing.append("fusermount3 is not installed")
        actions.append("install the package fuse3")
    if importlib.util.find_spec("pyfuse3") is None:
        missing.append("the Python package pyfuse3 is not installed")
        actions.append("install cesbrfs with the extra 'mount'")
    if missing:
        what = f"{', '.join(missing)}; the shell works without it"
        action = " and ".join(actions)
        return warning(FUSE, what, f"To mount, {action}")
    text = f"{_DEVICE} can be opened, fusermount3 is installed"
    if os.geteuid() == 0:
        return ok(FUSE, f"{text}; root may mount with allow_other")
    allowed = "allows" if _allows_other() else "does not allow"
    return ok(FUSE, f"{text}; {_FUSE_CONF} {allowed} allow_other (user_allow_other)")


def _device_problem() -> str | None:
    try:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as problem:
        return problem.strerror
    return None


def _allows_other() -> bool:
    try:
        text = _FUSE_CONF.read_text(errors="replace")
    except OSError:
        return False
    return re.search(r"^\s*user_allow_other\b", text, re.MULTILINE) is not None


async def check_cache(directory: Path) -> Finding:
    """Check that the cache directory can be written, and measure it."""
    return await in_thread(lambda: _cache(directory))


def _cache(directory: Path) -> Finding:
    existing = _existing(directory)
    try:
        if existing != directory and not os.access(existing, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as problem:
        return warning(
            CACHE,
            f"{directory} cannot be written ({problem.strerror}); everything is slower without it",
            "Correct its owner, or set 'cache_dir' to another directory",
        )
    if existing != directory:
        return ok(CACHE, f"{directory} does not exist yet and can be created")
    size, complete = _measure(directory)
    least = "" if complete else "at least "
    return ok(CACHE, f"{directory} can be written and has {least}{humanize.size(size)}")


def _measure(directory: Path) -> tuple[int, bool]:
    """Return the bytes on disk below `directory`, and whether there was time for all of it."""
    end = time.monotonic() + _MEASURE_SECONDS
    size = 0
    for parent, _, names in os.walk(directory):
        if time.monotonic() > end:
            return size, False
        for name in names:
            with contextlib.suppress(OSError):  # evicted in the meantime
                size += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return size, True


def _existing(path: Path) -> Path:
    """Return `path`, or its nearest parent directory that exists."""
    return next((each for each in (path, *path.parents) if each.is_dir()), Path("/"))


async def check_cache_space(settings: Settings) -> Finding:
    """Check the free space for the cache."""
    return await in_thread(lambda: _space(CACHE_SPACE, settings.cache_dir))


async def check_repository_space(settings: Settings) -> Finding:
    """Check the free space for a local repository."""
    if settings.repository is None:
        return skipped(REPOSITORY_SPACE, "no repository is configured")
    directory = local_directory(settings.repository)
    if directory is None:
        return ok(REPOSITORY_SPACE, "not known: the repository is on a server")
    return await in_thread(lambda: _space(REPOSITORY_SPACE, Path(directory)))


def _space(check: str, directory: Path) -> Finding:
    existing = _existing(directory)
    system = os.statvfs(existing)
    free, total = system.f_bavail * system.f_frsize, system.f_blocks * system.f_frsize
    text = f"{humanize.size(free)} of {humanize.size(total)} free at {existing}"
    action = "Free space there, or use a larger disk"
    if free < _LEAST:
        return error(check, text, action)
    if free < total * _LOW:
        return warning(check, text, action)
    return ok(check, text)
