"""The system's time zone with all its changes, as the C library knows it (TZ, /etc/localtime)."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

_NS: Final = 1_000_000_000


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
