"""Keep the list and the figures of the backups fresh for whoever monitors a mount.

Nothing is read until somebody reads the status or the metrics.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from cesbrfs.catalog.backups import Backups
from cesbrfs.catalog.metrics import BackupFigures, backup_figures
from cesbrfs.errors import CesbrError
from cesbrfs.vfs.tree import BackupTree

_log = logging.getLogger(__name__)

_MAX_AGE_SECONDS: Final = 30.0
"""Maximum age of the list of backups that the status and the metrics describe."""
_WAIT_SECONDS: Final = 1.0
"""How long a reader of the metrics waits for figures that are being determined."""


class BackupMonitor:
    """The figures of the backups of `view`: the last ones known while the storage is offline."""

    def __init__(self, view: BackupTree) -> None:
        self.figures: BackupFigures | None = None
        self._view = view
        self._background: trio.Nursery | None = None
        self._running: trio.Event | None = None

    def refresh_in(self, background: trio.Nursery) -> None:
        """Determine the figures in tasks of `background` from now on, so that no reader waits."""
        self._background = background

    async def refresh_listing(self) -> Backups | None:
        """List the backups again if the list is older than 30 s; None if that fails.

        With a background nursery, waits about a second at most, and not for a storage that is known
        to be offline or slow.
        """
        try:
            return await self._view.backups(_MAX_AGE_SECONDS)
        except CesbrError:  # the listing counts its failures
            return None

    async def refresh(self) -> None:
        """Bring the figures up to date; with a background nursery, waits two seconds at most."""
        backups = await self.refresh_listing()
        if backups is None:
            return
        if self._background is None:
            await self._determine(backups)
            return
        if self._running is None:
            self._running = trio.Event()
            self._background.start_soon(self._determine_for, backups, self._running)
        with trio.move_on_after(_WAIT_SECONDS):
            await self._running.wait()

    async def _determine_for(self, backups: Backups, done: trio.Event) -> None:
        try:
            await self._determine(backups)
        except Exception:  # noqa: BLE001 - the mount continues with the figures it has
            _log.exception("Determining the figures of the backups failed unexpectedly")
        finally:
            self._running = None
            done.set()

    async def _determine(self, backups: Backups) -> None:
        try:
            self.figures = await backup_figures(self._view.reports, backups)
        except CesbrError as error:
            _log.debug("Determining the figures of the backups: %s", error)
