"""One file: written under a temporary name, checked, dressed, put in its place.  Blocking.

Whatever fails or is interrupted before the last step leaves what lay there before, and no more.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from typing import Final

from cesbrfs.errors import RestoreError
from cesbrfs.repo.format.model import Node
from cesbrfs.restore.dirfd import lookup
from cesbrfs.restore.metadata import FileMetadata, Warnings, handle

HOLE_BYTES: Final = 64 << 10
"""Zeros that fill a block of this size in a file, at a multiple of it, become a hole."""
_ZEROS: Final = bytes(HOLE_BYTES)
_PREFIX: Final = b".cesbr-restore-"
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL})
_NOREPLACE: Final = 1  # RENAME_NOREPLACE
_NO_NOREPLACE: Final = frozenset({errno.EINVAL, errno.ENOSYS})
_OWNER_ONLY: Final = 0o600
_FOLDER_OWNER_ONLY: Final = 0o700


class AppearedError(RestoreError):
    """Something lies where the plan saw nothing."""


def solid(data: bytes, offset: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what must be written of `data`, which belongs at `offset` of a file.

    What lies between are zeros, by blocks of HOLE_BYTES counted from the file's start.
    """
    start: int | None = None
    at = 0
    while at < len(data):
        end = min(at + HOLE_BYTES - (offset + at) % HOLE_BYTES, len(data))
        whole = end - at == HOLE_BYTES
        if data.startswith(_ZEROS if whole else _ZEROS[: end - at], at):
            if start is not None:
                yield start, at
            start = None
        elif start is None:
            start = at
        at = end
    if start is not None:
        yield start, len(data)


def temporary(tag: bytes) -> bytes:
    """Return how the temporary names of the restore with this tag begin."""
    return _PREFIX + tag + b"-" if tag else _PREFIX


class NewEntry:
    """Something under a temporary name in an open folder, not yet in its place."""

    def __init__(self, folder: int, tag: bytes = b"") -> None:
        self.folder: Final = folder
        self.name: Final = temporary(tag) + secrets.token_hex(8).encode()
        self._there = False

    def place(self, name: bytes, *, replace: bool) -> None:
        """Give it its name; without `replace` AppearedError when there is something by now."""
        if replace:
            os.rename(self.name, name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
            # Two names of one file are not renamed, and both stay.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.name, dir_fd=self.folder)
            self._there = False
            return
        try:  # a link, unlike a rename, never replaces anything
            os.link(
                self.name,
                name,
                src_dir_fd=self.folder,
                dst_dir_fd=self.folder,
                follow_symlinks=False,
            )
        except FileExistsError:
            raise _appeared() from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _rename_new(self.folder, self.name, name)
            self._there = False

    def discard(self) -> None:
        """Take the temporary name away; what was placed stays."""
        if self._there:
            self._there = False
            with contextlib.suppress(OSError):
                os.unlink(self.name, dir_fd=self.folder)

    @property
    def status(self) -> os.stat_result:
        """What the file system knows of it."""
        return os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)

    @property
    def identity(self) -> tuple[int, int]:
        """Its device and inode."""
        status = self.status
        return status.st_dev, status.st_ino


def _rename_new(folder: int, old: bytes, new: bytes) -> None:
    """Rename in a folder whose file system has no hard links; AppearedError if `new` is there."""
    if ctypes.CDLL(None, use_errno=True).renameat2(folder, old, folder, new, _NOREPLACE) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        raise _appeared() from None
    if number not in _NO_NOREPLACE:
        raise OSError(number, os.strerror(number))
    if lookup(folder, new) is not None:
        raise _appeared() from None
    os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)


def _appeared() -> AppearedError:
    return AppearedError(
        "Something was put in its place after the plan was made; look at it and restore again."
    )


class NewFile(NewEntry):
    """A regular file on its way."""

    def __init__(self, folder: int, tag: bytes = b"") -> None:
        super().__init__(folder, tag)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self.name, flags, _OWNER_ONLY, dir_fd=folder)
        self._there = True
        self._lengths: list[int] = []
        self.size = 0

    def write(self, data: bytes) -> None:
        """Add the next blob."""
        if len(data) < HOLE_BYTES:
            self._put(memoryview(data), self.size)
        else:
            view = memoryview(data)
            for start, end in solid(data, self.size):
                self._put(view[start:end], self.size + start)
        self.size += len(data)
        self._lengths.append(len(data))

    def _put(self, data: memoryview, offset: int) -> None:
        while data:
            written = os.pwrite(self._fd, data, offset)
            data, offset = data[written:], offset + written

    def finish(
        self,
        digests: Sequence[bytes],
        clothing: FileMetadata,
        notes: Warnings,
        *,
        from_disk: bool = False,
    ) -> None:
        """End it where its content ends, read it back, and dress it.

        `digests` are the SHA-256 of the blobs, in order; RestoreError when the file holds others.
        It is read `from_disk` after the kernel has written it there and let go of its own copy.
        """
        if os.fstat(self._fd).st_size != self.size:
            os.ftruncate(self._fd, self.size)
        if from_disk:
            os.fdatasync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        offset = 0
        if len(digests) != len(self._lengths):
            raise RestoreError("Not all of its content was written; restore it again.")
        for digest, length in zip(digests, self._lengths, strict=True):
            if hashlib.sha256(self._read(offset, length)).digest() != digest:
                raise RestoreError(
                    "What was written does not read back as it was backed up; check the target's"
                    " disk and memory, and restore it again."
                )
            offset += length
        clothing.apply(self._fd, notes)

    def _read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        while 0 < len(data) < length:
            more = os.pread(self._fd, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    @property
    def status(self) -> os.stat_result:
        """What the file system knows of it."""
        return os.fstat(self._fd)

    def discard(self) -> None:
        """Close it, and take the temporary name away."""
        super().discard()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class NewSpecial(NewEntry):
    """A symlink, fifo or device on its way: made and dressed at once."""

    def __init__(
        self, folder: int, clothing: FileMetadata, notes: Warnings, tag: bytes = b""
    ) -> None:
        super().__init__(folder, tag)
        node = clothing.node
        try:
            if node.type == "symlink":
                os.symlink(node.target, self.name, dir_fd=folder)
                self._there = True
                # chown and utime of a link go by its path: the folder's, and then its name.
                clothing.apply(handle(folder) + b"/" + self.name, notes)
                return
            self._make(node)
            self._there = True
            opened = os.open(self.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                clothing.apply(handle(opened), notes)
            finally:
                os.close(opened)
        except BaseException:
            self.discard()
            raise

    def _make(self, node: Node) -> None:
        if node.type == "fifo":
            os.mkfifo(self.name, _OWNER_ONLY, dir_fd=self.folder)
            return
        try:
            mode = stat.S_IFMT(node.mode) | _OWNER_ONLY
            os.mknod(self.name, mode, node.rdev, dir_fd=self.folder)
        except PermissionError as error:
            raise RestoreError("Only root can make device files; restore it as root.") from error


class NewLink(NewEntry):
    """A further hard link to what was restored already, on its way."""

    def __init__(
        self,
        folder: int,
        source: int,
        name: bytes,
        identity: tuple[int, int],
        tag: bytes = b"",
    ) -> None:
        super().__init__(folder, tag)
        os.link(name, self.name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        self._there = True
        if self.identity != identity:
            self.discard()
            raise RestoreError("The file to link to was replaced; restore it again.")


def make_folder(above: int, name: bytes) -> bool:
    """Make a folder for its owner alone; its own attributes come when all in it is done.

    Returns False when one is there by now; anything else that is there raises AppearedError.
    """
    try:
        os.mkdir(name, _FOLDER_OWNER_ONLY, dir_fd=above)
    except FileExistsError:
        status = lookup(above, name)
        if status is None or not stat.S_ISDIR(status.st_mode):
            raise _appeared() from None
        return False
    return True


def dress_folder(opened: int, clothing: FileMetadata, notes: Warnings) -> None:
    """Set the attributes of the folder behind an O_PATH descriptor."""
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=opened)
    try:
        clothing.apply(descriptor, notes)
    finally:
        os.close(descriptor)
