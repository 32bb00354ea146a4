"""The backup lock: its content, contention, and lock files that cannot be used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cesbrfs.ces.backup_lock import LOCK_FILE, backup_lock, block_backups
from cesbrfs.errors import BackupRunningError, CesbrError
from cesbrfs.util.filelock import lock_file


def test_the_lock_file_names_its_holder(tmp_path: Path) -> None:
    """The file contains PID, user, host, activity and start time."""
    with backup_lock(tmp_path, "id", "2026-11-22T21:30:00Z"):
        holder = json.loads((tmp_path / LOCK_FILE).read_text())
    assert holder.pop("user")
    assert holder == {
        "pid": os.getpid(),
        "host": os.uname().nodename,
        "doing": "Backup id",
        "started": "2026-11-22T21:30:00Z",
    }


def test_the_payload_of_an_earlier_holder_is_replaced(tmp_path: Path) -> None:
    """No rest of a longer payload remains after a shorter one."""
    for name in ("a long backup id", "id"):
        with backup_lock(tmp_path, name, "now"):
            assert json.loads((tmp_path / LOCK_FILE).read_text())["doing"] == f"Backup {name}"


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", "7"])
def test_a_holder_that_has_not_written_yet(tmp_path: Path, content: str) -> None:
    """Between lock and write, a second backup fails with a generic message."""
    with backup_lock(tmp_path, "id", "now"):
        (tmp_path / LOCK_FILE).write_text(content)
        with (
            pytest.raises(BackupRunningError, match="has just started"),
            backup_lock(tmp_path, "other", "now"),
        ):
            pass


def test_a_lock_file_that_cannot_be_created(tmp_path: Path) -> None:
    """If the directory is a file or the lock file is a symbolic link, the error names it."""
    (tmp_path / "var").write_text("no directory")
    with (
        pytest.raises(CesbrError, match=r"Cannot open .*backup\.lock"),
        backup_lock(tmp_path, "id", "now"),
    ):
        pass
    (tmp_path / "var").unlink()
    lock = tmp_path / LOCK_FILE
    lock.parent.mkdir(parents=True)
    lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CesbrError, match="Cannot open"), backup_lock(tmp_path, "id", "now"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_backups_and_removals_exclude_each_other(tmp_path: Path) -> None:
    """Either fails while the other runs; without a lock file, none is created by a removal."""
    with block_backups(tmp_path, "The removal", "now"):
        assert not (tmp_path / "var").exists()
    with (
        backup_lock(tmp_path, "id", "now"),
        pytest.raises(BackupRunningError, match="Backup id has been running since now"),
        block_backups(tmp_path, "The removal", "then"),
    ):
        pass
    with (
        block_backups(tmp_path, "The removal", "then"),
        pytest.raises(BackupRunningError, match="The removal has been running since then"),
        backup_lock(tmp_path, "id", "now"),
    ):
        pass


def test_a_lock_that_another_process_holds(tmp_path: Path) -> None:
    """Its payload can be read; once released, it can be locked and still has the payload."""
    file = tmp_path / "directory/state"
    with lock_file(file, create=False) as missing:
        assert missing is None
    with lock_file(file, create=True) as first, lock_file(file, create=False) as second:
        assert first is not None
        assert second is not None
        assert (first.held, second.held) == (True, False)
        first.write({"a": "long enough"})
        first.write({"a": 1})
        assert json.loads(second.read()) == {"a": 1}
    assert file.stat().st_mode & 0o777 == 0o600
    with lock_file(file, create=False) as later:
        assert later is not None
        assert later.held
        assert json.loads(later.read()) == {"a": 1}
        later.clear()
        assert later.read() == b""
