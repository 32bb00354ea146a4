"""Test listing backups on a fast, slow, offline or broken storage."""

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
    """An empty repository whose listing takes `takes` seconds or fails."""

    def __init__(self) -> None:
        self.takes = 0.0
        self.error: CesbrError | Exception | None = None
        self.is_offline = False
        self.listings = 0

    async def snapshots(self) -> list[Snapshot]:
        """Return an empty list after a delay."""
        self.listings += 1
        await trio.sleep(self.takes)
        if self.error is not None:
            raise self.error
        return []


@pytest.fixture
def repository() -> _Repository:
    """A fast repository."""
    return _Repository()


@pytest.fixture
async def listing(repository: _Repository, nursery: trio.Nursery) -> BackupListing:
    """A listing with a background nursery and an old cached list."""
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
    """Callers get the current list; concurrent callers share one listing."""
    repository.takes = 0.3
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(listing.backups, _MAX_AGE)
    assert repository.listings == 2
    assert await _took(listing) == 0


async def test_a_slow_one_is_waited_for_once(
    repository: _Repository, listing: BackupListing, autojump_clock: MockClock
) -> None:
    """After one second, callers get the cached list until the refresh ends."""
    repository.takes = 60
    assert await _took(listing) == pytest.approx(1)
    assert await _took(listing) == 0
    await trio.sleep(59.5)
    assert repository.listings == 2
    repository.takes = 0
    assert await _took(listing) == 0  # listed 60 s ago: again


async def test_further_requests_do_not_replace_a_slow_refresh(
    repository: _Repository, listing: BackupListing, autojump_clock: MockClock
) -> None:
    """While a refresh runs, no other one is started, and nobody waits for it again."""
    repository.takes = 60
    assert await _took(listing) == pytest.approx(1)
    for _ in range(20):
        listing.refresh()
        assert await _took(listing) == 0
        await trio.sleep(1)
    assert trio.lowlevel.current_statistics().tasks_living < 10
    await trio.sleep(60)
    assert repository.listings == 2


async def test_an_offline_storage_is_not_waited_for(
    repository: _Repository, listing: BackupListing, autojump_clock: MockClock
) -> None:
    """A refresh runs nevertheless, so that its return is noticed."""
    repository.takes, repository.is_offline = 60, True
    assert await _took(listing) == 0
    await trio.testing.wait_all_tasks_blocked()
    assert repository.listings == 2


async def test_a_timeout_is_hidden_but_a_refusal_is_raised(
    repository: _Repository, listing: BackupListing, autojump_clock: MockClock
) -> None:
    """The cached list is used while the server is offline; denied access is an error."""
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
    """A missing repository is an error, also after a slow refresh."""
    repository.error, repository.takes = RepositoryGoneError("gone"), 5.0
    await listing.backups(_MAX_AGE)  # the cached list: the error is not known yet
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
    """The exception is logged and the cached list is used."""
    repository.error = ZeroDivisionError()
    await listing.backups(_MAX_AGE)
    assert "unexpectedly" in caplog.text


async def test_asking_for_a_refresh(
    repository: _Repository, listing: BackupListing, autojump_clock: MockClock
) -> None:
    """An explicit refresh ignores the age of the list and does not block."""
    await listing.backups(_MAX_AGE)
    await trio.sleep(0.1)
    listing.refresh()
    await trio.testing.wait_all_tasks_blocked()
    assert repository.listings == 3


async def test_without_a_background_it_is_waited_for(
    repository: _Repository, autojump_clock: MockClock
) -> None:
    """Without a background nursery, the caller waits and gets the error."""
    listing = BackupListing(cast("Repository", repository), DEFAULT_BACKUP_TAG, trio.current_time)
    repository.takes = 60
    assert await _took(listing) == 60
    await trio.sleep(10)
    repository.error = RepositoryUnreachableError("away")
    with pytest.raises(RepositoryUnreachableError):
        await listing.backups(_MAX_AGE)


async def test_backups_nowait_returns_a_recent_list(
    repository: _Repository, listing: BackupListing, autojump_clock: MockClock
) -> None:
    """One refresh runs in the background; a list older than a minute is not returned."""
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


async def test_backups_nowait_without_a_background(
    repository: _Repository, autojump_clock: MockClock
) -> None:
    """The list could not be refreshed, so the result is None."""
    listing = BackupListing(cast("Repository", repository), DEFAULT_BACKUP_TAG, trio.current_time)
    assert listing.backups_nowait(_MAX_AGE) is None
    await listing.backups(_MAX_AGE)
    assert listing.backups_nowait(_MAX_AGE) is None
