"""Move or copy one file of an open directory to another one, with everything it has. Blocking."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import Final

from cesbrfs.repo.format.model import Node, NodeType
from cesbrfs.restore.dirfd import lookup
from cesbrfs.restore.metadata import FileMetadata, Warnings, handle, read_attributes
from cesbrfs.restore.writer import NewEntry, NewFile, NewSpecial

_CHUNK_BYTES: Final = 1 << 20
TAG: Final = b"undo"
"""Part of the temporary names of copies."""
_NO_LINK: Final = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
)
_TYPES: Final[dict[int, NodeType]] = {
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "chardev",
    stat.S_IFBLK: "dev",
    stat.S_IFSOCK: "socket",
}


def link_or_move(source: int, name: bytes, target: int, new: bytes, warnings: Warnings) -> None:
    """Make `name` in the open directory `source` available as `new` in `target`.

    The file has both names afterwards. Where hard links are impossible it is renamed, or copied to
    another file system. `new` must not exist. Raises OSError or RestoreError.
    """
    try:
        os.link(name, new, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EXDEV:
            _place(_copy(source, name, target, warnings), new, replace=False)
        elif error.errno in _NO_LINK:
            os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
        else:
            raise


def move(
    source: int, name: bytes, target: int, new: bytes, warnings: Warnings, *, replace: bool = False
) -> None:
    """Move a file to the name `new`, which must not exist unless `replace`.

    At each moment, `new` is the complete file or what it was before, and nothing is lost. Raises
    OSError or RestoreError.
    """
    try:
        os.rename(name, new, src_dir_fd=source, dst_dir_fd=target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _place(_copy(source, name, target, warnings), new, replace=replace)
    if lookup(source, name) is not None:  # copied, or two hard links of one file
        os.unlink(name, dir_fd=source)


def _place(copy: NewEntry, new: bytes, *, replace: bool) -> None:
    try:
        copy.place(new, replace=replace)
    finally:
        copy.discard()


def _copy(source: int, name: bytes, target: int, warnings: Warnings) -> NewEntry:
    """Copy a file to a temporary name in `target`, flushed to disk."""
    status = os.stat(name, dir_fd=source, follow_symlinks=False)
    metadata = FileMetadata(_node(source, name, status), name)
    if not stat.S_ISREG(status.st_mode):
        return NewSpecial(target, metadata, warnings, TAG)
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    opened = os.open(name, flags, dir_fd=source)
    try:
        new = NewFile(target, TAG)
        try:
            digests: list[bytes | None] = []
            while data := os.read(opened, _CHUNK_BYTES):
                new.write(data)
                digests.append(hashlib.sha256(data).digest())
            new.sync()
            new.finish(digests, metadata, warnings)
        except BaseException:
            new.discard()
            raise
    finally:
        os.close(opened)
    return new


def _node(source: int, name: bytes, status: os.stat_result) -> Node:
    attributes = read_attributes(handle(source) + b"/" + name, follow=False)
    link = stat.S_ISLNK(status.st_mode)
    return Node(
        name,
        _TYPES[stat.S_IFMT(status.st_mode)],
        status.st_mode,
        mtime_ns=status.st_mtime_ns,
        atime_ns=status.st_atime_ns,
        uid=status.st_uid,
        gid=status.st_gid,
        target=os.readlink(name, dir_fd=source) if link else b"",
        xattrs=tuple((os.fsencode(one), value) for one, value in attributes.items()),
        rdev=status.st_rdev,
    )
