"""Requests are waited for in our way, and in pyfuse3's own where ours does not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyfuse3
import pytest

from cesbrfs.fuse import pump
from tests.mount.test_life import place, serving, wait_until
from tests.support.mounting import environment
from tests.support.restic_repo import create

__all__ = ["place"]

_WITHOUT = """
import sys
from cesbrfs.fuse import pump
pump.session_descriptor = lambda: None
from cesbrfs.fuse.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_another_pyfuse3_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the function that is replaced does not exist, nothing is, and the log says so."""
    monkeypatch.delattr(pyfuse3, "_wait_fuse_readable")
    assert not pump.install(lambda: False, lambda: False)
    assert "using its own wait" in caplog.text


def test_the_stock_way_serves_as_well(restic_new: Path, tmp_path: Path, place: Path) -> None:
    """A mount on pyfuse3's own wait reads right and ends."""
    (tmp_path / "file").write_text("content\n")
    repo = create(restic_new, tmp_path / "repo")
    repo.backup(tmp_path / "file", tags=["b1"])
    log = tmp_path / "log"
    subprocess.run(
        [sys.executable, "-c", _WITHOUT, place, "--log", log],
        env=environment(repo.access),
        check=True,
        timeout=30,
    )
    assert "using its own wait" in log.read_text()
    (snapshot,) = os.listdir(place / "b1/_snapshots")
    found = place / "b1/_snapshots" / snapshot / str(tmp_path / "file").strip("/")
    assert found.read_text() == "content\n"
    subprocess.run(["fusermount3", "-u", place], check=True)
    wait_until(lambda: not serving(place))
