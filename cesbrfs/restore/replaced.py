"""Where a restore keeps the files that it replaces: on their own file system if possible. Blocking.

Each mount has one directory for them, so that files are moved there instead of copied.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cesbrfs.errors import RestoreError
from cesbrfs.restore.dirfd import DirFd, Room, lookup, tell
from cesbrfs.util.escape import show

DIRECTORY: Final = b".cesbr-undo"
"""The default directory on a mount, in the topmost directory that the restore writes to."""
IN_PLACE: Final = "var/lib/cesbr/undo"
"""The default directory below the root of an instance."""
REPLACED: Final = b"replaced"
CHANGED: Final = b"changed"
"""What had changed after it was restored, and was replaced again."""
_OPEN: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class KeptOnMount:
    """What is kept of one mount: `top` is a planned directory there, below the target."""

    top: tuple[bytes, ...]
    files: int = 0
    bytes: int = 0


@dataclass(slots=True)
class KeepPlan:
    """What a restore keeps, and where.

    `directory` is for files of all mounts. Without it, each mount has its own directory, and
    `default` is that of the mount that contains it.
    """

    directory: Path | None = None
    default: Path | None = None
    mounts: dict[int, KeptOnMount] = field(default_factory=dict)

    def of(self, mount: int, top: tuple[bytes, ...]) -> KeptOnMount:
        """Return what is kept of a mount, where `top` is the first directory found."""
        return self.mounts.setdefault(mount, KeptOnMount(top))

    @property
    def files(self) -> int:
        """The number of files that are kept."""
        return sum(kept.files for kept in self.mounts.values())

    @property
    def size(self) -> int:
        """Their size in bytes."""
        return sum(kept.bytes for kept in self.mounts.values())

    def room(self) -> Room | None:
        """Return the free space of `directory`, None without one; raises RestoreError."""
        if self.directory is None:
            return None
        above = existing(self.directory)
        try:
            return Room.of(os.fspath(above), os.fsencode(self.directory))
        except OSError as error:
            raise RestoreError(f"Cannot read {above}: {tell(error)}") from error

    def device(self) -> int:
        """Return the device of `directory`, -1 without one."""
        return -1 if self.directory is None else os.stat(existing(self.directory)).st_dev

    def shown(self, target: Path) -> list[bytes]:
        """Return the directories that files are kept in."""
        if self.directory is not None:
            return [os.fsencode(self.directory)]
        used = [mount for mount, kept in self.mounts.items() if kept.files]
        return [self._path(mount, os.fsencode(target)) for mount in used]

    def _path(self, mount: int, target: bytes) -> bytes:
        if self.default is not None and mount == mount_of(self.default):
            return os.fsencode(self.default)
        return os.path.join(target, *self.mounts[mount].top, DIRECTORY)

    def open(self, mount: int, target: int, directories: DirFd) -> int:
        """Return a descriptor of the directory for the files of a mount; raises RestoreError."""
        default = self.directory
        if default is None and self.default is not None and mount == mount_of(self.default):
            default = self.default
        if default is not None:
            try:
                default.mkdir(mode=0o700, parents=True, exist_ok=True)
                return os.open(default, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise _cannot(os.fsencode(default), error) from error
        top = self.mounts[mount].top
        try:
            return open_private(directories.open(top) if top else target, DIRECTORY)
        except OSError as error:
            raise _cannot(b"/".join((*top, DIRECTORY)), error) from error


def _cannot(path: bytes, error: OSError) -> RestoreError:
    return RestoreError(
        f"Cannot keep replaced files in {show(path)}: {tell(error)} Or pass --backup-dir DIR, or"
        " --no-backup-dir."
    )


def existing(path: Path) -> Path:
    """Return `path`, or its nearest parent that exists."""
    while not os.path.lexists(path):
        path = path.parent
    return path


def mount_of(path: Path) -> int:
    """Return the ID of the mount that contains `path`, which need not exist."""
    opened = os.open(existing(path), os.O_PATH | os.O_CLOEXEC)
    try:
        return mount_id(opened)
    finally:
        os.close(opened)


def mount_id(opened: int) -> int:
    """Return the ID of the mount of an open file; files are only renamed within one mount."""
    with open(f"/proc/self/fdinfo/{opened}", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("mnt_id:"):
                return int(line[7:])
    return -1


def open_private(parent: int, name: bytes) -> int:
    """Return a descriptor of a directory of our own, created if it does not exist.

    Raises RestoreError for one of somebody else, who could exchange its content.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    opened = os.open(name, _OPEN, dir_fd=parent)
    if os.fstat(opened).st_uid != os.geteuid():
        os.close(opened)
        raise RestoreError(
            f"Replaced files cannot be kept in {show(name)}: it belongs to another user. Move it"
            " aside, or pass --backup-dir DIR."
        )
    return opened


def open_real(path: Path) -> int:
    """Return a descriptor of the directory with this real path; symlinks are not followed."""
    top = os.open("/", _OPEN)
    try:
        return descend(top, list(map(os.fsencode, path.parts[1:])))
    finally:
        os.close(top)


def real_path(opened: int) -> Path:
    """Return the path of an open directory."""
    return Path(os.readlink(f"/proc/self/fd/{opened}"))


def descend(top: int, names: Sequence[bytes], *, create: bool = False) -> int:
    """Return a new descriptor of a directory below `top`; symlinks are not followed."""
    opened = os.open(".", _OPEN, dir_fd=top)
    for name in names:
        try:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=opened)
            below = os.open(name, _OPEN, dir_fd=opened)
        finally:
            os.close(opened)
        opened = below
    return opened


def remove_place(path: Path) -> None:
    """Remove the directory of a restore if it is empty, and the one that was created for it."""
    with contextlib.suppress(OSError):
        path.rmdir()
    if path.parent.name == os.fsdecode(DIRECTORY):
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def free_name(directory: int, name: bytes) -> bytes:
    """Return `name`, with a number if it exists in an open directory."""
    number, found = 0, name
    while lookup(directory, found) is not None:
        number += 1
        found = b"%s.~%d~" % (name, number)
    return found
