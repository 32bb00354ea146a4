"""What ``cesbr doctor`` makes of the answers of systemd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cesbr import timer, units
from cesbr.doctor import services
from cesbr.doctor.finding import State

from cesbrfs.ces.systemd_units import SERVICE, TIMER

Answer = Callable[[str], None]

_ACTIVE = f"Id={TIMER}\nActiveState=active\nNextElapseUSecRealtime=@4102444800\n"
_UNIT = "cesbrfs-mnt.service"


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Pretend that systemd runs; return a function that sets the output of systemctl."""
    program, text = tmp_path / "systemctl", tmp_path / "text"
    program.write_text(f"#!/bin/sh\nexec /bin/cat {text}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(timer, "SYSTEMD", tmp_path)
    monkeypatch.setattr(services, "SYSTEMD", tmp_path)
    monkeypatch.setattr(units, "UNIT_DIR", tmp_path)
    (tmp_path / _UNIT).touch()

    def answer(said: str) -> None:
        text.write_text(said)

    return answer


def service(result: str) -> str:
    return f"\nId={SERVICE}\nExecMainExitTimestamp=@1764288000\nResult={result}\n"


@pytest.mark.parametrize(
    ("said", "state", "found"),
    [
        (_ACTIVE + service("success"), State.OK, "the next backup begins at 2100-01-01"),
        (_ACTIVE + service("timeout"), State.ERROR, "the last backup failed (timeout)"),
        (_ACTIVE.replace("=active", "=failed"), State.WARNING, ""),
        (_ACTIVE.replace("@4102444800", "never"), State.WARNING, ""),
        ("", State.WARNING, ""),
    ],
)
async def test_the_timer(systemd: Answer, said: str, state: State, found: str) -> None:
    """It is active, inactive, never elapses, or the last backup has failed."""
    systemd(said)
    finding = await services.check_schedule()
    assert finding.state is state
    assert finding.found.startswith(found)
    assert bool(finding.action) == (state is not State.OK)


async def test_without_systemd(
    systemd: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer is not checked; a systemctl that is missing is no error."""
    systemd("")
    (tmp_path / "systemctl").unlink()
    assert (await services.check_schedule()).state is State.WARNING
    monkeypatch.setattr(services, "SYSTEMD", tmp_path / "missing")
    assert (await services.check_schedule()).found == "not checked: systemd does not run here"


@pytest.mark.parametrize(
    ("said", "state", "found"),
    [
        ("ActiveState=failed\nResult=exit-code", State.ERROR, "failed (exit-code)"),
        ("ActiveState=failed", State.ERROR, "failed (unknown reason)"),
        ("ActiveState=inactive\nUnitFileState=enabled", State.WARNING, "does not run"),
        ("ActiveState=inactive\nUnitFileState=disabled", State.OK, ""),
        ("ActiveState=active", State.OK, ""),
    ],
)
async def test_services_that_mount(systemd: Answer, said: str, state: State, found: str) -> None:
    """One that failed, or was not started, is named with the command that helps."""
    systemd(f"Id={_UNIT}\nLoadState=loaded\n{said}\n\nId=other\nLoadState=not-found\n")
    finding = await services.check_mounts({"url": "/no such repository"})
    assert finding.state is state
    assert found in finding.found
    assert (_UNIT in finding.action) == (state is not State.OK)
