"""The programs behind `make bench` and `make soak` start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.project import PROJECT


def _run(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("arguments", "measure"), [((), "restore-small"), (("--remote",), "sftp-find-cold")]
)
def test_bench_lists_its_measures(
    restic_binary: Path, arguments: tuple[str, ...], measure: str
) -> None:
    """All modules are found, and each group names its measures."""
    assert restic_binary.exists()
    assert measure in _run("tests.bench.run", "--list", *arguments).split()


def test_soak_describes_itself() -> None:
    """The program starts and prints its usage."""
    assert "--seconds" in _run("tests.soak.run", "--help")
