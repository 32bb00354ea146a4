"""Protect backups from removal, and describe them with a note, as tags of their snapshots.

`restic tag` replaces a snapshot by one with a new ID, which records the first ID as `original`.
Only the manifest is changed if there is one, so that the snapshots that it names, and open files of
a mount, stay as they are. A backup without a manifest, such as one of another tool, is protected by
a tag on each of its snapshots, and carries its note on the oldest one. One tag is enough for a
backup to be protected, so an interrupted change never leaves it without protection by mistake.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cesbrfs.catalog.annotations import PROTECTED_TAG, is_protected, note_tag, note_tags
from cesbrfs.catalog.backups import Backup, SnapshotList
from cesbrfs.errors import ResticError
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.restic import Restic


async def protect(
    backups: Collection[Backup], *, restic: Restic, repository: SnapshotList
) -> list[Backup]:
    """Protect `backups`; return those that changed.

    A backup of which only a part is tagged is tagged completely. Raises errors of the restic
    driver, and ResticError if the change is not visible afterwards.
    """
    targets = {backup.id: _untagged(backup) for backup in backups}
    snapshots = [snapshot for found in targets.values() for snapshot in found]
    await _tag(snapshots, restic, repository, add=[PROTECTED_TAG])
    return [backup for backup in backups if targets[backup.id]]


async def unprotect(
    backups: Collection[Backup], *, restic: Restic, repository: SnapshotList
) -> list[Backup]:
    """Remove the protection of `backups`; return those that changed."""
    snapshots = [s for backup in backups for s in backup.members if is_protected(s)]
    await _tag(snapshots, restic, repository, remove=[PROTECTED_TAG])
    return [backup for backup in backups if backup.protected]


async def set_note(
    backup: Backup, text: str | None, *, restic: Restic, repository: SnapshotList
) -> bool:
    """Replace the note of `backup` by `text`, or remove it; return whether anything changed.

    Each snapshot is replaced by one with the new note in a single step. Raises UsageError for an
    invalid note.
    """
    new = [] if text is None else [note_tag(text)]
    noted = [snapshot for snapshot in backup.members if note_tags(snapshot)]
    carrier = backup.manifest or backup.snapshots[0]
    targets = {s.id: s for s in (*noted, *([carrier] if new else []))}
    wrong = [snapshot for snapshot in targets.values() if note_tags(snapshot) != new]
    old = {tag for snapshot in wrong for tag in note_tags(snapshot)}
    # restic adds first, so a tag in both lists would be lost.
    await _tag(wrong, restic, repository, add=new, remove=sorted(old.difference(new)))
    return bool(wrong)


def _untagged(backup: Backup) -> list[Snapshot]:
    """Return the snapshots that lack the tag of a protected backup."""
    wanted = [backup.manifest] if backup.manifest else backup.snapshots
    return [snapshot for snapshot in wanted if not is_protected(snapshot)]


async def _tag(
    snapshots: Sequence[Snapshot],
    restic: Restic,
    repository: SnapshotList,
    *,
    add: Collection[str] = (),
    remove: Collection[str] = (),
) -> None:
    """Change tags, and make sure that the successors of the snapshots have them."""
    if not snapshots:
        return
    await restic.tag({snapshot.id for snapshot in snapshots}, add=add, remove=remove)
    first_ids = {snapshot.original or snapshot.id for snapshot in snapshots}
    current = [s for s in await repository.snapshots() if (s.original or s.id) in first_ids]
    changed = {s.original or s.id for s in current if set(add) <= set(s.tags)}
    if changed != first_ids or any(set(remove) & set(s.tags) for s in current):
        raise ResticError(
            f"restic did not change the tags of all snapshots in {restic.access.display_url}. Run"
            " the command again."
        )
