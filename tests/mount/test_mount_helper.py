"""The process that mounts for a process without privileges, and its errors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cesbrfs.errors import MountError
from cesbrfs.fuse.mount_helper import MountHelper, MountTarget
from tests.support.mounting import is_mounted
from tests.support.rights import children

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can mount without fusermount3")


@pytest.fixture
def helper() -> Iterator[MountHelper]:
    """Start a helper, and wait for its end."""
    before = children()
    made = MountHelper.start()
    (process,) = set(children()) - set(before)
    yield made
    made.detach()
    made._connection.close()
    assert os.waitpid(process, 0) == (process, 0)


def target(path: Path) -> MountTarget:
    return MountTarget(str(path), "source", allow_other=False, noexec=True, nosymfollow=True)


def test_a_missing_mountpoint(helper: MountHelper, tmp_path: Path) -> None:
    """It cannot be mounted; later requests find nothing to do, or fail with the error number."""
    helper.configure(target(tmp_path / "missing"))
    with pytest.raises(MountError, match="could not be mounted: No such file or directory"):
        helper.mount()
    with pytest.raises(FileNotFoundError):
        helper.wait_ready()
    helper.unmount()


def test_a_mount_in_use(helper: MountHelper, tmp_path: Path) -> None:
    """It is not unmounted unless it is detached."""
    helper.configure(target(tmp_path))
    device = helper.mount()
    used = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises(MountError, match="is in use"):
            helper.unmount()
        assert is_mounted(tmp_path)
        helper.detach()
        assert not is_mounted(tmp_path)
    finally:
        os.close(used)
        os.close(device)


def test_a_helper_that_has_ended(helper: MountHelper) -> None:
    """Mounting and unmounting fail and name the reason."""
    helper._connection.send(b"no target")  # is refused
    for _ in range(2):
        with pytest.raises(MountError, match="the helper process ended"):
            helper.mount()
        with pytest.raises(MountError, match="could not be unmounted: Broken pipe"):
            helper.unmount()
    helper.detach()
