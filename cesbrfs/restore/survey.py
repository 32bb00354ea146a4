"""A planned tree held against what lies in the target.  Blocking."""

from __future__ import annotations

import os
import stat

import trio

from cesbrfs.errors import RestoreError
from cesbrfs.restore.ground import (
    Descent,
    Guard,
    TargetState,
    lookup,
    obstacle,
    open_target,
    tell,
)
from cesbrfs.restore.journal import Past
from cesbrfs.restore.landing import Refused
from cesbrfs.restore.planned import Action, PlannedFile, PlannedFolder, RestorePlan


def survey(planned: RestorePlan, state: TargetState, guard: Guard) -> None:
    """Hold the planned tree against what lies in the target: actions, order and totals."""
    waiting = planned.order
    planned.order = []
    root = waiting[0]
    root.exists = state.exists
    descriptor = open_target(planned.target, create=False) if state.exists else -1
    try:
        with Descent(descriptor) as descent:
            while waiting:
                trio.from_thread.check_cancelled()
                folder = waiting.pop()
                try:
                    if folder.exists:
                        _compare(planned, folder, descent.open(folder.parts), guard)
                except OSError as error:
                    planned.refused.append(Refused(folder.parts, tell(error)))
                    continue
                except RestoreError as error:
                    planned.refused.append(Refused(folder.parts, error.message))
                    continue
                planned.order.append(folder)
                _count(planned, folder)
                waiting += list(folder.folders.values())[::-1]
    finally:
        if state.exists:
            os.close(descriptor)


def _compare(planned: RestorePlan, folder: PlannedFolder, opened: int, guard: Guard) -> None:
    """Decide about what is planned in a folder that exists."""
    if what := guard.against(os.stat(opened)):
        raise RestoreError(f"This folder is {what}; choose a target outside of it.")
    for file in folder.files:
        _compare_file(planned, file, opened)
    for below in list(folder.folders.values()):
        status = lookup(opened, below.name)
        if status is None:
            continue
        if reason := obstacle(status, to_folder=True):
            planned.refused.append(Refused(below.parts, reason))
            del folder.folders[below.name]
            continue
        below.exists = True
        replaced = below.entry is not None and planned.overwrite.replaces(
            status.st_mtime_ns, below.entry.node.mtime_ns
        )
        below.dressed = (replaced and below.chosen and not below.ours) or (
            planned.past.folders.get(below.path, False)
        )


def _compare_file(planned: RestorePlan, file: PlannedFile, opened: int) -> None:
    """Decide about one file of a folder that exists."""
    try:
        status = lookup(opened, file.name)
    except OSError as error:
        _refuse(planned, file, tell(error))
        return
    if status is None:
        return
    file.action = _resumed(planned.past, file, status)
    if file.action is Action.DONE and file.links is not None:
        file.links.written = file.links.written or (status.st_dev, status.st_ino)
    if file.action is not Action.CREATE:
        return
    planned.existing += 1
    file.there = (status.st_size, status.st_mtime_ns)
    if reason := obstacle(status, to_folder=False):
        _refuse(planned, file, reason)
    elif planned.overwrite.replaces(status.st_mtime_ns, file.mtime_ns):
        file.action = Action.OVERWRITE
    else:
        file.action = Action.SKIP


def _refuse(planned: RestorePlan, file: PlannedFile, reason: str) -> None:
    file.action = Action.REFUSE
    planned.refused.append(Refused((*file.folder.parts, file.name), reason))


def _resumed(past: Past, file: PlannedFile, status: os.stat_result) -> Action:
    """Return what is to be done about what an earlier run restored, CREATE for anything else."""
    if file.key is not None and past.files[file.path].is_there(status, file.key):
        return Action.DONE
    # Of what was written last before a crash some may be lost, content and journal alike.
    same = stat.S_ISREG(status.st_mode) and status.st_mtime_ns == file.mtime_ns
    return Action.REDO if past.crashed and same else Action.CREATE


def _count(planned: RestorePlan, folder: PlannedFolder) -> None:
    """Add a folder to the totals, and choose which of several names of a file is written."""
    if folder.parent is not None and not folder.exists:
        planned.folders += 1
    for file in folder.files:
        if file.type == "socket" and file.writes:
            file.action = Action.SKIP
            planned.sockets += 1
        if file.action is Action.DONE:
            _count_done(planned, file)
        planned.will_skip += file.action is Action.SKIP
        planned.will_overwrite += file.action is Action.OVERWRITE
        if file.writes:
            planned.files += 1
            if file.links is not None and file.links.leader is None:
                file.links.leader = file
            if not file.follows:
                planned.bytes += file.size


def _count_done(planned: RestorePlan, file: PlannedFile) -> None:
    """Count what an earlier run restored; further names of it are linked to that."""
    planned.done += 1
    links = file.links
    if links is None:
        planned.done_bytes += file.size
        return
    if links.leader is None or links.leader.writes:
        if links.leader is not None:  # it is not written after all
            planned.bytes -= file.size
        planned.done_bytes += file.size
        links.leader, links.key = file, file.key or ""
