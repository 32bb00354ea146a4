"""The list of backups as time passes: listed again when it has grown old, in the background too."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from cesbrfs.catalog.backups import Backups, group
from cesbrfs.errors import CesbrError, RepositoryUnreachableError, fresh_copy
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.repo.repository import Repository

_log = logging.getLogger(__name__)

_WAIT_SECONDS: Final = 1.0
"""With a background, a new listing is waited for so long before the last one is used."""
_LATELY_SECONDS: Final = 60.0


@dataclass(slots=True, eq=False)
class _Refresh:
    """A listing under way; `overdue` once somebody has waited for it in vain."""

    done: trio.Event = field(default_factory=trio.Event)
    overdue: bool = False


class BackupListing:
    """The backups of a repository; `clock` returns seconds and paces how often they are listed."""

    def __init__(
        self, repository: Repository, tag: re.Pattern[str], clock: Callable[[], float]
    ) -> None:
        self._repository = repository
        self._tag = tag
        self._clock = clock
        self._held: Backups | None = None
        self._listed_at = 0.0
        self._turn = trio.Lock()
        self._background: trio.Nursery | None = None
        self._refresh: _Refresh | None = None
        self._error: CesbrError | None = None
        """Why the last listing failed, unless the storage was merely offline."""

    def refresh_in(self, background: trio.Nursery) -> None:
        """List in tasks of `background` from now on, so that nobody waits long for the storage."""
        self._background = background

    @property
    def is_under_way(self) -> bool:
        """Whether the backups are being listed just now."""
        return self._turn.locked()

    def lately(self, max_age: float) -> Backups | None:
        """Return all backups as they were last listed, if that was lately; None otherwise.

        Without waiting; where that was more than `max_age` seconds ago, they are listed anew in the
        background.
        """
        held, age = self._held, self._clock() - self._listed_at
        if held is None or self._background is None or age > _LATELY_SECONDS or self._error:
            return None
        if age >= max_age and self._refresh is None:
            self._begin(self._background)
        return held

    async def backups(self, max_age: float) -> Backups:
        """Return all backups as they were at most `max_age` seconds ago.

        With a background, older ones are returned when the storage takes its time.
        """
        asked = self._clock()
        held = self._held
        if held is not None and asked - self._listed_at < max_age:
            return held
        if held is None or self._background is None:
            return await self._list(asked)
        refresh = self._refresh or self._begin(self._background)
        if not refresh.overdue and not self._repository.is_offline:
            with trio.move_on_after(_WAIT_SECONDS) as waiting:
                await refresh.done.wait()
            refresh.overdue = waiting.cancelled_caught
        # While a slow listing is under way, the error of the one before it counts.
        if self._error is not None:
            raise fresh_copy(self._error) from self._error
        return self._held or held

    def refresh(self) -> None:
        """Begin to list anew in the background."""
        if self._background is not None:
            self._begin(self._background)

    def _begin(self, background: trio.Nursery) -> _Refresh:
        self._refresh = _Refresh()
        background.start_soon(self._list_for, self._refresh)
        return self._refresh

    async def _list_for(self, refresh: _Refresh) -> None:
        try:
            await self._list(self._clock())
        except RepositoryUnreachableError as error:
            _log.debug("Listing the backups: %s", error)
        except CesbrError as error:
            self._error = error
        except Exception:  # noqa: BLE001 - the mount lives on, with what it knows
            _log.exception("Listing the backups failed in a way that was not foreseen")
        finally:
            if self._refresh is refresh:
                self._refresh = None
            refresh.done.set()

    async def _list(self, asked: float) -> Backups:
        """List unless that was begun since `asked`."""
        async with self._turn:
            # Others may have listed while this task waited for its turn.
            if self._held is None or self._listed_at < asked:
                began = self._clock()
                snapshots = await self._repository.snapshots()
                if self._held is None or not _same(self._held, snapshots):
                    self._held = group(snapshots, self._tag)
                self._listed_at = began
                self._error = None
            return self._held


def _same(backups: Backups, snapshots: Sequence[Snapshot]) -> bool:
    """Tell whether `backups` was made of exactly these snapshots."""
    return backups.snapshot_ids == {s.id for s in snapshots}
