"""Fixtures that call the FUSE handlers without a kernel, over a real repository."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyfuse3
import pytest

from cesbrfs.fuse.filesystem import InodeFileSystem
from cesbrfs.fuse.operations import Operations
from cesbrfs.fuse.presentation import Presentation
from cesbrfs.vfs.tree import BackupTree
from tests.support.restic_repo import ResticRepo, create

NOBODY = cast("pyfuse3.RequestContext", SimpleNamespace(pid=0))
"""A request context without a caller: the kernel checks permissions, not the handlers."""


@dataclass
class Kernel:
    """A fake kernel that accepts `room` directory entries per request, then refuses."""

    room: int = 1_000_000
    taken: list[tuple[bytes, pyfuse3.EntryAttributes]] = field(default_factory=list)
    last: int = 0

    def reply(
        self, _token: object, name: bytes, attributes: pyfuse3.EntryAttributes, next_id: int
    ) -> bool:
        """Accept one entry, like pyfuse3.readdir_reply."""
        if len(self.taken) >= self.room:
            return False
        self.taken.append((name, copy.copy(attributes)))  # the caller reuses its object
        self.last = next_id
        return True


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Replace readdir_reply by a fake kernel and return it."""
    made = Kernel()
    monkeypatch.setattr(pyfuse3, "readdir_reply", made.reply)
    return made


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dogu volume with files, a hard link, a symlink, an xattr and an empty directory."""
    top = tmp_path_factory.mktemp("instance")
    volume = top / "var/lib/ces/redmine/volumes/files"
    (volume / "empty").mkdir(parents=True)
    (volume / "note.txt").write_text("hello\n")
    (volume / "big").write_bytes(os.urandom(3 << 20))
    (volume / "twin").hardlink_to(volume / "note.txt")
    (volume / "link").symlink_to("note.txt")
    os.setxattr(volume / "note.txt", "user.colour", b"green")
    for number in range(50):
        (volume / f"n{number:02}").write_text(f"{number}")
    return top


@pytest.fixture(scope="session")
def shared(restic_new: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> ResticRepo:
    """A repository with one backup of `source`, shared read-only by all tests."""
    repo = create(restic_new, tmp_path_factory.mktemp("repository") / "repo")
    repo.backup(source / "var/lib/ces/redmine/volumes/files", tags=["b1"])
    return repo


@pytest.fixture
async def operations(shared: ResticRepo) -> Operations:
    """FUSE handlers over the shared repository."""
    return Operations(InodeFileSystem(BackupTree(await shared.open())), Presentation())


async def walk(operations: Operations, *names: bytes) -> pyfuse3.EntryAttributes:
    """Look up a path from the root, name by name; return its attributes."""
    found = await operations.getattr(pyfuse3.ROOT_INODE, NOBODY)
    for name in names:
        found = await operations.lookup(found.st_ino, name, NOBODY)
        assert found.st_ino, name
    return found


async def listing(operations: Operations, kernel: Kernel, inode: int) -> list[bytes]:
    """List a directory like the kernel: call readdir until it returns no entries."""
    handle = await operations.opendir(inode, NOBODY)
    names: list[bytes] = []
    start = 0
    while True:
        kernel.taken.clear()
        await operations.readdir(handle, start, cast("Any", None))
        if not kernel.taken:
            break
        names += [name for name, _ in kernel.taken]
        start = kernel.last
    await operations.releasedir(handle)
    return names
