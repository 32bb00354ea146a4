"""Test the removal of whole backups from real repositories, in a safe order."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from cesbrfs.catalog.backups import Backups, group
from cesbrfs.catalog.manifest import FORMAT, Manifest, Point, write_manifest
from cesbrfs.catalog.rules import DEFAULT_BACKUP_TAG
from cesbrfs.catalog.status import Report, make_report
from cesbrfs.ces.retention import POLICIES, Candidate, decide, parse_duration, restic_policy
from cesbrfs.errors import ResticError, UsageError
from cesbrfs.forget import ForgetPlan, by_name, by_policy, execute
from cesbrfs.repo.format.timestamps import parse_time
from cesbrfs.repo.repository import Repository
from cesbrfs.restic import Restic, Version
from tests.support.restic_repo import ResticRepo, create

NOW_NS = parse_time("2026-11-23T12:00:00Z")
LATEST = POLICIES["removeAllButKeepLatest"]
_KEEPS_THE_OLDEST = Version(0, 17)


@dataclass
class Shelf:
    """A repository with backups, a restic driver and a reader."""

    repo: ResticRepo
    restic: Restic
    repository: Repository

    def backup(
        self, backup_id: str, day: int, *, points: int = 2, host: str = "h", dogu: str | None = None
    ) -> list[str]:
        """Make a complete backup; return the IDs of its snapshots, the manifest last."""
        tags = [backup_id, "kind=volumes", *([f"dogu={dogu}"] if dogu else [])]
        ids = [
            self.snapshot(tags, f"2026-11-{day:02} 10:{number:02}:00", host)
            for number in range(points)
        ]
        content = write_manifest(
            Manifest(
                FORMAT, backup_id, "x", host, [Point("volumes", dogu, name, 1) for name in ids]
            )
        )
        when = f"2026-11-{day:02} 10:59:00"
        tags = [backup_id, "kind=manifest"]
        return [*ids, self.snapshot(tags, when, host, ("manifest.json", content))]

    def snapshot(
        self,
        tags: Iterable[str],
        time: str,
        host: str = "h",
        stdin: tuple[str, bytes] = ("file", b"content"),
    ) -> str:
        """Create a snapshot and return its ID."""
        return self.repo.backup("--host", host, tags=tags, time=time, stdin=stdin)

    async def look(self) -> tuple[Backups, dict[str, Report]]:
        """Return the current backups and their reports."""
        backups = group(await self.repository.snapshots())
        return backups, {
            b.id: await make_report(self.repository, b) for b in backups.by_name.values()
        }

    async def statuses(self) -> dict[str, str]:
        """Return the status of each current backup."""
        return {name: told.status.value for name, told in (await self.look())[1].items()}

    async def named(self, *names: str, force: bool = False) -> ForgetPlan:
        """Plan the removal of backups by ID."""
        backups, told = await self.look()
        chosen = [backups.find(name) for name in names]
        return by_name(chosen, backups, told, force=force, pattern=DEFAULT_BACKUP_TAG)

    async def chosen(self, policy: Any = LATEST) -> ForgetPlan:
        """Plan a removal by policy."""
        backups, told = await self.look()
        return by_policy(policy, backups, told, now_ns=NOW_NS, zone=UTC, pattern=DEFAULT_BACKUP_TAG)

    async def run(self, plan: ForgetPlan, **more: Any) -> int:
        """Execute a plan."""
        return await execute(plan, restic=self.restic, repository=self.repository, **more)


async def open_shelf(binary: Path, directory: Path) -> Shelf:
    repo = create(binary, directory)
    return Shelf(repo, await Restic.open(repo.access, binary=str(binary)), await repo.open())


@pytest.fixture
async def shelf(restic_old: Path, tmp_path: Path) -> AsyncIterator[Shelf]:
    """An empty repository with the old restic; the driver's own tests cover both."""
    made = await open_shelf(restic_old, tmp_path / "repository")
    yield made
    await made.repository.aclose()


async def test_a_backup_goes_whole_and_foreign_snapshots_stay(shelf: Shelf) -> None:
    """Snapshots of no backup and of other backups are not touched."""
    shelf.backup("a", 1)
    kept = shelf.backup("b", 2)
    foreign = [shelf.snapshot(tags, "2026-01-01 00:00:00") for tags in ([], ["kind=volumes"])]
    plan = await shelf.chosen()
    assert [(f.backup.id, f.keep, f.reasons) for f in plan.decisions] == [
        ("a", False, ("no rule keeps it",)),
        ("b", True, ("the latest", "newest complete")),
    ]
    assert await shelf.run(plan) == 3
    assert shelf.repo.snapshot_ids() == {*kept, *foreign}
    assert await shelf.statuses() == {"b": "complete"}
    assert await shelf.run(await shelf.chosen()) == 0


class Killed(Exception):  # noqa: N818 - simulates a kill, not an error
    """Simulates a kill between two calls of restic."""


@pytest.mark.parametrize("phase", [2, 3])
async def test_a_removal_killed_in_the_middle_is_finished_by_the_next(
    shelf: Shelf, phase: int
) -> None:
    """After each phase the backup is incomplete with its old time, and removable."""
    for day in (1, 2, 3):
        shelf.backup(f"b{day}", day, points=2)
    shelf.snapshot(["foreign"], "2026-11-02 09:00:00")
    before = (await shelf.look())[0]
    said: list[str] = []

    def kill(number: int, total: int) -> None:
        assert total == 3
        if number == phase:
            raise Killed

    with pytest.raises(Killed):
        await shelf.run(await shelf.chosen(), on_phase=kill, say=said.append)
    assert "the same command" in said[0]
    begun = {"b1": "incomplete", "b2": "incomplete"}
    assert await shelf.statuses() == begun | {"foreign": "unverified", "b3": "complete"}
    for backup in (await shelf.look())[0].by_name.values():
        assert backup.time_ns == before.find(backup.id).time_ns
    again = await shelf.chosen()
    assert {b.id for b in again.going} == {"b1", "b2", "foreign"}
    assert await shelf.run(again) == 7 - 2 * (phase - 1)
    assert await shelf.statuses() == {"b3": "complete"}


async def test_each_phase_leaves_the_time_as_it_was(shelf: Shelf) -> None:
    """The manifest is first and the oldest snapshot last; the policy selects it again."""
    *points, manifest = shelf.backup("a", 1, points=3)
    shelf.backup("b", 2)
    plan = await shelf.chosen()
    assert [set(phase.forget) for phase in plan.phases] == [
        {manifest},
        set(points[1:]),
        {points[0]},
    ]


async def test_a_shared_snapshot_stays_with_the_backup_that_stays(
    restic_binary: Path, tmp_path: Path
) -> None:
    """It loses the tags of removed backups; if all its backups go, it is removed."""
    shelf = await open_shelf(restic_binary, tmp_path / "repository")
    *points, _ = shelf.backup("stays", 2)
    shelf.backup("goes", 1)
    gone, _, _ = shelf.backup("goes too", 1)
    shelf.repo.run("tag", "--add", "goes", "--add", "goes too", points[0])
    shelf.repo.run("tag", "--add", "goes", gone)
    await shelf.run(await shelf.named("goes", "goes too"))
    assert await shelf.statuses() == {"stays": "complete"}
    found = {s.get("original"): s["tags"] for s in shelf.repo.snapshots()}
    assert found[points[0]] == ["stays", "kind=volumes"]
    assert len(found) == 2  # the changed one, and None for the other two
    assert len(shelf.repo.snapshots()) == 3
    await shelf.repository.aclose()


async def test_the_last_complete_backup_needs_force(shelf: Shelf) -> None:
    """It may be removed only if an older complete one remains."""
    shelf.backup("a", 1)
    shelf.backup("b", 2)
    shelf.snapshot(["unverified"], "2026-11-03 10:00:00")
    with pytest.raises(UsageError, match=r"b is the last complete backup of h\. Pass --force"):
        await shelf.named("a", "b")
    assert [b.id for b in (await shelf.named("b")).going] == ["b"]
    await shelf.run(await shelf.named("a", "b", force=True))
    with pytest.raises(UsageError, match="unverified is the last unverified backup"):
        await shelf.named("unverified")


async def test_each_host_is_judged_by_itself(shelf: Shelf) -> None:
    """With two instances in one repository, each keeps its own last backup."""
    shelf.backup("a1", 1, host="a")
    shelf.backup("a2", 2, host="a")
    shelf.backup("b1", 1, host="b")
    assert [b.id for b in (await shelf.chosen()).going] == ["a1"]
    with pytest.raises(UsageError, match="b1 is the last complete backup of b"):
        await shelf.named("b1")


async def test_a_backup_of_one_dogu_takes_no_place_from_the_instance(shelf: Shelf) -> None:
    """Partial backups are counted separately; the last backup of all dogus stays.

    A backup made by another tool counts as complete: it may be half removed.
    """
    shelf.snapshot(["foreign", "dogu=scm"], "2026-10-31 12:00:00")
    shelf.backup("old", 1)
    shelf.backup("whole", 2)
    shelf.backup("redmine", 3, dogu="redmine")
    shelf.snapshot(["scm", "kind=volumes", "dogu=scm"], "2026-11-02 12:00:00")
    planned = await shelf.chosen()
    assert [b.id for b in planned.going] == ["foreign", "old", "scm"]
    told = {fate.backup.id: fate.as_json()["dogus"] for fate in planned.decisions}
    assert told.pop("foreign") is None
    assert told == {"old": None, "whole": None, "redmine": ["redmine"], "scm": ["scm"]}
    with pytest.raises(UsageError, match="whole is the last complete backup of h"):
        await shelf.named("old", "whole")
    assert [b.id for b in (await shelf.named("redmine")).going] == ["redmine"]


async def test_an_incomplete_backup_newer_than_all_others_stays(shelf: Shelf) -> None:
    """The newest may be running; an older one is removed."""
    shelf.snapshot(["broken", "kind=volumes"], "2026-11-01 10:00:00")
    shelf.backup("a", 2)
    shelf.snapshot(["running", "kind=volumes"], "2026-11-03 10:00:00")
    assert [b.id for b in (await shelf.chosen()).going] == ["broken"]


async def test_nothing_is_removed_when_what_stays_has_changed(shelf: Shelf) -> None:
    """Another process removed the newest backup after planning."""
    shelf.backup("a", 1)
    *_, manifest = shelf.backup("b", 2)
    plan = await shelf.chosen()
    shelf.repo.run("forget", manifest)
    before = shelf.repo.snapshot_ids()
    with pytest.raises(UsageError, match="b, which is to be kept, has changed"):
        await shelf.run(plan)
    assert shelf.repo.snapshot_ids() == before


async def test_a_restic_that_does_not_do_it_is_found_out(shelf: Shelf, tmp_path: Path) -> None:
    """The next phase starts only after the previous one is visible in the repository."""
    shelf.backup("a", 1)
    shelf.backup("b", 2)
    program = tmp_path / "restic"
    real = shelf.repo.binary
    program.write_text(f'#!/bin/sh\ncase "$*" in *forget*) exit 0;; esac\nexec {real} "$@"\n')
    program.chmod(0o755)
    shelf.restic = await Restic.open(shelf.repo.access, binary=str(program))
    before = shelf.repo.snapshot_ids()
    with pytest.raises(ResticError, match="did not remove"):
        await shelf.run(await shelf.chosen())
    assert shelf.repo.snapshot_ids() == before


async def test_rules_are_restics(restic_binary: Path, tmp_path: Path) -> None:
    """The policy keeps the same snapshots as restic's own ``forget --keep-...``."""
    name = "Europe/Berlin"
    shelf = await open_shelf(restic_binary, tmp_path / "repository")
    for time in (
        *("2023-12-31 23:59:59", "2024-01-01 00:00:00", "2024-02-29 12:00:00"),
        *("2024-12-30 08:00:00", "2025-01-02 08:00:00"),
        *("2026-03-29 01:30:00", "2026-03-29 03:30:00", "2026-03-29 03:45:00"),
        *("2026-10-25 01:59:00", "2026-10-25 04:00:00"),
    ):
        shelf.repo.run(
            *("backup", "--quiet", "--tag", "t", "--time", time, "--stdin"),
            stdin=b"content",
            environment={"TZ": name},
        )
    snapshots = await shelf.repository.snapshots()
    await shelf.repository.aclose()
    backups = [Candidate(s.id, s.time_ns, "complete") for s in snapshots]
    for flags in (
        *("hourly=40", "daily=4", "weekly=40", "monthly=3", "yearly=9"),
        *("last=1 daily=2 yearly=3", "within=7m", "within=1y9m30d5h daily=5"),
    ):
        given = dict(flag.split("=") for flag in flags.split())
        within = parse_duration(given["within"]) if "within" in given else None
        counts = {rule: int(number) for rule, number in given.items() if rule != "within"}
        decisions = decide(restic_policy(counts, within), backups, NOW_NS, ZoneInfo(name))
        ours = {
            d.id
            for d in decisions
            if d.keep
            and not (
                shelf.restic.version < _KEEPS_THE_OLDEST
                and all(reason.startswith("oldest") for reason in d.reasons)
            )
        }
        said = shelf.repo.run(
            *("forget", "--dry-run", "--json", "--group-by", ""),
            *(f"--keep-{rule}={number}" for rule, number in given.items()),
            environment={"TZ": name},
        )
        (everything,) = json.loads(said.splitlines()[0])
        assert ours == {snapshot["id"] for snapshot in everything["keep"]}, flags
