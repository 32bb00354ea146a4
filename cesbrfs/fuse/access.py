"""Keep what holds secrets from other users of a mount that is open to all.

Registry data contains passwords, the repository's own among them, and so do database dumps. They
were stored through pipes, so that the modes recorded for them protect nothing.
"""

from __future__ import annotations

import dataclasses
import stat
from typing import Final

import msgspec

from cesbrfs.catalog import directory_names
from cesbrfs.catalog.backups import tag_value
from cesbrfs.vfs.entries import Entry, MergedDir, SnapshotEntry

_SECRET: Final = frozenset(
    {directory_names.INSTANCE, directory_names.REGISTRY_JSON, directory_names.DUMPS}
)
_KINDS: Final = frozenset({"registry", "dump"})
_OTHERS_NAMES: Final = frozenset(
    {directory_names.VOLUMES, directory_names.CONFIGURATION, directory_names.SNAPSHOTS}
)
"""Directories of ours in which names are not ours: a volume may be called ``dumps``."""


def for_owner_only(parent: Entry, entry: Entry, uid: int, gid: int) -> Entry:
    """Return `entry` of our directory `parent`, readable by user `uid` alone if secret."""
    if isinstance(parent, MergedDir):
        return _closed(entry, uid, gid) if _is_secret_path((*parent.parts, entry.name)) else entry
    whole = isinstance(entry, SnapshotEntry) and entry.top
    if whole and isinstance(entry, SnapshotEntry):
        secret = tag_value(entry.snapshot, "kind") in _KINDS
    else:
        secret = entry.name in _SECRET and parent.name not in _OTHERS_NAMES
    return _closed(entry, uid, gid) if secret else entry


def _is_secret_path(parts: tuple[bytes, ...]) -> bool:
    """Return whether a path below a backup has secrets; names further down are not ours."""
    match parts:
        case (directory_names.INSTANCE,):
            return True
        case (_, directory_names.REGISTRY_JSON | directory_names.DUMPS):
            return True
    return False


def _closed(entry: Entry, uid: int, gid: int) -> Entry:
    node = entry.node
    mode = stat.S_IFMT(node.mode) | (0o500 if stat.S_ISDIR(node.mode) else 0o400)
    private = msgspec.structs.replace(node, mode=mode, uid=uid, gid=gid, xattrs=())
    return dataclasses.replace(entry, node=private)
