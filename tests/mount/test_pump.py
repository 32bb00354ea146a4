"""Fall back to pyfuse3's own wait for requests if it cannot be replaced."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyfuse3
import pytest

from cesbrfs.fuse import pump
from tests.mount.test_life import mountpoint, serving, wait_until
from tests.support.mounting import environment
from tests.support.restic_repo import create

__all__ = ["mountpoint"]

_DRIVER = """
import sys
from cesbrfs.fuse import pump
pump.session_descriptor = lambda: None
from cesbrfs.fuse.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_an_unknown_pyfuse3_is_not_patched(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If pyfuse3 lacks the function to replace, `install` logs a warning."""
    monkeypatch.delattr(pyfuse3, "_wait_fuse_readable")
    assert not pump.install(lambda: False, lambda: False)
    assert "using its own wait" in caplog.text


def test_a_mount_works_with_the_wait_of_pyfuse3(
    restic_new: Path, tmp_path: Path, mountpoint: Path
) -> None:
    """A mount that uses pyfuse3's own wait returns file content and unmounts."""
    (tmp_path / "file").write_text("content\n")
    repo = create(restic_new, tmp_path / "repo")
    repo.backup(tmp_path / "file", tags=["b1"])
    log = tmp_path / "log"
    subprocess.run(
        [sys.executable, "-c", _DRIVER, mountpoint, "--log", log],
        env=environment(repo.access),
        check=True,
        timeout=30,
    )
    assert "using its own wait" in log.read_text()
    (snapshot,) = os.listdir(mountpoint / "b1/_snapshots")
    found = mountpoint / "b1/_snapshots" / snapshot / str(tmp_path / "file").strip("/")
    assert found.read_text() == "content\n"
    subprocess.run(["fusermount3", "-u", mountpoint], check=True)
    wait_until(lambda: not serving(mountpoint))
