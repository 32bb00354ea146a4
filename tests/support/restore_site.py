"""A synthetic repository with one volume, and restores of it to a target directory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from cesbrfs.catalog.manifest import Manifest, Point, write_manifest
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage.local import LocalStorage
from cesbrfs.restore import (
    Overwrite,
    Progress,
    RestorePlan,
    RestoreReport,
    Target,
    ToDirectory,
    execute,
    make_plan,
    process_writer,
    select,
    worker_pool,
)
from cesbrfs.util.secret import Secret
from cesbrfs.vfs.tree import BackupTree
from tests.support.memory_repo import PASSWORD, Json, MemoryRepo

WRITERS: Final = ("threads", "workers, remote repository", "workers, local repository")
"""How a restore writes files."""
BACKUP: Final = "B1"
VOLUME: Final = "redmine/volumes/files"
MINE: Final = {"uid": os.getuid(), "gid": os.getgid()}
TIME_NS: Final = 1_795_379_400_123_456_789
"""Time of all nodes of MemoryRepo: 2026-11-22T21:30:00.123456789+01:00."""


@dataclass
class Site:
    """Backups are built with `repo` and `volume`; `plan` and `restore` use `target`.

    With `local`, the repository is written to this directory and read from there.
    """

    target: Path
    repo: MemoryRepo = field(default_factory=MemoryRepo)
    local: Path | None = None

    @classmethod
    def by_writers(cls, writers: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
        """Return a site whose restores write with `writers`, one of WRITERS."""
        if writers != "threads":
            monkeypatch.setattr(worker_pool, "FILES_PER_WORKER", 1)
            monkeypatch.setattr(worker_pool, "BYTES_PER_WORKER", 1)
            monkeypatch.setattr(process_writer, "LARGE_BYTES", 300_000)
            monkeypatch.setattr(process_writer, "RANGE_BYTES", 500_000)
        local = directory / "repository" if writers == "workers, local repository" else None
        return cls(directory / "target", local=local)

    def file(self, name: str, *parts: bytes, **fields: Any) -> Json:
        """Return the node of a file, owned by the current user."""
        return self.repo.file(name, *parts, **{**MINE, **fields})

    def directory(self, name: str, *nodes: Json, **fields: Any) -> Json:
        """Return the node of a directory, owned by the current user."""
        return self.repo.directory(name, *nodes, **{**MINE, **fields})

    def node(self, name: str, kind: str, mode: int, **fields: Any) -> Json:
        """Return the node of a special file or symbolic link."""
        return {"name": name, "type": kind, "mode": mode, "mtime": _MTIME, **MINE, **fields}

    def snapshot(self, path: str, node: Json, kind: str, backup: str = BACKUP, **tags: str) -> str:
        """Back up `node` as `path`."""
        tag_list = [backup, f"kind={kind}", *(f"{key}={value}" for key, value in tags.items())]
        return self.repo.snapshot(self.repo.tree(self.repo.path(path, node)), [path], tags=tag_list)

    def volume(self, *nodes: Json, dogu: str = "redmine", backup: str = BACKUP) -> str:
        """Back up a volume ``files`` with these nodes."""
        path = f"/var/lib/ces/{dogu}/volumes/files"
        return self.snapshot(path, self.directory("files", *nodes), "volumes", backup, dogu=dogu)

    def manifest(self, *points: Point, backup: str = BACKUP) -> None:
        """Complete a backup with the manifest of these items."""
        data = write_manifest(Manifest(1, backup, "2026-11-22T20:30:00Z", "ces", list(points)))
        tree = self.repo.tree(self.repo.file("manifest.json", data))
        self.repo.snapshot(tree, ["/manifest.json"], tags=[backup, "kind=manifest"])

    async def view(self) -> BackupTree:
        """Open the backup tree with all backups so far."""
        if self.local is None:
            return BackupTree(await self.repo.open())
        self.repo.write_to(self.local)
        return BackupTree(await Repository.open(LocalStorage(str(self.local)), Secret(PASSWORD)))

    async def plan(
        self,
        *paths: str,
        target: Target | None = None,
        overwrite: Overwrite = Overwrite.NEVER,
        view: BackupTree | None = None,
    ) -> RestorePlan:
        """Plan a restore of paths such as ``/B1/redmine``."""
        view = view or await self.view()
        selection = select([await view.resolve(path) for path in paths])
        return await make_plan(view, selection, target or ToDirectory(self.target), overwrite)

    async def restore(
        self,
        *paths: str,
        target: Target | None = None,
        overwrite: Overwrite = Overwrite.NEVER,
        between: Callable[[], object] = lambda: None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> RestoreReport:
        """Plan and run a restore; `between` is called after planning."""
        view = await self.view()
        planned = await self.plan(*paths, target=target, overwrite=overwrite, view=view)
        between()
        return await execute(view, planned, on_progress)

    @property
    def restored(self) -> Path:
        """The restored volume."""
        return self.target / VOLUME


_MTIME: Final = "2026-11-22T21:30:00.123456789+01:00"


def names(top: Path) -> set[str]:
    """Return all paths below `top`."""
    return {str(path.relative_to(top)) for path in top.rglob("*")}


_NOBODY: Final = 65534


@contextmanager
def as_nobody() -> Iterator[Path]:
    """Run as nobody and yield a directory of that user; without root, as the current user."""
    with tempfile.TemporaryDirectory() as place:  # pytest's directory is private
        if os.geteuid() != 0:
            yield Path(place)
            return
        os.chown(place, _NOBODY, _NOBODY)
        groups = os.getgroups()
        os.setgroups([])
        os.setegid(_NOBODY)
        os.seteuid(_NOBODY)
        try:
            yield Path(place)
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)
