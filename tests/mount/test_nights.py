"""Memory and resources of a mount while backups are added and removed every night."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mount.test_life import wait_until
from tests.support.mounting import Mount
from tests.support.restic_repo import create

_NIGHTS = 30
_KEPT = 3
_TABLES = 8
"""Index tables that the reader maps, a descriptor each, before it merges them."""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume of forty directories with a file in each."""
    made = tmp_path / "var/lib/ces/redmine/volumes/files"
    for number in range(40):
        directory = made / str(number)
        directory.mkdir(parents=True)
        (directory / "file").write_text(f"{number}")
    return made


def held(made: Mount) -> dict[str, int]:
    """Return what the mount holds: inodes known to the kernel, open files, tasks, threads."""
    status = json.loads((made.path / ".cesbrfs/status.json").read_bytes())
    process = Path("/proc", str(made.process.pid))
    names = ("lookups", "inodes", "stored_folders", "open_files", "open_folders", "tasks")
    return {name: status[name] for name in names} | {
        "descriptors": len(list((process / "fd").iterdir())),
        "threads": len(list((process / "task").iterdir())),
    }


def walk(top: Path) -> int:
    """List a directory tree and stat each entry; return the number of entries."""

    def below(directory: Path) -> Iterator[os.DirEntry[str]]:
        with os.scandir(directory) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    yield from below(Path(entry.path))

    return sum(entry.stat(follow_symlinks=False) is not None for entry in below(top))


def wait_for(made: Mount, true: Callable[[], bool]) -> None:
    """Make the mount list the backups again, and wait until a change is visible."""
    made.process.send_signal(signal.SIGHUP)
    wait_until(true)


def test_thirty_nights(
    volume: Path, restic_new: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """Each night adds a backup and forgets the oldest, without a prune: nothing accumulates."""
    repo = create(restic_new, tmp_path / "repo")
    made = mount(repo.access)
    snapshots: dict[str, str] = {}
    after: list[dict[str, int]] = []
    for night in range(_NIGHTS):
        name = f"n{night:02}"
        (volume / f"{night}/file").write_text(f"night {night}")
        snapshots[name] = repo.backup(volume, tags=[name])
        wait_for(made, lambda name=name: name in os.listdir(made.path))  # type: ignore[misc]
        assert walk(made.path / name) == 84  # also backup.json and three virtual directories
        if len(snapshots) > _KEPT:
            oldest = min(snapshots)
            repo.run("forget", snapshots.pop(oldest))
            wait_for(made, lambda name=oldest: name not in os.listdir(made.path))  # type: ignore[misc]
        # At most the entries of the kept backups: the kernel may evict more.
        wait_until(lambda: held(made)["stored_folders"] <= _KEPT * 41)
        after.append(held(made))
    allowed = {"descriptors": _TABLES, "threads": 2, "tasks": 4, "lookups": 400}
    for name, value in after[_KEPT].items():
        assert after[-1][name] <= value + allowed.get(name, 0), (name, after)


@pytest.mark.parametrize("tags", [["b1"], []], ids=["backup", "loose snapshot"])
def test_what_was_forgotten_leaves_the_kernel(
    tags: list[str], volume: Path, restic_new: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """A complete backup, and a snapshot that belongs to none."""
    repo = create(restic_new, tmp_path / "repo")
    repo.backup(volume, tags=["kept"])
    repo.backup(volume / "0")
    snapshot = repo.backup(volume, tags=tags)
    made = mount(repo.access)
    top = made.path / "b1" if tags else made.path / "_snapshots" / snapshot[:8]
    assert walk(top) >= 80
    assert held(made)["stored_folders"] > 40
    repo.run("forget", snapshot)
    wait_for(made, lambda: top.name not in os.listdir(top.parent))
    wait_until(lambda: held(made)["stored_folders"] == 0)


def test_a_snapshot_that_its_backup_lost_leaves_the_kernel(
    volume: Path, restic_new: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """The rest of the backup is unchanged."""
    repo = create(restic_new, tmp_path / "repo")
    other = volume.parents[2] / "cas/volumes/data"
    other.mkdir(parents=True)
    (other / "file").write_text("cas")
    repo.backup(other, tags=["b1"])
    snapshot = repo.backup(volume, tags=["b1"])
    made = mount(repo.access)
    assert walk(made.path / "b1/redmine") >= 80
    assert walk(made.path / "b1/cas") == 3
    repo.run("forget", snapshot)
    wait_for(made, lambda: "redmine" not in os.listdir(made.path / "b1"))
    wait_until(lambda: held(made)["stored_folders"] <= 1)
    assert (made.path / "b1/cas/volumes/data/file").read_text() == "cas"


def test_what_is_looked_up_in_a_removed_backup_leaves_the_kernel(
    volume: Path, restic_new: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """Open directories stay readable; their entries are released once they are closed."""
    repo = create(restic_new, tmp_path / "repo")
    repo.backup(volume, tags=["kept"])
    other = repo.backup(volume, tags=["other"])
    snapshot = repo.backup(volume, tags=["b1"])
    made = mount(repo.access)
    os.listdir(made.path / "kept")
    os.listdir(made.path / "other")
    os.listdir(made.path)
    before = held(made)
    dogu = os.open(made.path / "b1/redmine", os.O_RDONLY)
    files = os.open(made.path / "b1/redmine/volumes/files", os.O_RDONLY)
    repo.run("forget", snapshot)
    wait_for(made, lambda: "b1" not in os.listdir(made.path))
    assert len(os.listdir(files)) == 40
    for number in range(40):
        below = os.open(f"{number}", os.O_RDONLY, dir_fd=files)
        with os.scandir(below) as entries:
            assert [entry.name for entry in entries] == ["file"]
        assert os.stat("file", dir_fd=below).st_size
        with pytest.raises(FileNotFoundError):
            os.stat("missing", dir_fd=below)
        os.close(below)
    assert os.stat("volumes/files/0/file", dir_fd=dogu).st_size
    os.close(files)
    os.close(dogu)
    repo.run("forget", other)
    wait_for(made, lambda: "other" not in os.listdir(made.path))
    wait_until(lambda: held(made)["stored_folders"] == 0)
    wait_until(lambda: held(made)["inodes"] < before["inodes"])
