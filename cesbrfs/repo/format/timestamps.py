"""RFC 3339 times as integer nanoseconds since 1970, which exceed what ``datetime`` holds.  Pure."""

from __future__ import annotations

import functools
import re
from typing import Final

from cesbrfs.errors import DamagedError

_NS: Final = 1_000_000_000
_SECOND: Final = re.compile(
    r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d"
    r"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_SECOND_END: Final = 19
_ZONE_LENGTH: Final = 6
_DIGITS: Final = 9


@functools.lru_cache(maxsize=4096)
def _day(text: str) -> int:
    """Return the day of ``YYYY-MM-DD`` counted from 1970 (years 0000 to 9999, Gregorian)."""
    year, month, day = int(text[:4]), int(text[5:7]), int(text[8:10])
    # Howard Hinnant's days_from_civil: years begin in March, so the leap day is the last.
    year -= month <= 2  # noqa: PLR2004 - January and February belong to the year before
    era = year // 400
    year_of_era = year - era * 400
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1  # noqa: PLR2004 - as above
    return (
        era * 146_097
        + year_of_era * 365
        + year_of_era // 4
        - year_of_era // 100
        + day_of_year
        - 719_468
    )


@functools.lru_cache(maxsize=16384)
def _second(text: str) -> int:
    """Return the nanosecond of ``YYYY-MM-DDTHH:MM:SS+01:00`` since 1970; raises ValueError.

    A tree's files were written within few seconds, often the same ones.
    """
    if _SECOND.fullmatch(text) is None:
        raise ValueError(text)
    hours, minutes, seconds = int(text[11:13]), int(text[14:16]), int(text[17:19])
    seconds += _day(text[:10]) * 86_400 + hours * 3_600 + minutes * 60
    return (seconds - _zone(text[_SECOND_END:])) * _NS


@functools.lru_cache(maxsize=64)
def _zone(text: str) -> int:
    """Return the seconds that ``Z`` or ``+01:00`` is ahead of UTC."""
    if text == "Z":
        return 0
    seconds = int(text[1:3]) * 3_600 + int(text[4:]) * 60
    return seconds if text[0] == "+" else -seconds


def parse_time(text: str) -> int:
    """Turn an RFC 3339 time into nanoseconds since 1970; DamagedError when it is none."""
    zone = -1 if text[-1:] == "Z" else -_ZONE_LENGTH
    fraction = text[_SECOND_END:zone]  # `_second` finds fault with what is too short for one
    try:
        second = _second(text[:_SECOND_END] + text[zone:])
        if not fraction:
            return second
        digits = fraction[1:]
        if (
            fraction[0] == "."
            and len(digits) <= _DIGITS
            and digits.isdecimal()
            and digits.isascii()
        ):
            return second + int(digits.ljust(_DIGITS, "0"))
    except ValueError:
        pass
    raise DamagedError(f"Invalid time {text!r}. Run 'cesbr check'.") from None


def format_time(time_ns: int) -> str:
    """Write nanoseconds since 1970 as RFC 3339 in UTC with nine digits (years 0000 to 9999)."""
    seconds, fraction = divmod(time_ns, _NS)
    days, second = divmod(seconds, 86_400)
    # civil_from_days, the inverse of what `_day` does.
    days += 719_468
    era, day_of_era = divmod(days, 146_097)
    year_of_era = (
        day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096
    ) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9  # noqa: PLR2004 - March is month 0
    year = era * 400 + year_of_era + (month <= 2)  # noqa: PLR2004 - as in `_day`
    return (
        f"{year:04d}-{month:02d}-{day:02d}T"
        f"{second // 3_600:02d}:{second // 60 % 60:02d}:{second % 60:02d}.{fraction:09d}Z"
    )
