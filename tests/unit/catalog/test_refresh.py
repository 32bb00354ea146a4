"""Listing backups while the storage is quick, slow, away or broken."""

from __future__ import annotations

from typing import cast

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from cesbrfs.catalog.refresh import BackupListing
from cesbrfs.catalog.rules import DEFAULT_BACKUP_TAG
from cesbrfs.errors import (
    CesbrError,
    RepositoryDeniedError,
    RepositoryGoneError,
    RepositoryUnreachableError,
)
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.repo.repository import Repository

_MAX_AGE = 1.0


class _Repository:
    """A repository without snapshots which takes `takes` seconds to say so, or fails."""

    def __init__(self) -> None:
        self.takes = 0.0
        self.error: CesbrError | Exception | None = None
        self.is_offline = False
        self.listings = 0

    async def snapshots(self) -> list[Snapshot]:
        """List, slowly."""
        self.listings += 1
        await trio.sleep(self.takes)
        if self.error is not None:
            raise self.error
        return []


@pytest.fixture
def repository() -> _Repository:
    """A quick repository."""
    return _Repository()


@pytest.fixture
async def listing(repository: _Repository, nursery: trio.Nursery) -> BackupListing:
    """A listing in the background, which has listed once long ago."""
    made = BackupListing(cast("Repository", repository), DEFAULT_BACKUP_TAG, trio.current_time)
    await made.backups(_MAX_AGE)
    made.refresh_in(nursery)
    await trio.sleep(10)
    return made


async def _took(listing: BackupListing) -> float:
    began = trio.current_time()
    await listing.backups(_MAX_AGE)
    return trio.current_time() - began


async def test_a_quick_storage_is_waited_for(
    repository: _Repository, listing: BackupListing, autojump_clock: MockClock
) -> None:
    """Whoever asks gets what is there now, and one listing serves all who ask at once."""
    repository.takes = 0.3
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(listing.backups, _MAX_AGE)
    assert repository.listings == 2
    assert await _took(listing) == 0


async def test_a_slow_one_is_waited_for_once(
    repository: _Repository, listing: BackupListing, autojump_clock: MockClock
) -> None:
    """One second, then the last list serves until the new one is there."""
    repository.takes = 60
    assert await _took(listing) == pytest.approx(1)
    assert await _took(listing) == 0
    await trio.sleep(59.5)
    assert repository.listings == 2
    repository.takes = 0
    assert await _took(listing) == 0  # listed 60 s ago: again


async def test_one_that_is_known_to_be_away_is_not_waited_for(
    repository: _Repository, listing: BackupListing, autojump_clock: MockClock
) -> None:
    """It is asked all the same, so that it is noticed when it is back."""
    repository.takes, repository.is_offline = 60, True
    assert await _took(listing) == 0
    await trio.testing.wait_all_tasks_blocked()
    assert repository.listings == 2


async def test_no_answer_is_no_error_but_a_refusal_is(
    repository: _Repository, listing: BackupListing, autojump_clock: MockClock
) -> None:
    """The last list serves while the server is away; who is denied access is told so."""
    repository.error = RepositoryUnreachableError("away")
    assert await _took(listing) == 0
    repository.error = RepositoryDeniedError("denied")
    with pytest.raises(RepositoryDeniedError):
        await listing.backups(_MAX_AGE)
    repository.error = None
    assert await _took(listing) == 0


async def test_an_error_counts_until_a_listing_succeeds(
    repository: _Repository, listing: BackupListing, autojump_clock: MockClock
) -> None:
    """A repository that is gone is no list, however slowly its storage says so."""
    repository.error, repository.takes = RepositoryGoneError("gone"), 5.0
    await listing.backups(_MAX_AGE)  # the last list: nobody knows yet
    await trio.sleep(5)
    for _ in range(3):
        assert listing.backups_nowait(_MAX_AGE) is None
        with pytest.raises(RepositoryGoneError):
            await listing.backups(_MAX_AGE)
        await trio.sleep(2)
    repository.error, repository.takes = None, 0
    await trio.sleep(10)
    assert await _took(listing) == 0
    assert listing.backups_nowait(_MAX_AGE) is not None


async def test_a_bug_does_not_end_the_mount(
    repository: _Repository,
    listing: BackupListing,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged, and the last list serves."""
    repository.error = ZeroDivisionError()
    await listing.backups(_MAX_AGE)
    assert "unexpectedly" in caplog.text


async def test_asking_for_a_refresh(
    repository: _Repository, listing: BackupListing, autojump_clock: MockClock
) -> None:
    """It lists even when the last list is fresh, and does not wait."""
    await listing.backups(_MAX_AGE)
    await trio.sleep(0.1)
    listing.refresh()
    await trio.testing.wait_all_tasks_blocked()
    assert repository.listings == 3


async def test_without_a_background_it_is_waited_for(
    repository: _Repository, autojump_clock: MockClock
) -> None:
    """A command has no use for an old list: it waits, and gets the error."""
    listing = BackupListing(cast("Repository", repository), DEFAULT_BACKUP_TAG, trio.current_time)
    repository.takes = 60
    assert await _took(listing) == 60
    await trio.sleep(10)
    repository.error = RepositoryUnreachableError("away")
    with pytest.raises(RepositoryUnreachableError):
        await listing.backups(_MAX_AGE)


async def test_what_was_listed_lately_is_told_at_once(
    repository: _Repository, listing: BackupListing, autojump_clock: MockClock
) -> None:
    """It is listed anew meanwhile, once; after a minute that has to be waited for."""
    repository.takes = 5
    began = trio.current_time()
    held = listing.backups_nowait(_MAX_AGE)
    assert held is not None
    assert listing.backups_nowait(_MAX_AGE) is held
    assert trio.current_time() == began
    await trio.testing.wait_all_tasks_blocked()
    assert repository.listings == 2
    await trio.sleep(6)
    assert listing.backups_nowait(10) is held
    assert repository.listings == 2
    await trio.sleep(60)
    assert listing.backups_nowait(_MAX_AGE) is None


async def test_without_a_background_nothing_is_told_at_once(
    repository: _Repository, autojump_clock: MockClock
) -> None:
    """Nobody would list anew."""
    listing = BackupListing(cast("Repository", repository), DEFAULT_BACKUP_TAG, trio.current_time)
    assert listing.backups_nowait(_MAX_AGE) is None
    await listing.backups(_MAX_AGE)
    assert listing.backups_nowait(_MAX_AGE) is None
