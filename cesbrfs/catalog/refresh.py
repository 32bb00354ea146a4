"""Cache the list of backups and refresh it, also in the background."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from cesbrfs.catalog.backups import Backups, group
from cesbrfs.errors import CesbrError, RepositoryUnreachableError, fresh_copy
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.repo.repository import Repository

_log = logging.getLogger(__name__)

_REFRESH_WAIT_SECONDS: Final = 1.0
"""How long a caller waits for a background refresh before it gets the cached list."""
_NOWAIT_MAX_AGE_SECONDS: Final = 60.0
"""Maximum age of a list that `backups_nowait` returns."""


@dataclass(slots=True)
class ListingStatistics:
    """Successful listings of the snapshots, their duration in seconds, and failed ones.

    `problem` is why the last listing failed; None if it succeeded.
    """

    count: int = 0
    seconds: float = 0.0
    failures: int = 0
    problem: str | None = None


@dataclass(slots=True, eq=False)
class _Refresh:
    """A running refresh; `overdue` is set once a caller timed out waiting for it."""

    done: trio.Event = field(default_factory=trio.Event)
    overdue: bool = False


class BackupListing:
    """A cached list of the backups of a repository; `clock` returns seconds."""

    def __init__(
        self, repository: Repository, tag: re.Pattern[str], clock: Callable[[], float]
    ) -> None:
        self._repository = repository
        self._tag = tag
        self._clock = clock
        self.statistics: Final = ListingStatistics()
        self._cached: Backups | None = None
        self._listed_at = 0.0
        self.listed_ns = 0
        """Wall-clock time (ns) of the last listing that succeeded; 0 before the first."""
        self._lock = trio.Lock()
        self._background: trio.Nursery | None = None
        self._refresh: _Refresh | None = None
        self._error: CesbrError | None = None
        """Error of the last refresh, unless the storage was offline."""

    def refresh_in(self, background: trio.Nursery) -> None:
        """Refresh in tasks of `background` from now on, so that callers do not block long."""
        self._background = background

    @property
    def cached(self) -> Backups | None:
        """The last list of backups, of any age; None before the first listing."""
        return self._cached

    @property
    def is_under_way(self) -> bool:
        """Whether a listing is running."""
        return self._lock.locked()

    def backups_nowait(self, max_age: float) -> Backups | None:
        """Return the cached list if it is at most 60 s old, else None; never blocks.

        If the list is older than `max_age` seconds, a background refresh starts. Without a
        background nursery, or after a failed refresh, the result is None.
        """
        cached, age = self._cached, self._clock() - self._listed_at
        if (
            cached is None
            or self._background is None
            or age > _NOWAIT_MAX_AGE_SECONDS
            or self._error
        ):
            return None
        if age >= max_age and self._refresh is None:
            self._begin(self._background)
        return cached

    async def backups(self, max_age: float) -> Backups:
        """Return all backups, from a list at most `max_age` seconds old.

        With a background nursery, a slow storage may yield an older list.
        """
        asked = self._clock()
        cached = self._cached
        if cached is not None and asked - self._listed_at < max_age:
            return cached
        if cached is None or self._background is None:
            return await self._list(asked)
        refresh = self._refresh or self._begin(self._background)
        if not refresh.overdue and not self._repository.is_offline:
            with trio.move_on_after(_REFRESH_WAIT_SECONDS) as waiting:
                await refresh.done.wait()
            refresh.overdue = waiting.cancelled_caught
        # During a slow refresh, the error of the previous one still applies.
        if self._error is not None:
            raise fresh_copy(self._error) from self._error
        return self._cached or cached

    def refresh(self) -> None:
        """Start a background refresh unless one is running."""
        if self._background is not None and self._refresh is None:
            self._begin(self._background)

    async def list_now(self) -> Backups:
        """List the backups, however long that takes; raises what listing them raises."""
        try:
            return await self._list(self._clock())
        except RepositoryUnreachableError:
            raise
        except CesbrError as error:
            self._error = error
            raise

    def _begin(self, background: trio.Nursery) -> _Refresh:
        self._refresh = _Refresh()
        background.start_soon(self._list_for, self._refresh)
        return self._refresh

    async def _list_for(self, refresh: _Refresh) -> None:
        try:
            await self.list_now()
        except RepositoryUnreachableError as error:
            _log.debug("Listing the backups: %s", error)
        except CesbrError as error:
            _log.debug("Listing the backups failed: %s", error)  # callers get the error
        except Exception:  # noqa: BLE001 - the mount continues with the cached list
            _log.exception("Listing the backups failed unexpectedly")
        finally:
            if self._refresh is refresh:
                self._refresh = None
            refresh.done.set()

    async def _list(self, asked: float) -> Backups:
        """List the backups unless another task began to after `asked`."""
        async with self._lock:
            # Another task may have listed while this one waited for the lock.
            if self._cached is None or self._listed_at < asked:
                began, began_ns = self._clock(), time.time_ns()
                snapshots = await self._snapshots(began)
                if self._cached is None or not _same(self._cached, snapshots):
                    self._cached = group(snapshots, self._tag)
                self._listed_at, self.listed_ns = began, began_ns
                self._error = None
            return self._cached

    async def _snapshots(self, began: float) -> list[Snapshot]:
        """List the snapshots, and count the listing."""
        statistics = self.statistics
        try:
            snapshots = await self._repository.snapshots()
        except CesbrError as error:
            statistics.failures += 1
            statistics.problem = error.message
            raise
        statistics.count += 1
        statistics.seconds += self._clock() - began
        statistics.problem = None
        return snapshots


def _same(backups: Backups, snapshots: Sequence[Snapshot]) -> bool:
    """Return whether `backups` consists of exactly these snapshots."""
    return backups.snapshot_ids == {s.id for s in snapshots}
