"""Write one file atomically: temporary name, verification, metadata, rename. Blocking.

If a step before the rename fails or is interrupted, an existing file stays as it is.
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
from itertools import count
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
_NO_NOREPLACE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})
_COMPARED_BYTES: Final = 1 << 20
"""Content up to this size is compared with what was written, which is faster than hashing."""
_OWNER_ONLY: Final = 0o600
_DIRECTORY_OWNER_ONLY: Final = 0o700


_RANDOM: Final = secrets.token_hex(6)
_numbers: Final = count()
_renameat2 = ctypes.CDLL(None, use_errno=True).renameat2


class AppearedError(RestoreError):
    """A file exists where none existed when the restore was planned."""


def solid(data: bytes, offset: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges (start, end) of `data` that must be written to a file at `offset`.

    The ranges between them are zeros, in blocks of HOLE_BYTES from the start of the file.
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


def temp_prefix(tag: bytes) -> bytes:
    """Return the beginning of the temporary names of the restore with this tag."""
    return _PREFIX + tag + b"-" if tag else _PREFIX


class NewEntry:
    """A file with a temporary name in an open directory."""

    def __init__(self, directory: int, tag: bytes = b"") -> None:
        self.directory = directory
        """Its open directory. If that was closed, it must be opened again before further calls."""
        self.name: Final = temp_prefix(tag) + f"{_RANDOM}-{next(_numbers)}".encode()
        self._exists = False
        self._status: os.stat_result | None = None

    def place(self, name: bytes, *, replace: bool) -> None:
        """Rename it to `name`; raises AppearedError if that exists and `replace` is not set."""
        if replace:
            os.rename(self.name, name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
            # rename(2) keeps both names if they are hard links of one file.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.name, dir_fd=self.directory)
            self._exists = False
        elif _rename_new(self.directory, self.name, name):
            self._exists = False

    def discard(self) -> None:
        """Remove the temporary name if it still exists."""
        if self._exists:
            self._exists = False
            with contextlib.suppress(OSError):
                os.unlink(self.name, dir_fd=self.directory)

    @property
    def status(self) -> os.stat_result:
        """Its status when it was complete, else its current one."""
        return self._status or self._stat()

    def _stat(self) -> os.stat_result:
        return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)

    @property
    def identity(self) -> tuple[int, int]:
        """Its device and inode."""
        status = self.status
        return status.st_dev, status.st_ino


def _rename_new(directory: int, old: bytes, new: bytes) -> bool:
    """Rename without replacing anything; return whether the old name is gone.

    Raises AppearedError if `new` exists. Without RENAME_NOREPLACE, as on NFS, a hard link does the
    same, and on file systems without either, a check before the rename.
    """
    if _renameat2(directory, old, directory, new, _NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number == errno.EEXIST:
        raise _appeared() from None
    if number not in _NO_NOREPLACE:
        raise OSError(number, os.strerror(number))
    try:
        os.link(old, new, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    except FileExistsError:
        raise _appeared() from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        return False
    if lookup(directory, new) is not None:
        raise _appeared() from None
    os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)
    return True


def _appeared() -> AppearedError:
    return AppearedError(
        "A file was created in its place after planning. Check it and restore again."
    )


class NewFile(NewEntry):
    """A regular file with a temporary name, open for writing."""

    def __init__(self, directory: int, tag: bytes = b"") -> None:
        super().__init__(directory, tag)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self.name, flags, _OWNER_ONLY, dir_fd=directory)
        self._exists = True
        self._lengths: list[int] = []
        self._written: list[bytes] = []
        self._skipped = False
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append a blob."""
        write_at(self._fd, data, self.size)
        self.size += len(data)
        self._lengths.append(len(data))
        if self.size <= _COMPARED_BYTES:
            self._written.append(data)
        else:
            self._written.clear()

    def skip(self, length: int) -> None:
        """Append a hole of `length` bytes."""
        self.size += length
        self._lengths.append(length)
        self._skipped = True

    def assume_written(self, lengths: Sequence[int]) -> None:
        """Record blobs of these lengths as appended; another process writes them."""
        self.size += sum(lengths)
        self._lengths.extend(lengths)

    def finish(
        self,
        digests: Sequence[bytes | None],
        metadata: FileMetadata,
        warnings: Warnings,
        *,
        from_disk: bool = False,
        verified: bool = False,
        inherits_acl: bool = True,
    ) -> None:
        """Verify its content, apply its metadata, and close it.

        `digests` are the SHA-256 of the blobs in order, None for a skipped range. Raises
        RestoreError if the content differs.
        `from_disk`: flush it and drop it from the page cache before it is read back. `verified`:
        the content was read back already, unless `from_disk` asks for more. `inherits_acl`: the
        directory passes an ACL on to new files.
        """
        if len(digests) != len(self._lengths):
            raise RestoreError("Not all of its content was written. Restore it again.")
        if self.size >= HOLE_BYTES or self._skipped:  # it may end with a hole
            os.ftruncate(self._fd, self.size)
        if from_disk:
            os.fdatasync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
            self._verify_digests(digests)
        elif len(self._written) == len(self._lengths):
            offset = 0
            for blob in self._written:
                raise_if_different(self._fd, blob, offset)
                offset += len(blob)
        elif not verified:
            self._verify_digests(digests)
        metadata.apply(self._fd, warnings, inherits_acl=inherits_acl)
        self._status = os.fstat(self._fd)
        if self._status.st_size != self.size:  # another program appended to it
            os.ftruncate(self._fd, self.size)
            metadata.apply(self._fd, warnings, inherits_acl=inherits_acl)
            self._status = os.fstat(self._fd)
        self._close()

    def sync(self) -> None:
        """Flush the content written so far to disk."""
        os.fsync(self._fd)

    def _verify_digests(self, digests: Sequence[bytes | None]) -> None:
        offset = 0
        for digest, length in zip(digests, self._lengths, strict=True):
            if digest and hashlib.sha256(_read(self._fd, offset, length)).digest() != digest:
                raise _different()
            offset += length

    def _stat(self) -> os.stat_result:
        return os.fstat(self._fd)

    def discard(self) -> None:
        """Close it, and remove the temporary name if it still exists."""
        super().discard()
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """Write `data` at `offset`; blocks of zeros become holes."""
    if len(data) < HOLE_BYTES:
        _pwrite(descriptor, memoryview(data), offset)
        return
    view = memoryview(data)
    for start, end in solid(data, offset):
        _pwrite(descriptor, view[start:end], offset + start)


def _pwrite(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def raise_if_different(descriptor: int, data: bytes, offset: int) -> None:
    """Read `data` back from `offset`; raises RestoreError if the file contains something else."""
    if _read(descriptor, offset, len(data)) != data:
        raise _different()


def _different() -> RestoreError:
    return RestoreError(
        "The written data differs from the backup. Check the disk and memory of the target, and"
        " restore it again."
    )


def _read(descriptor: int, offset: int, length: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    while 0 < len(data) < length:
        more = os.pread(descriptor, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


class NewSpecial(NewEntry):
    """A symlink, fifo or device with a temporary name and its metadata applied."""

    def __init__(
        self, directory: int, metadata: FileMetadata, warnings: Warnings, tag: bytes = b""
    ) -> None:
        super().__init__(directory, tag)
        try:
            self._make(metadata.node)
            self._exists = True
            self._apply(metadata, warnings)
            self._status = self._stat()
        except BaseException:
            self.discard()
            raise

    def _apply(self, metadata: FileMetadata, warnings: Warnings) -> None:
        if metadata.node.type == "symlink":
            # chown and utime of a symlink need a path: that of its directory, and its name.
            metadata.apply(handle(self.directory) + b"/" + self.name, warnings)
            return
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        opened = os.open(self.name, flags, dir_fd=self.directory)
        try:
            metadata.apply(handle(opened), warnings)
        finally:
            os.close(opened)

    def _make(self, node: Node) -> None:
        if node.type == "symlink":
            os.symlink(node.target, self.name, dir_fd=self.directory)
            return
        if node.type == "fifo":
            os.mkfifo(self.name, _OWNER_ONLY, dir_fd=self.directory)
            return
        try:
            mode = stat.S_IFMT(node.mode) | _OWNER_ONLY
            os.mknod(self.name, mode, node.rdev, dir_fd=self.directory)
        except PermissionError as error:
            raise RestoreError("Only root can create device files. Restore it as root.") from error


class NewLink(NewEntry):
    """A hard link to a restored file, with a temporary name."""

    def __init__(
        self,
        directory: int,
        source: int,
        name: bytes,
        identity: tuple[int, int],
        tag: bytes = b"",
    ) -> None:
        super().__init__(directory, tag)
        os.link(name, self.name, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        self._exists = True
        self._status = self._stat()
        if self.identity != identity:
            self.discard()
            raise RestoreError("The file to link to was replaced. Restore it again.")


def make_directory(parent: int, name: bytes) -> bool:
    """Create a directory with mode 0700; its metadata is applied when its content is complete.

    Returns False if the directory exists; raises AppearedError if something else does.
    """
    try:
        os.mkdir(name, _DIRECTORY_OWNER_ONLY, dir_fd=parent)
    except FileExistsError:
        status = lookup(parent, name)
        if status is None or not stat.S_ISDIR(status.st_mode):
            raise _appeared() from None
        return False
    return True


def apply_to_directory(opened: int, metadata: FileMetadata, warnings: Warnings) -> None:
    """Apply metadata to the directory of an O_PATH descriptor."""
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=opened)
    try:
        metadata.apply(descriptor, warnings)
    finally:
        os.close(descriptor)
