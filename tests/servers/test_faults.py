"""Network faults between a mount and each kind of server.

Whatever is injected, the reader gets the right bytes or an error, never wrong bytes. With
CESBR_TEST_FAULTS=docs/faults.md the outcomes are written to that file as a table;
CESBR_TEST_OUTAGE=30 sets the duration of the server's outage in seconds.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from cesbrfs.util.secret import Secret
from tests.support.compare import differences, records
from tests.support.far import KINDS, Far, far_of
from tests.support.mounting import Mount, fuse_missing, mounting
from tests.support.proxy import Fault
from tests.support.restic_repo import ResticRepo, create

pytestmark = pytest.mark.skipif(fuse_missing() is not None, reason=str(fuse_missing()))

# Read before the environment of the tests is isolated.
_PAGE: Final = os.environ.get("CESBR_TEST_FAULTS")
_OUTAGE_SECONDS: Final = float(os.environ.get("CESBR_TEST_OUTAGE", "1"))
_SIZE: Final = 3 << 20
_HASTY_SECONDS: Final = 2.0
_PATIENT_SECONDS: Final = 60.0
_RIGHT: Final = "correct"
_EIO: Final = "Input/output error"
_TIMED_OUT: Final = "Connection timed out"
_DENIED: Final = "Permission denied"
_FILES: Final = (
    "untouched", "delay", "rate", "reset", "truncate", "stall", "corrupt", "corrupt-all", "hold",
    "refuse", "blip", "revoke", "copy",
)  # fmt: skip


@dataclass
class Table:
    """Results by fault and kind of server: what the reader got, and after how long."""

    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, fault: str, far: Far, saw: str, seconds: float) -> None:
        """Record one result."""
        self.rows.setdefault(fault, {})[far.name] = f"{saw}, {seconds:.1f} s"

    def text(self) -> str:
        """Return the table in Markdown."""
        names = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        lines = [f"| fault | {' | '.join(names)} |", f"|---{'|---' * len(names)}|"]
        lines += [
            f"| {fault} | {' | '.join(row.get(name, '') for name in names)} |"
            for fault, row in self.rows.items()
        ]
        return "\n".join(lines)


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    """The table; it is written at the end if requested."""
    made = Table()
    yield made
    if _PAGE:
        page = Path(_PAGE)
        head, mark, _ = page.read_text().partition("<!-- table -->\n")
        page.write_text(f"{head}{mark}{made.text()}\n")


def _volume(top: Path, name: str) -> Path:
    return top / name / "var/lib/ces/redmine/volumes/files"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file per fault, so that none is cached before, and a directory of small files."""
    top = tmp_path_factory.mktemp("source")
    content = random.Random(1)
    for name in _FILES:
        volume = _volume(top, name)
        volume.mkdir(parents=True)
        if name == "copy":
            for number in range(40):
                inner = volume / f"d{number % 4}"
                inner.mkdir(exist_ok=True)
                (inner / f"{number}").write_bytes(content.randbytes(100_000 + number))
        else:
            (volume / "data").write_bytes(content.randbytes(_SIZE))
    return top


@pytest.fixture(scope="module")
def repo(restic_new: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> ResticRepo:
    """A backup of each file, so that each has its own pack."""
    made = create(restic_new, tmp_path_factory.mktemp("repository") / "repo")
    for name in _FILES:
        made.backup(_volume(source, name), tags=[name])
    return made


@pytest.fixture(scope="module", params=KINDS)
def far(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, repo: ResticRepo
) -> Iterator[Far]:
    """Each kind of server in turn, with the repository."""
    with far_of(request, tmp_path_factory.mktemp("far")) as made:
        made.put(repo.directory)
        yield made


@pytest.fixture(scope="module")
def _mount(tmp_path_factory: pytest.TempPathFactory, far: Far) -> Iterator[Callable[..., Mount]]:
    with mounting(tmp_path_factory.mktemp("mounts")) as start:
        yield start


def _mounted(mount: Callable[..., Mount], far: Far, repo: ResticRepo, patience: float) -> Mount:
    made = mount(far.access(Secret(repo.password.encode()), patience), "-o", "cache_size=8M")
    for name in _FILES:  # directories are cached before the fault
        os.listdir(_directory(made, name))
    return made


@pytest.fixture(scope="module")
def patient(_mount: Callable[..., Mount], far: Far, repo: ResticRepo) -> Mount:
    """A mount whose timeout is longer than any of these faults."""
    return _mounted(_mount, far, repo, _PATIENT_SECONDS)


@pytest.fixture(scope="module")
def hasty(_mount: Callable[..., Mount], far: Far, repo: ResticRepo) -> Mount:
    """A mount with a timeout of two seconds."""
    return _mounted(_mount, far, repo, _HASTY_SECONDS)


@pytest.fixture(autouse=True)
def _healed(far: Far) -> Iterator[None]:
    yield
    far.proxy.round_trip, far.proxy.rate = 0.0, float("inf")
    far.proxy.heal()
    far.proxy.admit()


def _directory(mount: Mount, name: str) -> Path:
    return mount.path / name / "redmine/volumes/files"


@dataclass
class Reader:
    """Reads one file of a mount as ``cat`` does, and compares the result with the source."""

    mount: Mount
    source: Path
    name: str

    def read(self) -> tuple[str, float]:
        """Return the outcome for the reader, and the duration in seconds."""
        began = time.monotonic()
        done = subprocess.run(
            ["cat", _directory(self.mount, self.name) / "data"],
            capture_output=True,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
        took = time.monotonic() - began
        right = (_volume(self.source, self.name) / "data").read_bytes()
        # Data returned before an error must be right as well.
        assert done.stdout == right[: len(done.stdout)], f"wrong bytes; {self._log()}"
        if done.returncode == 0:
            assert done.stdout == right
            return _RIGHT, took
        return done.stderr.decode().strip().rpartition(": ")[2], took

    def _log(self) -> str:
        return self.mount.log.read_text()


def _check(
    reader: Reader, far: Far, table: Table, fault: str, expected: str, *, injected: bool = True
) -> float:
    before = far.proxy.injected
    saw, seconds = reader.read()
    assert saw == expected, reader._log()
    assert not injected or far.proxy.injected > before, "nothing was injected"
    table.add(fault, far, saw, seconds)
    return seconds


def test_nothing(far: Far, patient: Mount, source: Path, table: Table) -> None:
    """Without a fault a file is read immediately."""
    reader = Reader(patient, source, "untouched")
    assert _check(reader, far, table, "none", _RIGHT, injected=False) < 3


def test_delay(far: Far, patient: Mount, source: Path, table: Table) -> None:
    """A round trip of 100 ms is paid a few times, not for each part of the file."""
    far.proxy.round_trip = 0.1
    reader = Reader(patient, source, "delay")
    assert 0.1 <= _check(reader, far, table, "round trip of 100 ms", _RIGHT, injected=False) < 5


def test_rate(far: Far, patient: Mount, source: Path, table: Table) -> None:
    """A slow connection does not time out as long as bytes arrive."""
    far.proxy.rate = 2 << 20
    reader = Reader(patient, source, "rate")
    assert 1 <= _check(reader, far, table, "rate of 2 MiB/s", _RIGHT, injected=False) < 15


@pytest.mark.parametrize("fault", [Fault.RESET, Fault.TRUNCATE])
def test_connections_that_end(
    far: Far, patient: Mount, source: Path, table: Table, fault: Fault
) -> None:
    """A request whose connection is closed is retried, even three times in a row."""
    far.proxy.inject(fault, after=400_000, times=3)
    name = {Fault.RESET: "connection reset", Fault.TRUNCATE: "reply ends early"}[fault]
    reader = Reader(patient, source, fault.name.lower())
    _check(reader, far, table, f"{name}, after 400 kB, three times", _RIGHT)


def test_stall(far: Far, hasty: Mount, source: Path, table: Table) -> None:
    """A stalled connection times out, and the rest is read over another one."""
    far.proxy.inject(Fault.STALL, after=400_000)
    reader = Reader(hasty, source, "stall")
    took = _check(reader, far, table, "connection stalls (patience 2 s)", _RIGHT)
    assert took < 4 * _HASTY_SECONDS


def test_a_corrupt_byte(far: Far, patient: Mount, source: Path, table: Table) -> None:
    """MAC, hash or ssh detect it, and the record is read again."""
    far.proxy.inject(Fault.CORRUPT, after=400_000)
    _check(Reader(patient, source, "corrupt"), far, table, "a byte is changed", _RIGHT)


def test_corrupt_bytes_for_ever(far: Far, hasty: Mount, source: Path, table: Table) -> None:
    """Permanent corruption is an error, and corrupt data is never cached."""
    far.proxy.inject(Fault.CORRUPT, after=100_000, times=None)
    reader = Reader(hasty, source, "corrupt-all")
    _check(reader, far, table, "a byte of each 100 kB is changed (patience 2 s)", _EIO)
    far.proxy.heal()
    _check(reader, far, table, "… then no more faults", _RIGHT, injected=False)


def test_silence(far: Far, hasty: Mount, source: Path, table: Table) -> None:
    """A server that accepts connections and sends nothing times out; cached directories work."""
    far.proxy.hold()
    reader = Reader(hasty, source, "hold")
    _check(reader, far, table, "server is silent (patience 2 s)", _TIMED_OUT, injected=False)
    began = time.monotonic()
    assert os.listdir(_directory(hasty, "hold")) == ["data"]
    assert time.monotonic() - began < 2
    far.proxy.heal()
    _check(reader, far, table, "… then responds", _RIGHT, injected=False)


def test_away_for_longer_than_the_patience(
    far: Far, hasty: Mount, source: Path, table: Table
) -> None:
    """The reader gets EIO; after the outage the same mount reads the same file."""
    far.proxy.refuse()
    reader = Reader(hasty, source, "refuse")
    name = "server is offline (patience 2 s)"
    took = _check(reader, far, table, name, _EIO, injected=False)
    assert took >= _HASTY_SECONDS
    far.proxy.admit()
    _check(reader, far, table, "… then back online", _RIGHT, injected=False)


def test_away_for_less_than_the_patience(
    far: Far, patient: Mount, source: Path, table: Table
) -> None:
    """The read is delayed and succeeds."""
    far.proxy.refuse()
    back = threading.Timer(2, far.proxy.admit)
    back.start()
    reader = Reader(patient, source, "blip")
    took = _check(reader, far, table, "server is offline for 2 s", _RIGHT, injected=False)
    back.join()
    assert 2 <= took < 10


def test_a_server_killed_in_the_middle_of_a_copy(
    far: Far, patient: Mount, source: Path, table: Table, tmp_path: Path
) -> None:
    """The server is killed and restarted; the copy succeeds and is identical."""
    far.proxy.rate = 4 << 20
    target = tmp_path / "copy"
    began = time.monotonic()
    copy = subprocess.Popen(["cp", "-a", _directory(patient, "copy"), target])
    while not (target.exists() and any(target.rglob("[0-9]*"))):
        assert copy.poll() is None
        time.sleep(0.01)
    far.kill()
    assert copy.poll() is None, "the copy was over before"
    time.sleep(_OUTAGE_SECONDS)  # how long the server is offline
    far.start()
    assert copy.wait() == 0, patient.log.read_text()
    took = time.monotonic() - began
    assert differences(records(str(_volume(source, "copy"))), records(str(target))) == []
    name = f"server killed in the middle of `cp -a`, restarted after {_OUTAGE_SECONDS:g} s"
    table.add(name, far, "copy is equal", took)


def test_revoked_credentials(far: Far, patient: Mount, source: Path, table: Table) -> None:
    """Permission is denied at once, without a retry."""
    far.revoke()
    reader = Reader(patient, source, "revoke")
    assert _check(reader, far, table, "credentials revoked", _DENIED, injected=False) < 10
