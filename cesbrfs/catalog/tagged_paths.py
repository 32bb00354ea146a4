"""Paths below a backup for the data of snapshots with the tags ``kind=`` and ``dogu=``. Pure."""

from __future__ import annotations

from typing import Final

from cesbrfs.catalog import directory_names
from cesbrfs.catalog.backups import tag_value
from cesbrfs.repo.format.model import Node, Snapshot

Names = tuple[bytes, ...]

_MISSING_BLOB: Final = bytes(32)
"""ID of no blob: opening a file that consists of it raises BlobMissingError."""


def owner_directory(dogu: str | None) -> bytes:
    """Return the directory name of a dogu, or that of the instance."""
    return directory_names.directory_name(dogu) if dogu else directory_names.INSTANCE


def document_path(kind: str | None, dogu: str | None, name: bytes) -> Names | None:
    """Return where a file with the name `name` is placed; None if the tags do not say."""
    files = {
        "metadata": (directory_names.DOGU_JSON,),
        "registry": (directory_names.REGISTRY_JSON,),
        "dump": (directory_names.DUMPS, name),
    }
    if kind not in files or not (dogu or kind == "registry"):
        return None
    return (owner_directory(dogu), *files[kind])


def configuration_path(path: str, name: bytes) -> Names:
    """Return the path from its last part ``etc``, or else the base name `name`."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    if "etc" in parts:
        at = len(parts) - 1 - parts[::-1].index("etc")
        return tuple(part.encode("utf-8", "surrogateescape") for part in parts[at:])
    return (name or b"files",)


def volume_path(path: str, name: bytes) -> Names:
    """Return the path after ``volumes/``, or else the base name `name`."""
    _, found, rest = path.rpartition("/volumes/")
    parts = [part for part in rest.split("/") if part not in ("", ".", "..")] if found else []
    if len(parts) > 1:
        return tuple(part.encode("utf-8", "surrogateescape") for part in parts)
    return (name or (parts[0].encode("utf-8", "surrogateescape") if parts else b"files"),)


def holds_all_volumes(path: str) -> bool:
    """Return whether a path is that of the directory of all volumes of a dogu."""
    return path.rstrip("/").rpartition("/")[2] == "volumes"


def unreadable_nodes(snapshot: Snapshot) -> dict[Names, Node]:
    """Return nodes for the data of a snapshot whose trees cannot be read, by path.

    Listing or opening them raises an error: without them, the data would be missing silently.
    """
    kind, dogu = tag_value(snapshot, "kind"), tag_value(snapshot, "dogu")
    owner = owner_directory(dogu)
    found: dict[Names, Node] = {}
    for path in snapshot.paths:
        name = path.rstrip("/").rpartition("/")[2].encode("utf-8", "surrogateescape")
        document = document_path(kind, dogu, name)
        if document is not None:
            found[document] = _unreadable(snapshot, document[-1], is_file=True)
        elif kind == "configuration":
            at = (owner, directory_names.CONFIGURATION, *configuration_path(path, name))
            found[at] = _unreadable(snapshot, at[-1])
        elif kind == "volumes" and dogu:
            below = () if holds_all_volumes(path) else volume_path(path, name)
            at = (owner, directory_names.VOLUMES, *below)
            found[at] = _unreadable(snapshot, at[-1])
    return found


def unreadable_volumes(snapshot: Snapshot) -> Node:
    """Return the node of the directory of all volumes of a dogu that cannot be listed."""
    return _unreadable(snapshot, directory_names.VOLUMES)


def _unreadable(snapshot: Snapshot, name: bytes, *, is_file: bool = False) -> Node:
    return Node(
        name=name,
        type="file" if is_file else "dir",
        mode=0o100400 if is_file else 0o40500,
        mtime_ns=snapshot.time_ns,
        atime_ns=snapshot.time_ns,
        ctime_ns=snapshot.time_ns,
        content=_MISSING_BLOB if is_file else b"",
    )
