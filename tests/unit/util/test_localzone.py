"""`dates.LOCAL` is the time zone of the C library."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from cesbrfs.util.dates import LOCAL


@pytest.fixture
def _restored_zone() -> Iterator[None]:
    yield
    time.tzset()


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/St_Johns", "UTC"])
@pytest.mark.usefixtures("_restored_zone")
def test_local_agrees_with_zoneinfo(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each hour of a year converts to local time and back, including the repeated DST hour."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", name)
        time.tzset()
        zone = ZoneInfo(name)
        moment = datetime(2026, 1, 1, tzinfo=UTC)
        for _ in range(366 * 24):
            local, expected = moment.astimezone(LOCAL), moment.astimezone(zone)
            assert local.replace(tzinfo=None) == expected.replace(tzinfo=None)
            assert (local.fold, local.tzname()) == (expected.fold, expected.tzname())
            assert local.astimezone(UTC) == moment
            moment += timedelta(hours=1)
