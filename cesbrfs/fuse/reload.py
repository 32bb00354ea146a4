"""Reload a mount on request: list the backups now."""

from __future__ import annotations

import logging
from typing import Final

import trio

from cesbrfs.errors import CesbrError
from cesbrfs.fuse.status import MountStatus
from cesbrfs.fuse.systemd import ServiceManager
from cesbrfs.vfs.tree import BackupTree

_log = logging.getLogger(__name__)


class Reloader:
    """Run reloads one after another. Requests during a reload cause one more."""

    def __init__(self, view: BackupTree, status: MountStatus, manager: ServiceManager) -> None:
        self._view: Final = view
        self._status: Final = status
        self._manager: Final = manager
        self._requested = trio.Event()

    def request(self) -> None:
        """Request a reload; never blocks."""
        self._requested.set()

    async def run(self) -> None:
        """Run the requested reloads until cancelled."""
        while True:
            await self._requested.wait()
            self._requested = trio.Event()
            await self._reload()

    async def _reload(self) -> None:
        reloads = self._status.reloads
        reloads.started += 1
        self._manager.reloading()
        try:
            await self._view.refresh()
            reloads.error = None
        except CesbrError as error:
            reloads.error = error.message
            _log.error("Reloading failed: %s", error)
        except Exception:  # noqa: BLE001 - as above; the mount continues
            reloads.error = "Listing the backups failed unexpectedly: the log has the details."
            _log.exception("Reloading failed unexpectedly")
        else:
            _log.info("Reloaded: %s.", self._status.summary())
        reloads.finished = reloads.started
        self._manager.ready()
        self._manager.status(self._status.summary())
