"""The directories of a local repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from cesbrfs.errors import StorageError
from cesbrfs.repo.storage import FileType
from cesbrfs.repo.storage.local import LocalStorage


async def test_a_directory_that_is_gone_is_not_an_empty_one(tmp_path: Path) -> None:
    """It is an error while the repository is there, until the directory is back."""
    name = "ab" * 32
    snapshots = tmp_path / "snapshots"
    snapshots.mkdir()
    (snapshots / name).touch()
    (tmp_path / "config").touch()
    storage = LocalStorage(str(tmp_path))
    assert list(await storage.list(FileType.INDEX)) == []  # never there
    assert [file.name for file in await storage.list(FileType.SNAPSHOT)] == [name]
    snapshots.rename(tmp_path / "away")
    with pytest.raises(StorageError, match="snapshots does not exist"):
        await storage.list(FileType.SNAPSHOT)
    (tmp_path / "away").rename(snapshots)
    assert [file.name for file in await storage.list(FileType.SNAPSHOT)] == [name]
    (snapshots / name).unlink()
    assert list(await storage.list(FileType.SNAPSHOT)) == []


async def test_no_snapshots_but_index_files(tmp_path: Path) -> None:
    """The directory was lost, for example by a program that copied the repository."""
    for name in ("config", "index/" + "cd" * 32):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    storage = LocalStorage(str(tmp_path))
    with pytest.raises(StorageError, match="snapshots does not exist"):
        await storage.list(FileType.SNAPSHOT)
    (tmp_path / "snapshots").mkdir()  # all backups were removed
    assert list(await storage.list(FileType.SNAPSHOT)) == []
