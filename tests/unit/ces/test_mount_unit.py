"""The systemd service of a mount: its content, and that systemd accepts it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from cesbrfs.ces.mount_unit import (
    MARK,
    PACKAGED,
    render_mount_unit,
    render_packaged_unit,
    unit_name,
)
from cesbrfs.errors import UsageError
from tests.support.project import PROJECT
from tests.unit.ces.test_systemd_units import settings

_NAMESPACE_OPTIONS = (
    "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "MountFlags",
    "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups",
    "ReadOnlyPaths", "ReadWritePaths", "InaccessiblePaths", "TemporaryFileSystem", "BindPaths",
    "ProtectProc", "ProcSubset", "RootDirectory", "DynamicUser", "PrivateUsers",
)  # fmt: skip
"""Options with a mount namespace, in which a mount is not visible to other processes."""


def test_names_are_those_of_systemd() -> None:
    """As `systemd-escape --path` prints them."""
    paths = ["/mnt/backups", "/", "/a b/.c-d/é", "/.x", "/srv//b/", "/a:b_c.d"]
    assert unit_name("/mnt/backups") == "cesbrfs-mnt-backups.service"
    if shutil.which("systemd-escape") is not None:
        done = subprocess.run(
            ["systemd-escape", "--path", "--", *paths], capture_output=True, text=True, check=True
        )
        assert [unit_name(path) for path in paths] == [
            f"cesbrfs-{name}.service" for name in done.stdout.split()
        ]
    with pytest.raises(UsageError, match="too long"):
        unit_name("/" + "x" * 250)


def test_service_of_a_mount() -> None:
    """It supports reload and the watchdog, and requires the disks of repository and mount point."""
    command = ["/opt/cesbrfs", "--foreground", "-o", "idle=10m", "/srv/b c"]
    unit = render_mount_unit(command, "/srv/b c", home="/root", directory="/mnt/100%")
    assert unit.startswith(MARK)
    (start,) = settings(unit, "ExecStart")
    assert shlex.split(start) == command
    assert settings(unit, "Type") == ["notify"]
    assert settings(unit, "ExecReload") == ["+/bin/kill -HUP $MAINPID"]
    assert settings(unit, "WatchdogSec") == ["60"]
    assert settings(unit, "Restart") == ["on-failure"]
    assert settings(unit, "RequiresMountsFor") == ["/mnt/100%% /srv"]


@pytest.mark.parametrize(
    "unit", [render_mount_unit(["/c"], "/b", home="/"), render_packaged_unit()]
)
def test_the_mount_is_visible_to_others(unit: str) -> None:
    """No option puts the service into its own mount namespace."""
    assert [option for option in _NAMESPACE_OPTIONS if settings(unit, option)] == []


def test_systemd_accepts_the_service(tmp_path: Path) -> None:
    """`systemd-analyze verify` reports nothing, even for paths with special characters."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    odd = tmp_path / "a %n $HOME \"b\" 'c' \\d;"
    odd.mkdir()
    program = tmp_path / "cesbrfs"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    name = unit_name(str(tmp_path / "mnt"))
    unit = render_mount_unit([str(program), str(odd)], str(odd), home=str(odd), directory=str(odd))
    (tmp_path / name).write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / name],
        capture_output=True,
        text=True,
        check=False,
    )
    reported = [line for line in done.stderr.splitlines() if name in line]
    assert (done.returncode, reported) == (0, []), done.stderr


def test_the_packaged_service_is_the_generated_one() -> None:
    """Both services have the same settings, from one source."""
    file = PROJECT / "packaging/systemd" / PACKAGED
    if not file.exists():
        pytest.skip(f"there is no {file.name}")
    assert file.read_text(encoding="utf-8") == render_packaged_unit()
