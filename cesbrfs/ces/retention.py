"""Retention policies: which backups stay, which go, and why.  Pure.

Two families: CES's named policies, and restic's rules (``--keep-last`` and its like), which count
hours, days, weeks, months and years in a time zone.  Backups of the whole instance and those of
some dogus are judged apart, and so are safety backups.  Whatever the policy, the newest complete
backup of the whole instance stays, and what is newer than that and the newest of its kind, or
incomplete: it may still run.  A backup dated in the future stays and counts for nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final

from cesbrfs.errors import UsageError

_COMPLETE: Final = "complete"
_INCOMPLETE: Final = "incomplete"
IN_FUTURE: Final = "dated in the future"
"""Why a backup stays whose time is later than the present."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST: Final = datetime(2, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9998, 12, 31, tzinfo=UTC)
_SEVEN_DAYS: Final = 7
_DURATION: Final = re.compile(
    r"(?=.)(?:(?P<y>\d+)y)?(?:(?P<m>\d+)m)?(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?"
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backup as the policies see it.

    `time_ns` is when it began, nanoseconds since 1970; `status` is ``complete``, ``incomplete`` or
    ``unverified``; `dogus` are those that it is of, None for the whole instance; `safety`: made by
    a restore in place, of what it was about to replace.
    """

    id: str
    time_ns: int
    status: str
    dogus: frozenset[str] | None = None
    safety: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a backup stays; `reasons` are short phrases, never none."""

    id: str
    keep: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class History:
    """What a rule works on: backups newest first, and the time zone's clock.

    All are of the whole instance, or of the same dogus, and all or none are safety backups.
    `sound` are the complete and the unverified ones: only they take one of the places that a rule
    has to give.  CES's rules by age look at `all`.
    """

    sound: tuple[Candidate, ...]
    all: tuple[Candidate, ...]
    now: datetime
    zone: tzinfo

    def local(self, backup: Candidate) -> datetime:
        """Return the local time of a backup; years that no calendar has are brought near."""
        return _local(backup.time_ns, self.zone)


Rule = Callable[[History], Mapping[str, str]]
"""Returns the IDs that it keeps, with the reason."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A set of rules; a backup that one of them keeps stays."""

    name: str
    meaning: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Duration:
    """A span of the calendar, as restic writes it: ``1y5m7d2h``."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0
    text: str = ""

    def before(self, moment: datetime) -> datetime:
        """Return the moment that lies this long before `moment`.

        As in restic, 31 March less one month is 3 March: what February lacks runs over.
        """
        months = moment.year * 12 + moment.month - 1 - self.years * 12 - self.months
        year, month = divmod(months, 12)
        if year < _EARLIEST.year:
            return _EARLIEST.astimezone(moment.tzinfo)
        first = moment.replace(year=year, month=month + 1, day=1)
        try:
            day = first + timedelta(days=moment.day - 1 - self.days)
            return (day.astimezone(UTC) - timedelta(hours=self.hours)).astimezone(moment.tzinfo)
        except OverflowError:
            return _EARLIEST.astimezone(moment.tzinfo)


def parse_duration(text: str) -> Duration:
    """Read ``1y5m7d2h``, any part of which may be left out; UsageError for anything else."""
    found = _DURATION.fullmatch(text)
    parts = {name: int(value or 0) for name, value in found.groupdict().items()} if found else {}
    if not any(parts.values()):
        raise UsageError(
            f"{text!r} is no span of time; write years, months, days and hours such as 1y5m7d2h."
        )
    return Duration(parts["y"], parts["m"], parts["d"], parts["h"], text)


def decide(
    policy: Policy, backups: Sequence[Candidate], now_ns: int, zone: tzinfo
) -> list[Decision]:
    """Decide about each backup, in the order given.

    `backups` are those of one instance.  The rules are applied to the ones of the whole instance,
    by themselves to those of the same dogus, and to safety backups: neither takes the other's
    places.
    """
    past = [backup for backup in backups if backup.time_ns <= now_ns]
    newest_first = sorted(past, key=lambda b: (b.time_ns, b.id), reverse=True)
    reasons: dict[str, list[str]] = {backup.id: [] for backup in backups}
    for dogus, safety in {(backup.dogus, backup.safety) for backup in past}:
        alike = tuple(b for b in newest_first if (b.dogus, b.safety) == (dogus, safety))
        history = History(_sound(alike), alike, _local(now_ns, zone), zone)
        for rule in policy.rules:
            for kept, reason in rule(history).items():
                reasons[kept].append(reason)
    for kept, reason in _never_removed(newest_first).items():
        reasons[kept].append(reason)
    for backup in backups:
        if backup.time_ns > now_ns:
            reasons[backup.id].append(IN_FUTURE)
    return [
        Decision(b.id, bool(reasons[b.id]), tuple(reasons[b.id]) or (_why_not(b),)) for b in backups
    ]


def last_resort(backups: Sequence[Candidate]) -> set[str]:
    """Return the IDs of which one at least has to stay: the complete ones, else the unverified.

    Those of the whole instance where there are any: one of some dogus does not stand in for them.
    Safety backups count only where there are no others.
    """
    sound = _sound(backups)
    sound = tuple(b for b in sound if not b.safety) or sound
    sound = tuple(b for b in sound if b.dogus is None) or sound
    complete = {b.id for b in sound if b.status == _COMPLETE}
    return complete or {b.id for b in sound}


def _sound(backups: Sequence[Candidate]) -> tuple[Candidate, ...]:
    return tuple(b for b in backups if b.status != _INCOMPLETE)


def _never_removed(newest_first: Sequence[Candidate]) -> dict[str, str]:
    """Keep what no policy may remove."""
    resort = last_resort(newest_first)
    newest = next((b for b in newest_first if b.id in resort), None)
    if newest is None:
        return {b.id: "nothing newer is complete" for b in newest_first}
    kept = {newest.id: f"newest {newest.status}"}
    sound = _sound(newest_first)
    for backup in newest_first:
        if backup == sound[0]:
            break
        kept[backup.id] = "may be running"
    seen: set[tuple[frozenset[str] | None, bool]] = set()
    for backup in sound:
        if backup == newest and newest.dogus is None:  # which has the older ones' dogus, too
            break
        if (backup.dogus, backup.safety) not in seen:
            seen.add((backup.dogus, backup.safety))
            of = "its dogus" if backup.dogus else "the whole instance"
            what = "newest safety backup" if backup.safety else "newest"
            kept.setdefault(backup.id, f"{what} of {of}")
    return kept


def _why_not(backup: Candidate) -> str:
    return "incomplete" if backup.status == _INCOMPLETE else "no rule keeps it"


def _local(time_ns: int, zone: tzinfo) -> datetime:
    try:
        moment = _EPOCH + timedelta(microseconds=time_ns // 1000)
    except OverflowError:
        moment = _EARLIEST if time_ns < 0 else _LATEST
    return min(max(moment, _EARLIEST), _LATEST).astimezone(zone)


# CES's rules


def _keep_all(history: History) -> dict[str, str]:
    return {backup.id: "all are kept" for backup in history.all}


def _keep_latest(history: History) -> dict[str, str]:
    """Keep the latest one; of some dogus only what it has not, which no policy removes."""
    return {
        backup.id: "the latest"
        for backup in history.sound[:1]
        if backup.dogus is None and not backup.safety
    }


def _keep_seven_days(history: History) -> dict[str, str]:
    """Keep what began at or after this time of day seven days ago."""
    since = Duration(days=_SEVEN_DAYS).before(history.now).astimezone(UTC)
    return {
        b.id: "of the last 7 days" for b in history.all if history.local(b).astimezone(UTC) >= since
    }


def _keep_first_days(history: History) -> dict[str, str]:
    """Keep what is up to seven days old, counted in midnights between then and now."""
    return {b.id: "0-7 days old" for b in history.all if _days_old(history, b) <= _SEVEN_DAYS}


def _keep_oldest_of(first: int, last: int) -> Rule:
    """Keep the oldest backup that is `first` to `last` days old, counted in midnights."""

    def rule(history: History) -> dict[str, str]:
        within = [b for b in history.sound if first <= _days_old(history, b) <= last]
        return {b.id: f"oldest of {first}-{last} days" for b in within[-1:]}

    return rule


def _days_old(history: History, backup: Candidate) -> int:
    return (history.now.date() - history.local(backup).date()).days


POLICIES: Final[Mapping[str, Policy]] = {
    policy.name: policy
    for policy in (
        Policy("keepAll", "Removes nothing.", (_keep_all,)),
        Policy("removeAllButKeepLatest", "Keeps only the newest backup.", (_keep_latest,)),
        Policy("keepLastSevenDays", "Keeps the backups of the last 7 days.", (_keep_seven_days,)),
        Policy(
            "keep7Days1Month1Quarter1Year",
            "Keeps the backups of the last 7 days, and the oldest one that is 8-30, 31-90, 91-180"
            " and 181-360 days old.",
            (
                _keep_first_days,
                _keep_oldest_of(8, 30),
                _keep_oldest_of(31, 90),
                _keep_oldest_of(91, 180),
                _keep_oldest_of(181, 360),
            ),
        ),
    )
}
"""CES's named policies."""


def named(name: str) -> Policy:
    """Return CES's policy of this name, in any case; UsageError lists those there are."""
    for policy in POLICIES.values():
        if policy.name.lower() == name.strip().lower():
            return policy
    known = ", ".join(POLICIES)
    raise UsageError(f"There is no retention policy {name!r}; choose one of {known}.")


# restic's rules

_Place = tuple[int, ...]


def _day(moment: datetime) -> _Place:
    return moment.year, moment.month, moment.day


def _week(moment: datetime) -> _Place:
    return tuple(date.isocalendar(moment))[:2]


UNITS: Final[Mapping[str, Callable[[datetime], _Place]]] = {
    "hourly": lambda moment: (*_day(moment), moment.hour),
    "daily": _day,
    "weekly": _week,
    "monthly": lambda moment: (moment.year, moment.month),
    "yearly": lambda moment: (moment.year,),
}
"""restic's units, and which moments share one."""


def like_restic(counts: Mapping[str, int], within: Duration | None = None) -> Policy:
    """Return the policy of restic's rules; `counts` are how many to keep by ``last`` and `UNITS`.

    UsageError when no rule is given, or one that keeps nothing.
    """
    for name, number in counts.items():
        if number < 1:
            raise UsageError(f"--keep-{name} {number} keeps nothing; say how many backups to keep.")
    rules = [_keep_last(counts["last"])] if "last" in counts else []
    rules += [_keep_each(unit, counts[unit]) for unit in UNITS if unit in counts]
    if within is not None:
        rules.append(_keep_within(within))
    if not rules:
        raise UsageError("No rule says which backups to keep; give one such as --keep-daily 7.")
    words = [f"keep-{name} {number}" for name, number in counts.items()]
    words += [f"keep-within {within.text}"] if within else []
    return Policy(", ".join(words), "Keeps what one of its rules keeps.", tuple(rules))


def _keep_last(count: int) -> Rule:
    def rule(history: History) -> dict[str, str]:
        return {backup.id: "last" for backup in history.sound[:count]}

    return rule


def _keep_each(unit: str, count: int) -> Rule:
    """Keep the newest backup of each of the last `count` hours, days, … that have one.

    As in newer restics, the oldest backup of all fills a place that is left over.
    """

    def rule(history: History) -> dict[str, str]:
        kept: dict[str, str] = {}
        before: _Place | None = None
        for backup in history.sound:
            place = UNITS[unit](history.local(backup))
            if place != before and len(kept) < count:
                kept[backup.id] = unit
            before = place
        if history.sound and len(kept) < count:
            kept.setdefault(history.sound[-1].id, f"oldest {unit}")
        return kept

    return rule


def _keep_within(duration: Duration) -> Rule:
    """Keep what is less old than `duration`, seen from the newest backup as restic does.

    An incomplete one may be the rest of one that went, and no longer tell of which dogus it was,
    nor so from which newest backup it is seen.
    """

    def rule(history: History) -> dict[str, str]:
        if not history.sound:
            return {}
        since = duration.before(history.local(history.sound[0])).astimezone(UTC)
        return {
            b.id: f"within {duration.text}"
            for b in history.sound
            if history.local(b).astimezone(UTC) > since
        }

    return rule
