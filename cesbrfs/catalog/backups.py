"""Group snapshots into backups. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cesbrfs.catalog.annotations import is_annotation, is_protected, note_of
from cesbrfs.catalog.directory_names import LATEST, directory_name
from cesbrfs.catalog.rules import DEFAULT_BACKUP_TAG
from cesbrfs.catalog.runs import Run, split
from cesbrfs.errors import NotFoundError
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.util.escape import show, unshow
from cesbrfs.util.suggest import did_you_mean

MANIFEST: Final = "manifest"
SAFETY_TAG: Final = "purpose=safety"
"""Tag of the backup that an in-place restore makes of the data it replaces."""
REPAIRED: Final = "repaired"
"""restic's tag of snapshots written by ``repair snapshots``; they lack some content."""
_RESTIC_TAGS: Final = ("rewrite", REPAIRED)
"""Tags that restic sets automatically; they are not Backup IDs."""
_LISTED_BACKUPS: Final = 3
"""Number of backups listed in the error for an ambiguous ID."""


def tag_value(snapshot: Snapshot, key: str) -> str | None:
    """Return the value of the tag ``key=…``; None if the tag is missing or empty."""
    prefix = f"{key}="
    for tag in snapshot.tags:
        if tag.startswith(prefix):
            return tag[len(prefix) :] or None
    return None


def backup_ids(snapshot: Snapshot, pattern: re.Pattern[str] = DEFAULT_BACKUP_TAG) -> list[str]:
    """Return the distinct Backup IDs in the tags of a snapshot."""
    return list(dict.fromkeys(id_tags(snapshot, pattern).values()))


def id_tags(snapshot: Snapshot, pattern: re.Pattern[str] = DEFAULT_BACKUP_TAG) -> dict[str, str]:
    """Return the tags of a snapshot that contain a Backup ID, mapped to that ID."""
    tags = (t for t in snapshot.tags if t not in _RESTIC_TAGS and not is_annotation(t))
    found = ((tag, pattern.fullmatch(tag)) for tag in tags)
    return {tag: match["id"] for tag, match in found if match and match["id"]}


class SnapshotList(Protocol):
    """The part of `Repository` that writing code needs: the current list of snapshots."""

    async def snapshots(self) -> list[Snapshot]:
        """List the snapshots."""
        ...


@dataclass(frozen=True, slots=True)
class Backup:
    """The snapshots of one run on one host under one Backup ID, oldest first.

    `id` is the Backup ID, `name` the name of its directory, `manifest` the newest manifest
    snapshot. `superseded` are snapshots that were rewritten and whose successor is listed;
    `snapshots` are all others. `tag` is the Backup ID as tagged. If several backups share a tag,
    `id` has the time and host appended.
    """

    id: str
    name: bytes
    snapshots: tuple[Snapshot, ...]
    manifest: Snapshot | None
    superseded: tuple[Snapshot, ...] = ()
    tag: str = ""

    @property
    def members(self) -> tuple[Snapshot, ...]:
        """All snapshots of the backup, the superseded ones first, the manifest last."""
        return (*self.superseded, *self.snapshots, *((self.manifest,) if self.manifest else ()))

    @property
    def time_ns(self) -> int:
        """Start of the backup: the time of its oldest snapshot, in ns since the epoch."""
        times = [s.time_ns for s in self.snapshots]
        if not times and self.manifest:
            times = [self.manifest.time_ns]
        return min(times, default=0)

    @property
    def host(self) -> str:
        """Host name of the oldest snapshot."""
        return next((s.hostname for s in (*self.snapshots, self.manifest) if s), "")

    @property
    def safety(self) -> bool:
        """Whether this is a safety backup, made by an in-place restore."""
        return any(SAFETY_TAG in s.tags for s in self.members)

    @property
    def protected(self) -> bool:
        """Whether the backup must not be removed: any of its snapshots has the tag."""
        return any(map(is_protected, self.members))

    @property
    def note(self) -> str | None:
        """The note on the backup: that of the manifest, or else of the oldest snapshot with one."""
        listed = (*([self.manifest] if self.manifest else ()), *self.snapshots, *self.superseded)
        return next(filter(None, map(note_of, listed)), None)

    @property
    def made_by_cesbr(self) -> bool:
        """Whether cesbr made the backup: it has a manifest or ``kind=`` tags."""
        return self.manifest is not None or any(tag_value(s, "kind") for s in self.snapshots)

    @property
    def identity(self) -> frozenset[str]:
        """The set of snapshot IDs; a cache key that changes with any snapshot."""
        return frozenset(s.id for s in self.members)


@dataclass(frozen=True, slots=True)
class Backups:
    """All backups by directory name, oldest first; `loose` are snapshots of no backup."""

    by_name: dict[bytes, Backup]
    loose: tuple[Snapshot, ...]

    @property
    def snapshot_ids(self) -> frozenset[str]:
        """The IDs of all snapshots, of backups and of none."""
        members = (backup.identity for backup in self.by_name.values())
        return frozenset(s.id for s in self.loose).union(*members)

    def find(self, wanted: str) -> Backup:
        """Return the backup with this ID, directory name, or unique ID prefix.

        Raises NotFoundError if none or several match.
        """
        exact = [b for b in self.by_name.values() if b.id == wanted]
        exact = exact or [b for b in self.by_name.values() if _meant(wanted) == b.id]
        if exact:
            return exact[0]
        sharing = [b for b in self.by_name.values() if b.tag == wanted]
        if sharing:
            raise NotFoundError(
                f"{len(sharing):,} backups have the tag {wanted!r}: {_newest(sharing)}. Pass the"
                " full Backup ID of one."
            )
        named = self.by_name.get(wanted.encode("utf-8", "surrogateescape"))
        if named:
            return named
        starting = self.starting(wanted)
        if len(starting) == 1:
            return starting[0]
        if starting:
            raise NotFoundError(
                f"{len(starting):,} backups begin with {wanted!r}: {_newest(starting)}. Pass more"
                " characters of the Backup ID."
            )
        known = [LATEST.decode(), *(backup.id for backup in self.by_name.values())]
        hint = did_you_mean(wanted, known, ". Run 'cesbr backups' for a list.")
        raise NotFoundError(f"There is no backup {wanted!r}{hint}")

    def starting(self, wanted: str) -> list[Backup]:
        """Return the backups whose IDs begin so, as they are or escaped as they are shown."""
        either = (wanted, _meant(wanted))
        return [b for b in self.by_name.values() if wanted and b.id.startswith(either)]

    def until(self, time_ns: int) -> list[Backup]:
        """Return the backups made at or before this time, oldest first."""
        return [b for b in self.by_name.values() if b.time_ns <= time_ns]


def group(snapshots: Iterable[Snapshot], pattern: re.Pattern[str] = DEFAULT_BACKUP_TAG) -> Backups:
    """Group snapshots by the Backup IDs in their tags; a snapshot may be in several backups."""
    members: dict[str, list[Snapshot]] = {}
    loose: list[Snapshot] = []
    for snapshot in sorted(snapshots, key=lambda s: (s.time_ns, s.id)):
        ids = backup_ids(snapshot, pattern)
        for backup_id in ids:
            members.setdefault(backup_id, []).append(snapshot)
        if not ids:
            loose.append(snapshot)
    runs = [(tag, split(found)) for tag, found in members.items()]
    # A tag used by a single run is its Backup ID; generated IDs must not collide with it.
    taken = {tag for tag, found in runs if len(found) == 1}
    backups = [
        _backup(tag if len(found) == 1 else _generated_id(tag, run, taken), tag, run)
        for tag, found in runs
        for run in found
    ]
    backups.sort(key=lambda backup: (backup.time_ns, backup.name))
    return Backups({backup.name: backup for backup in backups}, tuple(loose))


def _backup(backup_id: str, tag: str, run: Run) -> Backup:
    manifests = [s for s in run.snapshots if tag_value(s, "kind") == MANIFEST]
    manifest = manifests[-1] if manifests else None
    others = tuple(s for s in run.snapshots if s is not manifest)
    superseded = tuple(run.superseded)
    return Backup(backup_id, directory_name(backup_id), others, manifest, superseded, tag)


def _generated_id(tag: str, run: Run, taken: set[str]) -> str:
    """Generate the Backup ID of one of several runs with the same tag; add it to `taken`.

    Example: ``nightly@20261122T213000Z@ces.example.org``.
    """
    first = run.snapshots[0]
    stamp = format_time(first.time_ns).partition(".")[0].replace("-", "").replace(":", "")
    found = "@".join(filter(None, (tag, stamp + "Z", first.hostname)))
    while found in taken:  # another run in the same second
        found += f"@{first.id[:8]}"
    taken.add(found)
    return found


def _meant(wanted: str) -> str:
    """Return the Backup ID that was typed as people see it: with its escapes undone."""
    meant = unshow(wanted)
    return wanted if meant is None else meant.decode("utf-8", "surrogateescape")


def _newest(backups: Sequence[Backup]) -> str:
    """List the IDs of the newest backups."""
    more = ", …" if len(backups) > _LISTED_BACKUPS else ""
    return ", ".join(show(os.fsencode(b.id)) for b in backups[: -_LISTED_BACKUPS - 1 : -1]) + more
