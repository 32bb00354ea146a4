"""One request to the storage fails: what is affected has an error, and all is well afterwards."""

from __future__ import annotations

import itertools
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from cesbrfs.errors import CesbrError, RepositoryUnreachableError, StorageError
from tests.damage.reading import Reading, read_twice
from tests.damage.sample import Sample, build
from tests.damage.truth import Truth, learn

ERRORS = {
    "failing disk": StorageError("Input/output error."),
    "no answer": RepositoryUnreachableError("The server does not answer."),
}


@pytest.fixture(scope="module")
def sample(restic_new: Path, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A small repository with several backups."""
    return build(restic_new, tmp_path_factory.mktemp("transient") / "sample", 2)


@pytest.fixture(scope="module")
def truth(sample: Sample) -> Truth:
    """What it contains."""
    return learn(sample)


@pytest.mark.parametrize("error", ERRORS)
def test_a_failed_request(sample: Sample, truth: Truth, error: str) -> None:
    """Nothing is missing without an error, and a minute later nothing is missing at all."""
    wrong: list[str] = []
    _, expected, _ = read_twice(sample.access, 1 << 20, ERRORS[error])
    for number in itertools.count():
        first, second, failed = read_twice(sample.access, number, ERRORS[error])
        if not failed:
            break
        wrong += [f"{number}, {failed}: {what}" for what in _faults(truth, first)]
        wrong += [f"{number}, {failed}, later: {what}" for what in _differences(truth, second)]
        changed = dict(second.across.items() ^ expected.across.items())
        wrong += [f"{number}, {failed}, later: {path!r} differs" for path in changed]
    assert number > 50
    assert b"_dogus/redmine/latest" in expected.across
    assert any(path.startswith(b"_versions/redmine/volumes") for path in expected.across)
    assert not wrong, "\n".join(wrong[:40])


def _faults(truth: Truth, reading: Reading) -> Iterator[str]:
    """Yield what is missing or wrong without an error."""
    yield from reading.faults
    said = bool(reading.failed or reading.damaged)
    for path, record in truth.reading.records.items():
        found = reading.records.get(path)
        # A directory that cannot be read has other metadata.
        both = found is not None and stat.S_ISDIR(found.mode) and stat.S_ISDIR(record.mode)
        if found is not None and found != record and not (said and both):
            yield f"{path!r} is {found}, not {record}"
        if found is None and not (said or _has_error(reading, path)):
            yield f"{path!r} is missing"
    for path in reading.records.keys() - truth.reading.records:
        if not (said and b"_snapshots" in path):  # all of a snapshot that could not be read
            yield f"{path!r} is new"
    if reading.statuses != truth.reading.statuses and not (said or reading.errors):
        yield f"statuses are {reading.statuses}"
    if reading.latest != truth.reading.latest and not (said or reading.errors):
        yield f"latest is {reading.latest!r}"


def _differences(truth: Truth, reading: Reading) -> Iterator[str]:
    """Yield how a reading differs from the truth."""
    if problems := [reading.failed, reading.errors, reading.damaged, reading.faults]:
        yield from (str(problem) for problem in problems if problem)
    if (reading.records, reading.statuses, reading.latest) != (
        truth.reading.records, truth.reading.statuses, truth.reading.latest,
    ):  # fmt: skip
        changed = reading.records.items() ^ truth.reading.records.items()
        yield f"it differs: {sorted({path for path, _ in changed})[:5]}, {reading.statuses}"


def _has_error(reading: Reading, path: bytes) -> bool:
    """Return whether the path, or a directory above it, gave an error."""
    parts = path.split(b"/")
    above = (b"/".join(parts[:count]) + b"/" for count in range(1, len(parts)))
    return path in reading.errors or any(at in reading.errors for at in above)


def test_faults_are_noticed(truth: Truth) -> None:
    """A missing name, and other content."""
    assert not list(_faults(truth, truth.reading))
    assert not list(_differences(truth, truth.reading))
    poorer = Reading(dict(truth.reading.records), statuses=truth.reading.statuses)
    poorer.latest = truth.reading.latest
    path = b"two/redmine/volumes/files/large"
    del poorer.records[path]
    assert list(_faults(truth, poorer)) == [f"{path!r} is missing"]
    (different,) = _differences(truth, poorer)
    assert repr(path) in different
    assert isinstance(ERRORS["failing disk"], CesbrError)
