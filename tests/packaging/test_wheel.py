"""The wheel: it installs without pyfuse3, and the programs report what is missing to mount."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from cesbrfs import __version__
from tests.support.project import PROJECT


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and all dependencies except pyfuse3."""
    top = tmp_path_factory.mktemp("wheel")
    python = sys.executable
    subprocess.run([PROJECT / "packaging/wheel", top / "dist", python], check=True)
    (wheel,) = (top / "dist").glob("cesbrfs-*.whl")
    assert wheel.name == f"cesbrfs-{__version__}-py3-none-any.whl"
    assert (top / f"dist/cesbrfs-{__version__}.tar.gz").exists()
    subprocess.run([python, "-m", "venv", "--without-pip", top / "venv"], check=True)
    subprocess.run(
        [python, "-m", "pip", "--python", top / "venv/bin/python", "install", "--quiet",
         "--no-deps", "--no-index", wheel],
        check=True,
    )  # fmt: skip
    dependencies = top / "dependencies"
    dependencies.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("pyfuse3", "cesbrfs", "__editable__")):
            (dependencies / entry.name).symlink_to(entry)
    (site,) = (top / "venv/lib").glob("*/site-packages")
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    return top / "venv"


def _run(environment: Path, *command: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [environment / "bin" / command[0], *command[1:]], cwd=environment,
        env={"HOME": os.environ["HOME"], "PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_shell_works_without_pyfuse3(environment: Path) -> None:
    """The wheel contains all modules and data of the shell, which does not import pyfuse3."""
    assert _run(environment, "cesbr", "--version") == (0, f"cesbr {__version__}\n", "")
    code, script, error = _run(environment, "cesbr", "completion", "bash")
    assert (code, error) == (0, "")
    assert script.startswith("# Completion of cesbr in bash")


@pytest.mark.parametrize("program", [("cesbrfs",), ("cesbr", "mount")])
def test_mount_names_what_is_missing(
    program: tuple[str, ...], environment: Path, tmp_path: Path
) -> None:
    """The error has the packages and the command to run, before anything else is done."""
    if program == ("cesbrfs",):
        command = ["cesbrfs", str(tmp_path / "repo"), str(tmp_path)]
    else:
        command = ["cesbr", "--repo", str(tmp_path / "repo"), "mount", str(tmp_path)]
    code, output, error = _run(environment, *command)
    assert (code, output) == (1, "")
    assert error == (
        f"{program[0]}: Cannot mount: the Python package pyfuse3 is not installed. Install fuse3,"
        " gcc, pkg-config, libfuse3-dev and python3-dev, then run"
        f" '{environment}/bin/python -m pip install pyfuse3'.\n"
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "home"]


def test_only_the_extra_mount_requires_pyfuse3(environment: Path) -> None:
    """Installing the wheel alone compiles nothing."""
    (site,) = (environment / "lib").glob("*/site-packages")
    (metadata,) = site.glob("cesbrfs-*.dist-info")
    required = Distribution.at(metadata).requires or []
    (pyfuse3,) = (one for one in required if one.startswith("pyfuse3"))
    assert pyfuse3.endswith('extra == "mount"')
