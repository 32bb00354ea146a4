"""Open directories below the target through descriptors (openat). Blocking.

The target itself may be a symlink. Below it, every directory is opened from its parent without
following symlinks, so that no symlink, old or new, leads out of the target.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from unicodedata import normalize

from cesbrfs.errors import RestoreError, UsageError
from cesbrfs.util.escape import show
from cesbrfs.util.mountinfo import our_mounts

_WALK: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
CACHED_DIRECTORIES: Final = 64
"""Descriptors that a `DirFd` keeps open: enough for the directories of a batch of files."""
_NO_ATTRIBUTE: Final = (errno.ENODATA, errno.ENOTSUP, errno.ENOSYS)
_NEW_TARGET_MODE: Final = 0o700
"""A new target is for its owner alone: backups hold what not everyone on a machine may read."""

_HINTS: Final[Mapping[int, str]] = {
    errno.ENOSPC: "free some space and restore again",
    errno.EDQUOT: "raise the quota or free some space, and restore again",
    errno.EIO: "check the disk, and restore again",
    errno.EROFS: "choose a writable target",
    errno.EBUSY: "unmount it, or end the process that uses it, and restore again",
    errno.ENAMETOOLONG: "choose a shorter target, or one on another file system",
    errno.EISDIR: "move the directory aside",
    errno.ENOTDIR: "move aside the file that is in its place",
    errno.ELOOP: "move the symbolic link aside",
}
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM})
_GET_FLAGS: Final = 0x80086601
_FLAGS: Final = {0x10: ("immutable", "i"), 0x20: ("append-only", "a")}
"""FS_IOC_GETFLAGS and what it returns that even root cannot change files with."""


def tell(error: OSError) -> str:
    """Return an error of the target as one sentence with a hint."""
    reason = os.strerror(error.errno or errno.EIO)
    hint = _HINTS.get(error.errno or 0)
    if error.errno in _DENIED:
        hint = "run this command as root, or choose a target that you own"
        if os.geteuid() == 0:
            hint = "check how its file system is mounted"
    return f"{reason}: {hint}." if hint else f"{reason}: check the file."


def explain_flags(directory: int, name: bytes, error: PermissionError) -> None:
    """Raise RestoreError if `error` is due to a flag of the file `name` or its open directory.

    The immutable and the append-only flag make changes fail with EPERM, also for root.
    """
    if error.errno != errno.EPERM:
        return
    for path, what in ((name, "It"), (b".", "Its directory")):
        for flag, letter in _flags(directory, path):
            raise RestoreError(
                f"{what} is {flag} (see lsattr): run 'chattr -{letter}' on it and restore again."
            ) from error


def _flags(directory: int, name: bytes) -> list[tuple[str, str]]:
    """Return the flags that keep a file or directory from being changed, none where unknown."""
    with contextlib.suppress(OSError):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_IFMT(status.st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            return []  # opening a device or a fifo does things
        how = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        opened = os.open(name, how, dir_fd=directory)
        try:
            found = fcntl.ioctl(opened, _GET_FLAGS, bytes(8))
        finally:
            os.close(opened)
        flags = int.from_bytes(found[:4], sys.byteorder)
        return [name for flag, name in _FLAGS.items() if flags & flag]
    return []


@dataclass(slots=True)
class ForbiddenTargets:
    """Directories, by (device, inode), and whole devices that nothing may be restored into."""

    directories: dict[tuple[int, int], str] = field(default_factory=dict)
    devices: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, directories: Mapping[str, str]) -> ForbiddenTargets:
        """Forbid `directories` (path: description) and every mount of cesbrfs."""
        guard = cls()
        for path, what in directories.items():
            with contextlib.suppress(OSError):
                status = os.stat(path)
                guard.directories[status.st_dev, status.st_ino] = what
        with contextlib.suppress(OSError):  # without /proc none is known
            for mounted in our_mounts():
                guard.devices[mounted.device] = "a mount of the backups"
        return guard

    def against(self, status: os.stat_result) -> str | None:
        """Return the description of a forbidden directory, None if it may be written to."""
        return self.directories.get((status.st_dev, status.st_ino)) or self.devices.get(
            status.st_dev
        )

    def around(self, path: bytes) -> str | None:
        """Like `against`, for the directory at this real path and its parents."""
        while True:
            if what := self.against(os.stat(path)):
                return what
            above = os.path.dirname(path)
            if above == path:
                return None
            path = above


@dataclass(slots=True)
class Room:
    """Free space of a file system: bytes that are `free` for a user, and `needed` at most.

    `path` is a directory in it, `block` its allocation unit in bytes.
    """

    path: bytes
    free: int
    block: int
    needed: int = 0

    @classmethod
    def of(cls, directory: int | str, path: bytes) -> Room:
        """Return the free space at an open directory, or at one given by its path."""
        found = os.statvfs(directory)
        return cls(path, found.f_bavail * found.f_frsize, max(found.f_frsize, 1))

    def rounded(self, size: int) -> int:
        """Return the space that a file of `size` bytes takes."""
        return -(-size // self.block) * self.block

    @property
    def too_small(self) -> bool:
        """Whether the needed space is not free."""
        return self.needed > self.free


def space_warnings(rooms: Iterable[Room]) -> list[str]:
    """Return a warning for each file system without enough free space."""
    return [
        f"Not enough free space in the target: up to {room.needed:,} bytes are needed in"
        f" {show(room.path)}, and {room.free:,} are free. Free some space first."
        for room in rooms
        if room.too_small
    ]


@dataclass(frozen=True, slots=True)
class TargetState:
    """A permitted target: whether it exists, its device and free space."""

    exists: bool
    device: int
    room: Room | None


def inspect(target: Path, guard: ForbiddenTargets) -> TargetState:
    """Examine the target; raises UsageError if it is not a directory or forbidden."""
    top = os.path.realpath(target)
    exists = os.path.lexists(top)
    if exists and not os.path.isdir(top):
        raise UsageError(f"{target} is not a directory. Choose another target.")
    above = Path(top)
    device, room = -1, None
    for directory in (above, *above.parents):
        try:
            status = os.stat(directory)
            if room is None:
                device, room = status.st_dev, Room.of(str(directory), os.fsencode(directory))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise RestoreError(f"Cannot read {directory}: {tell(error)}") from error
        if what := guard.against(status):
            raise UsageError(f"{target} is in {what}. Choose a target outside of it.")
    return TargetState(exists, device, room)


def open_target(target: Path, *, create: bool) -> int:
    """Return a descriptor of the target, created if `create`; raises RestoreError."""
    try:
        if create:
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                target.mkdir(mode=_NEW_TARGET_MODE)
        return os.open(target, _WALK)
    except OSError as error:
        raise RestoreError(f"Cannot restore to {target}: {tell(error)}") from error


def lookup(directory: int, name: bytes) -> os.stat_result | None:
    """Return the status of `name` in an open directory, None if it does not exist."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def obstacle(status: os.stat_result, *, to_directory: bool) -> str | None:
    """Return why an existing file cannot be replaced, None if it can."""
    if to_directory == stat.S_ISDIR(status.st_mode):
        return None
    if not to_directory:
        return "A directory exists in its place. Move it aside and restore again."
    if stat.S_ISLNK(status.st_mode):
        return (
            "A symbolic link exists in the place of this directory, and is not followed. Use a"
            " bind mount instead, or move it aside, and restore again."
        )
    return "A file exists in the place of this directory. Move it aside and restore again."


def follow(directory: int, name: bytes, guard: ForbiddenTargets) -> os.stat_result:
    """Return the status of the directory that a symlink points to; raises RestoreError."""
    try:
        status = os.stat(name, dir_fd=directory)
        real = os.path.realpath(b"/proc/self/fd/%d/%s" % (directory, name))
        what = guard.around(real) if stat.S_ISDIR(status.st_mode) else "not a directory"
    except OSError as error:
        raise RestoreError(
            "Cannot open the directory that this symbolic link points to:"
            f" {os.strerror(error.errno or errno.EIO)}. Mount or create it, and restore again."
        ) from error
    if what:
        raise RestoreError(
            f"This symbolic link points to {show(real)}, which is {what}. Correct the link and"
            " restore again."
        )
    return status


def listed(directory: int) -> set[bytes] | None:
    """Return the names in an open directory as stored there, None if that is denied."""
    with contextlib.suppress(OSError):
        opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            return set(map(os.fsencode, os.listdir(opened)))
        finally:
            os.close(opened)
    return None


def spelled(directory: int, name: bytes) -> bytes | None:
    """Return the stored spelling of the existing `name` if it differs, else None.

    It differs on file systems that ignore case or Unicode normalisation.
    """
    names = listed(directory)
    if names is None or name in names:
        return None
    status = lookup(directory, name)
    return next((other for other in names if status and _is(directory, other, status)), None)


def _is(directory: int, name: bytes, status: os.stat_result) -> bool:
    found = lookup(directory, name)
    return found is not None and os.path.samestat(found, status)


def one_file(name: bytes, other: bytes) -> str:
    """Return why `name` cannot be restored next to `other`, which is the same file there."""
    shown = [show(name), show(other)]
    if len(set(map(partial(normalize, "NFC"), shown))) == 1:  # they look the same
        shown = [ascii(text)[1:-1] for text in shown]
    return (
        f"This file system does not distinguish the names '{shown[0]}' and '{shown[1]}'. Restore"
        " one of them to another target."
    )


Followed = Mapping[tuple[bytes, ...], tuple[int, int]]
"""Directories below a target that symlinks may lead to, by path, with device and inode."""


class DirFd:
    """Opens directories below a target and caches the descriptors of the last ones.

    Each directory is opened from its parent without following symlinks, except for those in
    `followed`, which must lead to the (device, inode) given there. Use it in `with`.
    """

    def __init__(self, target: int, followed: Followed | None = None) -> None:
        self._target: Final = target
        self._followed: Final = {} if followed is None else followed
        self._cached: OrderedDict[tuple[bytes, ...], int] = OrderedDict()
        self._default_acls: dict[tuple[bytes, ...], bool] = {}

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
        """Close all cached descriptors."""
        while self._cached:
            os.close(self._cached.popitem()[1])

    def open(self, parts: Sequence[bytes]) -> int:
        """Return a descriptor (O_PATH) of the directory, valid until the next call.

        Raises OSError.
        """
        wanted = tuple(parts)
        descriptor = self._cached.get(wanted)
        if descriptor is not None:
            self._cached.move_to_end(wanted)
            return descriptor
        depth = len(wanted) - 1
        while depth > 0 and wanted[:depth] not in self._cached:
            depth -= 1
        descriptor = self._cached[wanted[:depth]] if depth > 0 else self._target
        for end in range(max(depth, 0), len(wanted)):
            descriptor = self._open_below(descriptor, wanted[: end + 1])
            self._cached[wanted[: end + 1]] = descriptor
            if len(self._cached) > CACHED_DIRECTORIES:
                os.close(self._cached.popitem(last=False)[1])
        return descriptor

    def has_default_acl(self, parts: Sequence[bytes]) -> bool:
        """Return whether new files in a directory inherit an ACL; raises OSError."""
        wanted = tuple(parts)
        known = self._default_acls.get(wanted)
        if known is None:
            path = b"/proc/self/fd/%d" % self.open(wanted)
            try:
                known = bool(os.getxattr(path, "system.posix_acl_default"))
            except OSError as error:
                known = error.errno not in _NO_ATTRIBUTE
            if len(self._default_acls) >= CACHED_DIRECTORIES:
                self._default_acls.clear()
            self._default_acls[wanted] = known
        return known

    def _open_below(self, parent: int, parts: tuple[bytes, ...]) -> int:
        identity = self._followed.get(parts)
        if identity is None:
            return os.open(parts[-1], _WALK | os.O_NOFOLLOW, dir_fd=parent)
        descriptor = os.open(parts[-1], _WALK, dir_fd=parent)
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != identity:  # the link was changed after planning
            os.close(descriptor)
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return descriptor
