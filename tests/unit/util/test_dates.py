"""Parsing of dates and times."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.errors import UsageError
from cesbrfs.util.dates import parse_duration, parse_when

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture(autouse=True, scope="module")
def _zone() -> Iterator[None]:
    """Set the local time zone to Berlin."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


def ns(year: int, month: int, day: int, *clock: int) -> int:
    """Return a local time in Berlin as nanoseconds since 1970."""
    return int(datetime(year, month, day, *clock, tzinfo=BERLIN).timestamp()) * 10**9  # type: ignore[misc,arg-type]  # hour, minute, second


NOW = ns(2026, 11, 23, 10, 15, 30) + 123_000_000  # a Monday


@pytest.mark.parametrize(
    ("text", "then"),
    [
        ("now", (2026, 11, 23, 10, 15, 30)),
        ("2 days ago", (2026, 11, 21, 10, 15, 30)),
        ("a week ago", (2026, 11, 16, 10, 15, 30)),
        ("an hour ago", (2026, 11, 23, 9, 15, 30)),
        ("90 minutes ago", (2026, 11, 23, 8, 45, 30)),
        ("1 day, 2 hours ago", (2026, 11, 22, 8, 15, 30)),
        ("1 year and 2 months ago", (2025, 9, 23, 10, 15, 30)),
        ("9 months ago", (2026, 2, 23, 10, 15, 30)),
        ("30 days ago", (2026, 10, 24, 10, 15, 30)),
        ("2d", (2026, 11, 21, 10, 15, 30)),
        ("1y5m7d2h", (2025, 6, 16, 8, 15, 30)),
        ("1h30min", (2026, 11, 23, 8, 45, 30)),
    ],
)
def test_instants(text: str, then: tuple[int, int, int, int, int, int]) -> None:
    """A relative time is one instant; days and months follow the calendar across DST changes."""
    expected = ns(*then)
    assert parse_when(text, NOW) // 10**9 * 10**9 == expected
    assert parse_when(text, NOW, last=True) == parse_when(text, NOW)


def test_a_month_ago_is_clamped_to_the_last_day() -> None:
    """If the month has no such day, its last day is used."""
    assert parse_when("1 month ago", ns(2024, 3, 31, 12)) == ns(2024, 2, 29, 12)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("today", (2026, 11, 23), (2026, 11, 24)),
        ("Yesterday", (2026, 11, 22), (2026, 11, 23)),
        ("yesterday 21:30", (2026, 11, 22, 21, 30), (2026, 11, 22, 21, 31)),
        ("yesterday at 21:30:05", (2026, 11, 22, 21, 30, 5), (2026, 11, 22, 21, 30, 6)),
        ("9:05", (2026, 11, 23, 9, 5), (2026, 11, 23, 9, 6)),
        ("sunday", (2026, 11, 22), (2026, 11, 23)),
        ("last monday", (2026, 11, 16), (2026, 11, 17)),
        ("tuesday 8:00", (2026, 11, 17, 8), (2026, 11, 17, 8, 1)),
        ("2026", (2026, 1, 1), (2027, 1, 1)),
        ("2026-02", (2026, 2, 1), (2026, 3, 1)),
        ("2026-10-25", (2026, 10, 25), (2026, 10, 26)),
        ("20261025", (2026, 10, 25), (2026, 10, 26)),
        ("2026-11-22 21:30", (2026, 11, 22, 21, 30), (2026, 11, 22, 21, 31)),
        ("2026-11-22T21:30:05", (2026, 11, 22, 21, 30, 5), (2026, 11, 22, 21, 30, 6)),
        ("20261122T213005Z", (2026, 11, 22, 22, 30, 5), (2026, 11, 22, 22, 30, 6)),
        ("2026-11-22T21:30+02:00", (2026, 11, 22, 20, 30), (2026, 11, 22, 20, 31)),
    ],
)
def test_periods(text: str, start: tuple[int, int, int], end: tuple[int, int, int]) -> None:
    """A day, a month or a minute means its first nanosecond, or with `last` its last one."""
    assert parse_when(text, NOW) == ns(*start)
    assert parse_when(text, NOW, last=True) == ns(*end) - 1


@pytest.mark.parametrize(
    "text",
    ["", "ago", "soon", "2 apples ago", "3x", "yesterday noon", "2026-13", "25:00", "2026-02-30",
     "99999 years ago", "0000", "latest", "20261122T213000Z-7f3a9c", "999999y"],
)  # fmt: skip
def test_invalid_times(text: str) -> None:
    """An invalid time is rejected with examples of valid ones."""
    with pytest.raises(UsageError, match="2 days ago"):
        parse_when(text, NOW)


@given(st.datetimes(datetime(1975, 1, 1), datetime(2500, 1, 1)))  # noqa: DTZ001 - naive on purpose
def test_rfc_3339_round_trip(moment: datetime) -> None:
    """RFC 3339 in UTC, as cesbr prints it, is parsed to the microsecond."""
    aware = moment.replace(tzinfo=UTC)
    parsed = parse_when(aware.isoformat(timespec="microseconds").replace("+00:00", "Z"), NOW)
    assert (
        datetime.fromtimestamp(parsed // 10**9, UTC).replace(microsecond=parsed % 10**9 // 1000)
        == aware
    )


@given(st.text())
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    """Any text is a time or raises UsageError."""
    with contextlib.suppress(UsageError):
        parse_when(text, NOW)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("26h", 93_600), ("90 min", 5400), ("1d12h", 129_600), ("2 weeks", 1_209_600)],
)
def test_durations(text: str, seconds: int) -> None:
    """Durations in seconds, with and without spaces."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "26", "h", "0h", "5m", "1y", "1mo", "26h ago", "-1h", "1h5m"])
def test_invalid_durations(text: str) -> None:
    """Months and years have no fixed length, and `m` is ambiguous."""
    with pytest.raises(UsageError, match="Invalid duration"):
        parse_duration(text)
