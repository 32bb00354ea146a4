"""A mount whose repository is gone returns errors, never an empty directory."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cesbrfs.repo.location import Access
from cesbrfs.util.secret import Secret
from tests.mount.test_life import wait_until
from tests.support.mounting import Mount
from tests.support.rest import RestServer
from tests.support.restic_repo import PASSWORD, ResticRepo, create


def _repository(restic: Path, directory: Path, tag: str) -> ResticRepo:
    """Return a repository with one backup of one file."""
    volume = directory.parent / "var/lib/ces/redmine/volumes/files"
    volume.mkdir(parents=True, exist_ok=True)
    (volume / "note.txt").write_text("hello\n")
    repo = create(restic, directory)
    repo.backup(volume, tags=[tag])
    return repo


@pytest.fixture(params=["local", "rest"])
def served(request: pytest.FixtureRequest, restic_new: Path, tmp_path: Path) -> tuple[Path, Access]:
    """Return a repository's directory, and its address on disk or on a REST server."""
    key = Secret(PASSWORD.encode())
    if request.param == "local":
        directory = tmp_path / "repo"
        access = Access(str(directory), key)
    else:
        server: RestServer = request.getfixturevalue("own_rest_server")
        directory = server.root / tmp_path.name
        access = Access(f"{server.url}/{tmp_path.name}/", key, {}, server.environment)
    repo = _repository(restic_new, tmp_path / "made", "b1")
    shutil.copytree(repo.directory, directory)
    return directory, access


def _listing_fails(path: Path) -> bool:
    try:
        os.listdir(path)
    except OSError as error:
        return error.errno == errno.EIO
    return False


def test_rsync_does_not_delete_its_copy(
    served: tuple[Path, Access], mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """A failing rsync --delete keeps the copy; the mount recovers with the repository."""
    directory, access = served
    made = mount(access)
    copy = tmp_path / "copy"
    sync = ["rsync", "-a", "--delete", f"{made.path}/", str(copy)]
    subprocess.run(sync, check=True)
    assert (copy / "b1/redmine").exists()
    directory.rename(tmp_path / "away")
    wait_until(lambda: _listing_fails(made.path))
    assert subprocess.run(sync, capture_output=True, check=False).returncode
    assert (copy / "b1/redmine").exists()
    status = json.loads((made.path / ".cesbrfs/status.json").read_text())
    assert status["repository"]["state"] == "gone"
    assert status["errors_total"] > 0
    assert "cesbrfs_repository_gone 1" in (made.path / ".cesbrfs/metrics").read_text()
    assert "has disappeared" in made.log.read_text()
    (tmp_path / "away").rename(directory)
    wait_until(lambda: not _listing_fails(made.path))
    assert "b1" in os.listdir(made.path)
    subprocess.run(sync, check=True)
    assert "is back" in made.log.read_text()


def test_another_repository_at_the_same_address(
    served: tuple[Path, Access], mount: Callable[..., Mount], restic_new: Path, tmp_path: Path
) -> None:
    """The backups of the new repository appear without a remount and are readable."""
    directory, access = served
    made = mount(access)
    assert "b1" in os.listdir(made.path)
    shutil.rmtree(directory)
    other = _repository(restic_new, tmp_path / "other", "b2")
    shutil.copytree(other.directory, directory)
    wait_until(lambda: not _listing_fails(made.path) and "b2" in os.listdir(made.path))
    assert "b1" not in os.listdir(made.path)
    note = made.path / "b2/redmine/volumes/files/note.txt"
    assert note.read_text() == "hello\n"
