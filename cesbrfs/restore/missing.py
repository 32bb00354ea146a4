"""What a backup lacks of what is to be restored, by its manifest."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from cesbrfs.catalog import directory_names
from cesbrfs.catalog.completeness import missing_points, repaired_points
from cesbrfs.catalog.manifest import Point
from cesbrfs.errors import BlobMissingError, DamagedError
from cesbrfs.restore.selection import Item, Selection
from cesbrfs.restore.targets import InPlace, Refused, Target, place_on_instance
from cesbrfs.vfs.tree import BackupTree

_WITH_PARTS = 2
"""Names that lead to a point of data; below that, what was chosen is there."""


async def lacking(view: BackupTree, selection: Selection, target: Target) -> list[Refused]:
    """Return what cannot be restored of `selection`, because its backups do not hold it.

    That is a point of data whose snapshot is gone or cannot be read, and each path that could not
    be backed up.  What has no place on an instance is not looked for when it is restored in place.
    """
    found: dict[Refused, None] = {}
    backups = (await view.backups()).by_name
    for item in selection.items:
        backup = backups.get(item.backup)
        if backup is None:  # snapshots of no backup
            continue
        above = (item.backup,) if len(selection.backups) > 1 else ()
        manifest = (await view.reports.of(backup)).manifest
        if manifest is None:
            if backup.made_by_cesbr and _has_points(item):
                reason = "This backup has no readable manifest: what it lacks is not recorded."
                found[Refused((item.backup, *item.parts), reason)] = None
            continue
        missing = {id(point) for point in missing_points(backup, manifest)}
        repaired: list[Point] = []
        with contextlib.suppress(DamagedError, BlobMissingError):  # which the restore will name
            repaired = await repaired_points(view.repository, backup, manifest)
        repaired_ids = {id(point) for point in repaired}
        for point in manifest.points:
            place = directory_names.point_path(point.kind, point.dogu)
            in_place = place_on_instance(place)
            if isinstance(target, InPlace) and isinstance(in_place, str):
                continue
            if _apart(item, place):
                continue
            for reason in _reasons(item, place, point, missing=id(point) in missing):
                found[Refused((*above, *place), reason)] = None
            if id(point) in repaired_ids:
                reason = "A repair or a rewrite of the repository removed some of its content."
                found[Refused((*above, *place), reason)] = None
    return list(found)


def _has_points(item: Item) -> bool:
    """Check whether an item is a backup, a dogu or a point of several files in it."""
    if item.parts[:1] in ((directory_names.BACKUP_JSON,), (directory_names.SNAPSHOTS,)):
        return False
    alone = item.parts[1:] in ((directory_names.DOGU_JSON,), (directory_names.REGISTRY_JSON,))
    return len(item.parts) <= _WITH_PARTS and not alone


def _apart(item: Item, place: tuple[bytes, ...]) -> bool:
    """Check whether an item and the place of a point have nothing in common."""
    shared = min(len(item.parts), len(place))
    return item.parts[:shared] != place[:shared]


def _reasons(item: Item, place: tuple[bytes, ...], point: Point, *, missing: bool) -> Iterator[str]:
    """Yield why `point` lacks something of `item`."""
    if missing and point.snapshot:
        yield f"Its snapshot {point.snapshot[:8]} is missing or cannot be read. Run 'cesbr check'."
    elif missing and not point.failed:
        yield "It was not backed up."
    rest = item.parts[len(place) :]
    for failed in point.failed:
        if _concerns(os.fsencode(failed.path), rest):
            yield f"{failed.path} was not backed up: {failed.error}"


def _concerns(path: bytes, rest: tuple[bytes, ...]) -> bool:
    """Check whether a path of the instance is at, above or below the names `rest` in a point."""
    parts = tuple(path.strip(b"/").split(b"/"))
    ends = (parts[at:] for at in range(len(parts)))
    return not rest or any(end[: len(rest)] == rest[: len(end)] for end in ends)
