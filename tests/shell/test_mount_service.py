"""mount --install and --remove; systemd itself does not run here."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from pathlib import Path

import pytest
from cesbr import units

from tests.shell.conftest import KEY, Cesbr, Inside, Site
from tests.support.mounting import fuse_missing

_SECONDS = 30


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory for units."""
    made = tmp_path / "units"
    made.mkdir()
    return made


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    """A directory to mount on."""
    made = tmp_path / "back ups"
    made.mkdir()
    return made


@pytest.mark.skipif(fuse_missing() is not None, reason=str(fuse_missing()))
def test_what_the_service_runs_works(
    kept: Cesbr, kept_site: Site, directory: Path, mountpoint: Path
) -> None:
    """Its command mounts with the environment of systemd only, and the unit has no secrets."""
    place = ("--unit-dir", str(directory))
    said = kept(
        "--root", str(kept_site.root), "mount", "--install", str(mountpoint), *place,
        "-o", "noxattr", "-o", "idle=1h", "--json",
    )  # fmt: skip
    assert said.code == 0, said.err
    (unit,) = directory.iterdir()
    assert said.json == {
        "directory": str(directory), "unit": unit.name, "mountpoint": str(mountpoint),
        "started": False,
    }  # fmt: skip
    text = unit.read_text()
    assert KEY.strip() not in text
    assert unit.stat().st_mode & 0o777 == 0o644
    (start,) = (line for line in text.splitlines() if line.startswith("ExecStart="))
    command = shlex.split(start.removeprefix("ExecStart="))
    assert command[1:] == [
        "--foreground", "--root", str(kept_site.root), "-o", "noxattr", "-o", "idle=1h",
        str(mountpoint),
    ]  # fmt: skip
    address = str(directory / "notify")
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": kept.environ["PYTHONPATH"]}
    environ |= {"HOME": str(kept.here), "NOTIFY_SOCKET": address}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        listener.settimeout(_SECONDS)
        with subprocess.Popen(command, env=environ, cwd="/", stderr=subprocess.PIPE) as process:
            try:
                assert listener.recv(100) == b"READY=1"
                assert (mountpoint / "latest/redmine/dogu.json").read_bytes()
            finally:
                process.terminate()
                process.communicate(timeout=_SECONDS)
    assert process.returncode == 0
    Path(address).unlink()
    removed = kept("mount", "--remove", str(mountpoint), *place, "--json")
    assert removed.json == {"directory": str(directory), "removed": [unit.name]}
    assert list(directory.iterdir()) == []


def test_what_cannot_be_installed_is_refused(
    kept: Cesbr, directory: Path, mountpoint: Path
) -> None:
    """Invalid options, passwords, missing directories, and units of another program."""
    place = ("--unit-dir", str(directory))
    install = ("mount", "--install", str(mountpoint), *place)
    for arguments, code, text in (
        ((*install, "-o", "colour=red"), 2, "-o colour=red"),
        ((*install, "-o", "registry=http://u:topsecret@host"), 2, "password"),
        (("--repo", "rest:http://u:topsecret@host/", *install), 2, "password"),
        (("mount", str(mountpoint), *place), 2, "--install and --remove only"),
        (("mount", "--install", str(mountpoint / "none"), *place), 1, "not a directory"),
    ):
        said = kept(*arguments)
        assert said.code == code, said.err
        assert text in said.err
        assert "topsecret" not in said.err + said.out
    assert list(directory.iterdir()) == []
    assert kept(*install).code == 0
    (unit,) = directory.iterdir()
    unit.write_text("[Service]\n")
    for action in ("--install", "--remove"):
        said = kept("mount", action, str(mountpoint), *place)
        assert said.code == 2
        assert "was not made by 'cesbr mount'" in said.err
    assert unit.read_text() == "[Service]\n"


def test_systemctl_starts_and_stops_it(
    kept_site: Site, directory: Path, mountpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`systemctl` enables and starts the service, and stops it before the removal."""
    program, record = directory.parent / "bin/systemctl", directory.parent / "record"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {record}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(units, "SYSTEMD", directory)
    monkeypatch.setattr(units, "UNIT_DIR", directory)
    inside = Inside(kept_site.root)
    try:
        said = inside("mount", "--install", str(mountpoint))
        assert said.code == 0, said.err
        (unit,) = directory.iterdir()
        assert f"journalctl -u '{unit.name}'" in said.out
        assert inside("mount", "--remove", str(mountpoint)).code == 0
    finally:
        inside.close()
    assert record.read_text().splitlines() == [
        "daemon-reload", f"enable {unit.name}", f"restart {unit.name}",
        f"disable --now {unit.name}", "daemon-reload",
    ]  # fmt: skip
