"""The journal of a restore, from which an interrupted restore is resumed. Blocking.

There is one private file per target. Before a file gets its final name, a line with its inode is
appended. After a crash at any time, this distinguishes a restored file from one that existed
before. A complete restore removes the journal.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import msgspec

from cesbrfs.errors import RestoreError, RestoreRunningError
from cesbrfs.repo.format.model import Node
from cesbrfs.util.append import append_lines
from cesbrfs.util.escape import show, unshow
from cesbrfs.vfs.entries import Entry, VirtualFile

_DIGEST: Final = 16
_TAG_BYTES: Final = 4
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")


class FinishedFile(NamedTuple):
    """A restored file: inode, size, mtime in ns, and the key of its content."""

    inode: int
    size: int
    mtime_ns: int
    key: str

    def is_there(self, status: os.stat_result, key: str) -> bool:
        """Return whether it is unchanged, and has the content with this key."""
        found = (status.st_ino, status.st_size, status.st_mtime_ns)
        return self.key == key and found == (self.inode, self.size, self.mtime_ns)


@dataclass(slots=True)
class PreviousRun:
    """The state that earlier restores into a target left.

    `directories` were processed; those that are True have yet to get their metadata. `modes` are
    the original modes of directories that were made writable. `tags` are part of the names of
    temporary files. `crashed`: the machine has rebooted since, so that files may be incomplete.
    `request` is what the last run was asked to restore.
    """

    files: dict[bytes, FinishedFile] = field(default_factory=dict)
    directories: dict[bytes, bool] = field(default_factory=dict)
    modes: dict[bytes, int] = field(default_factory=dict)
    tags: set[bytes] = field(default_factory=set)
    crashed: bool = False
    request: Mapping[str, Any] | None = None
    _trusted: bool = False

    def take(self, line: bytes, boot: str) -> None:
        """Parse one line; incomplete lines are ignored."""
        try:
            fields = msgspec.json.decode(line)
        except (ValueError, RecursionError):
            return
        match fields:
            case ["run", str(tag), str(at), dict(request)]:
                self.tags.add(tag.encode())
                self.request = request
                self._trusted = at == boot
                self.crashed = self.crashed or not self._trusted
            case ["folder", str(path), bool(dressed), *mode]:
                name = unshow(path)
                if name is not None:
                    self.directories[name] = self.directories.get(name, False) or dressed
                    if mode and isinstance(mode[0], int):
                        self.modes.setdefault(name, mode[0])
            case ["file", str(path), int(inode), int(size), int(mtime), str(key)]:
                name = unshow(path)
                if name is not None and self._trusted:
                    self.files[name] = FinishedFile(inode, size, mtime, key)


class JournalWriter:
    """Appends lines to an open journal; several threads and processes may do so at once."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor: Final = descriptor

    def directory(self, path: bytes, *, dressed: bool, mode: int | None = None) -> None:
        """Record that files may be written in a directory, and whether it gets metadata in the end.

        `mode` is the one to set again on a directory that is writable during the restore only.
        """
        with suppress(OSError):  # then a later run does not resume this directory
            self.add("folder", show(path), dressed, *(() if mode is None else (mode,)))

    def files(self, files: Iterable[tuple[bytes, os.stat_result, str]]) -> None:
        """Record files (path, status, key) that are about to get their final names."""
        lines = [
            _encode("file", show(path), status.st_ino, status.st_size, status.st_mtime_ns, key)
            for path, status, key in files
        ]
        with suppress(OSError):  # then a later run restores the files again
            append_lines(self.descriptor, b"".join(lines))

    def add(self, *line: object) -> None:
        """Append one line; raises OSError."""
        append_lines(self.descriptor, _encode(*line))


def _encode(*line: object) -> bytes:
    return msgspec.json.encode(line) + b"\n"


class Journal(JournalWriter):
    """The journal of one target, locked for this restore. Use it in `with`.

    Raises RestoreRunningError if another restore has locked it, RestoreError if it cannot be
    written.
    """

    def __init__(self, directory: Path, target: Path) -> None:
        self._file: Final = file_of(directory, target)
        self.tag: Final = secrets.token_hex(_TAG_BYTES).encode()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            super().__init__(self._locked())
        except OSError as error:
            raise RestoreError(
                f"Cannot write the journal {self._file}: {error.strerror}."
            ) from error
        self.past: Final = read(directory, target)

    def _locked(self) -> int:
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._file, flags, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The process that held the lock before may have removed the file.
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(descriptor), os.stat(self._file)):
                        return descriptor
            except BlockingIOError:
                os.close(descriptor)
                raise RestoreRunningError(
                    "Another restore to this target is running. Try again when it has finished."
                ) from None
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if os.fstat(self.descriptor).st_size == 0:  # nothing was restored
            self.complete()
        os.close(self.descriptor)

    def begin(self, request: Mapping[str, object]) -> None:
        """Record what is to be restored, before anything is written."""
        self.add("run", self.tag.decode(), _boot(), request)
        os.fsync(self.descriptor)

    def reread(self) -> PreviousRun:
        """Return what the journal contains now, with the lines of this run."""
        return _read(self._file)

    def complete(self) -> None:
        """Remove the journal after a complete restore."""
        with suppress(OSError):
            self._file.unlink()


def key_of(entry: Entry) -> str:
    """Return a key that identifies the content and metadata to restore at a path."""
    content = entry.content if isinstance(entry, VirtualFile) else entry.node.content
    return _key(entry.node, content)


def node_key(node: Node) -> str:
    """Return what `key_of` returns for an entry of a snapshot."""
    return _key(node, node.content)


def _key(node: Node, content: bytes) -> str:
    attributes = f"{node.type} {node.mode} {node.uid} {node.gid} {node.rdev} {node.mtime_ns} "
    digest = hashlib.blake2b(attributes.encode(), digest_size=_DIGEST)
    digest.update(content or node.target)
    return digest.hexdigest()


def file_of(directory: Path, target: Path) -> Path:
    """Return the path of the journal of a target."""
    real = os.fsencode(os.path.realpath(target))
    return directory / f"{hashlib.sha256(real).hexdigest()[: 2 * _DIGEST]}.journal"


def read(directory: Path, target: Path) -> PreviousRun:
    """Return the content of the journal of a target, empty if there is none."""
    return _read(file_of(directory, target))


def _read(file: Path) -> PreviousRun:
    past = PreviousRun()
    boot = _boot()
    with suppress(FileNotFoundError), file.open("rb") as lines:
        for line in lines:
            past.take(line, boot)
    return past


def last_request(directory: Path, repository: str) -> Mapping[str, Any] | None:
    """Return the request of the last interrupted restore from a repository."""
    try:
        files = sorted(directory.glob("*.journal"), key=lambda file: -file.stat().st_mtime_ns)
    except OSError:
        return None
    requests = (_read(file).request for file in files)
    return next((r for r in requests if r and r.get("repository") == repository), None)


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
