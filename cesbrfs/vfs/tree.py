"""What backups look like as a file system: the one tree that mount, shell and restore walk.

Every entry carries a `Node`, so that a folder of ours has attributes in the same way as a file of
restic's.  Our own folders change while backups come and go; what lies below a placement never does.
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
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec
import trio

from cesbrfs import __version__
from cesbrfs.catalog import folder_names
from cesbrfs.catalog.backups import Backup, Backups
from cesbrfs.catalog.layout import REVISION, Layout, lay_out
from cesbrfs.catalog.refresh import BackupListing
from cesbrfs.catalog.rules import DEFAULT_BACKUP_TAG, DEFAULT_RULES, Rule
from cesbrfs.catalog.status import Holds, Report, Reports, Status, describe, dogus_of
from cesbrfs.errors import IsAFolderError, NotAFolderError, NotFoundError
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
    VirtualSymlink,
)
from cesbrfs.vfs.resolve import (
    lookup,
    owner_directories,
    owner_directory,
    parse_past_time,
    resolve,
)
from cesbrfs.vfs.stored import SnapshotReader
from cesbrfs.vfs.virtual import VirtualEntries, whole

REFRESH_SECONDS: Final = 1.0
"""A listing of snapshots is used again for this long."""

_max_age: Final = ContextVar("_max_age", default=REFRESH_SECONDS)


@contextmanager
def as_listed_last() -> Iterator[None]:
    """Have the running task see the backups as they were when last listed, however long ago."""
    token = _max_age.set(math.inf)
    try:
        yield
    finally:
        _max_age.reset(token)


@dataclass(slots=True)
class _Shape:
    """A backup laid out, for as long as its snapshots stay the same."""

    identity: frozenset[str]
    told: Report
    layout: Layout
    entries: dict[bytes, Entry] = field(default_factory=dict)


class BackupTree:
    """The tree over one repository.

    `clock` returns seconds and paces how often snapshots are listed again.
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
        self.reports: Final = Reports(repository)
        self.listing: Final = BackupListing(repository, backup_tag, clock)
        self._rules = rules
        self._ours = VirtualEntries(uid, gid)
        self._shown: Backups | None = None
        self._shapes: dict[str, _Shape] = {}
        self._top: tuple[Backups, dict[bytes, Entry]] | None = None
        self._top_until = math.inf
        self._clock = clock
        self._root_asked = -math.inf
        self.on_change: Callable[[Backups], None] | None = None
        """Called with the backups when snapshots have come or gone."""
        self.root: Final = self._ours.folder(b"", 0, self._root, self._known)

    async def backups(self, max_age: float | None = None) -> Backups:
        """Return all backups as they were at most `max_age` seconds ago, or as `listing` does."""
        backups = await self.listing.backups(_max_age.get() if max_age is None else max_age)
        self._show(backups)
        return backups

    def _show(self, backups: Backups) -> None:
        """Forget what belongs to removed backups, and date the root by its newest entry.

        A change while the root is shown dates it now, so that clients that cache directories by
        their modification time, such as NFS, list it again.
        """
        if backups is self._shown:
            return
        now = time.time_ns()
        newest = max((backup.time_ns for backup in backups.by_name.values()), default=0)
        changed = min(newest, now) if self._shown is None else now
        self._shown = backups
        if self.on_change is not None:
            self.on_change(backups)
        self.root.node = msgspec.structs.replace(
            self.root.node, mtime_ns=changed, ctime_ns=changed, atime_ns=changed
        )
        kept = {backup.id for backup in backups.by_name.values()}
        for gone in self._shapes.keys() - kept:
            del self._shapes[gone]

    def refresh_root_nowait(self) -> None:
        """Begin to list the backups again if the list is old, and show what the last list had."""
        now = self._clock()
        if now - self._root_asked >= REFRESH_SECONDS:
            self._root_asked = now
            self.listing.refresh()
        known = self.listing.lately(math.inf)
        if known is not None:
            self._show(known)

    async def latest(self) -> Backup | None:
        """Return the backup that ``latest`` stands for."""
        return await self.reports.latest(await self.backups())

    async def find_backup(self, wanted: str, paths: Iterable[str] = ()) -> Backup:
        """Return a backup by ID, folder name, unique beginning, ``latest``, or a time.

        ``latest~N`` is the Nth before ``latest``.  A time means what ``latest`` was then.  With
        `paths` inside the backup, they mean the newest complete backup that holds the dogus that
        the paths lead into.  Raises NotFoundError when there is none, UsageError for a time in the
        future.
        """
        backups = await self.backups()
        named = wanted.encode("utf-8", "surrogateescape") in backups.by_name
        back = None if named else folder_names.steps_back(wanted)
        if back is not None:
            listed = list(backups.by_name.values())
            backup = await self._newest(listed, paths, back)
            if backup is None:
                raise await self.no_latest(back)
            return backup
        moment = None if named or backups.starting(wanted) else parse_past_time(wanted)
        if moment is None:
            return backups.find(wanted)
        backup = await self._newest(backups.until(moment), paths)
        if backup is None:
            raise NotFoundError(
                f"There was no complete backup yet at {local_time(moment)} ({wanted})."
            )
        return backup

    async def _newest(
        self, backups: Sequence[Backup], paths: Iterable[str], back: int = 0
    ) -> Backup | None:
        """Return the newest of `backups` that holds the owners of `paths`, else the newest of all.

        Both of those that count, see `Reports.newest`; with `back` so many before it.
        """
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

    async def _holds(self, owners: frozenset[str], backup: Backup, told: Report) -> bool:
        if told.manifest is not None and told.status is Status.COMPLETE:
            return owners <= {owner_directory(point.dogu) for point in told.manifest.points}
        return owners <= set(map(show, (await self._shape(backup)).entries))

    async def no_latest(self, back: int = 0) -> NotFoundError:
        """Return why there is no ``latest``, or none so many before it."""
        if back and await self.latest() is not None:
            return NotFoundError(
                f"There is no latest~{back}: there are not that many complete backups of the whole"
                " instance. 'cesbr backups' lists them."
            )

        async def anything(_backup: Backup, _told: Report) -> bool:
            return True

        listed = list((await self.backups()).by_name.values())
        partly = await self.reports.newest(listed, anything)
        if partly is None:
            return NotFoundError("There is no complete backup yet; make one with 'cesbr backup'.")
        dogus = dogus_of(partly, await self.reports.of(partly)) or ()
        return NotFoundError(
            "There is no complete backup of the whole instance. The newest complete one is"
            f" {show(os.fsencode(partly.id))}, of"
            f" {' and '.join(show(os.fsencode(dogu)) for dogu in sorted(dogus))}; pass its ID, or"
            " make one of all with 'cesbr backup'."
        )

    async def layout(self, backup: Backup) -> Layout:
        """Return where everything of `backup` is shown."""
        return (await self._shape(backup)).layout

    async def prepare(self) -> None:
        """Lay out the newest backup ahead of who looks into it, where that costs round trips."""
        latest = await self.latest() if self.repository.is_remote else None
        if latest is not None:
            await self.layout(latest)

    def layout_key(self, backup: Backup) -> bytes:
        """Return what stays the same as long as where everything of `backup` is shown does."""
        told = [__version__, f"placing {REVISION}", *sorted(backup.identity)]
        told += [f"{rule.kind} {rule.match.pattern}" for rule in self._rules]
        return hashlib.sha256("\n".join(told).encode()).digest()

    async def dogus(self, backup: Backup) -> list[str]:
        """Return the folder names of the dogus that `backup` shows, sorted, as people see them."""
        entries = (await self._shape(backup)).entries
        ours = (folder_names.INSTANCE, folder_names.SNAPSHOTS)
        return sorted(
            show(name)
            for name, entry in entries.items()
            if name not in ours and stat.S_ISDIR(entry.node.mode)
        )

    # Walking

    async def children(self, entry: Entry) -> Mapping[bytes, Entry]:
        """Return what a folder holds, by name; NotAFolderError for anything else."""
        if isinstance(entry, VirtualDir):
            return await entry.load()
        nodes = await self.nodes(entry)
        assert isinstance(entry, SnapshotEntry)
        return {name: SnapshotEntry(name, node, entry.snapshot) for name, node in nodes.items()}

    async def child(self, entry: Entry, name: bytes) -> Entry | None:
        """Return one entry of a folder, None when it has no such name."""
        if isinstance(entry, VirtualDir):
            return entry.known(name) or (await entry.load()).get(name)
        node = (await self.nodes(entry)).get(name)
        assert isinstance(entry, SnapshotEntry)
        return SnapshotEntry(name, node, entry.snapshot) if node else None

    async def refused(self, entry: Entry) -> tuple[str, ...]:
        """Return what was recorded in a folder and no folder can hold: names, with the reasons."""
        if isinstance(entry, VirtualDir):
            return ()
        return (await self._tree_of(entry)).refused

    async def unknown(self, entry: Entry) -> Mapping[bytes, str]:
        """Return the reasons, by name, for entries of a folder that cannot be read."""
        return {} if isinstance(entry, VirtualDir) else (await self._tree_of(entry)).unknown

    async def nodes(self, entry: Entry) -> dict[bytes, Node]:
        """Return what a stored folder holds, by name; NotAFolderError for anything else."""
        return (await self._tree_of(entry)).nodes

    async def _tree_of(self, entry: Entry) -> Tree:
        if not isinstance(entry, SnapshotEntry):
            raise NotAFolderError(f"{show(entry.name)!r} is not a folder.")
        return await self.stored.tree(TreeRef.of(entry))

    async def content(self, entry: Entry) -> FileReader | VirtualFile:
        """Return something to read a regular file's bytes from; IsAFolderError for a folder."""
        if isinstance(entry, VirtualFile):
            return entry
        if stat.S_ISDIR(entry.node.mode):
            raise IsAFolderError(f"{show(entry.name)!r} is a folder.")
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

        Raises NotFoundError, NotAFolderError.
        """
        return await resolve(self, path, start)

    async def at(self, parts: Sequence[bytes]) -> Entry:
        """Return the entry at the exact names `parts`, from the root; raises NotFoundError."""
        return await lookup(self, parts)

    # Our own folders

    async def _root(self) -> Mapping[bytes, Entry]:
        backups = await self.backups()
        now_ns = time.time_ns()
        if self._top is not None and self._top[0] is backups and now_ns < self._top_until:
            return self._top[1]
        entries: dict[bytes, Entry] = {
            name: self._ours.folder(
                name,
                backup.time_ns,
                partial(self._backup, backup),
                partial(self._known_of, backup),
            )
            for name, backup in backups.by_name.items()
        }
        if backups.loose:
            newest = max(s.time_ns for s in backups.loose)
            entries[folder_names.SNAPSHOTS] = self._ours.fixed(
                folder_names.SNAPSHOTS, newest, whole(backups.loose)
            )
        latest = await self.reports.latest(backups)
        if latest is not None:
            node = self._ours.node(
                folder_names.LATEST,
                stat.S_IFLNK | 0o777,
                latest.time_ns,
                size=len(latest.name),
                target=latest.name,
            )
            entries[folder_names.LATEST] = VirtualSymlink(folder_names.LATEST, node)
        self._top = (backups, entries)
        # One that is dated in the future may become the latest when its time has come.
        times = (backup.time_ns for backup in backups.by_name.values())
        self._top_until = min((ns for ns in times if ns > now_ns), default=math.inf)
        return entries

    def _known(self, name: bytes) -> Entry | None:
        """Return what lies at the root by a name, but what `latest` is now: that must be asked."""
        lately = self._lately()
        if lately is None or self._top is None or self._top[0] is not lately:
            return None
        return self._top[1].get(name) if name != folder_names.LATEST else None

    def _known_of(self, backup: Backup, name: bytes) -> Entry | None:
        """Return what a backup holds by a name."""
        lately = self._lately()
        now = lately.by_name.get(backup.name) if lately is not None else None
        shape = self._shapes.get(now.id) if now is not None else None
        if now is None or shape is None or shape.identity != now.identity:
            return None
        return shape.entries.get(name)

    def _lately(self) -> Backups | None:
        """Return the backups as they were lately, where asking again would cost a round trip."""
        return self.listing.lately(REFRESH_SECONDS) if self.repository.is_remote else None

    async def _backup(self, backup: Backup) -> Mapping[bytes, Entry]:
        now = (await self.backups()).by_name.get(backup.name)
        return (await self._shape(now)).entries if now else {}

    async def _shape(self, backup: Backup) -> _Shape:
        shape = self._shapes.get(backup.id)
        if shape is None or shape.identity != backup.identity:
            told = await self.reports.of(backup)
            layout = await lay_out(self.repository, backup, self._rules)
            shape = _Shape(backup.identity, told, layout)
            shape.entries = self._entries(backup, shape)
            self._shapes[backup.id] = shape
        return shape

    def _entries(self, backup: Backup, shape: _Shape) -> dict[bytes, Entry]:
        text = json.dumps(describe(backup, shape.told, shape.layout), indent=2) + "\n"
        content = text.encode()
        node = self._ours.node(
            folder_names.BACKUP_JSON, stat.S_IFREG | 0o444, backup.time_ns, size=len(content)
        )
        entries: dict[bytes, Entry] = {
            folder_names.BACKUP_JSON: VirtualFile(folder_names.BACKUP_JSON, node, content)
        }
        entries.update(self._ours.nest(backup.time_ns, shape.layout.placed))
        if shape.layout.whole:
            entries[folder_names.SNAPSHOTS] = self._ours.fixed(
                folder_names.SNAPSHOTS, backup.time_ns, whole(shape.layout.whole)
            )
        return entries
