"""Retention policies, compared with an independent model that examines each backup."""

from __future__ import annotations

import calendar
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import combinations, product
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cesbrfs.ces.retention import (
    POLICIES,
    UNITS,
    Candidate,
    Duration,
    Policy,
    decide,
    last_resort,
    parse_duration,
    policy_named,
    restic_policy,
)
from cesbrfs.errors import UsageError

ZONES = [
    ZoneInfo(name)
    for name in ("UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Australia/Lord_Howe")
]
STATUSES = ("complete", "incomplete", "unverified")
DOGUS = (None, None, frozenset({"redmine"}), frozenset({"redmine", "scm"}))
NS = 1_000_000_000


def at(text: str, zone: ZoneInfo = ZONES[0]) -> int:
    """Return a local time as nanoseconds since 1970."""
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * NS


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Candidate], int, ZoneInfo]:
    """Histories with bursts, gaps of years, ties, DST changes and leap days."""
    zone = draw(st.sampled_from(ZONES))
    year = draw(st.sampled_from([2011, 2023, 2024, 2026]))
    now = draw(
        st.sampled_from(
            [
                datetime(year, 3, 31, 12, tzinfo=zone),  # after the DST change in March
                datetime(year, 10, 31, 2, 30, tzinfo=zone),
                datetime(year, 12, 31, 23, 59, 59, tzinfo=zone),
                datetime(year, 3, 1, 0, 0, tzinfo=zone),  # maybe after a leap day
                datetime(year, 1, 2, 3, 4, 5, tzinfo=zone),
            ]
        )
    )
    minutes = draw(
        st.lists(
            st.one_of(
                st.integers(-60, 48 * 60),
                st.integers(0, 9 * 24 * 4).map(lambda quarter: quarter * 15),
                st.integers(0, 400).map(lambda day: day * 24 * 60),
                st.integers(0, 3 * 366 * 24 * 60),
            ),
            max_size=25,
        )
    )
    began = [int((now.astimezone(UTC) - timedelta(minutes=m)).timestamp()) * NS for m in minutes]
    backups = [
        Candidate(
            f"b{number}",
            time_ns,
            draw(st.sampled_from(STATUSES)),
            draw(st.sampled_from(DOGUS)),
            safety=draw(st.sampled_from([False, False, False, True])),
        )
        for number, time_ns in enumerate(began)
    ]
    return backups, int(now.timestamp()) * NS, zone


def kept_by(policy: Policy, backups: Sequence[Candidate], now_ns: int, zone: ZoneInfo) -> set[str]:
    return {found.id for found in decide(policy, backups, now_ns, zone) if found.keep}


# The model: it compares each backup with all others.


def wall(time_ns: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(time_ns // NS, zone)


def newer(one: Candidate, other: Candidate) -> bool:
    return (one.time_ns, one.id) > (other.time_ns, other.id)


def divided(backups: Sequence[Candidate], now_ns: int) -> tuple[list[Candidate], set[str]]:
    """Return the backups that count, and the IDs of those in the future, which are kept."""
    future = {b.id for b in backups if b.time_ns > now_ns}
    return [b for b in backups if b.id not in future], future


def always_kept(backup: Candidate, backups: Sequence[Candidate]) -> bool:
    """The newest complete full backup, and newer ones that are the newest of their kind."""
    sound = [b for b in backups if b.status != "incomplete"]
    regular = [b for b in sound if not b.safety] or sound
    whole = [b for b in regular if b.dogus is None] or regular
    resort = [b for b in whole if b.status == "complete"] or whole
    if not resort:
        return True
    if backup.status == "incomplete":
        return all(newer(backup, other) for other in sound)
    if backup in resort and not any(newer(other, backup) for other in resort):
        return True
    if any(newer(other, backup) for other in same_kind(backup, sound)):
        return False
    return not any(newer(other, backup) for other in resort if other.dogus is None)


def same_kind(backup: Candidate, backups: Sequence[Candidate]) -> list[Candidate]:
    """Return the backups of the same dogus and purpose, which rules count together."""
    kind = (backup.dogus, backup.safety)
    return [b for b in backups if (b.dogus, b.safety) == kind]


def days_old(backup: Candidate, now_ns: int, zone: ZoneInfo) -> int:
    """Count the midnights in between."""
    day, today = wall(backup.time_ns, zone).date(), wall(now_ns, zone).date()
    nights = 0
    while day < today:
        day += timedelta(days=1)
        nights += 1
    return nights


def model_of_ces(
    name: str, backup: Candidate, backups: Sequence[Candidate], now_ns: int, zone: ZoneInfo
) -> bool:
    sound = [b for b in backups if b.status != "incomplete"]
    if name == "keepAll":
        return True
    if name == "removeAllButKeepLatest":
        latest = backup in sound and not any(newer(other, backup) for other in sound)
        return latest and backup.dogus is None and not backup.safety
    if name == "keepLastSevenDays":
        then = wall(now_ns, zone).replace(tzinfo=None) - timedelta(days=7)
        return backup.time_ns >= int(then.replace(tzinfo=zone).timestamp()) * NS
    age = days_old(backup, now_ns, zone)
    if age <= 7:
        return True
    for first, last in ((8, 30), (31, 90), (91, 180), (181, 360)):
        if first <= age <= last and backup in sound:
            rivals = [b for b in sound if first <= days_old(b, now_ns, zone) <= last]
            return not any(newer(backup, rival) for rival in rivals)
    return False


@pytest.mark.parametrize("name", POLICIES)
@given(history=histories())
def test_ces_policies_agree_with_the_model(
    name: str, history: tuple[list[Candidate], int, ZoneInfo]
) -> None:
    """The policies of CES in several time zones, with DST changes, leap days and gaps."""
    backups, now_ns, zone = history
    past, expected = divided(backups, now_ns)
    expected |= {
        b.id
        for b in past
        if always_kept(b, past) or model_of_ces(name, b, same_kind(b, past), now_ns, zone)
    }
    assert kept_by(POLICIES[name], backups, now_ns, zone) == expected


def label(unit: str, moment: datetime) -> str:
    """Return a label of the hour, day, week, month or year of `moment`."""
    if unit == "weekly":
        return moment.strftime("%G week %V")
    return moment.strftime(
        {"hourly": "%Y-%m-%d %H", "daily": "%Y-%m-%d", "monthly": "%Y-%m", "yearly": "%Y"}[unit]
    )


def model_of_units(
    unit: str, count: int, backup: Candidate, sound: Sequence[Candidate], zone: ZoneInfo
) -> bool:
    """The newest of each of the last `count` periods; if there are fewer, also the oldest."""
    own = label(unit, wall(backup.time_ns, zone))
    labels = {b.id: label(unit, wall(b.time_ns, zone)) for b in sound}
    later = {labels[b.id] for b in sound if newer(b, backup) and labels[b.id] != own}
    newest = not any(newer(b, backup) for b in sound if labels[b.id] == own)
    oldest = not any(newer(backup, b) for b in sound)
    return (
        len(set(labels.values())) < count
        if oldest and not newest
        else (newest and len(later) < count)
    )


@given(
    history=histories(),
    last=st.none() | st.integers(1, 8),
    counts=st.dictionaries(st.sampled_from(list(UNITS)), st.integers(1, 12), min_size=1),
)
def test_restic_rules_agree_with_the_model(
    history: tuple[list[Candidate], int, ZoneInfo], last: int | None, counts: dict[str, int]
) -> None:
    """Each rule counts separately; incomplete backups do not count."""
    backups, now_ns, zone = history
    past, expected = divided(backups, now_ns)
    sound = [b for b in past if b.status != "incomplete"]
    expected |= {b.id for b in past if always_kept(b, past)}
    rules = counts | ({"last": last} if last else {})
    for b in sound:
        rivals = same_kind(b, sound)
        if last and sum(newer(other, b) for other in rivals) < last:
            expected.add(b.id)
        if any(model_of_units(unit, count, b, rivals, zone) for unit, count in counts.items()):
            expected.add(b.id)
    assert kept_by(restic_policy(rules), backups, now_ns, zone) == expected


@given(
    history=histories(),
    months=st.integers(0, 30),
    days=st.integers(0, 40),
    hours=st.integers(0, 50),
)
def test_within_counts_back_from_the_newest(
    history: tuple[list[Candidate], int, ZoneInfo], months: int, days: int, hours: int
) -> None:
    """Durations subtract calendar months, then calendar days, then hours."""
    backups, now_ns, zone = history
    if not months + days + hours:
        days = 1
    past, expected = divided(backups, now_ns)
    expected |= {b.id for b in past if always_kept(b, past)}
    for dogus, safety in product(DOGUS, (False, True)):
        same = [b for b in past if (b.dogus, b.safety) == (dogus, safety)]
        sound = [b for b in same if b.status != "incomplete"]
        if not sound:
            continue
        moment = wall(max(b.time_ns for b in sound), zone).replace(tzinfo=None)
        wanted, year, month = moment.day, moment.year, moment.month
        for _ in range(months):
            year, month = (year, month - 1) if month > 1 else (year - 1, 12)
        lacking = max(0, wanted - calendar.monthrange(year, month)[1])
        day = date(year, month, wanted - lacking) + timedelta(days=lacking - days)
        since = datetime.combine(day, moment.time()).replace(tzinfo=zone).timestamp() - hours * 3600
        expected |= {b.id for b in sound if b.time_ns > int(since) * NS}
    policy = restic_policy({}, Duration(0, months, days, hours, "x"))
    assert kept_by(policy, backups, now_ns, zone) == expected


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Draw a policy."""
    units = st.dictionaries(st.sampled_from(list(UNITS)), st.integers(1, 5), min_size=1)
    within = Duration(days=draw(st.integers(1, 90)), text="x")
    return draw(
        st.sampled_from(list(POLICIES.values()))
        | units.map(restic_policy)
        | st.integers(1, 9).map(lambda last: restic_policy({"last": last}))
        | st.just(restic_policy({}, within))
    )


@given(history=histories(), policy=policies(), data=st.data())
def test_an_interrupted_removal_can_be_repeated(
    history: tuple[list[Candidate], int, ZoneInfo], policy: Policy, data: st.DataObject
) -> None:
    """With some backups removed and others incomplete, the decisions are the same."""
    backups, now_ns, zone = history
    kept = kept_by(policy, backups, now_ns, zone)
    left = []
    for backup in backups:
        state = "as it was"
        if backup.id not in kept:
            state = data.draw(st.sampled_from(["as it was", "begun", "gone"]))
        if state == "begun" and backup.status != "unverified":
            dogus = data.draw(st.sampled_from(DOGUS))  # as in the remaining tags
            left.append(replace(backup, status="incomplete", dogus=dogus))
        elif state != "gone":
            left.append(backup)
    assert kept_by(policy, left, now_ns, zone) == kept


@pytest.mark.parametrize("name", ["keepLastSevenDays", "removeAllButKeepLatest"])
def test_a_removal_may_be_interrupted_anywhere(name: str) -> None:
    """All histories of three old backups, for any order of removal."""
    policy, now_ns, zone = POLICIES[name], at("2026-11-23T12:00:00"), ZONES[0]
    kinds = list(product(STATUSES, set(DOGUS)))
    for history in product(kinds, repeat=3):
        backups = [
            Candidate(f"b{day}", at(f"2026-01-0{day}T12:00:00"), status, dogus)
            for day, (status, dogus) in enumerate(history, 1)
        ]
        kept = kept_by(policy, backups, now_ns, zone)
        going = [b.id for b in backups if b.id not in kept]
        for size in range(len(going)):
            for gone in combinations(going, size):
                left = [b for b in backups if b.id not in gone]
                assert kept_by(policy, left, now_ns, zone) == kept, (backups, gone)


@given(history=histories(), policy=policies())
def test_a_restorable_backup_is_always_kept(
    history: tuple[list[Candidate], int, ZoneInfo], policy: Policy
) -> None:
    """Each backup gets one decision with a reason, and a usable backup is kept."""
    backups, now_ns, zone = history
    decisions = decide(policy, backups, now_ns, zone)
    assert [found.id for found in decisions] == [b.id for b in backups]
    assert all(found.reasons for found in decisions)
    kept = {found.id for found in decisions if found.keep}
    past, future = divided(backups, now_ns)
    assert future <= kept
    sound = [b for b in past if b.status != "incomplete"]
    sound = [b for b in sound if not b.safety] or sound
    sound = [b for b in sound if b.dogus is None] or sound
    there = {b.status for b in sound}
    best = next((status for status in ("complete", "unverified") if status in there), None)
    assert best is None or any(b.id in kept for b in sound if b.status == best)


def test_a_partial_backup_does_not_replace_a_full_one() -> None:
    """After a backup of one dogu, the nightly full backup is still kept as the newest."""
    some = [frozenset({"redmine"}), frozenset({"scm"})]
    backups = [
        Candidate("old", at("2026-11-20T02:30:00"), "complete"),
        Candidate("nightly", at("2026-11-21T02:30:00"), "complete"),
        Candidate("redmine", at("2026-11-21T10:00:00"), "complete", some[0]),
        Candidate("redmine again", at("2026-11-21T11:00:00"), "complete", some[0]),
        Candidate("scm", at("2026-11-21T12:00:00"), "complete", some[1]),
    ]
    now_ns = at("2027-11-23T12:00:00")
    decisions = decide(POLICIES["keepLastSevenDays"], backups, now_ns, ZONES[0])
    assert {f.id: f.reasons for f in decisions if f.keep} == {
        "nightly": ("newest complete",),
        "redmine again": ("newest of its dogus",),
        "scm": ("newest of its dogus",),
    }
    next_night = Candidate("next", at("2026-11-22T02:30:00"), "complete")
    for name in ("keepLastSevenDays", "removeAllButKeepLatest"):
        assert kept_by(POLICIES[name], [*backups, next_night], now_ns, ZONES[0]) == {"next"}


@pytest.mark.parametrize(
    "policy",
    [
        *POLICIES.values(),
        restic_policy({"last": 1}),
        restic_policy({}, Duration(days=1, text="1d")),
    ],
    ids=lambda policy: policy.name,
)
def test_backups_in_the_future_do_not_count(policy: Policy) -> None:
    """They are kept with a reason, and do not affect decisions on other backups."""
    now_ns = at("2026-11-23T12:00:00")
    real = [
        Candidate(f"b{day}", at(f"2026-11-{day}T10:00:00"), "complete") for day in (20, 21, 22, 23)
    ]
    future = [
        Candidate("soon", now_ns + 1, "complete"),
        Candidate("wrong clock", at("2036-01-01T00:00:00"), "complete"),
    ]
    without = decide(policy, real, now_ns, ZONES[0])
    decisions = decide(policy, [*real, *future], now_ns, ZONES[0])
    assert decisions[:4] == without
    assert [(d.keep, d.reasons) for d in decisions[4:]] == [(True, ("dated in the future",))] * 2


def test_safety_backups_are_counted_separately() -> None:
    """The newest safety backup is kept until there is a newer full backup."""
    now_ns = at("2026-11-23T12:00:00")
    backups = [
        Candidate("nightly", at("2026-11-22T02:30:00"), "complete"),
        Candidate("safety", at("2026-11-22T10:00:00"), "complete", safety=True),
        Candidate("again", at("2026-11-22T11:00:00"), "complete", safety=True),
    ]
    kept = kept_by(POLICIES["removeAllButKeepLatest"], backups, now_ns, ZONES[0])
    assert kept == {"nightly", "again"}
    backups.append(Candidate("next", at("2026-11-23T02:30:00"), "complete"))
    assert kept_by(POLICIES["removeAllButKeepLatest"], backups, now_ns, ZONES[0]) == {"next"}
    assert kept_by(restic_policy({"last": 1}), backups, now_ns, ZONES[0]) == {"next", "again"}
    del backups[-1]
    assert last_resort(backups) == {"nightly"}
    assert last_resort(backups[1:]) == {"safety", "again"}


def test_the_oldest_of_each_range_is_kept() -> None:
    """With a year of daily backups, the ranges are exact to the day."""
    zone = ZoneInfo("Europe/Berlin")
    today = datetime(2026, 4, 1, 4, tzinfo=zone)
    backups = [
        Candidate(
            str(age), at(str((today - timedelta(days=age)).replace(tzinfo=None)), zone), "complete"
        )
        for age in range(400)
    ]
    kept = kept_by(
        POLICIES["keep7Days1Month1Quarter1Year"], backups, int(today.timestamp()) * NS, zone
    )
    assert kept == {*map(str, range(8)), "30", "90", "180", "360"}


@pytest.mark.parametrize(
    ("zone", "now"), [(ZONES[0], "2026-11-23T12:00:00"), (ZONES[1], "2026-03-30T12:00:00")]
)
def test_seven_days_end_at_the_same_time_of_day(zone: ZoneInfo, now: str) -> None:
    """The limit is exact to the second, even across a day of 23 hours."""
    now_ns = at(now, zone)
    border = at(str(datetime.fromisoformat(now) - timedelta(days=7)), zone)
    backups = [
        Candidate("too old", border - NS, "complete"),
        Candidate("border", border, "complete"),
        Candidate("newest", now_ns, "complete"),
    ]
    assert kept_by(POLICIES["keepLastSevenDays"], backups, now_ns, zone) == {"border", "newest"}
    # restic's duration counts from the newest backup and excludes the limit
    assert kept_by(restic_policy({}, parse_duration("7d")), backups, now_ns, zone) == {"newest"}


def test_reasons() -> None:
    """Decisions have reasons to keep and to remove."""
    now_ns = at("2026-11-23T12:00:00")
    backups = [
        Candidate("a", at("2026-11-01T12:00:00"), "complete"),
        Candidate("b", at("2026-11-02T12:00:00"), "incomplete"),
        Candidate("c", at("2026-11-22T12:00:00"), "complete"),
        Candidate("d", at("2026-11-23T11:00:00"), "incomplete"),
    ]
    decisions = {
        f.id: (f.keep, f.reasons)
        for f in decide(restic_policy({"last": 1, "daily": 1}), backups, now_ns, UTC)
    }
    assert decisions == {
        "a": (False, ("no rule keeps it",)),
        "b": (False, ("incomplete",)),
        "c": (True, ("last", "daily", "newest complete")),
        "d": (True, ("may be running",)),
    }


def test_times_beyond_datetime() -> None:
    """The years 0 and 9999 of restic's format are clamped, they do not fail."""
    backups = [
        Candidate("a", -(10**19) * 7, "complete"),
        Candidate("b", 253402300799 * NS, "complete"),
    ]
    for policy in (
        *POLICIES.values(),
        restic_policy({"yearly": 1}),
        restic_policy({}, parse_duration("9999y")),
    ):
        assert "b" in kept_by(policy, backups, at("2026-11-23T12:00:00"), ZONES[0])


def test_durations() -> None:
    """Only restic's format is accepted."""
    assert parse_duration("1y5m7d2h") == Duration(1, 5, 7, 2, "1y5m7d2h")
    assert parse_duration("14d") == Duration(days=14, text="14d")
    for wrong in ("", "7", "d", "7w", "1h2d", "0d", "-1d", "1.5d"):
        with pytest.raises(UsageError, match="Invalid duration"):
            parse_duration(wrong)


def test_policies_by_name() -> None:
    """Names are case-insensitive; the error for an unknown name lists the valid ones."""
    assert policy_named(" KEEPALL ") is POLICIES["keepAll"]
    with pytest.raises(UsageError, match="keepLastSevenDays"):
        policy_named("keepNothing")


def test_policies_that_keep_nothing_are_rejected() -> None:
    """No rule, or a rule with the number 0."""
    with pytest.raises(UsageError, match="No retention rule"):
        restic_policy({})
    with pytest.raises(UsageError, match="Invalid value 0 for --keep-daily"):
        restic_policy({"last": 3, "daily": 0})
