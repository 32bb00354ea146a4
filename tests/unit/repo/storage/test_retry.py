"""Retry of storage requests: conditions, delays, and readers that share an attempt."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from cesbrfs.errors import (
    CesbrError,
    DamagedError,
    FileMissingError,
    RepositoryDeniedError,
    RepositoryTimedOutError,
    RepositoryUnreachableError,
    RepositoryUntrustedError,
    StorageError,
)
from cesbrfs.repo.storage import FileInfo, FileType
from cesbrfs.repo.storage.memory import MemoryStorage
from cesbrfs.repo.storage.retry import OPENING_SECONDS, RetryingStorage

_CONTENT = b"content"
_NAME = "ab" * 32
_PATIENCE = 60.0


class _Server(MemoryStorage):
    """A server that can be down: `fault` returns the error of a request, or None."""

    def __init__(self) -> None:
        super().__init__("far://away")
        self.files[FileType.PACK, _NAME] = _CONTENT
        self.fault: Callable[[], CesbrError | None] = lambda: None
        self.asked: list[float] = []
        self.asking = 0
        self.most_asking = 0
        self.takes = 0.0

    async def list(self, kind: FileType) -> Sequence[FileInfo]:
        """Return the listing, or raise the fault."""
        await self._meet_fault()
        return await super().list(kind)

    async def read(
        self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
    ) -> bytes:
        """Return the data, or raise the fault."""
        await self._meet_fault()
        return await super().read(kind, name, offset, length)

    async def _meet_fault(self) -> None:
        self.asked.append(trio.current_time())
        self.asking += 1
        self.most_asking = max(self.asking, self.most_asking)
        try:
            await trio.sleep(self.takes)
            if error := self.fault():
                raise error
        finally:
            self.asking -= 1

    def refuse(self, error: type[CesbrError] = RepositoryUnreachableError) -> None:
        """Take the server down."""
        self.fault = partial(error, "far://away refuses connections; start it.")

    def answer(self) -> None:
        """Bring the server up."""
        self.fault = lambda: None


@pytest.fixture
def server() -> _Server:
    """A server that is up."""
    return _Server()


@pytest.fixture
async def patient(server: _Server) -> RetryingStorage:
    """A reader with retry that has already received a response."""
    made = RetryingStorage(server, _PATIENCE)
    assert await _read(made) == _CONTENT
    server.asked.clear()
    return made


async def _read(patient: RetryingStorage) -> bytes:
    return await patient.read(FileType.PACK, _NAME, 0, len(_CONTENT))


async def _back_after(server: _Server, seconds: float) -> None:
    await trio.sleep(seconds)
    server.answer()


async def test_a_lost_connection_is_not_noticed(
    server: _Server, patient: RetryingStorage, autojump_clock: MockClock
) -> None:
    """A request without a response is retried within a fraction of a second."""
    errors = [RepositoryUnreachableError("reset")]
    server.fault = lambda: errors.pop() if errors else None
    began = trio.current_time()
    assert await _read(patient) == _CONTENT
    assert 0 < trio.current_time() - began < 0.5
    assert not patient.is_offline


@pytest.mark.parametrize("away", [1, 10, 50])
async def test_readers_wait_while_the_server_is_away(
    server: _Server, patient: RetryingStorage, autojump_clock: MockClock, away: float
) -> None:
    """After an outage shorter than the timeout, readers resume within one retry delay."""
    server.refuse()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_back_after, server, away)
        assert await _read(patient) == _CONTENT
        assert await patient.list(FileType.PACK) == [FileInfo(_NAME, len(_CONTENT))]
    assert away <= trio.current_time() - began < away + 5.5


@pytest.mark.parametrize(
    ("error", "number"),
    [(RepositoryUnreachableError, errno.EIO), (RepositoryTimedOutError, errno.ETIMEDOUT)],
)
async def test_patience_ends_with_the_error_and_everything_works_later(
    server: _Server,
    patient: RetryingStorage,
    autojump_clock: MockClock,
    error: type[CesbrError],
    number: int,
) -> None:
    """After the timeout the reader gets the last error; later reads succeed."""
    server.refuse(error)
    began = trio.current_time()
    with pytest.raises(error) as raised:
        await _read(patient)
    assert raised.value.errno == number
    assert trio.current_time() - began == pytest.approx(_PATIENCE)
    assert patient.is_offline
    server.answer()
    assert await _read(patient) == _CONTENT
    assert not patient.is_offline


async def test_one_asks_for_all(
    server: _Server, patient: RetryingStorage, autojump_clock: MockClock
) -> None:
    """Of a hundred waiting readers one at a time retries; then all succeed."""
    server.refuse()
    server.takes = 0.1
    read: list[bytes] = []

    async def reader() -> None:
        read.append(await _read(patient))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await trio.sleep(0.2)
        server.most_asking = 0
        server.asked.clear()
        for _ in range(99):
            nursery.start_soon(reader)
        await trio.sleep(29)
        assert server.most_asking == 1
        assert 5 <= len(server.asked) <= 20
        server.answer()
    assert read == [_CONTENT] * 100


async def test_many_requests_lost_at_once_are_one_loss(
    server: _Server, patient: RetryingStorage, autojump_clock: MockClock
) -> None:
    """The retry delay does not grow with the number of requests lost at once."""
    server.takes = 1
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(_read, patient)
        await trio.sleep(0.5)
        server.refuse()
        await trio.sleep(0.55)
        server.answer()
    assert trio.current_time() - began < 3.5


async def test_pauses_grow_up_to_five_seconds(
    server: _Server, patient: RetryingStorage, autojump_clock: MockClock
) -> None:
    """The retry delay grows to a maximum of five seconds."""
    server.refuse()
    with pytest.raises(RepositoryUnreachableError):
        await _read(patient)
    pauses = [after - before for before, after in zip(server.asked, server.asked[1:], strict=False)]
    assert pauses[0] <= 0.2
    assert all(2.5 <= pause <= 5.0 for pause in pauses[6:])
    assert len(set(pauses)) == len(pauses)


async def test_patience_counts_from_when_the_server_went_away(
    server: _Server, patient: RetryingStorage, autojump_clock: MockClock
) -> None:
    """All waiting readers get the error at the same time."""
    server.refuse()
    began = trio.current_time()

    async def reader() -> None:
        with pytest.raises(RepositoryUnreachableError):
            await _read(patient)
        assert trio.current_time() - began == pytest.approx(_PATIENCE, abs=0.1)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(reader)
            await trio.sleep(15)


async def test_after_the_patience_each_reader_costs_one_attempt(
    server: _Server, patient: RetryingStorage, autojump_clock: MockClock
) -> None:
    """In a long outage each reader is delayed by one second, and the end is noticed."""
    server.refuse()
    with pytest.raises(RepositoryUnreachableError):
        await _read(patient)
    asked = len(server.asked)
    began = trio.current_time()

    async def reader() -> None:
        with pytest.raises(RepositoryUnreachableError):
            await _read(patient)

    for _ in range(10):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(reader)
    assert trio.current_time() - began <= 10
    assert len(server.asked) - asked == 10
    server.answer()
    began = trio.current_time()
    assert await _read(patient) == _CONTENT
    assert trio.current_time() - began <= 1


async def test_cancelled_readers_leave_at_once(
    server: _Server, patient: RetryingStorage, autojump_clock: MockClock
) -> None:
    """A waiting or retrying reader can be cancelled, and the next one takes over."""
    server.refuse()
    began = trio.current_time()
    async with trio.open_nursery() as others:
        others.start_soon(_read, patient)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(_read, patient)
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began == pytest.approx(10)
        server.answer()
    assert trio.current_time() - began < 16


async def test_a_wrong_address_is_told_within_seconds(
    server: _Server, autojump_clock: MockClock
) -> None:
    """Before the first response the timeout is short, but a brief failure is retried."""
    server.refuse()
    began = trio.current_time()
    with pytest.raises(RepositoryUnreachableError):
        await _read(RetryingStorage(server, _PATIENCE))
    assert trio.current_time() - began == pytest.approx(OPENING_SECONDS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_back_after, server, 1)
        assert await _read(RetryingStorage(server, _PATIENCE)) == _CONTENT


async def test_an_address_that_never_answers_is_asked_once(
    server: _Server, autojump_clock: MockClock
) -> None:
    """If the first attempt exceeds the timeout for opening, there is no second one."""
    server.refuse(RepositoryTimedOutError)
    server.takes = 10
    with pytest.raises(RepositoryTimedOutError):
        await _read(RetryingStorage(server, _PATIENCE))
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "error", [DamagedError, FileMissingError, RepositoryDeniedError, RepositoryUntrustedError]
)
async def test_what_cannot_change_is_raised_at_once(
    server: _Server, patient: RetryingStorage, autojump_clock: MockClock, error: type[CesbrError]
) -> None:
    """Permanent errors are not retried."""
    server.refuse(error)
    with pytest.raises(error):
        await _read(patient)
    assert len(server.asked) == 1


async def test_a_file_the_server_fails_on_is_asked_for_a_few_times(
    server: _Server, patient: RetryingStorage, autojump_clock: MockClock
) -> None:
    """Its reader is delayed only briefly, and other readers not at all."""
    server.files[FileType.PACK, "cd" * 32] = _CONTENT
    server.fail[FileType.PACK, _NAME] = StorageError("far://away failed on the file.")
    began = trio.current_time()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def other() -> None:
            assert await patient.read(FileType.PACK, "cd" * 32) == _CONTENT
            assert trio.current_time() == began

        with pytest.raises(StorageError):
            await _read(patient)
    assert len(server.asked) == 5
    assert trio.current_time() - began < 2
    del server.fail[FileType.PACK, _NAME]
    assert await _read(patient) == _CONTENT


async def test_a_request_that_alone_is_never_answered_ends(
    server: _Server, patient: RetryingStorage, autojump_clock: MockClock
) -> None:
    """A request that always fails times out, even while other requests succeed."""
    began = trio.current_time()
    asked = 0

    async def broken() -> bytes:
        nonlocal asked
        asked += 1
        await trio.sleep(0.01)
        raise RepositoryUnreachableError("cut")

    async def others() -> None:
        while True:
            await _read(patient)
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        with pytest.raises(RepositoryUnreachableError):
            await patient._ask(broken)
        nursery.cancel_scope.cancel()
    assert _PATIENCE <= trio.current_time() - began < _PATIENCE + 6
    assert asked < 40


async def test_no_patience_asks_once(server: _Server, autojump_clock: MockClock) -> None:
    """With a timeout of 0 the error is raised without a retry."""
    patient = RetryingStorage(server, 0)
    await _read(patient)
    server.refuse()
    with pytest.raises(RepositoryUnreachableError):
        await _read(patient)
    assert len(server.asked) == 2


async def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
    server: _Server,
    patient: RetryingStorage,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An outage logs two lines, however many readers retry; a lost connection none."""
    caplog.set_level(logging.INFO)
    server.refuse()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(_read, patient)
        nursery.start_soon(_back_after, server, 20)
    first, second = caplog.messages
    assert "readers wait up to 60 s" in first
    assert "far://away responds again, after 2" in second
    caplog.clear()
    errors = [RepositoryUnreachableError("reset")]
    server.fault = lambda: errors.pop() if errors else None
    await _read(patient)
    assert caplog.messages == []


async def test_requests_bytes_and_errors_are_counted(
    server: _Server, patient: RetryingStorage, autojump_clock: MockClock
) -> None:
    """Failed attempts count even if a retry succeeds; a read past the end of a file is no error."""
    errors: list[CesbrError] = [
        RepositoryTimedOutError("slow"),
        RepositoryUnreachableError("reset"),
    ]
    server.fault = lambda: errors.pop() if errors else None
    await _read(patient)
    assert await patient.read(FileType.PACK, _NAME, 0, len(_CONTENT) + 1) == _CONTENT
    with pytest.raises(FileMissingError):
        await patient.read(FileType.PACK, "cd" * 32)
    await patient.list(FileType.SNAPSHOT)
    counters = patient.counters
    assert {name: count for name, count in counters.errors.items() if count} == {
        "unreachable": 2,
        "missing": 1,
    }
    assert counters.bytes["data"] == 3 * len(_CONTENT)
    assert counters.requests["snapshots"] == 1
