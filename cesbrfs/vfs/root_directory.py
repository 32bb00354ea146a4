"""The entries of the root: a directory for each backup, and the link ``latest``.

The directories follow from the snapshots alone. ``latest`` depends on statuses, and so on the index
of the repository, which takes seconds to load if it is large and not cached. A mount therefore
lists ``latest`` as pending if it is not determined soon (ADR 37).
"""

from __future__ import annotations

import logging
import math
import stat
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import trio

from cesbrfs.catalog import directory_names
from cesbrfs.catalog.backups import Backup, Backups
from cesbrfs.catalog.status import RETRY_SECONDS, Reports, may_be_latest
from cesbrfs.errors import CesbrError
from cesbrfs.vfs.entries import Entry, PendingSymlink, VirtualDir, VirtualSymlink
from cesbrfs.vfs.virtual import VirtualEntries, snapshot_directories

_log = logging.getLogger(__name__)

_LATEST_WAIT_SECONDS: Final = 0.1
"""How long a listing waits for `latest` to be determined."""


class _Complete(NamedTuple):
    """All entries for `backups`, with ``latest`` unless there is none.

    Valid until the time `until_ns`, and until the clock shows `expires`.
    """

    backups: Backups
    entries: Mapping[bytes, Entry]
    until_ns: float
    expires: float


class RootDirectory:
    """The entries of the root for a list of backups; `directory` makes that of one backup."""

    def __init__(
        self,
        reports: Reports,
        virtual: VirtualEntries,
        directory: Callable[[Backup], VirtualDir],
        clock: Callable[[], float],
    ) -> None:
        self._reports = reports
        self._virtual = virtual
        self._directory = directory
        self._clock = clock
        self._directories: tuple[Backups, dict[bytes, Entry]] | None = None
        self._complete: _Complete | None = None
        self._background: trio.Nursery | None = None
        self._determining: tuple[Backups, trio.Event] | None = None

    def determine_in(self, background: trio.Nursery) -> None:
        """Determine ``latest`` in tasks of `background`, so that no listing waits for it long."""
        self._background = background

    def directories(self, backups: Backups) -> Mapping[bytes, Entry]:
        """Return all entries except ``latest``; never blocks."""
        cached = self._directories
        if cached is not None and cached[0] is backups:
            return cached[1]
        entries: dict[bytes, Entry] = {
            name: self._directory(backup) for name, backup in backups.by_name.items()
        }
        if backups.loose:
            newest = max(s.time_ns for s in backups.loose)
            entries[directory_names.SNAPSHOTS] = self._virtual.fixed_directory(
                directory_names.SNAPSHOTS, newest, snapshot_directories(backups.loose)
            )
        self._directories = (backups, entries)
        return entries

    def directory_nowait(self, backups: Backups, name: bytes) -> Entry | None:
        """Return one of `directories` if they are cached."""
        cached = self._directories
        return cached[1].get(name) if cached is not None and cached[0] is backups else None

    async def child(self, backups: Backups, name: bytes) -> Entry | None:
        """Return the entry of this name; only ``latest`` depends on statuses."""
        if name == directory_names.LATEST:
            return (await self.entries(backups)).get(name)
        return self.directories(backups).get(name)

    async def entries(self, backups: Backups) -> Mapping[bytes, Entry]:
        """Return all entries."""
        cached = self._complete_nowait(backups)
        if cached is not None:
            return cached
        now_ns = time.time_ns()
        latest = await self._reports.latest(backups)
        entries = {**self.directories(backups)}
        if latest is not None:
            entries[directory_names.LATEST] = self._link(latest)
        # A backup with a time in the future may become the latest at that time.
        times = (backup.time_ns for backup in backups.by_name.values())
        until_ns = min((ns for ns in times if ns > now_ns), default=math.inf)
        expires = self._clock() + RETRY_SECONDS if self._reports.has_provisional else math.inf
        self._complete = _Complete(backups, entries, until_ns, expires)
        return entries

    def _complete_nowait(self, backups: Backups) -> Mapping[bytes, Entry] | None:
        """Return all entries if they are cached."""
        cached = self._complete
        if cached is None or cached.backups is not backups:
            return None
        if time.time_ns() >= cached.until_ns or self._clock() >= cached.expires:
            return None
        return cached.entries

    async def listed(self, backups: Backups) -> Mapping[bytes, Entry]:
        """Return all entries; ``latest`` is a PendingSymlink if it is not determined soon.

        It is pending if its lookup fails, too. Without a background nursery, waits and raises.
        """
        cached = self._complete_nowait(backups)
        if self._background is None or cached is not None:
            return cached or await self.entries(backups)
        if self._determining is None or self._determining[0] is not backups:
            self._determining = (backups, trio.Event())
            self._background.start_soon(self._determine, *self._determining)
        with trio.move_on_after(_LATEST_WAIT_SECONDS):
            await self._determining[1].wait()
        cached = self._complete_nowait(backups)
        if cached is not None:
            return cached
        entries = self.directories(backups)
        if not any(map(may_be_latest, backups.by_name.values())):
            return entries
        return {**entries, directory_names.LATEST: self._pending()}

    def _link(self, backup: Backup) -> Entry:
        name, size = directory_names.LATEST, len(backup.name)
        mode = stat.S_IFLNK | 0o777
        node = self._virtual.node(name, mode, backup.time_ns, size=size, target=backup.name)
        return VirtualSymlink(name, node)

    def _pending(self) -> Entry:
        name = directory_names.LATEST
        return PendingSymlink(name, self._virtual.node(name, stat.S_IFLNK | 0o777, 0))

    async def _determine(self, backups: Backups, done: trio.Event) -> None:
        try:
            await self.entries(backups)
        except CesbrError as error:  # the lookup that needs it gets the error
            _log.debug("Determining the latest backup: %s", error)
        except Exception:  # noqa: BLE001 - as above; the mount continues
            _log.exception("Determining the latest backup failed unexpectedly")
        finally:
            if self._determining is not None and self._determining[1] is done:
                self._determining = None
            done.set()
