"""Build the Debian package once for all tests."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.project import PROJECT

_CI = bool(os.environ.get("CI"))


def missing(reason: str) -> NoReturn:
    """Skip the test; in CI, where every program must be installed, fail it."""
    if _CI:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package, built for this machine; xdist's processes share it."""
    for program in ("dpkg-deb", "dpkg-shlibdeps", "gcc"):
        if shutil.which(program) is None:
            missing(f"no {program} on PATH; `.ci/apt-packages servers` installs it")
    top = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        top = top.parent
    output = top / "deb"
    with (top / "deb.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(output.glob("*.deb")):
            _build(output)
    (built,) = output.glob("*.deb")
    return built


def _build(output: Path) -> None:
    done = subprocess.run(
        [PROJECT / "packaging/deb/build"],
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"],
             "OUTPUT": str(output), "COMPRESSION": "-Zgzip -z1"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
