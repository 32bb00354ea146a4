"""Grouping: which snapshots make up which backup.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from cesbrfs.catalog.names import LATEST, folder_name
from cesbrfs.errors import NotFoundError
from cesbrfs.near import did_you_mean
from cesbrfs.repo.model import Snapshot

BARE_TAG: Final = re.compile(r"(?P<id>[^=]+)")
"""The default of what a Backup ID's tag looks like: any tag without ``=``."""

MANIFEST: Final = "manifest"
_NAMED: Final = 3
"""Backups that are named where several begin alike."""


def tag_value(snapshot: Snapshot, key: str) -> str | None:
    """Return what the snapshot's tag ``key=…`` says, None without such a tag."""
    prefix = f"{key}="
    for tag in snapshot.tags:
        if tag.startswith(prefix):
            return tag[len(prefix) :] or None
    return None


def backup_ids(snapshot: Snapshot, pattern: re.Pattern[str] = BARE_TAG) -> list[str]:
    """Return the IDs of the backups that the snapshot belongs to, each once."""
    found: dict[str, None] = {}
    for tag in snapshot.tags:
        match = pattern.fullmatch(tag)
        if match and match["id"]:
            found[match["id"]] = None
    return list(found)


class SnapshotList(Protocol):
    """What those who write need of the reader: which snapshots the repository holds now."""

    async def snapshots(self) -> list[Snapshot]:
        """List the snapshots."""
        ...


@dataclass(frozen=True, slots=True)
class Backup:
    """All snapshots of one Backup ID, oldest first.

    `id` is what the tag says, `name` the folder that stands for it, `manifest` the newest of its
    manifest snapshots; `snapshots` are the others.
    """

    id: str
    name: bytes
    snapshots: tuple[Snapshot, ...]
    manifest: Snapshot | None

    @property
    def time_ns(self) -> int:
        """When the backup began: the time of its oldest snapshot, in nanoseconds since 1970."""
        times = [s.time_ns for s in self.snapshots]
        if not times and self.manifest:
            times = [self.manifest.time_ns]
        return min(times, default=0)

    @property
    def ours(self) -> bool:
        """Whether its snapshots say what they hold, as those of our own backups do."""
        return self.manifest is not None or any(tag_value(s, "kind") for s in self.snapshots)

    @property
    def identity(self) -> frozenset[str]:
        """What changes exactly when a snapshot comes or goes: the set of their IDs."""
        ids = {s.id for s in self.snapshots}
        return frozenset(ids | {self.manifest.id} if self.manifest else ids)


@dataclass(frozen=True, slots=True)
class Backups:
    """All backups of a repository by folder name, oldest first, and the snapshots of none."""

    by_name: dict[bytes, Backup]
    loose: tuple[Snapshot, ...]

    def find(self, wanted: str) -> Backup:
        """Return the backup with this ID or folder name, or the only one that begins so.

        Raises NotFoundError when there is none, or more than one.
        """
        exact = [b for b in self.by_name.values() if b.id == wanted]
        if exact:
            return exact[0]
        named = self.by_name.get(wanted.encode("utf-8", "surrogateescape"))
        if named:
            return named
        starting = self.starting(wanted)
        if len(starting) == 1:
            return starting[0]
        if starting:
            newest = ", ".join(backup.id for backup in starting[: -_NAMED - 1 : -1])
            more = ", …" if len(starting) > _NAMED else ""
            raise NotFoundError(
                f"{len(starting):,} backups begin with {wanted!r}: {newest}{more}; give more of the"
                " Backup ID."
            )
        known = [LATEST.decode(), *(backup.id for backup in self.by_name.values())]
        hint = did_you_mean(wanted, known, "; 'cesbr backups' lists those there are.")
        raise NotFoundError(f"There is no backup {wanted!r}{hint}")

    def starting(self, wanted: str) -> list[Backup]:
        """Return the backups whose IDs begin so."""
        return [b for b in self.by_name.values() if wanted and b.id.startswith(wanted)]

    def until(self, time_ns: int) -> list[Backup]:
        """Return the backups that there were at this time, oldest first."""
        return [b for b in self.by_name.values() if b.time_ns <= time_ns]


def group(snapshots: Iterable[Snapshot], pattern: re.Pattern[str] = BARE_TAG) -> Backups:
    """Group snapshots by the Backup IDs in their tags; one may belong to several backups."""
    members: dict[str, list[Snapshot]] = {}
    loose: list[Snapshot] = []
    for snapshot in sorted(snapshots, key=lambda s: (s.time_ns, s.id)):
        ids = backup_ids(snapshot, pattern)
        for backup_id in ids:
            members.setdefault(backup_id, []).append(snapshot)
        if not ids:
            loose.append(snapshot)
    backups = [_backup(backup_id, found) for backup_id, found in members.items()]
    backups.sort(key=lambda backup: (backup.time_ns, backup.name))
    return Backups({backup.name: backup for backup in backups}, tuple(loose))


def _backup(backup_id: str, members: list[Snapshot]) -> Backup:
    manifests = [s for s in members if tag_value(s, "kind") == MANIFEST]
    manifest = manifests[-1] if manifests else None
    others = tuple(s for s in members if s is not manifest)
    return Backup(backup_id, folder_name(backup_id), others, manifest)
