"""A few interruptions of a few operations; `make kill` does as many as wanted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.kill.campaign import Campaign
from tests.kill.child import Planned
from tests.kill.operations import BY_NAME, Operation, _each, _files
from tests.kill.run import describe, each
from tests.kill.sandbox import Sandbox
from tests.support.steps import Fault

_CHOSEN = (
    ("backup", Fault.KILL, 12),
    ("restore", Fault.KILL, 28),
    ("restore-registry", Fault.FULL, 9),
    ("read remotely", Fault.KILL, 12),
)


@pytest.fixture(scope="module")
def campaign(restic_old: Path) -> Iterator[Campaign]:
    """An instance with two backups."""
    with TemporaryDirectory(prefix="cesbrfs-kill-") as place:
        yield Campaign(Path(place), restic_old)


@pytest.mark.timeout(600)  # six seconds on an idle machine
def test_interrupted_operations_are_completed_by_the_next_run(campaign: Campaign) -> None:
    """Nothing is half written, called complete or trusted; no lock stays."""
    results = [campaign.run(BY_NAME[name], Planned(fault, step)) for name, fault, step in _CHOSEN]
    assert all(result.hit for result in results)
    wrong = [describe(result) for result in results if result.faults]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("step", ["os.chmod", "os.utime", "os.listxattr"])
def test_metadata_that_cannot_be_read_or_set(campaign: Campaign, step: str) -> None:
    """If the disk fails, the restore and its undo do not succeed."""
    for name in ("restore in place", "undo"):
        results = list(each(campaign, [BY_NAME[name]], [Fault.FAILING], frozenset({step})))
        assert results
        wrong = [describe(result) for result in results if result.faults]
        assert not wrong, "\n".join(wrong)


def _write_carelessly(sandbox: Sandbox) -> int:
    with (sandbox.top / "careless").open("wb") as file:
        for _ in range(2):
            file.write(bytes(100_000))
            file.flush()
    return 0


def test_half_written_files_are_noticed(campaign: Campaign) -> None:
    """A file that is written under its final name is found."""
    careless = Operation("careless", (), _files("careless"), _each, function=_write_carelessly)
    result = campaign.run(careless, Planned(Fault.KILL, 2))
    assert result.code == -9
    assert any("neither old nor new" in wrong for wrong in result.faults)
