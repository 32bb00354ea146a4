"""mount and umount commands."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shell.conftest import KEY, Cesbr, Site
from tests.support.mounting import fuse_missing

pytestmark = pytest.mark.skipif(fuse_missing() is not None, reason=str(fuse_missing()))


@pytest.fixture
def mountpoint(kept: Cesbr) -> Iterator[Path]:
    """A directory to mount on; it is unmounted afterwards."""
    directory = kept.here / "mnt"
    directory.mkdir()
    yield directory
    with contextlib.suppress(subprocess.CalledProcessError):
        subprocess.run(["fusermount3", "-uz", directory], check=True, capture_output=True)


def test_mount_shows_the_backups_until_umount(kept: Cesbr, mountpoint: Path) -> None:
    """`mount` returns when the mount is ready; status lists it; umount ends it."""
    said = kept("mount", "mnt")
    assert said.code == 0, said.err
    assert str(mountpoint) in said.out
    assert (mountpoint / "latest/redmine/dogu.json").read_bytes()
    status = kept("status", "--json").json
    assert isinstance(status, dict)
    assert str(mountpoint) in [mount["mountpoint"] for mount in status["mounts"]]
    again = kept("mount", "mnt")
    assert again.code == 1
    assert "already" in again.err
    assert kept("umount", "mnt", "--json").json == {"mountpoint": str(mountpoint)}
    assert os.listdir(mountpoint) == []
    assert kept("umount", "mnt").code == 1


def test_busy_mount_names_who_uses_it(kept: Cesbr, mountpoint: Path) -> None:
    """The error names the process that uses the mount; --lazy unmounts it anyway."""
    assert kept("mount", "mnt").code == 0
    user = subprocess.Popen(["cat"], cwd=mountpoint / "latest", stdin=subprocess.PIPE)
    with user:
        said = kept("umount", "mnt")
        assert said.code == 1
        assert f"cat ({user.pid})" in said.err
        assert kept("umount", "mnt", "--lazy").code == 0
        assert os.listdir(mountpoint) == []


def test_key_that_can_be_read_once_reaches_the_mount(
    kept: Cesbr, kept_site: Site, mountpoint: Path
) -> None:
    """A pipe as password file is read once, and the key is in no process's arguments."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"wrong key\n")
    os.close(write_end)
    done = subprocess.run(
        [*kept.command, "mount", str(mountpoint), "--password-file", f"/dev/fd/{read_end}"],
        env=kept.environ,
        pass_fds=(read_end,),
        capture_output=True,
        check=False,
    )
    os.close(read_end)
    assert done.returncode == 12
    # The key in the registry has surrounding white space, which a file cannot represent.
    assert kept("mount", "--repo", str(kept_site.repository), "mnt").code == 0
    needle = KEY.encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            assert needle not in (process / "cmdline").read_bytes()
    assert kept("umount", "mnt").code == 0


def test_mount_of_nothing_is_refused(kept: Cesbr) -> None:
    """A missing directory and an unreadable repository have different exit codes."""
    said = kept("mount", "no/such/directory", "--json")
    assert said.error["code"] == 1
    assert "does not exist" in str(said.error["error"])
    (kept.here / "mnt").mkdir()
    assert kept("--no-init", "--repo", "/no/such/repository", "mount", "mnt").code == 10
