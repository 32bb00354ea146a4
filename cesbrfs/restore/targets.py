"""Map chosen paths to targets: below a directory, or in place on the instance."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cesbrfs.catalog import directory_names
from cesbrfs.errors import NotFoundError, UsageError
from cesbrfs.restore.selection import Item, Selection
from cesbrfs.util.escape import show
from cesbrfs.vfs.entries import Entry, VirtualDir
from cesbrfs.vfs.tree import BackupTree

BY_BACKUP: Final = ""
"""The suffix for ``.<backup ID>`` of each backup."""
_DOGUS: Final = (b"var", b"lib", b"ces")
_ETC: Final = b"etc"
_TO_DIRECTORY: Final = "restore it to a directory with --target and copy what you need."
_NO_PLACE: Final = f"its original location on the instance is not known; {_TO_DIRECTORY}"


@dataclass(frozen=True, slots=True)
class ToDirectory:
    """Restore below `path`: as shown below the backup, or below the Backup ID if several."""

    path: Path


@dataclass(frozen=True, slots=True)
class InPlace:
    """Restore to where the data lives on the instance whose root is `root`.

    Volumes go to ``ROOT/var/lib/ces/<dogu>/volumes/<volume>``, the configuration to ``ROOT/etc``.
    """

    root: Path = Path("/")


Target = ToDirectory | InPlace


def fixed_parts(parts: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
    """Return the parent directories of a target in place that belong to the instance.

    They are not part of a backup: all above a volume, or ``etc``. Symlinks there are followed.
    """
    length = len(_DOGUS) + 2 if parts[: len(_DOGUS)] == _DOGUS else 1
    return [parts[:end] for end in range(1, min(length, len(parts)) + 1)]


def directory_of(target: Target) -> Path:
    """Return the directory that everything is written to."""
    return target.path if isinstance(target, ToDirectory) else target.root


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that is not restored: its names below the target or the backup, and why."""

    parts: tuple[bytes, ...]
    reason: str

    @property
    def path(self) -> bytes:
        """The names joined."""
        return b"/".join(self.parts)


@dataclass(frozen=True, slots=True)
class RestoreItem:
    """One path to restore: its names below the target, and the entry for each of them.

    Directories that are in no backup, such as ``var`` in place, have no entry. `source` are its
    names from the root of the backups; with a suffix, the last name below the target differs.
    """

    parts: tuple[bytes, ...]
    entries: tuple[Entry | None, ...]
    source: tuple[bytes, ...]

    def named(self, suffix: bytes) -> RestoreItem:
        """Return the item with `suffix` appended to its name."""
        if not self.parts or len(self.source) == 1:
            raise UsageError("--suffix needs paths inside a backup. Add paths, or remove --suffix.")
        return replace(self, parts=(*self.parts[:-1], self.parts[-1] + suffix))


@dataclass(frozen=True, slots=True)
class RestoreItems:
    """The items of a selection; `root` is the entry of the target, if any."""

    root: Entry | None
    found: tuple[RestoreItem, ...]
    left_out: tuple[Refused, ...] = ()


async def land(
    view: BackupTree, selection: Selection, target: Target, suffix: str | None = None
) -> RestoreItems:
    """Return the targets of `selection`, each with `suffix` appended.

    Raises NotFoundError if a path does not exist any more, and UsageError for paths without a place
    on an instance.
    """
    if suffix is None:
        return await _land(view, selection, target, several=len(selection.backups) > 1)
    if "/" in suffix or "\0" in suffix:
        raise UsageError("A suffix cannot contain a slash or a null byte.")
    # Versions of one file from several backups are restored next to each other.
    several = len(selection.backups) > 1 and suffix != BY_BACKUP
    landings = await _land(view, selection, target, several=several)
    named = [
        landing.named(os.fsencode(suffix) or b"." + landing.source[0]) for landing in landings.found
    ]
    return replace(landings, found=tuple(named))


async def _land(
    view: BackupTree, selection: Selection, target: Target, *, several: bool
) -> RestoreItems:
    if isinstance(target, InPlace):
        if len(selection.backups) > 1:
            raise UsageError(
                "Only one backup can be restored in place. Choose paths of one backup, or pass"
                " --target."
            )
        return await _in_place(view, selection)
    found: list[RestoreItem] = []
    for item in selection.items:
        chain = await _chain(view, item)
        parts = (item.backup, *item.parts) if several else item.parts
        source = (item.backup, *item.parts)
        found.append(RestoreItem(parts, chain if several else chain[1:], source))
    root = view.root if several else await view.at(selection.backups[:1])
    return RestoreItems(root, tuple(found))


async def _chain(view: BackupTree, item: Item) -> tuple[Entry, ...]:
    """Return the entries of the path of `item`, from its backup to itself."""
    entry: Entry = view.root
    chain: list[Entry] = []
    for name in (item.backup, *item.parts):
        found = await view.child(entry, name)
        if found is None:
            shown = "/".join(show(part) for part in (item.backup, *item.parts))
            raise NotFoundError(f"There is no /{shown} any more. Choose again.")
        chain.append(found)
        entry = found
    return tuple(chain)


async def _in_place(view: BackupTree, selection: Selection) -> RestoreItems:
    found: list[RestoreItem] = []
    left_out: list[Refused] = []
    for item in selection.items:
        waiting = [(item.parts, (await _chain(view, item))[1:])]
        if item.backup == directory_names.SNAPSHOTS:
            raise UsageError(
                f"A snapshot of no backup has no place on the instance; {_TO_DIRECTORY}"
            )
        while waiting:
            parts, chain = waiting.pop()
            place = place_on_instance(parts)
            entry = chain[-1] if chain else await view.at((item.backup,))
            if place == () and isinstance(entry, VirtualDir):
                children = await view.children(entry)
                waiting += [((*parts, n), (*chain, children[n])) for n in sorted(children)[::-1]]
            elif place and isinstance(place, tuple):
                source = (item.backup, *parts)
                found.append(RestoreItem(place, _aligned(chain, len(place)), source))
            else:
                reason = place if isinstance(place, str) else _NO_PLACE
                if parts == item.parts:
                    shown = "/".join(show(part) for part in parts)
                    raise UsageError(f"{shown} cannot be restored in place: {reason}")
                left_out.append(Refused(parts, reason))
    return RestoreItems(None, tuple(found), tuple(left_out))


def _aligned(chain: Sequence[Entry], length: int) -> tuple[Entry | None, ...]:
    """Return the last `length` entries, with None before where there are fewer."""
    missing: list[Entry | None] = [None] * (length - len(chain))
    return tuple([*missing, *chain][-length:])


def place_on_instance(  # noqa: PLR0911 - one for each kind of place
    parts: Sequence[bytes],
) -> tuple[bytes, ...] | str:
    """Return where names below a backup belong below an instance's root.

    ``()`` means that the entries of the directory have separate places; a sentence is the reason
    why there is none.
    """
    match tuple(parts):
        case (directory_names.BACKUP_JSON,):
            return "it describes the backup and is not part of the instance."
        case (directory_names.SNAPSHOTS, *_):
            return f"the original location of whole snapshots is not known; {_TO_DIRECTORY}"
        case (_, directory_names.REGISTRY_JSON):
            return "use 'cesbr restore-registry' to restore its keys."
        case (_, directory_names.DOGU_JSON):
            return (
                f"install the dogu in this version instead; to read its dogu.json, {_TO_DIRECTORY}"
            )
        case (_, directory_names.DUMPS, *_):
            return f"load a dump with the tools of its database; {_TO_DIRECTORY}"
        case (
            ()
            | (_,)
            | (directory_names.INSTANCE, directory_names.CONFIGURATION)
            | (_, directory_names.VOLUMES)
        ):
            return ()
        case (directory_names.INSTANCE, directory_names.CONFIGURATION, b"etc", *rest):
            return (_ETC, *rest)
        case (dogu, directory_names.VOLUMES, *rest) if (
            dogu != directory_names.INSTANCE and b"%" not in dogu
        ):
            return (*_DOGUS, dogu, directory_names.VOLUMES, *rest)
    return _NO_PLACE
