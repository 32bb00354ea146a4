"""Present the backups of a repository as a directory tree, for mount, shell and restore.

Every entry has a `Node`, so virtual directories and stored files have the same metadata. Virtual
directories change when backups are added or removed; the content of a placement never changes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import msgspec
import trio

from cesbrfs import __version__
from cesbrfs.catalog import directory_names
from cesbrfs.catalog.backups import Backup, Backups
from cesbrfs.catalog.layout import REVISION, Layout, lay_out
from cesbrfs.catalog.refresh import BackupListing
from cesbrfs.catalog.rules import DEFAULT_BACKUP_TAG, DEFAULT_RULES, Rule
from cesbrfs.catalog.status import (
    RETRY_SECONDS,
    Holds,
    Report,
    Reports,
    Status,
    describe,
    dogus_of,
)
from cesbrfs.errors import IsDirectoryError, NotDirectoryError, NotFoundError
from cesbrfs.repo.format.model import Node, Tree
from cesbrfs.repo.repository import FileReader, Repository
from cesbrfs.util.dates import local_time
from cesbrfs.util.escape import show
from cesbrfs.vfs.entries import (
    Entry,
    ResolvedPath,
    SnapshotEntry,
    TreeRef,
    VirtualDir,
    VirtualFile,
)
from cesbrfs.vfs.resolve import (
    lookup,
    owner_directories,
    owner_directory,
    parse_past_time,
    resolve,
)
from cesbrfs.vfs.root_directory import RootDirectory
from cesbrfs.vfs.stored import SnapshotReader
from cesbrfs.vfs.virtual import VirtualEntries, snapshot_directories

REFRESH_SECONDS: Final = 1.0
"""How long a listing of snapshots is cached."""

_max_age: Final = ContextVar("_max_age", default=REFRESH_SECONDS)


@contextmanager
def as_listed_last() -> Iterator[None]:
    """Use the cached list of backups in the current task, regardless of its age."""
    token = _max_age.set(math.inf)
    try:
        yield
    finally:
        _max_age.reset(token)


@dataclass(slots=True)
class _CachedLayout:
    """The layout of a backup; valid while `identity`, the set of its snapshot IDs, is the same.

    If something could not be read, it is valid until `expires`, in seconds of the clock.
    """

    identity: frozenset[str]
    report: Report
    layout: Layout
    expires: float = math.inf
    entries: dict[bytes, Entry] = field(default_factory=dict)


class BackupTree:
    """The directory tree over the backups of one repository.

    `clock` returns seconds; it determines when snapshots are listed again.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        rules: Sequence[Rule] = DEFAULT_RULES,
        backup_tag: re.Pattern[str] = DEFAULT_BACKUP_TAG,
        uid: int = 0,
        gid: int = 0,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.repository: Final = repository
        self.stored: Final = SnapshotReader(repository)
        self.reports: Final = Reports(repository, clock)
        self.listing: Final = BackupListing(repository, backup_tag, clock)
        self._rules = rules
        self.virtual: Final = VirtualEntries(uid, gid)
        self._last_backups: Backups | None = None
        self._layouts: dict[str, _CachedLayout] = {}
        self.clock: Final = clock
        self._root_refreshed_at = -math.inf
        self.on_change: Callable[[Backups], None] | None = None
        """Callback that receives the backups when snapshots were added or removed."""
        self.chose_newest = False
        """Whether ``latest`` or a time chose a backup; an unreadable one may be newer."""
        self._top: Final = RootDirectory(self.reports, self.virtual, self._backup_directory, clock)
        self.root: Final = self.virtual.directory(b"", 0, self._root, self._root_child_nowait)
        self.root.child = self._root_child

    def serve(self, nursery: trio.Nursery) -> None:
        """List backups, find ``latest`` and read ahead in tasks of `nursery`, as a mount does."""
        self.listing.refresh_in(nursery)
        self._top.determine_in(nursery)
        self.repository.serve(nursery)

    async def backups(self, max_age: float | None = None) -> Backups:
        """Return all backups; a cached list is at most `max_age` seconds old.

        `BackupListing.backups` describes when an older list is returned.
        """
        backups = await self.listing.backups(_max_age.get() if max_age is None else max_age)
        self._set_backups(backups)
        return backups

    async def refresh(self) -> Backups:
        """List the backups now and apply the list; raises what listing them raises."""
        backups = await self.listing.list_now()
        self._set_backups(backups)
        return backups

    def _set_backups(self, backups: Backups) -> None:
        """Drop cached data of removed backups and update the modification time of the root.

        The root has the time of its newest backup at first. A later change sets it to the current
        time, so that clients that cache directories by modification time (NFS) list it again.
        """
        if backups is self._last_backups:
            return
        now = time.time_ns()
        newest = max((backup.time_ns for backup in backups.by_name.values()), default=0)
        changed = min(newest, now) if self._last_backups is None else now
        self._last_backups = backups
        if self.on_change is not None:
            self.on_change(backups)
        self.root.node = msgspec.structs.replace(
            self.root.node, mtime_ns=changed, ctime_ns=changed, atime_ns=changed
        )
        kept = {backup.id for backup in backups.by_name.values()}
        for removed_id in self._layouts.keys() - kept:
            del self._layouts[removed_id]

    def refresh_root_nowait(self) -> None:
        """Apply the cached list of backups; refresh it in the background if it is stale."""
        now = self.clock()
        if now - self._root_refreshed_at >= REFRESH_SECONDS:
            self._root_refreshed_at = now
            self.listing.refresh()
        known = self.listing.backups_nowait(math.inf)
        if known is not None:
            self._set_backups(known)

    async def latest(self) -> Backup | None:
        """Return the backup that ``latest`` points to."""
        return await self.reports.latest(await self.backups())

    async def find_backup(self, wanted: str, paths: Iterable[str] = ()) -> Backup:
        """Return a backup by ID, directory name, unique ID prefix, ``latest``, or a time.

        ``latest~N`` is the Nth before ``latest``. A time selects the backup that was ``latest`` at
        that time. With `paths` inside the backup, both select among complete backups that contain
        the dogus of these paths. Raises NotFoundError if there is none, UsageError for a time in
        the future.
        """
        backups = await self.backups()
        named = wanted.encode("utf-8", "surrogateescape") in backups.by_name
        back = None if named else directory_names.steps_back(wanted)
        if back is not None:
            listed = list(backups.by_name.values())
            backup = await self._newest(listed, paths, back)
            if backup is None:
                raise await self.no_latest(back)
            return backup
        time_ns = None if named or backups.starting(wanted) else parse_past_time(wanted)
        if time_ns is None:
            return backups.find(wanted)
        backup = await self._newest(backups.until(time_ns), paths)
        if backup is None:
            raise NotFoundError(
                f"There was no complete backup at {local_time(time_ns)} ({wanted})."
            )
        return backup

    async def _newest(
        self, backups: Sequence[Backup], paths: Iterable[str], back: int = 0
    ) -> Backup | None:
        """Return the newest of `backups` with the owners of `paths`, else the newest of all.

        `Reports.newest` defines which backups are candidates; `back` skips the newest ones.
        """
        self.chose_newest = True
        owners = owner_directories(paths)
        if owners:
            holder = await self._nth(backups, back, partial(self._holds, owners))
            if holder is not None:
                return holder
        return await self._nth(backups, back)

    async def _nth(
        self, backups: Sequence[Backup], back: int, holds: Holds | None = None
    ) -> Backup | None:
        found = await self.reports.newest(backups, holds)
        for _ in range(back):
            if found is None:
                break
            backups = backups[: backups.index(found)]
            found = await self.reports.newest(backups, holds)
        return found

    async def _holds(self, owners: frozenset[str], backup: Backup, report: Report) -> bool:
        if report.manifest is not None and report.status is Status.COMPLETE:
            return owners <= {owner_directory(point.dogu) for point in report.manifest.points}
        return owners <= set(map(show, (await self._cached_layout(backup)).entries))

    async def latest_of(self, dogu: bytes) -> Backup | None:
        """Return the newest complete backup that has the directory `dogu`."""
        listed = list((await self.backups()).by_name.values())
        return await self._nth(listed, 0, partial(self._holds, frozenset({show(dogu)})))

    async def no_latest(self, back: int = 0) -> NotFoundError:
        """Return the error for a missing ``latest`` or ``latest~N``."""
        if back and await self.latest() is not None:
            return NotFoundError(
                f"There is no latest~{back}: there are fewer complete backups of the whole"
                " instance. Run 'cesbr backups' for a list."
            )

        async def anything(_backup: Backup, _report: Report) -> bool:
            return True

        listed = list((await self.backups()).by_name.values())
        partly = await self.reports.newest(listed, anything)
        if partly is None:
            return NotFoundError("There is no complete backup yet. Create one with 'cesbr backup'.")
        dogus = dogus_of(partly, await self.reports.of(partly)) or ()
        return NotFoundError(
            "There is no complete backup of the whole instance. The newest complete one is"
            f" {show(os.fsencode(partly.id))}, of"
            f" {' and '.join(show(os.fsencode(dogu)) for dogu in sorted(dogus))}; pass its ID, or"
            " back up the whole instance with 'cesbr backup'."
        )

    async def layout(self, backup: Backup) -> Layout:
        """Return the layout of `backup`; cached while its snapshots are the same."""
        return (await self._cached_layout(backup)).layout

    def layouts_expire(self) -> float:
        """Return when a cached layout must be determined again, as a time of `clock`."""
        return min((cached.expires for cached in self._layouts.values()), default=math.inf)

    async def prepare(self) -> None:
        """Determine ``latest``, and cache its layout if the repository is remote."""
        latest = await self.latest()
        if latest is not None and self.repository.is_remote:
            await self.layout(latest)

    def layout_key(self, backup: Backup) -> bytes:
        """Return a cache key that changes whenever the layout of `backup` may change."""
        inputs = [__version__, f"placing {REVISION}", *sorted(backup.identity)]
        inputs += [f"{rule.kind} {rule.match.pattern}" for rule in self._rules]
        return hashlib.sha256("\n".join(inputs).encode()).digest()

    async def dogus(self, backup: Backup) -> list[str]:
        """Return the escaped directory names of the dogus in `backup`, sorted."""
        entries = (await self._cached_layout(backup)).entries
        other = (directory_names.INSTANCE, directory_names.SNAPSHOTS)
        return sorted(
            show(name)
            for name, entry in entries.items()
            if name not in other and stat.S_ISDIR(entry.node.mode)
        )

    # Walking

    async def children(self, entry: Entry) -> Mapping[bytes, Entry]:
        """Return the entries of a directory by name; raises NotDirectoryError for other types."""
        if isinstance(entry, VirtualDir):
            return await entry.load()
        nodes = await self.nodes(entry)
        assert isinstance(entry, SnapshotEntry)
        return {name: SnapshotEntry(name, node, entry.snapshot) for name, node in nodes.items()}

    async def listed_root(self) -> Mapping[bytes, Entry]:
        """Return the entries of the root for a listing, without waiting for the index.

        Until it is determined, ``latest`` is a PendingSymlink; after `serve` only.
        """
        return await self._top.listed(await self.backups())

    async def child(self, entry: Entry, name: bytes) -> Entry | None:
        """Return one entry of a directory, None if it does not exist."""
        if isinstance(entry, VirtualDir):
            if entry.child is not None:
                return await entry.child(name)
            return entry.child_nowait(name) or (await entry.load()).get(name)
        node = (await self.nodes(entry)).get(name)
        assert isinstance(entry, SnapshotEntry)
        return SnapshotEntry(name, node, entry.snapshot) if node else None

    async def refused(self, entry: Entry) -> tuple[str, ...]:
        """Return the reasons, with names, for recorded entries that no file system can show."""
        if isinstance(entry, VirtualDir):
            return ()
        return (await self._tree_of(entry)).refused

    async def unknown(self, entry: Entry) -> Mapping[bytes, str]:
        """Return the unreadable entries of a directory by name, with the reasons."""
        return {} if isinstance(entry, VirtualDir) else (await self._tree_of(entry)).unknown

    async def nodes(self, entry: Entry) -> dict[bytes, Node]:
        """Return the nodes of a stored directory by name; raises NotDirectoryError."""
        return (await self._tree_of(entry)).nodes

    async def _tree_of(self, entry: Entry) -> Tree:
        if not isinstance(entry, SnapshotEntry):
            raise NotDirectoryError(f"{show(entry.name)!r} is not a directory.")
        return await self.stored.tree(TreeRef.of(entry))

    async def content(self, entry: Entry) -> FileReader | VirtualFile:
        """Return a reader or the generated file; raises IsDirectoryError for a directory."""
        if isinstance(entry, VirtualFile):
            return entry
        if stat.S_ISDIR(entry.node.mode):
            raise IsDirectoryError(f"{show(entry.name)!r} is a directory.")
        snapshot = entry.snapshot if isinstance(entry, SnapshotEntry) else None
        return await self.repository.open_file(entry.node, snapshot)

    async def read(self, path: str) -> bytes:
        """Return the content of the regular file at `path`; raises as `resolve` and `content`."""
        content = await self.content((await self.resolve(path)).entry)
        if isinstance(content, VirtualFile):
            return content.content
        return await content.read(0, content.size)

    async def walk(self, path: str = "/") -> AsyncGenerator[tuple[str, Entry], None]:
        """Yield (path, entry) for `path` and everything below it, directories before their content.

        Paths are escaped as `resolve` accepts them. Symlinks are yielded, not followed.
        """
        place = await self.resolve(path)
        pending = [(place.shown, place.entry)]
        while pending:
            path, entry = pending.pop()
            yield path, entry
            if stat.S_ISDIR(entry.node.mode):
                above = path.rstrip("/")
                children = await self.children(entry)
                pending += [
                    (f"{above}/{show(name)}", children[name])
                    for name in sorted(children, reverse=True)
                ]

    async def resolve(self, path: str, start: Sequence[bytes] = ()) -> ResolvedPath:
        """Resolve `path` relative to the names `start`, or to the root if it begins with ``/``.

        Each part is a name as it is or in the escaped form that listings show. At the root, a
        unique prefix of a Backup ID is accepted as well. ``..`` is the parent directory. The link
        ``latest`` is followed; symlinks inside a backup are not.

        Raises NotFoundError, NotDirectoryError.
        """
        return await resolve(self, path, start)

    async def at(self, parts: Sequence[bytes]) -> Entry:
        """Return the entry at the exact names `parts`, from the root; raises NotFoundError."""
        return await lookup(self, parts)

    # Virtual directories

    async def _root(self) -> Mapping[bytes, Entry]:
        return await self._top.entries(await self.backups())

    async def _root_child(self, name: bytes) -> Entry | None:
        if name == directory_names.LATEST:
            self.chose_newest = True
        cached = self._root_child_nowait(name)
        return await self._top.child(await self.backups(), name) if cached is None else cached

    def _root_child_nowait(self, name: bytes) -> Entry | None:
        """Return a cached entry of the root, None for `latest`, which must be determined."""
        recent = self._cached_backups()
        return self._top.directory_nowait(recent, name) if recent is not None else None

    def _backup_directory(self, backup: Backup) -> VirtualDir:
        return self.virtual.directory(
            backup.name,
            backup.time_ns,
            partial(self._backup, backup),
            partial(self._backup_child_nowait, backup),
        )

    def _backup_child_nowait(self, backup: Backup, name: bytes) -> Entry | None:
        """Return a cached entry of a backup directory."""
        recent = self._cached_backups()
        now = recent.by_name.get(backup.name) if recent is not None else None
        cached = self._layouts.get(now.id) if now is not None else None
        if now is None or cached is None or not self._is_current(cached, now):
            return None
        return cached.entries.get(name)

    def _cached_backups(self) -> Backups | None:
        """Return the cached list of backups if listing them costs a round trip."""
        return self.listing.backups_nowait(REFRESH_SECONDS) if self.repository.is_remote else None

    async def _backup(self, backup: Backup) -> Mapping[bytes, Entry]:
        now = (await self.backups()).by_name.get(backup.name)
        return (await self._cached_layout(now)).entries if now else {}

    def _is_current(self, cached: _CachedLayout, backup: Backup) -> bool:
        return cached.identity == backup.identity and self.clock() < cached.expires

    async def _cached_layout(self, backup: Backup) -> _CachedLayout:
        cached = self._layouts.get(backup.id)
        if cached is None or not self._is_current(cached, backup):
            report = await self.reports.of(backup)
            layout = await lay_out(self.repository, backup, self._rules)
            for snapshot in backup.snapshots:
                error = layout.unreadable.get(snapshot.id)
                reason = f"{error.message} (backup {show(backup.name)})" if error else None
                self.repository.damaged_files.note(f"trees/{snapshot.id}", reason)
            cached = _CachedLayout(backup.identity, report, layout)
            if layout.unreadable:
                cached.report = replace(report, status=Status.INCOMPLETE)
            if layout.unreadable or self.reports.is_provisional(backup):
                cached.expires = self.clock() + RETRY_SECONDS
            cached.entries = self._entries(backup, cached)
            self._layouts[backup.id] = cached
        return cached

    def _entries(self, backup: Backup, cached: _CachedLayout) -> dict[bytes, Entry]:
        text = json.dumps(describe(backup, cached.report, cached.layout), indent=2) + "\n"
        content = text.encode()
        node = self.virtual.node(
            directory_names.BACKUP_JSON, stat.S_IFREG | 0o444, backup.time_ns, size=len(content)
        )
        entries: dict[bytes, Entry] = {
            directory_names.BACKUP_JSON: VirtualFile(directory_names.BACKUP_JSON, node, content)
        }
        entries.update(self.virtual.nested(backup.time_ns, cached.layout.placed))
        if cached.layout.whole:
            entries[directory_names.SNAPSHOTS] = self.virtual.fixed_directory(
                directory_names.SNAPSHOTS, backup.time_ns, snapshot_directories(cached.layout.whole)
            )
        return entries
