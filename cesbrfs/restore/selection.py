"""What was chosen for a restore: paths of the tree, each once.  Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cesbrfs.catalog import directory_names
from cesbrfs.errors import UsageError
from cesbrfs.vfs.entries import ResolvedPath

_SEVERAL: Final = "restored"


@dataclass(frozen=True, slots=True)
class Item:
    """One chosen path: the directory name of its backup, and the names below the backup.

    For snapshots of no backup `backup` is ``_snapshots``, and the first of `parts` the short ID.
    """

    backup: bytes
    parts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen paths, sorted, none below another. Created by `select`."""

    items: tuple[Item, ...]

    @property
    def backups(self) -> tuple[bytes, ...]:
        """The directory names of the backups that something was chosen from."""
        return tuple(dict.fromkeys(item.backup for item in self.items))


def select(located: Iterable[ResolvedPath]) -> Selection:
    """Return the selection of these paths; UsageError when there is none, or the root itself.

    Duplicates, and paths below another chosen one, are the same as that one.
    """
    chosen = sorted({place.parts for place in located})
    if not chosen:
        raise UsageError("Nothing to restore. Pass a path of a backup.")
    if chosen[0] == ():
        raise UsageError(
            "Only a backup or a path in it can be restored, not all backups at once. Pass a backup"
            " or a path in one."
        )
    items: list[Item] = []
    last: tuple[bytes, ...] | None = None
    for parts in chosen:  # sorted: paths below another follow it directly
        if last is None or parts[: len(last)] != last:
            items.append(Item(parts[0], parts[1:]))
            last = parts
    return Selection(tuple(items))


def default_target(selection: Selection) -> Path:
    """Return where a selection goes when no target is given: ``restored-<backup-id>``.

    It is ``restored`` for several backups, and named by the snapshot for one of no backup.
    """
    if len(selection.backups) != 1:
        return Path(_SEVERAL)
    (name,) = selection.backups
    if name == directory_names.SNAPSHOTS:
        snapshots = {item.parts[0] if item.parts else b"" for item in selection.items}
        if len(snapshots) != 1 or snapshots == {b""}:
            return Path(_SEVERAL)
        (name,) = snapshots
    return Path(f"{_SEVERAL}-{os.fsdecode(name)}")
