"""Begin and end the undo log of a restore. Blocking."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from cesbrfs.restore.dirfd import DirFd
from cesbrfs.restore.keeper import Keeper
from cesbrfs.restore.overwrite import Action
from cesbrfs.restore.plan import RestorePlan
from cesbrfs.restore.replaced import REPLACED, mount_id, open_private, real_path, remove_place
from cesbrfs.restore.undo_log import NewUndo, read_log
from cesbrfs.util.escape import show

_REPLACING: Final = (Action.OVERWRITE, Action.REDO)
_SMALL_LOG: Final = 64 << 10
"""A larger log, in bytes, is not read to find out whether it is empty."""


def begin(keeper: Keeper, plan: RestorePlan, target: int, new: NewUndo) -> None:
    """Open the directories for replaced files, and log what will be replaced; raises RestoreError.

    The log is flushed to disk, so that a crash of the machine loses no replaced file.
    """
    keep = plan.keep
    assert keep is not None
    keeper.log.begin(new, plan.target, (b"/".join(item.parts) for item in plan.landings))
    keep.of(mount_id(target), ())
    name = os.fsencode(new.file.stem)
    with DirFd(target, plan.followed) as directories:
        for number, (mount, kept) in enumerate(keep.mounts.items()):
            if number and not kept.files:
                continue
            base = keep.open(mount, target, directories)
            try:
                path = os.path.join(os.fsencode(real_path(base)), name)
                keeper.log.add(("place", show(path)))
                keeper.places[mount] = open_private(base, name)
            finally:
                os.close(base)
            if keep.directory is not None:
                break
    lines: list[tuple[object, ...]] = [
        ("follows", show(b"/".join(parts))) for parts in plan.followed
    ]
    lines += (
        ("replaces", show(file.path))
        for directory in plan.order
        for file in directory.files
        if file.action in _REPLACING
    )
    lines += (("deletes", show(extra.path)) for extra in plan.extras if not extra.is_directory)
    keeper.log.add(*lines, sync=True)


def end(keeper: Keeper, new: NewUndo) -> None:
    """Close the directories for replaced files; remove those that are empty, and an empty log."""
    for place in keeper.places.values():
        with suppress(OSError):
            os.rmdir(REPLACED, dir_fd=place)
        path = real_path(place)
        os.close(place)
        remove_place(path)
        if not path.exists():
            keeper.log.add(("empty", show(os.fsencode(path))))
    if os.fstat(keeper.log.descriptor).st_size < _SMALL_LOG and read_log(new.file).is_empty:
        new.file.unlink(missing_ok=True)
    keeper.log.close()
