"""Commands whose own files, or whose look at the backups, fail once."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cesbr import damage_check
from cesbr.state.drills import Drill, read_drills, record_drill, shown_drills

from cesbrfs.errors import CesbrError, StorageError
from cesbrfs.vfs.tree import BackupTree
from tests.shell.conftest import Inside, Site


@pytest.fixture
def alone(kept_site: Site) -> Iterator[Inside]:
    """A separate session on the backups that are shared by read-only tests."""
    made = Inside(kept_site.root)
    yield made
    made.close()


def test_recorded_drills_survive_a_read_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is not replaced by one of the last drill alone."""
    drill = Drill(1.0, "B", 1.0, 1, 1)
    record_drill(tmp_path, "repository", "redmine", drill, passed=False)
    with monkeypatch.context() as patched:

        def fail(file: Path) -> bytes:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))

        patched.setattr(Path, "read_bytes", fail)
        with pytest.raises(CesbrError, match=r"Cannot read the recorded drills.*Input/output"):
            record_drill(tmp_path, "repository", "ldap", drill, passed=True)
        assert not shown_drills(tmp_path, "repository").failed
    assert read_drills(tmp_path, "repository").failed == {"redmine": drill}


def test_a_check_that_cannot_look_for_snapshots(
    alone: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not report a repository without errors."""

    async def fail(_view: BackupTree) -> bool:
        raise StorageError("Input/output error.")

    assert alone("check").code == 0
    monkeypatch.setattr(damage_check, "lacks_snapshots", fail)
    checked = alone("check")
    assert (checked.code, checked.out) == (1, "")
    assert "Input/output error" in checked.err
