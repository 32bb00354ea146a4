"""The state of a mount in ``.cesbrfs/``: status.json and metrics."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Final

import trio

from cesbrfs import __version__
from cesbrfs.catalog.directory_names import STATUS_DIRECTORY
from cesbrfs.catalog.metrics import backup_metrics
from cesbrfs.fuse.backup_monitor import BackupMonitor
from cesbrfs.fuse.latency import Latency
from cesbrfs.fuse.metrics import (
    process_metrics,
    repository_metrics,
    request_metrics,
    resident_bytes,
)
from cesbrfs.repo.format.model import Node, NodeType
from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.repo.repository import Repository
from cesbrfs.util.dates import local_time
from cesbrfs.util.openmetrics import Metric, render
from cesbrfs.vfs.entries import Entry, VirtualDir, VirtualFile
from cesbrfs.vfs.tree import BackupTree

_STATUS: Final = b"status.json"
_METRICS: Final = b"metrics"


@dataclass(slots=True, eq=False)
class GeneratedFile(VirtualFile):
    """A file whose content is generated for each lookup, so that its size is that of its content.

    The kernel keeps no attributes of it, and the open that follows a lookup gets this content.
    """


@dataclass(slots=True)
class Reloads:
    """How many reloads have started and finished, and why the last one failed, if it did."""

    started: int = 0
    finished: int = 0
    error: str | None = None


class MountStatus:
    """Count requests and errors; `counters` returns the current numbers of inodes and handles."""

    def __init__(self, view: BackupTree, counters: Callable[[], Mapping[str, int]]) -> None:
        self.latency: Final[defaultdict[str, Latency]] = defaultdict(Latency)
        """Requests by operation."""
        self.errors = 0
        self.monitor: Final = BackupMonitor(view)
        self.reloads: Final = Reloads()
        self._listing = view.listing
        self._repository = view.repository
        self._counters = counters
        self._started = time.time()
        self._began = time.monotonic()
        self._owner = view.root.node

    @property
    def backups(self) -> int:
        """How many backups the last listing found."""
        cached = self._listing.cached
        return len(cached.by_name) if cached is not None else 0

    def summary(self) -> str:
        """Return a line for people: the number of backups, when they were listed, the state."""
        return (
            f"{self.backups:,} backup{'' if self.backups == 1 else 's'}, listed"
            f" {local_time(self._listing.listed_ns)}; the repository is {_state(self._repository)}"
        )

    def directory(self) -> VirtualDir:
        """Return the directory ``.cesbrfs``, with the owner of the root."""

        async def load() -> dict[bytes, Entry]:
            files = [await self.file(name) for name in (_STATUS, _METRICS)]
            return {file.name: file for file in files if file is not None}

        return VirtualDir(STATUS_DIRECTORY, self._node(STATUS_DIRECTORY, 0o40555, "dir"), load)

    async def file(self, name: bytes) -> GeneratedFile | None:
        """Return the file of this name as it is now, None if there is none."""
        if name == _STATUS:
            await self.monitor.refresh_listing()
            content = self._json()
        elif name == _METRICS:
            await self.monitor.refresh()
            content = render(self._metrics())
        else:
            return None
        return GeneratedFile(name, self._node(name, 0o100444, "file", len(content)), content)

    def _node(self, name: bytes, mode: int, kind: NodeType, size: int = 0) -> Node:
        now = time.time_ns()
        return Node(
            name=name, type=kind, mode=mode, size=size, mtime_ns=now, atime_ns=now, ctime_ns=now,
            uid=self._owner.uid, gid=self._owner.gid,
        )  # fmt: skip

    def _numbers(self) -> dict[str, int]:
        return {
            **self._counters(),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "repository_gone": int(self._repository.is_gone),
        }

    def _json(self) -> bytes:
        repository = self._repository
        listings = self._listing.statistics
        status = {
            "version": __version__,
            "pid": os.getpid(),
            "repository": {
                "url": repository.storage.display_url,
                "id": repository.id,
                "format": repository.version,
                "state": _state(repository),
            },
            "backups": self.backups,
            "listed": format_time(self._listing.listed_ns),
            "reloads": asdict(self.reloads),
            "uptime_seconds": round(time.monotonic() - self._began, 3),
            "resident_bytes": resident_bytes(),
            "requests": {name: one.count for name, one in sorted(self.latency.items())},
            **self._numbers(),
            "errors_total": self.errors,
            "listings": {
                "total": listings.count,
                "failed": listings.failures,
                "message": listings.problem,
            },
            "damaged": repository.damaged,
        }
        return json.dumps(status, indent=2).encode() + b"\n"

    def _metrics(self) -> Iterator[Metric]:
        repository, listings = self._repository, self._listing.statistics
        up = listings.problem is None and not repository.is_offline
        yield from backup_metrics(self.monitor.figures, len(repository.damaged), up=up)
        yield from request_metrics(self.latency, self.errors)
        yield from repository_metrics(repository, listings, self._listing.listed_ns)
        yield from process_metrics(self._numbers(), self._started)


def _state(repository: Repository) -> str:
    """Return ``ready``, ``gone`` (the storage holds no repository) or ``unreachable``."""
    if repository.is_gone:
        return "gone"
    return "unreachable" if repository.is_offline else "ready"
