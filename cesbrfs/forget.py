"""Removing whole backups: which ones go and why, then restic's work in an order that can be killed.

A backup goes with all its snapshots or not at all.  Its manifest goes first, so that from then on
it counts as incomplete; its oldest snapshot goes last, so that until then it keeps its time, and
the same policy chooses it again.  See docs/adr/0008-how-backups-are-removed.md.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Final

from cesbrfs.catalog.backups import MANIFEST, Backup, Backups, SnapshotList, id_tags, tag_value
from cesbrfs.catalog.status import Report, dogus_of
from cesbrfs.ces.retention import Candidate, Decision, Policy, decide, last_resort
from cesbrfs.errors import RepositoryLockedError, ResticError, UsageError
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.restic import Restic

NOT_NAMED: Final = "not named"
_PHASES: Final = 3


@dataclass(frozen=True, slots=True)
class BackupDecision:
    """What becomes of one backup, and why."""

    backup: Backup
    told: Report
    keep: bool
    reasons: tuple[str, ...]

    @property
    def host(self) -> str:
        """Whose backup it is."""
        return self.backup.host

    @property
    def dogus(self) -> frozenset[str] | None:
        """Of which dogus it is; None for the whole instance."""
        return dogus_of(self.backup, self.told)

    def as_json(self) -> dict[str, object]:
        """Return it for programs.

        `time` is RFC 3339, `size` bytes or null, `dogus` null for the whole instance.
        """
        return {
            "id": self.backup.id,
            "time": format_time(self.backup.time_ns),
            "status": self.told.status.value,
            "size": self.told.size(self.backup),
            "host": self.host,
            "dogus": None if self.dogus is None else sorted(self.dogus),
            "safety": self.backup.safety,
            "keep": self.keep,
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True, slots=True)
class Phase:
    """Snapshots to remove, and tags to take off snapshots that another backup keeps.

    `untag` has the whole IDs of the snapshots by the tags that each of them loses.
    """

    forget: frozenset[str]
    untag: Mapping[frozenset[str], frozenset[str]]

    def left_in(self, snapshots: Iterable[Snapshot]) -> bool:
        """Tell whether something of this phase is still to be done in a repository."""
        names = self.forget.union(*self.untag.values())  # one without its tags has a new ID
        return any(snapshot.id in names for snapshot in snapshots)


@dataclass(frozen=True, slots=True)
class ForgetPlan:
    """What becomes of each backup, oldest first, and the phases of the work."""

    fates: tuple[BackupDecision, ...]
    phases: tuple[Phase, ...]

    @property
    def going(self) -> tuple[Backup, ...]:
        """The backups that go."""
        return tuple(fate.backup for fate in self.fates if not fate.keep)

    @property
    def staying(self) -> tuple[Backup, ...]:
        """The backups that stay."""
        return tuple(fate.backup for fate in self.fates if fate.keep)


def by_policy(
    policy: Policy,
    backups: Backups,
    told: Mapping[str, Report],
    *,
    now_ns: int,
    zone: tzinfo,
    pattern: re.Pattern[str],
) -> ForgetPlan:
    """Plan what `policy` wants, for the backups of each host by themselves, as restic does.

    `told` has the report of every backup by its ID, `pattern` tells which tags are Backup IDs.
    """
    decisions: dict[str, Decision] = {}
    for members in _by_host(backups, told).values():
        decisions |= {found.id: found for found in decide(policy, members, now_ns, zone)}
    return _plan(
        [
            BackupDecision(b, told[b.id], decisions[b.id].keep, decisions[b.id].reasons)
            for b in backups.by_name.values()
        ],
        pattern,
    )


def by_name(
    chosen: Collection[Backup],
    backups: Backups,
    told: Mapping[str, Report],
    *,
    force: bool,
    pattern: re.Pattern[str],
) -> ForgetPlan:
    """Plan the removal of the `chosen` backups.

    UsageError when a host that has complete backups (or, with none of them, unverified ones) would
    be left without, unless `force`.
    """
    going = {backup.id for backup in chosen}
    now_ns = time.time_ns()
    for host, members in _by_host(backups, told).items():
        past = [member for member in members if member.time_ns <= now_ns]
        resort = last_resort(past or members)
        if resort and resort <= going and not force:
            raise UsageError(
                f"{max(resort)} is the last {_kind(told, resort)} backup of"
                f" {host or 'its host'}; --force removes it all the same."
            )
    return _plan(
        [
            BackupDecision(
                b, told[b.id], b.id not in going, ("named" if b.id in going else NOT_NAMED,)
            )
            for b in backups.by_name.values()
        ],
        pattern,
    )


def _kind(told: Mapping[str, Report], ids: Collection[str]) -> str:
    return next(told[name].status.value for name in ids)


def _by_host(backups: Backups, told: Mapping[str, Report]) -> dict[str, list[Candidate]]:
    hosts: dict[str, list[Candidate]] = {}
    for backup in backups.by_name.values():
        report = told[backup.id]
        candidate = Candidate(
            backup.id,
            backup.time_ns,
            report.status.value,
            dogus_of(backup, report),
            safety=backup.safety,
        )
        hosts.setdefault(backup.host, []).append(candidate)
    return hosts


def _plan(fates: Sequence[BackupDecision], pattern: re.Pattern[str]) -> ForgetPlan:
    staying = {s.id: set[str]() for fate in fates for s in fate.backup.members}
    phase_of: dict[str, int] = {}
    snapshots: dict[str, Snapshot] = {}
    for fate in fates:
        if fate.keep:
            for snapshot in fate.backup.members:
                staying[snapshot.id].add(fate.backup.tag)
            continue
        for phase, members in enumerate(_in_order(fate.backup)):
            for snapshot in members:  # one of several backups that go waits for the last of them
                phase_of[snapshot.id] = max(phase, phase_of.get(snapshot.id, 0))
                snapshots[snapshot.id] = snapshot
    forget: list[set[str]] = [set() for _ in range(_PHASES)]
    untag: list[dict[frozenset[str], set[str]]] = [{} for _ in range(_PHASES)]
    for snapshot_id, phase in phase_of.items():
        kept = staying[snapshot_id]
        if not kept:
            forget[phase].add(snapshot_id)
            continue
        tags = id_tags(snapshots[snapshot_id], pattern)
        lost = frozenset(tag for tag, backup_id in tags.items() if backup_id not in kept)
        untag[phase].setdefault(lost, set()).add(snapshot_id)
    phases = (
        Phase(frozenset(ids), {tags: frozenset(of) for tags, of in lost.items()})
        for ids, lost in zip(forget, untag, strict=True)
    )
    return ForgetPlan(tuple(fates), tuple(p for p in phases if p.forget or p.untag))


def _in_order(backup: Backup) -> tuple[list[Snapshot], list[Snapshot], list[Snapshot]]:
    """Return a backup's snapshots as they go: manifests, the others, the oldest of these.

    The superseded ones go with the manifests: none of them may take its successor's place.
    """
    first = [*backup.superseded, *([backup.manifest] if backup.manifest else [])]
    first += [s for s in backup.snapshots if tag_value(s, "kind") == MANIFEST]
    others = [s for s in backup.snapshots if tag_value(s, "kind") != MANIFEST]
    return first, others[1:], others[:1]


async def execute(
    plan: ForgetPlan,
    *,
    restic: Restic,
    repository: SnapshotList,
    on_phase: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> int:
    """Remove what the plan says; returns the number of snapshots that were removed.

    A phase begins only when the repository shows the one before as done.  `on_phase` gets the
    number of the phase that begins, and of all.  When it fails or is cancelled after it began,
    `say` is told how to go on.  Raises UsageError, before anything is removed, when a backup that
    is to stay has changed since the plan was made; and what the restic driver raises.
    """
    await _nothing_changed(plan, repository)
    begun = False
    try:
        for number, phase in enumerate(plan.phases, 1):
            if on_phase is not None:
                on_phase(number, len(plan.phases))
            try:
                await _run_phase(phase, restic, repository)
            except RepositoryLockedError:  # before it changed anything
                raise
            except BaseException:
                begun = True
                raise
            begun = True
    except BaseException:
        if begun and say is not None:
            say(
                "The removal was not finished: a backup that lost a part counts as incomplete, and"
                " the same command removes the rest."
            )
        raise
    return len({snapshot for phase in plan.phases for snapshot in phase.forget})


async def _run_phase(phase: Phase, restic: Restic, repository: SnapshotList) -> None:
    if phase.forget:
        await restic.forget(phase.forget)
    for tags, snapshots in phase.untag.items():
        await restic.untag(tags, snapshots)
    if phase.left_in(await repository.snapshots()):
        raise ResticError(
            f"restic did not remove all it was told to from {restic.access.display_url}; look with"
            " 'cesbr check', then run the same command again."
        )


async def _nothing_changed(plan: ForgetPlan, repository: SnapshotList) -> None:
    there = {snapshot.id for snapshot in await repository.snapshots()}
    for backup in plan.staying:
        if not backup.identity <= there:
            raise UsageError(
                f"Backup {backup.id}, which is to stay, has changed meanwhile; nothing was"
                " removed: run the command again."
            )
