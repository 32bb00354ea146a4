"""Compare a planned tree with the target. Blocking."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import Final

import trio

from cesbrfs.errors import RestoreError
from cesbrfs.restore.dirfd import (
    DirFd,
    Room,
    TargetState,
    follow,
    listed,
    lookup,
    obstacle,
    one_file,
    open_target,
    tell,
)
from cesbrfs.restore.journal import JournalWriter, PreviousRun
from cesbrfs.restore.mirror import find_extras
from cesbrfs.restore.overwrite import Action, Overwrite
from cesbrfs.restore.permissions import is_closed, open_up
from cesbrfs.restore.plan import Extra, PlannedDirectory, PlannedFile, RestorePlan
from cesbrfs.restore.replaced import KeepPlan, mount_id
from cesbrfs.restore.targets import Refused
from cesbrfs.restore.unchanged import looks_same

_AS_WANTED: Final = (Action.DONE, Action.UNCHANGED)


def survey(planned: RestorePlan, state: TargetState) -> None:
    """Compare the planned tree with the target; set actions, order and totals."""
    (root,) = planned.order
    planned.order = []
    root.exists, root.device = state.exists, state.device
    if state.room:
        planned.rooms[state.device] = state.room
    if planned.keep is not None and (elsewhere := planned.keep.room()) is not None:
        planned.keep_device = planned.keep.device()
        planned.rooms.setdefault(planned.keep_device, elsewhere)
    descriptor = open_target(planned.target, create=False) if state.exists else -1
    try:
        _survey(planned, descriptor, root)
    finally:
        if state.exists:
            os.close(descriptor)


def survey_closed(planned: RestorePlan, target: int, journal: JournalWriter | None) -> None:
    """Make closed directories searchable, and plan their content, in which nothing is deleted."""
    planned.delete = False  # it was not in the plan that was shown
    while planned.closed:
        directory = planned.closed.pop()
        with DirFd(target, planned.followed) as descent:
            try:
                open_up(descent.open(directory.parts), directory, journal)
            except OSError as error:
                planned.refused.append(Refused(directory.parts, tell(error)))
                continue
        _survey(planned, target, directory)


def _survey(planned: RestorePlan, target: int, top: PlannedDirectory) -> None:
    """Compare one directory and everything below it."""
    waiting = [top]
    with DirFd(target, planned.followed) as descent:
        while waiting:
            trio.from_thread.check_cancelled()
            directory = waiting.pop()
            try:
                if directory.exists:
                    opened = descent.open(directory.parts)
                    if (directory.files or directory.directories) and is_closed(opened):
                        planned.closed.append(directory)
                        continue
                    _compare(planned, directory, opened)
                elif directory.parent is not None:
                    directory.device = directory.parent.device
            except OSError as error:
                planned.refused.append(Refused(directory.parts, tell(error)))
                continue
            except RestoreError as error:
                planned.refused.append(Refused(directory.parts, error.message))
                continue
            planned.order.append(directory)
            _count(planned, directory)
            waiting += list(directory.directories.values())[::-1]


def _compare(planned: RestorePlan, directory: PlannedDirectory, opened: int) -> None:
    """Set the actions for the entries of an existing directory."""
    status = os.stat(opened)
    if what := planned.guard.against(status):
        raise RestoreError(f"This directory is {what}. Choose a target outside of it.")
    directory.device = status.st_dev
    if directory.device not in planned.rooms:
        planned.rooms[directory.device] = Room.of(opened, directory.path)
    names = _Names(directory, opened)
    for file in directory.files:
        _compare_file(planned, file, opened, names)
    extras = _extras(planned, directory, opened) if planned.delete else []
    _keep(planned.keep, directory, opened, extras)
    for below in list(directory.directories.values()):
        found = lookup(opened, below.name)
        if found is None:
            continue
        try:
            if (other := names.other(below.name, found)) is not None:
                raise RestoreError(one_file(below.name, other))  # noqa: TRY301 - reported like an obstacle
            if stat.S_ISLNK(found.st_mode) and below.parts in planned.fixed:
                found = follow(opened, below.name, planned.guard)
                planned.followed[below.parts] = (found.st_dev, found.st_ino)
            if reason := obstacle(found, to_directory=True):
                raise RestoreError(reason)  # noqa: TRY301 - as above
        except RestoreError as error:
            planned.refused.append(Refused(below.parts, error.message))
            del directory.directories[below.name]
            continue
        below.exists = True
        below.closed_mode = planned.past.modes.get(below.path)
        replaced = below.entry is not None and planned.overwrite.replaces(
            found.st_mtime_ns, below.entry.node.mtime_ns
        )
        below.dressed = (replaced and below.chosen and not below.ours) or (
            planned.past.directories.get(below.path, False)
        )


class _Names:
    """Finds planned names of one directory that are the same file on its file system."""

    def __init__(self, directory: PlannedDirectory, opened: int) -> None:
        self._directory = directory
        self._opened = opened
        several = len(directory.files) + len(directory.directories) > 1
        self._listed = listed(opened) if several else None
        self._spelled: dict[tuple[int, int], bytes] | None = None

    def other(self, name: bytes, status: os.stat_result) -> bytes | None:
        """Return the planned name that owns the existing file `name`, None if `name` does.

        That is the name spelled as in the target, otherwise the first one that was asked for.
        """
        if self._listed is None or name in self._listed:
            return None
        if self._spelled is None:
            planned = {*(file.name for file in self._directory.files), *self._directory.directories}
            self._spelled = {}
            for one in sorted(planned & self._listed):
                found = lookup(self._opened, one)
                if found:
                    self._spelled[found.st_dev, found.st_ino] = one
        first = self._spelled.setdefault((status.st_dev, status.st_ino), name)
        return None if first == name else first


def _compare_file(planned: RestorePlan, file: PlannedFile, opened: int, names: _Names) -> None:
    """Set the action for a file of an existing directory."""
    try:
        status = lookup(opened, file.name)
    except OSError as error:
        _refuse(planned, file, tell(error))
        return
    if status is None:
        return
    if (other := names.other(file.name, status)) is not None:
        _refuse(planned, file, one_file(file.name, other))
        return
    file.action = _resumed(planned.past, file, status)
    if file.action is Action.CREATE:
        _decide(planned, file, status, opened)
    if file.action in _AS_WANTED and file.links is not None:
        file.links.written = file.links.written or (status.st_dev, status.st_ino)


def _decide(planned: RestorePlan, file: PlannedFile, status: os.stat_result, opened: int) -> None:
    """Set the action for an existing file that no earlier run has restored."""
    planned.existing += 1
    file.there = (status.st_size, status.st_mtime_ns)
    if reason := obstacle(status, to_directory=False):
        _refuse(planned, file, reason)
        return
    file.same = looks_same(file, status, opened)
    if planned.overwrite.replaces(status.st_mtime_ns, file.mtime_ns, same=file.same):
        file.action = Action.OVERWRITE
        planned.will_look_same += file.same
    else:
        changes = planned.overwrite is Overwrite.IF_CHANGED
        file.action = Action.UNCHANGED if changes else Action.SKIP


def _extras(planned: RestorePlan, directory: PlannedDirectory, opened: int) -> list[Extra]:
    """Add what the backup does not have in an open directory to the plan."""
    if directory.parent is not None and directory.complete is None and directory.chosen:
        directory.complete = directory.parent.complete
    if directory.complete is None:
        return []
    names = {*(file.name for file in directory.files), *directory.directories}
    stored = listed(opened) or set()
    present = {
        (status.st_dev, status.st_ino): None
        for name in names - stored
        if (status := lookup(opened, name)) is not None
    }
    extras = find_extras(planned, directory, opened, names, present)
    directory.deletes = bool(extras)
    planned.extras += extras
    return extras


def _keep(
    keep: KeepPlan | None, directory: PlannedDirectory, opened: int, extras: Sequence[Extra]
) -> None:
    """Count the files of an open directory that are replaced or deleted, and kept."""
    if keep is None:
        return
    kept = keep.of(mount_id(opened), directory.parts)
    kept.files += sum(not extra.is_directory for extra in extras)
    kept.bytes += sum(extra.size for extra in extras)
    for file in directory.files:
        if file.action is Action.OVERWRITE and file.there is not None:
            kept.files += 1
            kept.bytes += file.there[0]


def _refuse(planned: RestorePlan, file: PlannedFile, reason: str) -> None:
    file.action = Action.REFUSE
    planned.refused.append(Refused((*file.directory.parts, file.name), reason))


def _resumed(past: PreviousRun, file: PlannedFile, status: os.stat_result) -> Action:
    """Return the action for a file that an earlier run restored, CREATE for any other."""
    if file.key is not None and past.files[file.path].is_there(status, file.key):
        return Action.DONE
    # A crash of the machine may lose the last writes, of content and of the journal.
    same = stat.S_ISREG(status.st_mode) and status.st_mtime_ns == file.mtime_ns
    return Action.REDO if past.crashed and same else Action.CREATE


def _count(planned: RestorePlan, directory: PlannedDirectory) -> None:
    """Add a directory to the totals, and choose the name of a hard-linked file to write."""
    if directory.parent is not None and not directory.exists:
        planned.directories += 1
    for file in directory.files:
        if file.type == "socket" and file.writes:
            file.action = Action.SKIP
            planned.sockets += 1
        if file.action in _AS_WANTED:
            _count_done(planned, file)
        planned.will_skip += file.action is Action.SKIP
        planned.will_overwrite += file.action is Action.OVERWRITE
        if file.writes:
            planned.files += 1
            if file.links is not None and file.links.leader is None:
                file.links.leader = file
            if not file.follows:
                planned.bytes += file.size
                _need(planned, file)


def _need(planned: RestorePlan, file: PlannedFile) -> None:
    """Add the space that a file needs, minus that of the file it replaces.

    A replaced file that is kept takes no space elsewhere unless it is copied.
    """
    device = file.directory.device
    room = planned.rooms.get(device)
    replaced = file.there[0] if file.there and file.action is Action.OVERWRITE else 0
    if planned.keep is not None:
        elsewhere = planned.rooms.get(planned.keep_device)
        if planned.keep_device in (-1, device) or elsewhere is None:
            replaced = 0
        else:
            elsewhere.needed += elsewhere.rounded(replaced)
    if room:
        room.needed += room.rounded(file.size) - room.rounded(replaced)


def _count_done(planned: RestorePlan, file: PlannedFile) -> None:
    """Count a file that needs no change; its other names are linked to it."""
    size = file.size
    links = file.links
    if links is not None and links.leader is not None:
        if links.leader.writes:  # it is not written after all
            planned.bytes -= size
        else:
            size = 0
    if file.action is Action.DONE:
        planned.done += 1
        planned.done_bytes += size
    else:
        planned.unchanged += 1
    if links is not None and (links.leader is None or links.leader.writes):
        links.leader, links.key = file, file.key or ""
