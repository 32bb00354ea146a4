"""Parse dates and times: ``2 days ago``, ``yesterday 21:30``, ``2026-11-22``.

A time without a zone is local. Pure, apart from reading the machine's time zone.
"""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from cesbrfs.errors import UsageError

_NS: Final = 1_000_000_000
_UNITS: Final[Mapping[str, str]] = {
    "s": "second", "sec": "second", "min": "minute", "h": "hour", "d": "day", "w": "week",
    "m": "month", "mo": "month", "y": "year",
}  # fmt: skip
"""Abbreviated units; ``m`` is a month, as in restic."""
_SECONDS: Final[Mapping[str, int]] = {"second": 1, "minute": 60, "hour": 3600}
_DAYS: Final[Mapping[str, int]] = {"day": 1, "week": 7}
_MONTHS: Final[Mapping[str, int]] = {"month": 1, "year": 12}
_AMOUNT_AND_UNIT: Final = re.compile(r"(\d{1,6}|an?\b)\s*([a-z]+)")
_RELATIVE: Final = re.compile(rf"(?:{_AMOUNT_AND_UNIT.pattern}(?:\s*,\s*|\s+and\s+|\s*))+?\s*\bago")
_SHORT_RELATIVE: Final = re.compile(r"(?:\d{1,6}[a-z]{1,3})+")
_DAY_NAME: Final = re.compile(r"(?:last\s+)?([a-z]+)(?:[\s,]+(?:at\s+)?(\S+))?")
_CLOCK: Final = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_YEAR: Final = re.compile(r"\d{4}")
_MONTH: Final = re.compile(r"(\d{4})-(\d{1,2})")
_WITH_SECONDS: Final = re.compile(r"\d{2}:?\d{2}:?\d{2}")
_WITH_FRACTION: Final = re.compile(r"\d[.,]\d")
_EXAMPLES: Final = "Write a time such as '2 days ago', 'yesterday 21:30' or '2026-11-22 21:30'."


def parse_when(text: str, now_ns: int, *, last: bool = False) -> int:
    """Parse the time `text` and return it in nanoseconds since 1970.

    Relative times count from `now_ns`. A day, a month or a minute means its first nanosecond, or
    with `last` its last one. Raises UsageError for an invalid time.
    """
    words = " ".join(text.lower().split())
    try:
        start, end = (
            _parse_relative(words, now_ns)
            or _parse_day_name(words, now_ns)
            or _parse_year_or_month(words)
            or _parse_iso(words)
        )
    except (ValueError, OverflowError):
        raise UsageError(f"Invalid time {text!r}. {_EXAMPLES}") from None
    return end - 1 if last and end > start else start


Span = tuple[int, int]
"""Start (inclusive) and end (exclusive) in nanoseconds; both are equal for an instant."""


def parse_duration(text: str) -> int:
    """Parse a duration such as ``26h``, ``1d12h`` or ``90 min``; return it in seconds.

    Raises UsageError for other text, for months and years, whose length varies, and for ``m``,
    which could mean a minute or a month.
    """
    words = text.lower().replace(" ", "")
    seconds = 0
    for number, unit in _AMOUNT_AND_UNIT.findall(words):
        name = _UNITS.get(unit, unit.removesuffix("s")) if unit != "m" else ""
        length = _SECONDS.get(name, _DAYS.get(name, 0) * 86_400)
        if not length or not number.isdigit():
            seconds = 0
            break
        seconds += int(number) * length
    if not seconds or not re.fullmatch(r"(?:\d{1,6}[a-z]+)+", words):
        raise UsageError(f"Invalid duration {text!r}. Write one such as '26h', '90min' or '2d'.")
    return seconds


def _parse_relative(words: str, now_ns: int) -> Span | None:
    """Parse ``now``, ``2 days ago``, ``1 year and 2 months ago``, ``an hour ago``, ``1h30min``."""
    if words == "now":
        return now_ns, now_ns
    if not (_RELATIVE.fullmatch(words) or _SHORT_RELATIVE.fullmatch(words)):
        return None
    seconds = days = months = 0
    for number, unit in _AMOUNT_AND_UNIT.findall(words.removesuffix("ago")):
        amount = int(number) if number.isdigit() else 1
        name = _UNITS.get(unit, unit.removesuffix("s"))
        seconds += amount * _SECONDS.get(name, 0)
        days += amount * _DAYS.get(name, 0)
        months += amount * _MONTHS.get(name, 0)
        if not (name in _SECONDS or name in _DAYS or name in _MONTHS):
            raise ValueError(unit)
    then = _local(now_ns)
    if months:
        year, month = divmod(then.year * 12 + then.month - 1 - months, 12)
        day = min(then.day, calendar.monthrange(year, month + 1)[1])
        then = then.replace(year=year, month=month + 1, day=day)
    moment = _ns(then - timedelta(days=days)) - seconds * _NS
    return moment, moment


def _parse_day_name(words: str, now_ns: int) -> Span | None:
    """Parse ``today``, ``yesterday 21:30``, ``monday``, ``21:30``."""
    midnight = _local(now_ns).replace(hour=0, minute=0, second=0, microsecond=0)
    if _CLOCK.fullmatch(words):
        return _time_of_day(midnight, words)
    match = _DAY_NAME.fullmatch(words)
    names = [name.lower() for name in calendar.day_name]
    if match is None or match[1] not in ("today", "yesterday", *names):
        return None
    back = {"today": 0, "yesterday": 1}.get(match[1])
    if back is None:  # the most recent such day before today
        back = (midnight.weekday() - names.index(match[1]) - 1) % 7 + 1
    day = midnight - timedelta(days=back)
    return _time_of_day(day, match[2]) if match[2] else (_ns(day), _ns(day + timedelta(days=1)))


def _time_of_day(day: datetime, clock: str) -> Span:
    match = _CLOCK.fullmatch(clock)
    if match is None:
        raise ValueError(clock)
    hour, minute, second = (int(part or 0) for part in match.groups())
    start = _ns(day.replace(hour=hour, minute=minute, second=second))
    return start, start + (1 if match[3] else 60) * _NS


def _parse_year_or_month(words: str) -> Span | None:
    """Parse ``2026`` and ``2026-11``."""
    if _YEAR.fullmatch(words):
        year = int(words)
        return _ns(datetime(year, 1, 1)), _ns(datetime(year + 1, 1, 1))  # noqa: DTZ001 - local
    if match := _MONTH.fullmatch(words):
        year, month = int(match[1]), int(match[2])
        start = datetime(year, month, 1)  # noqa: DTZ001 - local
        return _ns(start), _ns(start + timedelta(days=calendar.monthrange(year, month)[1]))
    return None


def _parse_iso(words: str) -> Span:
    """Parse ISO 8601: ``2026-11-22``, ``2026-11-22 21:30``, ``20261122T213000Z``."""
    moment = datetime.fromisoformat(words.upper())
    start = _ns(moment)
    clock = words.replace("t", " ", 1).partition(" ")[2]
    if not clock:
        return start, _ns(moment + timedelta(days=1))
    if _WITH_FRACTION.search(clock):
        return start, start
    return start, start + (1 if _WITH_SECONDS.match(clock) else 60) * _NS


def _local(time_ns: int) -> datetime:
    """Return the naive local time at `time_ns`."""
    return datetime.fromtimestamp(time_ns // _NS, UTC).astimezone().replace(tzinfo=None)


def _ns(moment: datetime) -> int:
    """Return nanoseconds since 1970; a naive `moment` is local time."""
    since = moment.astimezone() - datetime(1970, 1, 1, tzinfo=UTC)
    return (since // timedelta(microseconds=1)) * 1000


class _LocalZone(tzinfo):
    """The local time zone by the C library, as ``datetime.astimezone()`` uses it."""

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        """Return the offset of the local time `dt` from UTC."""
        return None if dt is None else dt.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, _dt: datetime | None) -> timedelta | None:
        """Return None: the C library does not report the daylight saving share."""
        return None

    def tzname(self, dt: datetime | None) -> str | None:
        """Return the zone's abbreviation at the local time `dt`."""
        return None if dt is None else dt.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, dt: datetime) -> datetime:
        """Return the local time of `dt`; `fold` is 1 for the second of two equal clock times."""
        found = dt.replace(tzinfo=UTC).astimezone()
        local = found.replace(tzinfo=self)
        return local if local.utcoffset() == found.utcoffset() else local.replace(fold=1)


def local_time(time_ns: int) -> str:
    """Return a time as people read it, in the local zone, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ns // _NS))


LOCAL: Final[tzinfo] = _LocalZone()
