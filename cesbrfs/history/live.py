"""Compare a backup with the files of the live instance."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import trio

from cesbrfs.errors import CesbrError, NotFoundError, RepositoryUnreachableError
from cesbrfs.history.diff import BackupSide, Change, Remarks, change_of, diff
from cesbrfs.repo.format.model import Node, NodeType
from cesbrfs.repo.repository import Repository
from cesbrfs.util.os_errors import raise_failure
from cesbrfs.vfs.compare import node_of
from cesbrfs.vfs.directory_index import DirectoryIndex, IndexedEntry, row_of
from cesbrfs.vfs.timeline import BackupSlot, Parts, Timeline, directories
from cesbrfs.vfs.tree import BackupTree

_TYPES: Final[Mapping[int, NodeType]] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFBLK: "dev",
    stat.S_IFCHR: "chardev",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
_DEVICES: Final = ("dev", "chardev")


class LiveError(CesbrError):
    """A file or directory of the instance cannot be read."""


class LiveSide:
    """The live instance as a side of a comparison; the key of a directory is its path.

    A file with the same size and modification time as the stored one counts as unchanged. With
    `checksum`, the content of every file is compared.
    """

    def __init__(self, index: DirectoryIndex, *, checksum: bool = False) -> None:
        self._index = index
        self._checksum = checksum

    async def listing(self, key: bytes) -> Mapping[bytes, IndexedEntry]:
        """Return the entries of a directory by name; raises LiveError if it cannot be read."""
        return await trio.to_thread.run_sync(_listing, key)

    def refused(self, _key: bytes) -> Sequence[str]:
        """Return an empty list; every live file has a known type."""
        return ()

    def covers(self, _key: bytes) -> bool:
        """Return true; a name missing on the instance does not exist."""
        return True

    async def same_content(
        self,
        path: Parts,
        own: tuple[bytes, IndexedEntry],
        other: BackupSide,
        theirs: tuple[bytes, IndexedEntry],
    ) -> bool:
        """Return whether a live file has the same content as the stored one."""
        row = own[1]
        if row.type != "file":
            return row.content == theirs[1].content
        equal = self.same_metadata(row, theirs[1])
        if equal is not None:
            return equal
        node = await node_of(other.line, path, theirs)
        return await same_file(self._index.repository, node, row.content)

    def same_metadata(self, row: IndexedEntry, theirs: IndexedEntry) -> bool | None:
        """Compare size and modification time; None means that the content must be read."""
        if row.size != theirs.size:
            return False
        return True if not self._checksum and row.mtime_ns == theirs.mtime_ns else None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A path of the backup with no counterpart on the instance, and the reason."""

    parts: Parts
    reason: str


@dataclass(slots=True)
class LiveInstance:
    """The instance below `root`, with the options and the results of a comparison.

    `place` maps a path below a backup to a path on the instance. It returns ``()`` for a directory
    whose entries are mapped individually, and a reason if there is no counterpart; such paths are
    added to `left_out`.
    """

    root: Path
    place: Callable[[Parts], Parts | str]
    attributes: bool = False
    checksum: bool = False
    left_out: list[LeftOut] = field(default_factory=list)
    remarks: Remarks = field(default_factory=Remarks)


async def diff_live(
    view: BackupTree, timeline: Timeline, parts: Parts, instance: LiveInstance
) -> AsyncIterator[Change]:
    """Yield the changes of the instance, at and below `parts`, since the backup of `timeline`."""
    index = timeline.index
    stored, live = BackupSide(timeline), LiveSide(index, checksum=instance.checksum)
    stack = [parts]
    while stack:
        at = stack.pop()
        where = instance.place(at)
        if isinstance(where, str):
            instance.left_out.append(LeftOut(at, where))
            continue
        rows = await timeline.at(at)
        if not where:
            level = directories(rows) if at else timeline.roots
            names = [name for key in level for name in await timeline.whole_listing(at, key) or ()]
            stack += [(*at, name) for name in sorted(names, reverse=True)]
            continue
        path = os.path.join(os.fsencode(instance.root), *where)
        for old, _ in rows:  # at most one entry: the timeline has one backup
            try:
                new = await trio.to_thread.run_sync(live_row, path)
                same = new is not None and await _same(
                    view, live, (timeline.moments[0], at), old, new
                )
            except RepositoryUnreachableError:
                raise
            except CesbrError as error:
                instance.remarks.troubles.note(at, error)
                continue
            change = change_of(at, old, new, same=same, attributes=instance.attributes)
            if change is not None:
                yield change
            across = new.subtree if new else None
            if old.subtree or across:
                async for change in diff(
                    stored,
                    old.subtree,
                    live,
                    across,
                    at,
                    remarks=instance.remarks,
                    attributes=instance.attributes,
                ):
                    yield change


async def _same(
    view: BackupTree,
    live: LiveSide,
    where: tuple[BackupSlot, Parts],
    old: IndexedEntry,
    new: IndexedEntry,
) -> bool:
    """Return whether the top entries of a comparison have the same content."""
    if old.type != "file" or new.type != "file":
        return old.content == new.content
    equal = live.same_metadata(new, old)
    if equal is not None:
        return equal
    moment, parts = where
    node = (await view.at((*moment.parts, *parts))).node
    return await same_file(view.repository, node, new.content)


async def same_file(repository: Repository, node: Node, path: bytes) -> bool:
    """Return whether the live file at `path` has the content of `node`; False if it is missing.

    The stored file is not read: its blob IDs are the SHA-256 of its chunks. Raises LiveError if the
    live file cannot be read.
    """
    lengths = await repository.blobs.lengths(node.blobs)
    return await trio.to_thread.run_sync(
        _has_blobs, path, node.blobs, lengths, abandon_on_cancel=True
    )


def _has_blobs(path: bytes, blobs: Sequence[bytes], lengths: Sequence[int]) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with open(os.open(path, flags), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size != sum(lengths):
                return False
            for blob, length in zip(blobs, lengths, strict=True):
                if hashlib.sha256(_exactly(file.fileno(), length)).digest() != blob:
                    return False
            return not os.read(file.fileno(), 1)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise _error(path, error) from error


def _exactly(descriptor: int, length: int) -> bytes:
    parts: list[bytes] = []
    while length and (part := os.read(descriptor, length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def live_row(path: bytes) -> IndexedEntry | None:
    """Return the entry at `path` on the instance, None if it does not exist."""
    try:
        return _row(os.path.basename(path), path, os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _error(path, error) from error


def _listing(directory: bytes) -> dict[bytes, IndexedEntry]:
    rows: dict[bytes, IndexedEntry] = {}
    try:
        for name in os.listdir(directory):
            row = live_row(os.path.join(directory, name))
            if row is not None and row.type != "socket":  # restic does not back up sockets
                rows[name] = row
    except OSError as error:
        raise _error(directory, error) from error
    return rows


def _row(name: bytes, path: bytes, status: os.stat_result) -> IndexedEntry:
    kind = _TYPES[stat.S_IFMT(status.st_mode)]
    node = Node(
        name=name,
        type=kind,
        mode=status.st_mode,
        mtime_ns=status.st_mtime_ns,
        uid=status.st_uid,
        gid=status.st_gid,
        size=0 if kind == "dir" else status.st_size,
        target=os.readlink(path) if kind == "symlink" else b"",
        rdev=status.st_rdev if kind in _DEVICES else 0,
        xattrs=_xattrs(path),
        # The file was not read; the path identifies its content.
        content=b"",
    )
    row = row_of(node, name, path if kind == "dir" else None)
    return msgspec.structs.replace(row, content=path) if kind == "file" else row


def _xattrs(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        found = [(os.fsencode(n), os.getxattr(path, n, follow_symlinks=False)) for n in names]
    except OSError as error:
        raise_failure(error)
        return ()  # the file system has no extended attributes
    return tuple(sorted(found))


def _error(path: bytes, error: OSError) -> CesbrError:
    shown = os.fsdecode(path)
    kind = NotFoundError if isinstance(error, FileNotFoundError) else LiveError
    return kind(f"Cannot read {shown!r} on the instance: {error.strerror}.")
