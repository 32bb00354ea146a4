"""A few interruptions of a few operations; `make kill` does as many as wanted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.kill.campaign import Campaign
from tests.kill.child import Planned
from tests.kill.operations import BY_NAME, Operation, _each, _files
from tests.kill.run import at_random, describe
from tests.kill.sandbox import Sandbox
from tests.support.steps import Fault

_COUNT = 7
_OPERATIONS = ("backup", "forget", "restore", "restore-registry", "select", "read remotely")


@pytest.fixture(scope="module")
def campaign(restic_old: Path) -> Iterator[Campaign]:
    """An instance with two backups."""
    with TemporaryDirectory(prefix="cesbrfs-kill-") as place:
        yield Campaign(Path(place), restic_old)


@pytest.mark.timeout(600)  # six seconds on an idle machine
def test_interrupted_operations_are_completed_by_the_next_run(campaign: Campaign) -> None:
    """Nothing is half written, called complete or trusted; no lock stays."""
    results = list(at_random(campaign, 1, _COUNT, [BY_NAME[name] for name in _OPERATIONS]))
    assert len(results) == _COUNT
    wrong = [describe(result) for result in results if result.faults]
    assert not wrong, "\n".join(wrong)


def _write_carelessly(sandbox: Sandbox) -> int:
    with (sandbox.top / "careless").open("wb") as file:
        for _ in range(2):
            file.write(bytes(100_000))
            file.flush()
    return 0


def test_half_written_files_are_noticed(campaign: Campaign) -> None:
    """A file that is written under its final name is found at one of the steps."""
    careless = Operation("careless", (), _files("careless"), _each, function=_write_carelessly)
    results = [campaign.run(careless, Planned(Fault.KILL, step)) for step in range(3)]
    assert [result.code for result in results] == [-9] * 3
    assert any("neither old nor new" in wrong for wrong in results[2].faults)
