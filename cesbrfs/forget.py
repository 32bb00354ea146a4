"""Remove whole backups: select them by policy or name, then run restic in an interruptible order.

A backup is removed with all its snapshots. The manifest is removed first, so that an interrupted
removal leaves an incomplete backup. The oldest snapshot is removed last, so that the backup keeps
its time and the same policy selects it again. See docs/adr/0008-how-backups-are-removed.md.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Final

from cesbrfs.catalog.annotations import is_protected
from cesbrfs.catalog.backups import MANIFEST, Backup, Backups, SnapshotList, id_tags, tag_value
from cesbrfs.catalog.status import Report, Status, dogus_of
from cesbrfs.ces.retention import Candidate, Decision, Policy, decide, last_resort
from cesbrfs.errors import RepositoryLockedError, ResticError, UsageError
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.restic import Restic

NOT_NAMED: Final = "not named"
_PHASE_COUNT: Final = 3


@dataclass(frozen=True, slots=True)
class BackupDecision:
    """Whether to keep a backup, with the reasons."""

    backup: Backup
    report: Report
    keep: bool
    reasons: tuple[str, ...]

    @property
    def host(self) -> str:
        """Host name of the backup."""
        return self.backup.host

    @property
    def dogus(self) -> frozenset[str] | None:
        """Dogus of a partial backup; None for the whole instance."""
        return dogus_of(self.backup, self.report)

    def as_json(self) -> dict[str, object]:
        """Return the decision as JSON.

        `time` is RFC 3339, `size` bytes or null, `dogus` null for the whole instance.
        """
        return {
            "id": self.backup.id,
            "time": format_time(self.backup.time_ns),
            "status": self.report.status.value,
            "size": self.report.size(self.backup),
            "host": self.host,
            "dogus": None if self.dogus is None else sorted(self.dogus),
            "safety": self.backup.safety,
            "protected": self.backup.protected,
            "keep": self.keep,
            "reasons": list(self.reasons),
        }


@dataclass(frozen=True, slots=True)
class Phase:
    """Snapshots to remove, and tags to remove from snapshots that another backup needs.

    `untag` maps sets of tags to the full IDs of the snapshots that lose them.
    """

    forget: frozenset[str]
    untag: Mapping[frozenset[str], frozenset[str]]

    def left_in(self, snapshots: Iterable[Snapshot]) -> bool:
        """Return whether `snapshots` contains any that this phase removes or changes."""
        names = self.forget.union(*self.untag.values())  # an untagged snapshot has a new ID
        return any(snapshot.id in names for snapshot in snapshots)


@dataclass(frozen=True, slots=True)
class ForgetPlan:
    """The decision for each backup, oldest first, and the phases of the removal."""

    decisions: tuple[BackupDecision, ...]
    phases: tuple[Phase, ...]

    @property
    def going(self) -> tuple[Backup, ...]:
        """The backups to remove."""
        return tuple(decision.backup for decision in self.decisions if not decision.keep)

    @property
    def staying(self) -> tuple[Backup, ...]:
        """The backups to keep."""
        return tuple(decision.backup for decision in self.decisions if decision.keep)


def by_policy(
    policy: Policy,
    backups: Backups,
    reports: Mapping[str, Report],
    *,
    now_ns: int,
    zone: tzinfo,
    pattern: re.Pattern[str],
) -> ForgetPlan:
    """Plan a removal by `policy`, applied to each host separately as in restic.

    `reports` has the report of every backup by ID; `pattern` matches tags with a Backup ID.
    """
    by_id: dict[str, Decision] = {}
    for members in _by_host(backups, reports).values():
        by_id |= {found.id: found for found in decide(policy, members, now_ns, zone)}
    return _plan(
        [
            BackupDecision(b, reports[b.id], by_id[b.id].keep, by_id[b.id].reasons)
            for b in backups.by_name.values()
        ],
        pattern,
    )


def by_name(
    chosen: Collection[Backup],
    backups: Backups,
    reports: Mapping[str, Report],
    *,
    force: bool,
    pattern: re.Pattern[str],
    unread: str = "",
) -> ForgetPlan:
    """Plan the removal of the `chosen` backups.

    Raises UsageError for a protected backup. Without `force`, also raises it if a host would lose
    its last complete backup, or its last unverified one if it has no complete backup. `unread` is
    a sentence about a snapshot that cannot be read: an incomplete backup may then be complete.
    """
    for backup in chosen:
        if backup.protected:
            raise UsageError(
                f"{backup.id} is protected. Run 'cesbr unprotect {backup.id}' before you remove it."
            )
    going = {backup.id for backup in chosen}
    now_ns = time.time_ns()
    for host, members in _by_host(backups, reports).items():
        past = [member for member in members if member.time_ns <= now_ns]
        resort = last_resort(past or members)
        if resort and resort <= going and not force:
            raise UsageError(
                f"{max(resort)} is the last {_kind(reports, resort)} backup of"
                f" {host or 'its host'}. Pass --force to remove it anyway."
            )
        doubt = _doubt([m for m in members if m.id in going], reports, unread)
        left = (m for m in past if m.id not in going and not m.safety and m.dogus is None)
        if doubt and not force and not any(m.status == Status.COMPLETE for m in left):
            raise UsageError(f"{doubt} Pass --force to remove it anyway.")
    return _plan(
        [
            BackupDecision(
                b, reports[b.id], b.id not in going, ("named" if b.id in going else NOT_NAMED,)
            )
            for b in backups.by_name.values()
        ],
        pattern,
    )


def _doubt(going: Sequence[Candidate], reports: Mapping[str, Report], unread: str) -> str:
    """Return why one of these backups may be complete although it does not count as such."""
    for backup in going:
        if backup.status == Status.INCOMPLETE and (reason := reports[backup.id].problem or unread):
            return f"{backup.id} may be the last complete backup of its host: {reason}"
    return ""


def _kind(reports: Mapping[str, Report], ids: Collection[str]) -> str:
    return next(reports[name].status.value for name in ids)


def _by_host(backups: Backups, reports: Mapping[str, Report]) -> dict[str, list[Candidate]]:
    hosts: dict[str, list[Candidate]] = {}
    for backup in backups.by_name.values():
        report = reports[backup.id]
        candidate = Candidate(
            backup.id,
            backup.time_ns,
            report.status.value,
            dogus_of(backup, report),
            safety=backup.safety,
            protected=backup.protected,
        )
        hosts.setdefault(backup.host, []).append(candidate)
    return hosts


def _plan(decisions: Sequence[BackupDecision], pattern: re.Pattern[str]) -> ForgetPlan:
    staying = {s.id: set[str]() for decision in decisions for s in decision.backup.members}
    phase_of: dict[str, int] = {}
    snapshots: dict[str, Snapshot] = {}
    for decision in decisions:
        if decision.keep:
            for snapshot in decision.backup.members:
                staying[snapshot.id].add(decision.backup.tag)
            continue
        for phase, members in enumerate(_in_order(decision.backup)):
            for snapshot in members:  # shared by removed backups: the latest phase counts
                phase_of[snapshot.id] = max(phase, phase_of.get(snapshot.id, 0))
                snapshots[snapshot.id] = snapshot
    forget: list[set[str]] = [set() for _ in range(_PHASE_COUNT)]
    untag: list[dict[frozenset[str], set[str]]] = [{} for _ in range(_PHASE_COUNT)]
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
    return ForgetPlan(tuple(decisions), tuple(p for p in phases if p.forget or p.untag))


def _in_order(backup: Backup) -> tuple[list[Snapshot], list[Snapshot], list[Snapshot]]:
    """Return the snapshots in order of removal: manifests, others, oldest.

    Superseded snapshots are removed with the manifests; otherwise one could replace its successor.
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
    """Execute the plan; return the number of removed snapshots.

    A phase starts only after the repository shows the previous one as finished. `on_phase` receives
    the number of the phase and the number of phases. If the removal fails or is cancelled after the
    start, `say` receives a hint for the user. Raises UsageError before anything is removed if a
    backup to keep has changed since the plan was made, or one to remove has been protected, and
    errors of the restic driver.
    """
    await _nothing_changed(plan, repository)
    begun = False
    try:
        for number, phase in enumerate(plan.phases, 1):
            if on_phase is not None:
                on_phase(number, len(plan.phases))
            try:
                await _run_phase(phase, restic, repository)
            except RepositoryLockedError:  # nothing was changed yet
                raise
            except BaseException:
                begun = True
                raise
            begun = True
    except BaseException:
        if begun and say is not None:
            say(
                "The removal is incomplete; backups that lost a part count as incomplete. Run"
                " the same command again to remove the rest."
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
            f"restic did not remove all snapshots from {restic.access.display_url}. Run 'cesbr"
            " check', then run the same command again."
        )


async def _nothing_changed(plan: ForgetPlan, repository: SnapshotList) -> None:
    listed = await repository.snapshots()
    current = {snapshot.id for snapshot in listed}
    for backup in plan.staying:
        if not backup.identity <= current:
            raise UsageError(
                f"Backup {backup.id}, which is to be kept, has changed since the plan was made;"
                " nothing was removed. Run the command again."
            )
    protected = {name for s in listed if is_protected(s) for name in (s.id, s.original) if name}
    for backup in plan.going:
        if any(s.id in protected or s.original in protected for s in backup.members):
            raise UsageError(
                f"Backup {backup.id} has been protected since the plan was made; nothing was"
                " removed. Run the command again."
            )
