"""Copy whole backups to another repository with `restic copy`.

Every snapshot of a backup is copied, and then its manifest: an interrupted copy of a backup is
incomplete. A copied snapshot has a new ID and its first ID as `original`, by which the manifest
finds it, and by which the next copy skips it, whatever tags it got since.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence

from cesbrfs.catalog.backups import Backup, SnapshotList, backup_ids
from cesbrfs.errors import ResticError
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.restic import Restic


def missing_snapshots(
    backup: Backup, copied: Iterable[Snapshot], pattern: re.Pattern[str]
) -> list[Snapshot]:
    """Return the snapshots of `backup` that are not among `copied`, the manifest last.

    Superseded snapshots are left out: in the copy, nothing marks them as older than their
    successors.
    """
    present = {
        (snapshot.original or snapshot.id, snapshot.tree)
        for snapshot in copied
        if backup.tag in backup_ids(snapshot, pattern)
    }
    wanted = (*backup.snapshots, *((backup.manifest,) if backup.manifest else ()))
    return [s for s in wanted if (s.original or s.id, s.tree) not in present]


def copy_of(backup: Backup, copies: Collection[Backup]) -> Backup | None:
    """Return the one of `copies` that contains snapshots of `backup`, None if there is none.

    Its ID is another one if it is the only copied run under the tag.
    """
    first_ids = {s.original or s.id for s in backup.members}
    return next(
        (
            copy
            for copy in copies
            if copy.tag == backup.tag
            and any((s.original or s.id) in first_ids for s in copy.members)
        ),
        None,
    )


async def copy_backups(
    backups: Sequence[Backup],
    *,
    source: Restic,
    target: Restic,
    repository: SnapshotList,
    pattern: re.Pattern[str],
    on_line: Callable[[str], None] | None = None,
) -> int:
    """Copy what `repository`, which is read at `target`, lacks of `backups`.

    Returns the number of copied snapshots. The manifests are copied after everything else is
    visible in the target. `on_line` gets restic's output. Raises the errors of the restic driver,
    and ResticError if a snapshot is missing afterwards.
    """
    copied: set[str] = set()
    for manifests in (False, True):
        wanted = await _missing(backups, repository, pattern, manifests=manifests)
        if not wanted:
            continue
        await target.copy(source, wanted, on_line=on_line)
        left = await _missing(backups, repository, pattern, manifests=manifests)
        if left:
            raise ResticError(
                f"restic did not copy {len(left):,} of the snapshots to"
                f" {target.access.display_url}; the copy is incomplete. Run the command again."
            )
        copied |= wanted
    return len(copied)


async def _missing(
    backups: Sequence[Backup],
    repository: SnapshotList,
    pattern: re.Pattern[str],
    *,
    manifests: bool,
) -> set[str]:
    """Return the IDs of the missing manifests, or of the missing other snapshots."""
    present = await repository.snapshots()
    return {
        snapshot.id
        for backup in backups
        for snapshot in missing_snapshots(backup, present, pattern)
        if (snapshot is backup.manifest) == manifests
    }
