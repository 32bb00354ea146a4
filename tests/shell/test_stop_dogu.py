"""--stop-dogu: a running dogu is stopped around a restore in place, and always started again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.shell.conftest import Cesbr, Inside, Site

_IN_PLACE = ("restore", "--backup", "latest", "redmine", "--in-place", "--yes")
_RUNTIME = """#!/bin/sh
here={here}
case $1 in
exec) test -e $here/running ;;
stop) echo stop $2 >>$here/log; {stop} ;;
start) echo start $2 >>$here/log; : >$here/running ;;
esac
"""


@dataclass(frozen=True)
class Containers:
    """A container runtime with one dogu, as a script that logs what it does."""

    here: Path

    def write(self, stop: str = "rm $here/running") -> None:
        """Write the script; it stops a dogu with the commands `stop`."""
        script = self.here / "runtime"
        script.write_text(_RUNTIME.format(here=self.here, stop=stop))
        script.chmod(0o755)

    @property
    def environ(self) -> dict[str, str]:
        """The settings that use the script."""
        return {
            "CESBR_COMMAND_RUNNER": f"{self.here}/runtime exec {{dogu}} {{command}}",
            "CESBR_DOGU_CONTROL": f"{self.here}/runtime {{action}} {{dogu}}",
        }

    @property
    def log(self) -> list[str]:
        """What was done since the last call."""
        try:
            return (self.here / "log").read_text().splitlines()
        except FileNotFoundError:
            return []
        finally:
            (self.here / "log").unlink(missing_ok=True)


@pytest.fixture
def containers(tmp_path: Path) -> Containers:
    """The runtime; the dogu is running."""
    made = Containers(tmp_path / "containers")
    made.here.mkdir()
    made.write()
    (made.here / "running").touch()
    return made


@pytest.fixture
def own(site: Site, containers: Containers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inside]:
    """Commands in this process, on an instance that the test may change."""
    for name, value in containers.environ.items():
        monkeypatch.setenv(name, value)
    made = Inside(site.root)
    yield made
    made.close()


def test_a_running_dogu_is_stopped(own: Inside, site: Site, containers: Containers) -> None:
    """The plan shows it, or warns without --stop-dogu; undo has the same option."""
    assert "is running" not in own(*_IN_PLACE, "--dry-run").out, "nothing is written"
    (site.files / "hello.txt").write_text("broken")
    plan = own(*_IN_PLACE, "--dry-run", "--stop-dogu").out
    assert "\nStops, and starts again: redmine\n" in plan
    warning = "The dogu redmine is running while its files are replaced."
    assert f"Warning: {warning}" in own(*_IN_PLACE, "--dry-run").out
    assert containers.log == []
    said = own(*_IN_PLACE)
    assert f"warning: {warning}" in said.err
    assert containers.log == []
    said = own("undo", "--yes", "--stop-dogu")
    assert (said.code, containers.log) == (0, ["stop redmine", "start redmine"]), said.err
    (site.files / "sub/binary").unlink()
    (site.files / "sub/binary").mkdir()
    said = own(*_IN_PLACE, "--stop-dogu")
    assert (said.code, containers.log) == (3, ["stop redmine", "start redmine"])
    assert "Stopping dogu redmine." in said.err
    (containers.here / "running").unlink()
    (site.files / "hello.txt").write_text("broken")
    said = own(*_IN_PLACE, "--stop-dogu")
    assert (said.code, containers.log) == (3, []), "it was not running"
    assert own("restore", "--backup", "latest", "--stop-dogu", "--target", "x").code == 2


def test_a_dogu_that_cannot_be_stopped(own: Inside, site: Site, containers: Containers) -> None:
    """Nothing is restored, and it is started in case it was stopped."""
    (site.files / "hello.txt").write_text("mine")
    for stop, why in (
        ("echo no such thing; exit 5", "exit code 5 (no such thing)"),
        (":", "still"),
    ):
        containers.write(stop)
        said = own(*_IN_PLACE, "--stop-dogu")
        assert (said.code, why in said.err) == (1, True), said.err
        assert containers.log == ["stop redmine", "start redmine"]
    assert (site.files / "hello.txt").read_text() == "mine"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_restore_starts_it(
    cesbr: Cesbr, site: Site, containers: Containers, number: signal.Signals
) -> None:
    """Also while it is being stopped."""
    (site.files / "hello.txt").write_text("mine")
    os.mkfifo(containers.here / "began")
    containers.write("rm $here/running; echo >$here/began; sleep 60")
    own = cesbr.having(CESBR_ROOT=str(site.root), **containers.environ)
    with own.start(*_IN_PLACE, "--stop-dogu") as running:
        (containers.here / "began").read_text()
        running.send_signal(number)
        running.communicate()
    assert running.returncode != 0
    assert containers.log == ["stop redmine", "start redmine"]
    assert (site.files / "hello.txt").read_text() == "mine"


def test_settings_are_required(site: Site, cesbr: Cesbr) -> None:
    """The error names what to set, before anything is changed."""
    said = cesbr.having(CESBR_ROOT=str(site.root))(*_IN_PLACE, "--stop-dogu")
    assert (said.code, "requires the setting 'dogu_control'" in said.err) == (2, True)
