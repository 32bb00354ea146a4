"""Retention policies against a model that asks of each backup, minute by minute, why it stays."""

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
    like_restic,
    named,
    parse_duration,
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
    """Return a local time in nanoseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * NS


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Candidate], int, ZoneInfo]:
    """Many a day and years without any, ties, the days of the clocks' changes, leap days."""
    zone = draw(st.sampled_from(ZONES))
    year = draw(st.sampled_from([2011, 2023, 2024, 2026]))
    now = draw(
        st.sampled_from(
            [
                datetime(year, 3, 31, 12, tzinfo=zone),  # after the change of March
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


# the model: it looks at one backup at a time, and at all the others for each


def wall(time_ns: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(time_ns // NS, zone)


def newer(one: Candidate, other: Candidate) -> bool:
    return (one.time_ns, one.id) > (other.time_ns, other.id)


def divided(backups: Sequence[Candidate], now_ns: int) -> tuple[list[Candidate], set[str]]:
    """Return the backups that count, and the IDs of those dated in the future, which all stay."""
    future = {b.id for b in backups if b.time_ns > now_ns}
    return [b for b in backups if b.id not in future], future


def always_kept(backup: Candidate, backups: Sequence[Candidate]) -> bool:
    """No policy removes the newest complete one of all dogus, nor the newest of a kind after it."""
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
    if any(newer(other, backup) for other in alike(backup, sound)):
        return False
    return not any(newer(other, backup) for other in resort if other.dogus is None)


def alike(backup: Candidate, backups: Sequence[Candidate]) -> list[Candidate]:
    """Return those of the same dogus and purpose: to the rules there are no others."""
    kind = (backup.dogus, backup.safety)
    return [b for b in backups if (b.dogus, b.safety) == kind]


def days_old(backup: Candidate, now_ns: int, zone: ZoneInfo) -> int:
    """Count the midnights, one by one."""
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
def test_named_policies_keep_what_the_model_keeps(
    name: str, history: tuple[list[Candidate], int, ZoneInfo]
) -> None:
    """CES's policies, in several zones, through changes of the clocks, leap days and gaps."""
    backups, now_ns, zone = history
    past, expected = divided(backups, now_ns)
    expected |= {
        b.id
        for b in past
        if always_kept(b, past) or model_of_ces(name, b, alike(b, past), now_ns, zone)
    }
    assert kept_by(POLICIES[name], backups, now_ns, zone) == expected


def label(unit: str, moment: datetime) -> str:
    """Name the hour, day, week, month or year in which a moment lies."""
    if unit == "weekly":
        return moment.strftime("%G week %V")
    return moment.strftime(
        {"hourly": "%Y-%m-%d %H", "daily": "%Y-%m-%d", "monthly": "%Y-%m", "yearly": "%Y"}[unit]
    )


def model_of_units(
    unit: str, count: int, backup: Candidate, sound: Sequence[Candidate], zone: ZoneInfo
) -> bool:
    """The newest of its hour, and fewer than `count` later hours have one; or the oldest of all."""
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
def test_rules_like_restics_keep_what_the_model_keeps(
    history: tuple[list[Candidate], int, ZoneInfo], last: int | None, counts: dict[str, int]
) -> None:
    """Every rule counts its own places; incomplete backups take none."""
    backups, now_ns, zone = history
    past, expected = divided(backups, now_ns)
    sound = [b for b in past if b.status != "incomplete"]
    expected |= {b.id for b in past if always_kept(b, past)}
    rules = counts | ({"last": last} if last else {})
    for b in sound:
        rivals = alike(b, sound)
        if last and sum(newer(other, b) for other in rivals) < last:
            expected.add(b.id)
        if any(model_of_units(unit, count, b, rivals, zone) for unit, count in counts.items()):
            expected.add(b.id)
    assert kept_by(like_restic(rules), backups, now_ns, zone) == expected


@given(
    history=histories(),
    months=st.integers(0, 30),
    days=st.integers(0, 40),
    hours=st.integers(0, 50),
)
def test_within_counts_back_from_the_newest(
    history: tuple[list[Candidate], int, ZoneInfo], months: int, days: int, hours: int
) -> None:
    """Months of the calendar, then days of it, then hours that pass."""
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
    policy = like_restic({}, Duration(0, months, days, hours, "x"))
    assert kept_by(policy, backups, now_ns, zone) == expected


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    """Any policy."""
    units = st.dictionaries(st.sampled_from(list(UNITS)), st.integers(1, 5), min_size=1)
    within = Duration(days=draw(st.integers(1, 90)), text="x")
    return draw(
        st.sampled_from(list(POLICIES.values()))
        | units.map(like_restic)
        | st.integers(1, 9).map(lambda last: like_restic({"last": last}))
        | st.just(like_restic({}, within))
    )


@given(history=histories(), policy=policies(), data=st.data())
def test_a_removal_that_was_killed_is_finished(
    history: tuple[list[Candidate], int, ZoneInfo], policy: Policy, data: st.DataObject
) -> None:
    """With some gone and others begun, and so incomplete, the policy wants the same to go."""
    backups, now_ns, zone = history
    kept = kept_by(policy, backups, now_ns, zone)
    left = []
    for backup in backups:
        state = "as it was"
        if backup.id not in kept:
            state = data.draw(st.sampled_from(["as it was", "begun", "gone"]))
        if state == "begun" and backup.status != "unverified":
            dogus = data.draw(st.sampled_from(DOGUS))  # the tags of what is left tell others
            left.append(replace(backup, status="incomplete", dogus=dogus))
        elif state != "gone":
            left.append(backup)
    assert kept_by(policy, left, now_ns, zone) == kept


@pytest.mark.parametrize("name", ["keepLastSevenDays", "removeAllButKeepLatest"])
def test_a_removal_may_be_killed_anywhere(name: str) -> None:
    """Each history of three old backups, and whichever of those that go went first."""
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
def test_something_that_can_be_restored_always_stays(
    history: tuple[list[Candidate], int, ZoneInfo], policy: Policy
) -> None:
    """And every backup gets one decision, with a reason."""
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


def test_some_dogus_do_not_stand_in_for_all() -> None:
    """A backup of one dogu after the nightly one: the nightly one is still the latest."""
    some = [frozenset({"redmine"}), frozenset({"scm"})]
    backups = [
        Candidate("old", at("2026-11-20T02:30:00"), "complete"),
        Candidate("nightly", at("2026-11-21T02:30:00"), "complete"),
        Candidate("redmine", at("2026-11-21T10:00:00"), "complete", some[0]),
        Candidate("redmine again", at("2026-11-21T11:00:00"), "complete", some[0]),
        Candidate("scm", at("2026-11-21T12:00:00"), "complete", some[1]),
    ]
    now_ns = at("2027-11-23T12:00:00")
    told = decide(POLICIES["keepLastSevenDays"], backups, now_ns, ZONES[0])
    assert {f.id: f.reasons for f in told if f.keep} == {
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
        like_restic({"last": 1}),
        like_restic({}, Duration(days=1, text="1d")),
    ],
    ids=lambda policy: policy.name,
)
def test_a_backup_dated_in_the_future_is_no_reference(policy: Policy) -> None:
    """It stays, with the reason; all others are judged as if it were not there."""
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


def test_safety_backups_take_no_place() -> None:
    """Of others; the newest one stays until a whole backup is newer."""
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
    assert kept_by(like_restic({"last": 1}), backups, now_ns, ZONES[0]) == {"next", "again"}
    del backups[-1]
    assert last_resort(backups) == {"nightly"}
    assert last_resort(backups[1:]) == {"safety", "again"}


def test_the_oldest_of_each_span_stays() -> None:
    """A year of daily backups, and the spans' borders to the day."""
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
    """To the second, also where one of the days had 23 hours."""
    now_ns = at(now, zone)
    border = at(str(datetime.fromisoformat(now) - timedelta(days=7)), zone)
    backups = [
        Candidate("too old", border - NS, "complete"),
        Candidate("border", border, "complete"),
        Candidate("newest", now_ns, "complete"),
    ]
    assert kept_by(POLICIES["keepLastSevenDays"], backups, now_ns, zone) == {"border", "newest"}
    # restic's span, seen from the newest, leaves out its border
    assert kept_by(like_restic({}, parse_duration("7d")), backups, now_ns, zone) == {"newest"}


def test_reasons_are_told() -> None:
    """Why something stays, and why something goes."""
    now_ns = at("2026-11-23T12:00:00")
    backups = [
        Candidate("a", at("2026-11-01T12:00:00"), "complete"),
        Candidate("b", at("2026-11-02T12:00:00"), "incomplete"),
        Candidate("c", at("2026-11-22T12:00:00"), "complete"),
        Candidate("d", at("2026-11-23T11:00:00"), "incomplete"),
    ]
    told = {
        f.id: (f.keep, f.reasons)
        for f in decide(like_restic({"last": 1, "daily": 1}), backups, now_ns, UTC)
    }
    assert told == {
        "a": (False, ("no rule keeps it",)),
        "b": (False, ("incomplete",)),
        "c": (True, ("last", "daily", "newest complete")),
        "d": (True, ("may be running",)),
    }


def test_times_that_no_calendar_has() -> None:
    """The years 0 and 9999 of restic's format are old and new, not a crash."""
    backups = [
        Candidate("a", -(10**19) * 7, "complete"),
        Candidate("b", 253402300799 * NS, "complete"),
    ]
    for policy in (
        *POLICIES.values(),
        like_restic({"yearly": 1}),
        like_restic({}, parse_duration("9999y")),
    ):
        assert "b" in kept_by(policy, backups, at("2026-11-23T12:00:00"), ZONES[0])


def test_spans_of_time() -> None:
    """Restic's form, and nothing else."""
    assert parse_duration("1y5m7d2h") == Duration(1, 5, 7, 2, "1y5m7d2h")
    assert parse_duration("14d") == Duration(days=14, text="14d")
    for wrong in ("", "7", "d", "7w", "1h2d", "0d", "-1d", "1.5d"):
        with pytest.raises(UsageError, match="span of time"):
            parse_duration(wrong)


def test_policies_by_name() -> None:
    """In any case; an unknown one is told with those there are."""
    assert named(" KEEPALL ") is POLICIES["keepAll"]
    with pytest.raises(UsageError, match="keepLastSevenDays"):
        named("keepNothing")


def test_a_policy_that_keeps_nothing_is_refused() -> None:
    """No rule at all, or one of zero."""
    with pytest.raises(UsageError, match="No rule"):
        like_restic({})
    with pytest.raises(UsageError, match="keep-daily 0"):
        like_restic({"last": 3, "daily": 0})
