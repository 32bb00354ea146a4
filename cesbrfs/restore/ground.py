"""The target's folders, reached only through descriptors.  Blocking: call it in a thread.

The target itself may be a symlink.  Below it every folder is opened from the one above without
following links, so whatever lies there, or is put there meanwhile, nothing leads out of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cesbrfs.errors import RestoreError, UsageError
from cesbrfs.mounts import our_mounts

_WALK: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_TARGET_MODE: Final = 0o700
"""A new target is for its owner alone: backups hold what not everyone on a machine may read."""

_HINTS: Final[Mapping[int, str]] = {
    errno.ENOSPC: "make room there and restore again",
    errno.EDQUOT: "raise the quota, or make room, and restore again",
    errno.EROFS: "choose a target that can be written to",
    errno.EACCES: "run this as root, or choose a target that is yours",
    errno.EPERM: "run this as root, or choose a target that is yours",
    errno.ENAMETOOLONG: "choose a shorter target, or one on another file system",
    errno.EISDIR: "a folder lies in the way, move it aside",
    errno.ENOTDIR: "something that is no folder lies in the way, move it aside",
    errno.ELOOP: "a symbolic link lies in the way and is not followed, move it aside",
}


def tell(error: OSError) -> str:
    """Return an error of the target's as one sentence that says what to do."""
    reason = os.strerror(error.errno or errno.EIO)
    hint = _HINTS.get(error.errno or 0)
    return f"{reason}: {hint}." if hint else f"{reason}: check what lies there."


@dataclass(slots=True)
class Guard:
    """Folders that nothing may be restored into, by (device, inode), and whole devices."""

    folders: dict[tuple[int, int], str] = field(default_factory=dict)
    devices: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folders: Mapping[str, str]) -> Guard:
        """Keep out of `folders` (path to what it is) and of every mount of ours."""
        guard = cls()
        for path, what in folders.items():
            with contextlib.suppress(OSError):
                status = os.stat(path)
                guard.folders[status.st_dev, status.st_ino] = what
        with contextlib.suppress(OSError):  # without /proc none is known
            for mounted in our_mounts():
                guard.devices[mounted.device] = "a mount of the backups"
        return guard

    def against(self, status: os.stat_result) -> str | None:
        """Say what the folder with this status is, None when it may be written into."""
        return self.folders.get((status.st_dev, status.st_ino)) or self.devices.get(status.st_dev)


@dataclass(frozen=True, slots=True)
class TargetState:
    """A target that may be written to: whether it exists, and the bytes free for it."""

    exists: bool
    free: int | None


def inspect(target: Path, guard: Guard) -> TargetState:
    """Look at the target; UsageError when it is no folder or must be kept out of."""
    top = os.path.realpath(target)
    exists = os.path.lexists(top)
    if exists and not os.path.isdir(top):
        raise UsageError(f"{target} is not a folder; choose another target.")
    above = Path(top)
    free: int | None = None
    for folder in (above, *above.parents):
        try:
            status = os.stat(folder)
            if free is None:
                room = os.statvfs(folder)
                free = room.f_bavail * room.f_frsize
        except FileNotFoundError:
            continue
        except OSError as error:
            raise RestoreError(f"{folder} cannot be looked at: {tell(error)}") from error
        if what := guard.against(status):
            raise UsageError(f"{target} lies in {what}; choose a target outside of it.")
    return TargetState(exists, free)


def open_target(target: Path, *, create: bool) -> int:
    """Return a descriptor of the target, made if `create`; RestoreError when that fails."""
    try:
        if create:
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                target.mkdir(mode=_NEW_TARGET_MODE)
        return os.open(target, _WALK)
    except OSError as error:
        raise RestoreError(f"{target} cannot be restored into: {tell(error)}") from error


def lookup(folder: int, name: bytes) -> os.stat_result | None:
    """Return the status of what lies at `name` in an open folder, None when nothing does."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def obstacle(status: os.stat_result, *, to_folder: bool) -> str | None:
    """Say why what lies there cannot be restored over, None when it can."""
    if to_folder == stat.S_ISDIR(status.st_mode):
        return None
    if not to_folder:
        return "A folder lies in its place; move it aside and restore again."
    what = "symbolic link, which is not followed," if stat.S_ISLNK(status.st_mode) else "file"
    return f"A {what} lies in the place of this folder; move it aside and restore again."


class Descent:
    """Opens folders below a target one after the other; `with` closes the last of them.

    It walks from the target each time unless the next folder lies below the last one: deep trees
    then need no more descriptors than flat ones.
    """

    def __init__(self, target: int) -> None:
        self._target: Final = target
        self._parts: tuple[bytes, ...] = ()
        self._fd: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the folder that was opened last."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._parts = None, ()

    def open(self, parts: Sequence[bytes]) -> int:
        """Return a descriptor (O_PATH) of the folder, good until the next call; raises OSError."""
        wanted = tuple(parts)
        if wanted == self._parts:
            return self._target if self._fd is None else self._fd
        if wanted[: len(self._parts)] != self._parts:
            self.close()
        for name in wanted[len(self._parts) :]:
            above = self._target if self._fd is None else self._fd
            below = os.open(name, _WALK | os.O_NOFOLLOW, dir_fd=above)
            if self._fd is not None:
                os.close(self._fd)
            self._fd, self._parts = below, (*self._parts, name)
        return self._target if self._fd is None else self._fd
