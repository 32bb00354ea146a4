"""Times as people write them: ``2 days ago``, ``yesterday 21:30``, ``2026-11-22``.

Pure but for the machine's time zone: what names no zone is local.
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
"""Short units; ``m`` is a month, as restic has it."""
_SECONDS: Final[Mapping[str, int]] = {"second": 1, "minute": 60, "hour": 3600}
_DAYS: Final[Mapping[str, int]] = {"day": 1, "week": 7}
_MONTHS: Final[Mapping[str, int]] = {"month": 1, "year": 12}
_EACH: Final = re.compile(r"(\d{1,6}|an?\b)\s*([a-z]+)")
_AGO: Final = re.compile(rf"(?:{_EACH.pattern}(?:\s*,\s*|\s+and\s+|\s*))+?\s*\bago")
_SHORT: Final = re.compile(r"(?:\d{1,6}[a-z]{1,3})+")
_DAY: Final = re.compile(r"(?:last\s+)?([a-z]+)(?:[\s,]+(?:at\s+)?(\S+))?")
_CLOCK: Final = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?")
_YEAR: Final = re.compile(r"\d{4}")
_MONTH: Final = re.compile(r"(\d{4})-(\d{1,2})")
_TO_THE_SECOND: Final = re.compile(r"\d{2}:?\d{2}:?\d{2}")
_FRACTION: Final = re.compile(r"\d[.,]\d")
_FORMS: Final = "write one such as '2 days ago', 'yesterday 21:30' or '2026-11-22 21:30'."


def parse_when(text: str, now_ns: int, *, last: bool = False) -> int:
    """Return the moment that `text` names, in nanoseconds since 1970; `now_ns` is the present.

    What names a stretch of time (a day, a month, a minute) means its first moment, or, if `last` is
    asked for, its last one.  Raises UsageError for what is no time.
    """
    words = " ".join(text.lower().split())
    try:
        start, end = (
            _ago(words, now_ns) or _named_day(words, now_ns) or _calendar(words) or _iso(words)
        )
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is no time; {_FORMS}") from None
    return end - 1 if last and end > start else start


Span = tuple[int, int]
"""The first moment, and the first one that no longer belongs to it; equal for a moment."""


def _ago(words: str, now_ns: int) -> Span | None:
    """``now``, ``2 days ago``, ``1 year and 2 months ago``, ``an hour ago``, ``1h30min``."""
    if words == "now":
        return now_ns, now_ns
    if not (_AGO.fullmatch(words) or _SHORT.fullmatch(words)):
        return None
    seconds = days = months = 0
    for number, unit in _EACH.findall(words.removesuffix("ago")):
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


def _named_day(words: str, now_ns: int) -> Span | None:
    """``today``, ``yesterday 21:30``, ``monday``, ``21:30``."""
    midnight = _local(now_ns).replace(hour=0, minute=0, second=0, microsecond=0)
    if _CLOCK.fullmatch(words):
        return _at(midnight, words)
    match = _DAY.fullmatch(words)
    names = [name.lower() for name in calendar.day_name]
    if match is None or match[1] not in ("today", "yesterday", *names):
        return None
    back = {"today": 0, "yesterday": 1}.get(match[1])
    if back is None:  # the last such day, not today
        back = (midnight.weekday() - names.index(match[1]) - 1) % 7 + 1
    day = midnight - timedelta(days=back)
    return _at(day, match[2]) if match[2] else (_ns(day), _ns(day + timedelta(days=1)))


def _at(day: datetime, clock: str) -> Span:
    match = _CLOCK.fullmatch(clock)
    if match is None:
        raise ValueError(clock)
    hour, minute, second = (int(part or 0) for part in match.groups())
    start = _ns(day.replace(hour=hour, minute=minute, second=second))
    return start, start + (1 if match[3] else 60) * _NS


def _calendar(words: str) -> Span | None:
    """``2026`` and ``2026-11``."""
    if _YEAR.fullmatch(words):
        year = int(words)
        return _ns(datetime(year, 1, 1)), _ns(datetime(year + 1, 1, 1))  # noqa: DTZ001 - local
    if match := _MONTH.fullmatch(words):
        year, month = int(match[1]), int(match[2])
        start = datetime(year, month, 1)  # noqa: DTZ001 - local
        return _ns(start), _ns(start + timedelta(days=calendar.monthrange(year, month)[1]))
    return None


def _iso(words: str) -> Span:
    """``2026-11-22``, ``2026-11-22 21:30``, ``20261122T213000Z``, with a zone or without."""
    moment = datetime.fromisoformat(words.upper())
    start = _ns(moment)
    clock = words.replace("t", " ", 1).partition(" ")[2]
    if not clock:
        return start, _ns(moment + timedelta(days=1))
    if _FRACTION.search(clock):
        return start, start
    return start, start + (1 if _TO_THE_SECOND.match(clock) else 60) * _NS


def _local(time_ns: int) -> datetime:
    """Return what clock and calendar show here at `time_ns`."""
    return datetime.fromtimestamp(time_ns // _NS, UTC).astimezone().replace(tzinfo=None)


def _ns(moment: datetime) -> int:
    """Return when that is; a local time where no zone is given."""
    since = moment.astimezone() - datetime(1970, 1, 1, tzinfo=UTC)
    return (since // timedelta(microseconds=1)) * 1000


class _LocalZone(tzinfo):
    """Asks the C library at each conversion, as ``datetime.astimezone()`` does."""

    def utcoffset(self, dt: datetime | None) -> timedelta | None:
        """Return how far the local time `dt` is ahead of UTC."""
        return None if dt is None else dt.replace(tzinfo=None).astimezone().utcoffset()

    def dst(self, _dt: datetime | None) -> timedelta | None:
        """Return None: how much of the offset is summer time is not known."""
        return None

    def tzname(self, dt: datetime | None) -> str | None:
        """Return the zone's abbreviation at the local time `dt`."""
        return None if dt is None else dt.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, dt: datetime) -> datetime:
        """Return the local time of `dt`; `fold` tells the second of two that look alike."""
        found = dt.replace(tzinfo=UTC).astimezone()
        local = found.replace(tzinfo=self)
        return local if local.utcoffset() == found.utcoffset() else local.replace(fold=1)


def local_time(time_ns: int) -> str:
    """Return a time as people read it, in the local zone, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ns // _NS))


LOCAL: Final[tzinfo] = _LocalZone()
