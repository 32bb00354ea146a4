"""The state of a mount in ``.cesbrfs/``: status.json and metrics."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

import trio

from cesbrfs import __version__
from cesbrfs.catalog.directory_names import STATUS_DIRECTORY
from cesbrfs.catalog.refresh import BackupListing
from cesbrfs.repo.format.model import Node, NodeType
from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.repo.repository import Repository
from cesbrfs.util.dates import local_time
from cesbrfs.vfs.entries import Entry, VirtualDir


@dataclass(slots=True, eq=False)
class GeneratedFile(Entry):
    """A virtual file whose content is generated on open."""

    render: Callable[[], bytes]


@dataclass(slots=True)
class Reloads:
    """How many reloads have started and finished, and why the last one failed, if it did."""

    started: int = 0
    finished: int = 0
    error: str | None = None


class MountStatus:
    """Count requests and errors; `counters` returns the current numbers of inodes and handles."""

    def __init__(
        self,
        repository: Repository,
        listing: BackupListing,
        counters: Callable[[], Mapping[str, int]],
    ) -> None:
        self.requests: Final[dict[str, int]] = {}
        self.errors = 0
        self.reloads: Final = Reloads()
        self._repository = repository
        self._listing = listing
        self._counters = counters
        self._started = time.monotonic()

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

    def directory(self, owner: Node) -> VirtualDir:
        """Return the directory, with the owner of `owner`."""
        now = time.time_ns()

        def node(name: bytes, mode: int, kind: NodeType) -> Node:
            return Node(
                name=name, type=kind, mode=mode, mtime_ns=now, atime_ns=now, ctime_ns=now,
                uid=owner.uid, gid=owner.gid,
            )  # fmt: skip

        entries: dict[bytes, Entry] = {
            name: GeneratedFile(name, node(name, 0o100444, "file"), render)
            for name, render in ((b"status.json", self._json), (b"metrics", self._metrics))
        }

        async def load() -> dict[bytes, Entry]:
            return entries

        return VirtualDir(STATUS_DIRECTORY, node(STATUS_DIRECTORY, 0o40555, "dir"), load)

    def _numbers(self) -> dict[str, int]:
        return {
            **self._counters(),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "errors_total": self.errors,
            "repository_gone": int(self._repository.is_gone),
        }

    def _json(self) -> bytes:
        repository = self._repository
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
            "uptime_seconds": round(time.monotonic() - self._started, 3),
            "requests": dict(sorted(self.requests.items())),
            **self._numbers(),
            "damaged": repository.damaged,
        }
        return json.dumps(status, indent=2).encode() + b"\n"

    def _metrics(self) -> bytes:
        lines = ["# TYPE cesbrfs_requests_total counter"]
        lines += [
            f'cesbrfs_requests_total{{operation="{name}"}} {count}'
            for name, count in sorted(self.requests.items())
        ]
        for name, value in self._numbers().items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# TYPE cesbrfs_{name} {kind}", f"cesbrfs_{name} {value}"]
        return "\n".join(lines).encode() + b"\n"


def _state(repository: Repository) -> str:
    """Return ``ready``, ``gone`` (the storage holds no repository) or ``unreachable``."""
    if repository.is_gone:
        return "gone"
    return "unreachable" if repository.is_offline else "ready"
