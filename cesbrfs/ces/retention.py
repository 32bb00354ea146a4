"""Retention policies: decide which backups to keep, and why. Pure.

There are the named policies of CES, and the rules of restic (``--keep-last`` etc.), which count
hours, days, weeks, months and years in a time zone. Rules are applied separately to full backups,
to backups of the same dogus, and to safety backups. These are always kept:

- the newest complete full backup
- of newer backups, the newest of each kind and all incomplete ones, which may still be running
- backups dated in the future, which no rule counts
- protected backups, which the rules count like others
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
"""Reason to keep a backup with a time in the future."""
PROTECTED: Final = "protected"
"""Reason to keep a protected backup."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST: Final = datetime(2, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9998, 12, 31, tzinfo=UTC)
_SEVEN_DAYS: Final = 7
_DURATION: Final = re.compile(
    r"(?=.)(?:(?P<y>\d+)y)?(?:(?P<m>\d+)m)?(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?"
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """The properties of a backup that policies use.

    `time_ns` is its start in nanoseconds since 1970. `status` is ``complete``, ``incomplete`` or
    ``unverified``. `dogus` is None for a full backup. `safety` is true for a safety backup, which
    an in-place restore makes before it replaces files. No policy removes a `protected` backup.
    """

    id: str
    time_ns: int
    status: str
    dogus: frozenset[str] | None = None
    safety: bool = False
    protected: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to keep a backup, with at least one short phrase as reason."""

    id: str
    keep: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class History:
    """Input of a rule: backups of one kind, newest first, the current time and the time zone.

    All are full backups, or of the same dogus; all or none are safety backups. `usable` are the
    complete and unverified ones: only these count for rules that keep a number of backups. The CES
    rules by age apply to `all`.
    """

    usable: tuple[Candidate, ...]
    all: tuple[Candidate, ...]
    now: datetime
    zone: tzinfo

    def local(self, backup: Candidate) -> datetime:
        """Return the local time of a backup, clamped to the range of datetime."""
        return _local(backup.time_ns, self.zone)


Rule = Callable[[History], Mapping[str, str]]
"""Returns the IDs to keep, with the reason."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A set of rules; a backup is kept if at least one rule keeps it."""

    name: str
    meaning: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Duration:
    """A calendar duration as restic writes it, such as ``1y5m7d2h``."""

    years: int = 0
    months: int = 0
    days: int = 0
    hours: int = 0
    text: str = ""

    def before(self, moment: datetime) -> datetime:
        """Subtract this duration from `moment`.

        As in restic, days overflow: 31 March minus one month is 3 March.
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
    """Parse a duration such as ``1y5m7d2h``, all parts optional; UsageError if invalid."""
    match = _DURATION.fullmatch(text)
    parts = {name: int(value or 0) for name, value in match.groupdict().items()} if match else {}
    if not any(parts.values()):
        raise UsageError(
            f"Invalid duration {text!r}. Write years, months, days and hours such as 1y5m7d2h."
        )
    return Duration(parts["y"], parts["m"], parts["d"], parts["h"], text)


def decide(
    policy: Policy, backups: Sequence[Candidate], now_ns: int, zone: tzinfo
) -> list[Decision]:
    """Apply `policy` to the backups of one instance; return decisions in the same order.

    Rules are applied separately to full backups, to backups of the same dogus, and to safety
    backups, so that none of these counts against the others.
    """
    past = [backup for backup in backups if backup.time_ns <= now_ns]
    newest_first = sorted(past, key=lambda b: (b.time_ns, b.id), reverse=True)
    reasons: dict[str, list[str]] = {backup.id: [] for backup in backups}
    for dogus, safety in {(backup.dogus, backup.safety) for backup in past}:
        same_kind = tuple(b for b in newest_first if (b.dogus, b.safety) == (dogus, safety))
        history = History(_usable(same_kind), same_kind, _local(now_ns, zone), zone)
        for rule in policy.rules:
            for kept, reason in rule(history).items():
                reasons[kept].append(reason)
    for kept, reason in _always_kept(newest_first).items():
        reasons[kept].append(reason)
    for backup in backups:
        if backup.time_ns > now_ns:
            reasons[backup.id].append(IN_FUTURE)
        if backup.protected:
            reasons[backup.id].append(PROTECTED)
    return [
        Decision(b.id, bool(reasons[b.id]), tuple(reasons[b.id]) or (_removal_reason(b),))
        for b in backups
    ]


def last_resort(backups: Sequence[Candidate]) -> set[str]:
    """Return IDs of which at least one must be kept: the complete, else the unverified backups.

    Only full backups count, unless there are none. Safety backups count only if there are no
    others.
    """
    usable = _usable(backups)
    usable = tuple(b for b in usable if not b.safety) or usable
    usable = tuple(b for b in usable if b.dogus is None) or usable
    complete = {b.id for b in usable if b.status == _COMPLETE}
    return complete or {b.id for b in usable}


def _usable(backups: Sequence[Candidate]) -> tuple[Candidate, ...]:
    return tuple(b for b in backups if b.status != _INCOMPLETE)


def _always_kept(newest_first: Sequence[Candidate]) -> dict[str, str]:
    """Return the backups that no policy may remove, with the reason."""
    resort = last_resort(newest_first)
    newest = next((b for b in newest_first if b.id in resort), None)
    if newest is None:
        return {b.id: "no newer complete backup" for b in newest_first}
    kept = {newest.id: f"newest {newest.status}"}
    usable = _usable(newest_first)
    for backup in newest_first:
        if backup == usable[0]:
            break
        kept[backup.id] = "may be running"
    seen: set[tuple[frozenset[str] | None, bool]] = set()
    for backup in usable:
        if backup == newest and newest.dogus is None:  # a full backup covers all dogus
            break
        if (backup.dogus, backup.safety) not in seen:
            seen.add((backup.dogus, backup.safety))
            of = "its dogus" if backup.dogus else "the whole instance"
            what = "newest safety backup" if backup.safety else "newest"
            kept.setdefault(backup.id, f"{what} of {of}")
    return kept


def _removal_reason(backup: Candidate) -> str:
    return "incomplete" if backup.status == _INCOMPLETE else "no rule keeps it"


def _local(time_ns: int, zone: tzinfo) -> datetime:
    try:
        moment = _EPOCH + timedelta(microseconds=time_ns // 1000)
    except OverflowError:
        moment = _EARLIEST if time_ns < 0 else _LATEST
    return min(max(moment, _EARLIEST), _LATEST).astimezone(zone)


# Rules of CES


def _keep_all(history: History) -> dict[str, str]:
    return {backup.id: "all are kept" for backup in history.all}


def _keep_latest(history: History) -> dict[str, str]:
    """Keep the newest full backup. `_always_kept` adds newer backups of single dogus."""
    return {
        backup.id: "the latest"
        for backup in history.usable[:1]
        if backup.dogus is None and not backup.safety
    }


def _keep_seven_days(history: History) -> dict[str, str]:
    """Keep backups that began within the last seven days, to the second."""
    since = Duration(days=_SEVEN_DAYS).before(history.now).astimezone(UTC)
    return {
        b.id: "of the last 7 days" for b in history.all if history.local(b).astimezone(UTC) >= since
    }


def _keep_first_days(history: History) -> dict[str, str]:
    """Keep backups that are up to seven calendar days old."""
    return {b.id: "0-7 days old" for b in history.all if _days_old(history, b) <= _SEVEN_DAYS}


def _keep_oldest_of(first: int, last: int) -> Rule:
    """Keep the oldest backup that is `first` to `last` calendar days old."""

    def rule(history: History) -> dict[str, str]:
        within = [b for b in history.usable if first <= _days_old(history, b) <= last]
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
"""The named policies of CES."""


def policy_named(name: str) -> Policy:
    """Return the CES policy `name` (case-insensitive); UsageError lists the valid names."""
    for policy in POLICIES.values():
        if policy.name.lower() == name.strip().lower():
            return policy
    known = ", ".join(POLICIES)
    raise UsageError(f"Unknown retention policy {name!r}. Choose one of {known}.")


# Rules of restic

_Period = tuple[int, ...]


def _day(moment: datetime) -> _Period:
    return moment.year, moment.month, moment.day


def _week(moment: datetime) -> _Period:
    return tuple(date.isocalendar(moment))[:2]


UNITS: Final[Mapping[str, Callable[[datetime], _Period]]] = {
    "hourly": lambda moment: (*_day(moment), moment.hour),
    "daily": _day,
    "weekly": _week,
    "monthly": lambda moment: (moment.year, moment.month),
    "yearly": lambda moment: (moment.year,),
}
"""restic's units, each with a function that returns the period of a time."""


def restic_policy(counts: Mapping[str, int], within: Duration | None = None) -> Policy:
    """Return a policy of restic's rules; `counts` has numbers for ``last`` and the `UNITS`.

    Raises UsageError if no rule is given, or a number is less than 1.
    """
    for name, number in counts.items():
        if number < 1:
            raise UsageError(
                f"Invalid value {number} for --keep-{name}. Pass the number of backups to keep,"
                " at least 1."
            )
    rules = [_keep_last(counts["last"])] if "last" in counts else []
    rules += [_keep_each(unit, counts[unit]) for unit in UNITS if unit in counts]
    if within is not None:
        rules.append(_keep_within(within))
    if not rules:
        raise UsageError("No retention rule was given. Pass at least one, such as --keep-daily 7.")
    words = [f"keep-{name} {number}" for name, number in counts.items()]
    words += [f"keep-within {within.text}"] if within else []
    return Policy(", ".join(words), "Keeps the backups that at least one rule keeps.", tuple(rules))


def _keep_last(count: int) -> Rule:
    def rule(history: History) -> dict[str, str]:
        return {backup.id: "last" for backup in history.usable[:count]}

    return rule


def _keep_each(unit: str, count: int) -> Rule:
    """Keep the newest backup of each of the last `count` hours, days, … that have backups.

    If there are fewer, the oldest backup is kept as well, as in newer versions of restic.
    """

    def rule(history: History) -> dict[str, str]:
        kept: dict[str, str] = {}
        previous: _Period | None = None
        for backup in history.usable:
            period = UNITS[unit](history.local(backup))
            if period != previous and len(kept) < count:
                kept[backup.id] = unit
            previous = period
        if history.usable and len(kept) < count:
            kept.setdefault(history.usable[-1].id, f"oldest {unit}")
        return kept

    return rule


def _keep_within(duration: Duration) -> Rule:
    """Keep backups within `duration` before the newest backup, as restic does.

    Incomplete backups are ignored: if part of a backup has been removed, its dogus are unknown, and
    so is the newest backup of the same dogus.
    """

    def rule(history: History) -> dict[str, str]:
        if not history.usable:
            return {}
        since = duration.before(history.local(history.usable[0])).astimezone(UTC)
        return {
            b.id: f"within {duration.text}"
            for b in history.usable
            if history.local(b).astimezone(UTC) > since
        }

    return rule
