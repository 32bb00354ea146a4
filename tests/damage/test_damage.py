"""A short corruption campaign, and proof that it notices each kind of fault."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from cesbrfs.catalog.status import Status
from cesbrfs.repo.format.crypto import open_master_key
from cesbrfs.repo.format.model import parse_key_file
from cesbrfs.repo.kdf import derive_keys
from tests.damage.campaign import Campaign, Checker
from tests.damage.damages import Damage
from tests.damage.publish import write
from tests.damage.reading import Reading
from tests.damage.run import VERSIONS, describe, prepare, run
from tests.support import compare
from tests.support.restic_repo import ResticRepo

_COUNT = 60
_FILE = b"two/redmine/volumes/files/large"


@pytest.fixture(scope="module")
def campaigns(
    restic_old: Path, restic_new: Path, tmp_path_factory: pytest.TempPathFactory
) -> Sequence[Campaign]:
    """A repository of each format, made by the old and the new restic, whose reader agrees."""
    work = tmp_path_factory.mktemp("damage")
    with ThreadPoolExecutor() as threads:
        prepared = [
            threads.submit(prepare, restic, work / str(version), version)
            for restic, version in zip((restic_old, restic_new), VERSIONS, strict=True)
        ]
        return [campaign.result() for campaign in prepared]


@pytest.mark.timeout(900)  # ten seconds on an idle machine
def test_no_damage_is_a_fault(campaigns: Sequence[Campaign]) -> None:
    """Each path equals the original or gives an error; `make damage` runs as many as wanted."""
    numbers = range(_COUNT)
    results = list(run(campaigns, 1, numbers))
    faults = [
        describe(number, result, VERSIONS[number % len(VERSIONS)])
        for number, result in zip(numbers, results, strict=True)
        if result.faults
    ]
    assert not faults, "\n".join(faults)
    assert len({result.outcome for result in results}) > 1


def _files(top: Path) -> dict[str, bytes]:
    found = (path for path in top.rglob("*") if path.is_file())
    return {str(path.relative_to(top)): path.read_bytes() for path in found}


def test_damaged_repositories_as_data(
    campaigns: Sequence[Campaign], restic_new: Path, tmp_path: Path
) -> None:
    """Each has one damage, and the list says what a reader may not be able to read."""
    top = tmp_path / "data"
    write(campaigns, top, seed=1, count=6)
    listed = json.loads((top / "cases.json").read_text())
    intact = {repository["directory"]: repository for repository in listed["intact"]}
    assert [repository["format"] for repository in intact.values()] == list(VERSIONS)
    for name, repository in intact.items():
        snapshot, entries = next(iter(repository["snapshots"].items()))
        repo = ResticRepo(restic_new, top / name, listed["password"])
        repo.run("restore", snapshot, "--target", tmp_path / name)
        restored = compare.records(str(tmp_path / name))
        assert {os.fsencode(entry["path"]) for entry in entries} == restored.keys() - {b""}
        for entry in entries:
            assert restored[os.fsencode(entry["path"])].content == entry["sha256"]
    assert len(listed["cases"]) == 6
    for case in listed["cases"]:
        assert _files(top / case["directory"]) != _files(top / case["intact"]), case
        assert case["may_fail"].keys() <= intact[case["intact"]]["snapshots"].keys()
    assert any(case["may_fail"] for case in listed["cases"])


def _lose_a_name(reading: Reading) -> None:
    del reading.records[_FILE]


def _change_content(reading: Reading) -> None:
    reading.records[_FILE] = replace(reading.records[_FILE], content="00" * 32)


def _change_mode(reading: Reading) -> None:
    reading.records[_FILE] = replace(reading.records[_FILE], mode=0o100777)


def _add_a_name(reading: Reading) -> None:
    reading.records[b"two/more"] = reading.records[_FILE]


def _lose_a_backup(reading: Reading) -> None:
    del reading.statuses[b"one"]


def _fail_for_no_reason(reading: Reading) -> None:
    del reading.records[_FILE]
    reading.errors[_FILE] = "damaged"


def _fail_completely(reading: Reading) -> None:
    reading.failed = "damaged"


def _change_latest(reading: Reading) -> None:
    reading.latest = b"one"


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (_lose_a_name, "is missing, and nothing reports it"),
        (_change_content, "differs"),
        (_change_mode, "differs"),
        (_add_a_name, "is not in the undamaged repository"),
        (_lose_a_backup, "backup b'one' is missing"),
        (_fail_for_no_reason, "nothing that it needs is damaged"),
        (_fail_completely, "nothing can be read"),
        (_change_latest, "'latest' points to"),
    ],
)
def test_faults_are_noticed(
    campaigns: Sequence[Campaign], spoil: Callable[[Reading], None], fault: str
) -> None:
    """The undamaged reading has no fault; each change of it is one."""
    truth = campaigns[0].truth
    reading = copy.deepcopy(truth.reading)
    damage = Damage("data pack", "duplicate", ["data/00/00"])
    assert not list(Checker(truth, damage, reading).faults())
    spoil(reading)
    faults = list(Checker(truth, damage, reading).faults())
    assert any(fault in found for found in faults), faults


def test_a_backup_without_a_snapshot_is_not_complete(campaigns: Sequence[Campaign]) -> None:
    """A snapshot of a backup with a manifest was removed."""
    truth = campaigns[0].truth
    snapshot = min(truth.snapshots[b"two"])
    reading = copy.deepcopy(truth.reading)
    path = f"snapshots/{snapshot}"
    damage = Damage("snapshot", "removal", [path], changed={path: (0, 1)})
    assert reading.statuses[b"two"] == Status.COMPLETE
    assert any("called complete" in fault for fault in Checker(truth, damage, reading).faults())
    reading.statuses[b"two"] = Status.INCOMPLETE
    assert not list(Checker(truth, damage, reading).faults())


def test_blobs_in_two_packs_are_part_of_it(campaigns: Sequence[Campaign]) -> None:
    """Otherwise nothing would show that the intact copy is used."""
    for campaign in campaigns:
        found = campaign.truth.places.values()
        assert any(len({place.pack for place in places}) > 1 for places in found)


def test_caches_contain_no_names_content_or_keys(campaigns: Sequence[Campaign]) -> None:
    """Caches filled by reading everything contain neither of them in clear."""
    for campaign in campaigns:
        password = campaign.sample.repo.password.encode()
        secrets = {password, b"redmine", b"data.mdb", b"services", b"all work and no play"}
        for path in (campaign.sample.directory / "keys").iterdir():
            key_file = parse_key_file(path.read_bytes())
            keys = open_master_key(derive_keys(password, key_file), key_file)
            secrets |= {keys.encrypt, keys.mac_k, keys.mac_r}
        files = [file for top in campaign.caches for file in top.rglob("*") if file.is_file()]
        assert len(files) > 5
        for file in files:
            content = file.read_bytes()
            assert not [secret for secret in secrets if secret in content], file
