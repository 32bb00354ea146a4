"""Read everything that the backups of a repository contain, with the errors, by path."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import trio
from trio.testing import MockClock

from cesbrfs.catalog import directory_names
from cesbrfs.errors import CesbrError
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.format.direntry import entries_of
from cesbrfs.repo.format.model import Node
from cesbrfs.repo.location import Access
from cesbrfs.repo.repository import FileReader, Repository
from cesbrfs.repo.storage import FileInfo, FileType, Storage, open_storage
from cesbrfs.vfs.across import AcrossBackups
from cesbrfs.vfs.entries import Entry, SnapshotEntry, TreeRef, VirtualDir, VirtualFile
from cesbrfs.vfs.tree import BackupTree

SECONDS_MAX: Final = 60.0
"""Time in which everything must be read; an undamaged sample takes a fraction of a second."""
_READ_BYTES: Final = 300_000
_DATA_CACHE_BYTES: Final = 64 << 20

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Record:
    """An entry as it is shown: its metadata, and the SHA-256 of a regular file's content."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    links: int = 1
    content: str = ""


@dataclass(slots=True)
class Reading:
    """Everything that was read. `records` and `errors` are keyed by path without a leading slash.

    `failed` is the error if the repository cannot be opened or its backups cannot be listed, and
    `damaged` contains what the repository reported as damaged. `statuses` has the status of each
    backup, `across` describes the entries of ``_dogus`` and ``_versions`` where they were read, and
    `latest` is the target of that link. `faults` are results that no repository may cause.
    """

    records: dict[bytes, Record] = field(default_factory=dict)
    errors: dict[bytes, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    statuses: dict[bytes, str] = field(default_factory=dict)
    across: dict[bytes, str] = field(default_factory=dict)
    latest: bytes = b""
    failed: str = ""
    faults: list[str] = field(default_factory=list)


class FailingStorage:
    """Fails the request number `fails_at`, counted from 0, with `error`; `requests` have been made.

    `failed` is set by the failure.
    """

    def __init__(self, storage: Storage, fails_at: int, error: CesbrError) -> None:
        self._storage: Final = storage
        self._fails_at: Final = fails_at
        self._error: Final = error
        self.display_url = storage.display_url
        self.requests = 0
        self.failed = ""

    def _count(self, what: str) -> None:
        self.requests += 1
        if self.requests == self._fails_at + 1:
            self.failed = what
            raise self._error

    async def list(self, kind: FileType) -> list[FileInfo]:
        """List the files of one kind."""
        self._count(f"list {kind}")
        return list(await self._storage.list(kind))

    async def read(
        self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read a part of a file, or all of it."""
        self._count(f"{kind}/{name}")
        return await self._storage.read(kind, name, offset, length)

    async def aclose(self) -> None:
        """Close the storage."""
        await self._storage.aclose()


class NetworkStorage:
    """A local storage that is read like one behind a network: no reads in the caller's thread."""

    def __init__(self, storage: Storage) -> None:
        self._storage: Final = storage
        self.display_url = storage.display_url

    async def list(self, kind: FileType) -> list[FileInfo]:
        """List the files of one kind."""
        return list(await self._storage.list(kind))

    async def read(
        self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read a part of a file, or all of it."""
        return await self._storage.read(kind, name, offset, length)

    async def aclose(self) -> None:
        """Close the storage."""
        await self._storage.aclose()


class _Tracebacks(logging.Handler):
    """Collects log records with a traceback: exceptions that nobody expected."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(f"logged: {record.getMessage()}: {record.exc_info[1]!r}")


@contextmanager
def _logging(reading: Reading) -> Iterator[None]:
    handler = _Tracebacks()
    log = logging.getLogger("cesbrfs")
    propagate, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagate
        reading.faults += handler.found


def read_everything(access: Access, *, remote: bool, cache: Path | None) -> Reading:
    """Open a repository and read all of its backups; never raises."""
    reading = Reading()
    with _logging(reading):
        try:
            trio.run(_run, reading, access, remote, cache)
        except trio.TooSlowError:
            reading.faults.append(f"reading was not finished after {SECONDS_MAX:.0f} s")
        except BaseExceptionGroup as group:
            reading.faults += [f"raised {error!r}" for error in group.exceptions]
        except Exception as error:  # noqa: BLE001 - any other exception is a fault to report
            reading.faults.append(f"raised {error!r}")
    reading.faults += [
        f"{file} failed in a way that was not foreseen: {reason}"
        for file, reason in reading.damaged.items()
        if reason.startswith("Unexpected error (")
    ]
    return reading


def read_twice(access: Access, fails_at: int, error: CesbrError) -> tuple[Reading, Reading, str]:
    """Read everything while one request fails, and again in the same process after a minute.

    Returns both readings, and which request has failed ("": there were fewer).
    """
    first, second = Reading(), Reading()
    clock = MockClock()

    async def read() -> str:
        storage = FailingStorage(open_storage(access), fails_at, error)
        try:
            repository = await Repository.open(storage, access.key)
        except CesbrError as refused:
            first.failed = refused.message
            repository = await Repository.open(storage, access.key)
        view = BackupTree(repository)
        across = AcrossBackups(view)
        await _Reader(first, view).read_all(across)
        first.damaged = dict(repository.damaged_files.all)
        failed = storage.failed
        clock.jump(61.0)
        await _Reader(second, view).read_all(across)
        second.damaged = dict(repository.damaged)
        await repository.aclose()
        return failed

    with _logging(first):
        failed = trio.run(read, clock=clock)
    return first, second, failed


async def _run(reading: Reading, access: Access, remote: bool, cache: Path | None) -> None:
    with trio.fail_after(SECONDS_MAX):
        await _read(reading, access, remote, cache)


async def _read(reading: Reading, access: Access, remote: bool, cache: Path | None) -> None:
    storage: Storage = open_storage(access)
    caching = CacheConfig(directory=cache, data=_DATA_CACHE_BYTES if cache and remote else 0)
    try:
        repository = await Repository.open(
            NetworkStorage(storage) if remote else storage, access.key, caching
        )
    except CesbrError as error:
        reading.failed = error.message
        return
    async with trio.open_nursery() as nursery:
        repository.serve(nursery)
        await repository.listings.load()
        # The clock stands still: the backups are listed once.
        await _Reader(reading, BackupTree(repository, clock=lambda: 0.0)).read()
        await repository.aclose()
        nursery.cancel_scope.cancel()
    reading.damaged = dict(repository.damaged)


class _Reader:
    def __init__(self, reading: Reading, view: BackupTree) -> None:
        self._reading = reading
        self._view = view

    async def read(self) -> None:
        """Read the tree from its root."""
        try:
            entries = await self._view.children(self._view.root)
        except CesbrError as error:
            self._reading.failed = error.message
            return
        for name, entry in entries.items():
            if name == directory_names.LATEST:
                self._reading.latest = entry.node.target
            else:
                await self._entry(name, entry)

    async def read_all(self, across: AcrossBackups) -> None:
        """Read the tree from its root, then what covers all backups."""
        await self.read()
        for name in (directory_names.DOGUS, directory_names.VERSIONS):
            top = across.directory(name)
            assert top is not None
            pending: list[tuple[bytes, Entry]] = [(name, top)]
            while pending:
                path, entry = pending.pop()
                what = f"{entry.node.mode:o} {entry.node.target!r}"
                if stat.S_ISREG(entry.node.mode):
                    what += f" {await self._attempt(path, self._content(path, entry))}"
                self._reading.across[path] = what
                if isinstance(entry, VirtualDir):
                    children = await self._attempt(path + b"/", self._view.children(entry)) or {}
                    pending += [(os.path.join(path, below), e) for below, e in children.items()]

    async def _entry(self, path: bytes, entry: Entry) -> None:
        if isinstance(entry, VirtualFile):
            self._reading.statuses[os.path.dirname(path)] = json.loads(entry.content)["status"]
            return
        node = entry.node
        content = ""
        if stat.S_ISREG(node.mode):
            digest = await self._attempt(path, self._content(path, entry))
            if digest is None:
                return
            content = digest
        self._reading.records[path] = _record(entry, content)
        if stat.S_ISDIR(node.mode):
            children = await self._attempt(path + b"/", self._children(path, entry))
            for name, child in (children or {}).items():
                await self._entry(os.path.join(path, name), child)

    async def _attempt(self, path: bytes, result: Awaitable[_T]) -> _T | None:
        try:
            return await result
        except CesbrError as error:
            self._reading.errors[path] = error.message
            return None

    async def _children(self, path: bytes, entry: Entry) -> dict[bytes, Entry]:
        """Return the entries of a directory, after comparing them with what a mount lists."""
        if not isinstance(entry, SnapshotEntry):
            return dict(await self._view.children(entry))
        ref = TreeRef.of(entry)
        entries = self._view.stored.entries
        try:
            listed = (await entries(ref)).listed
        except CesbrError:
            listed = None
        children = dict(await self._view.children(entry))
        if listed is None:  # the error was temporary, or this one raises it
            listed = (await entries(ref)).listed
        if listed != entries_of(c.node for c in children.values()).listed:
            self._reading.faults.append(f"{path!r}: a mount lists other entries than the shell")
        return children

    async def _content(self, path: bytes, entry: Entry) -> str:
        content = await self._view.content(entry)
        assert isinstance(content, FileReader)
        digest = hashlib.sha256()
        for offset in range(0, content.size, _READ_BYTES):
            part = await content.read(offset, _READ_BYTES)
            if len(part) != min(_READ_BYTES, content.size - offset):
                self._reading.faults.append(f"{path!r}: a read returns {len(part)} bytes")
            digest.update(part)
        return digest.hexdigest()


def _record(entry: Entry, content: str) -> Record:
    node = entry.node
    if isinstance(entry, VirtualDir) or (isinstance(entry, SnapshotEntry) and entry.top):
        return Record(node.mode, 0, 0, 0, 0)  # its time and owner are generated
    return record_of(node, content)


def record_of(node: Node, content: str) -> Record:
    """Return the record of a stored entry, whose content has the SHA-256 `content`."""
    return Record(
        mode=node.mode,
        uid=node.uid,
        gid=node.gid,
        mtime_ns=node.mtime_ns,
        size=0 if stat.S_ISDIR(node.mode) else node.size,
        target=node.target,
        xattrs=node.xattrs,
        links=node.links,
        content=content,
    )
