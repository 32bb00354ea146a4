"""The lock file of a backup, where the file itself is in trouble."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cesbrfs.ces.backup_lock import LOCK_FILE, backup_lock, no_backup
from cesbrfs.errors import BackupRunningError, CesbrError
from cesbrfs.util.filelock import state_file


def test_the_lock_says_who_holds_it(tmp_path: Path) -> None:
    """The file holds the process, its user and machine, the backup and when it began."""
    with backup_lock(tmp_path, "id", "2026-11-22T21:30:00Z"):
        holder = json.loads((tmp_path / LOCK_FILE).read_text())
    assert holder.pop("user")
    assert holder == {
        "pid": os.getpid(),
        "host": os.uname().nodename,
        "doing": "Backup id",
        "started": "2026-11-22T21:30:00Z",
    }


def test_what_an_earlier_holder_left_is_replaced(tmp_path: Path) -> None:
    """A longer text of before does not stay behind a shorter one."""
    for name in ("a long backup id", "id"):
        with backup_lock(tmp_path, name, "now"):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["doing"] == f"Backup {name}"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", "7"])
def test_a_holder_that_has_not_written_yet(tmp_path: Path, content: str) -> None:
    """Between locking and writing the second one still hears that a backup runs."""
    with backup_lock(tmp_path, "id", "now"):
        (tmp_path / LOCK_FILE).write_text(content)
        with (
            pytest.raises(BackupRunningError, match="has just begun"),
            backup_lock(tmp_path, "other", "now"),
        ):
            pass


def test_a_lock_file_that_cannot_be_made(tmp_path: Path) -> None:
    """Something else in the folder's place, or a link in the file's, is an error that names it."""
    (tmp_path / "var").write_text("no folder")
    with (
        pytest.raises(CesbrError, match=r"backup\.lock cannot be opened"),
        backup_lock(tmp_path, "id", "now"),
    ):
        pass
    (tmp_path / "var").unlink()
    lock = tmp_path / LOCK_FILE
    lock.parent.mkdir(parents=True)
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CesbrError, match="cannot be opened"), backup_lock(tmp_path, "id", "now"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_no_backup_runs_while_backups_are_removed(tmp_path: Path) -> None:
    """Each keeps the other out and is told of it; where no backup was made nothing is made."""
    with no_backup(tmp_path, "The removal", "now"):
        assert not (tmp_path / "var").exists()
    with (
        backup_lock(tmp_path, "id", "now"),
        pytest.raises(BackupRunningError, match="Backup id is running since now"),
        no_backup(tmp_path, "The removal", "then"),
    ):
        pass
    with (
        no_backup(tmp_path, "The removal", "then"),
        pytest.raises(BackupRunningError, match="The removal is running since then"),
        backup_lock(tmp_path, "id", "now"),
    ):
        pass


def test_a_file_that_another_one_holds(tmp_path: Path) -> None:
    """It can be read, not held; with its holder gone it can, and what was noted is there."""
    file = tmp_path / "folder/state"
    with state_file(file, create=False) as missing:
        assert missing is None
    with state_file(file, create=True) as first, state_file(file, create=False) as second:
        assert first is not None
        assert second is not None
        assert (first.held, second.held) == (True, False)
        first.write({"a": "long enough"})
        first.write({"a": 1})
        assert json.loads(second.read()) == {"a": 1}
    assert file.stat().st_mode & 0o777 == 0o600
    with state_file(file, create=False) as later:
        assert later is not None
        assert later.held
        assert json.loads(later.read()) == {"a": 1}
        later.clear()
        assert later.read() == b""
