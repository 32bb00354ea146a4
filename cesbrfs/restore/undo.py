"""Undo a restore: put back what it replaced and deleted, remove what it created. Blocking.

Each step leaves either the state before or after it, and a second undo continues where the first
one was interrupted. A file that was changed after the restore is kept before it is replaced.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, Self

from cesbrfs.errors import CesbrError, RestoreError
from cesbrfs.restore.directories import remove_by_prefix
from cesbrfs.restore.dirfd import DirFd, ForbiddenTargets, Room, follow, lookup, open_target, tell
from cesbrfs.restore.metadata import (
    FileMetadata,
    Warnings,
    handle,
    read_attributes,
)
from cesbrfs.restore.move import TAG, link_or_move, move
from cesbrfs.restore.replaced import (
    CHANGED,
    DIRECTORY,
    REPLACED,
    descend,
    free_name,
    open_real,
    remove_place,
)
from cesbrfs.restore.report import Failure
from cesbrfs.restore.undo_log import UndoLog, UndoRecord
from cesbrfs.restore.undo_report import Parts, PutBack, Remove, UndoPlan, UndoReport
from cesbrfs.restore.writer import apply_to_directory, temp_prefix
from cesbrfs.util.escape import show
from cesbrfs.util.os_errors import raise_failure


class Undo:
    """Plans and undoes one restore. Use it in `with`; raises RestoreError.

    `tags` are part of the names of temporary files that interrupted restores left.
    """

    def __init__(self, record: UndoRecord, tags: Iterable[bytes] = ()) -> None:
        self.record: Final = record
        self._temp_prefixes: Final = tuple(map(temp_prefix, (TAG, *tags)))
        self._warnings: Final = Warnings()
        self._places: Final[list[int]] = []
        self._used: Final[dict[int, int]] = {}
        """Bytes by device that the files planned so far take in addition."""
        self._followed: Final[dict[Parts, tuple[int, int]]] = {}
        self._target = open_target(record.target, create=False)
        self._directories: Final = DirFd(self._target, self._followed)
        try:
            for place in record.places:
                self._places.append(_open_place(place, record))
            guard = ForbiddenTargets()
            for parts in record.followed:
                status = follow(self._directories.open(parts[:-1]), parts[-1], guard)
                self._followed[parts] = (status.st_dev, status.st_ino)
        except OSError as error:
            self.close()
            raise RestoreError(f"Cannot undo: {tell(error)}") from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all directories."""
        self._directories.close()
        for descriptor in (self._target, *self._places):
            if descriptor >= 0:
                os.close(descriptor)

    # Planning

    def plan(self) -> UndoPlan:
        """Compare the log with the target; nothing is changed."""
        record, plan = self.record, UndoPlan(self.record)
        self._used.clear()
        for path in record.removed:
            plan.recreate.append(tuple(path.split(b"/")))
        written = (path for path, file in record.files.items() if not file.created)
        for path in {**record.replaced, **record.deleted, **dict.fromkeys(written)}:
            with self._reporting(plan.failed, path):
                self._plan_put_back(plan, path)
        for path, file in record.files.items():
            if file.created:
                with self._reporting(plan.failed, path):
                    self._plan_removal(plan, path)
        for path, attributes in record.directories.items():
            if attributes is None:
                with contextlib.suppress(OSError):
                    parts = tuple(path.split(b"/"))
                    if lookup(self._directories.open(parts[:-1]), parts[-1]) is not None:
                        plan.directories.append(parts)
        return plan

    def _plan_put_back(self, plan: UndoPlan, path: bytes) -> None:
        parts = tuple(path.split(b"/"))
        for number in range(len(self._places)):
            kept = self._kept(number, parts)
            if kept is None:
                continue
            current = self._current(parts)
            if current is not None and stat.S_ISDIR(current.st_mode):
                raise RestoreError(
                    "A directory exists in its place. Move it aside, and undo again."
                )
            changed = current is not None and not os.path.samestat(current, kept)
            written = self.record.files.get(path)
            if changed and current is not None and written is not None:
                changed = not written.is_there(current)
            plan.put_back.append(PutBack(parts, number, kept.st_size, changed))
            self._add_space(plan, parts, kept, None if changed else current)
            return

    def _add_space(
        self, plan: UndoPlan, parts: Parts, kept: os.stat_result, freed: os.stat_result | None
    ) -> None:
        """Add the space for a file that must be copied, because it is kept on another device."""
        if not stat.S_ISREG(kept.st_mode):
            return
        above = parts[:-1]
        while True:
            try:
                directory = self._directories.open(above)
                break
            except FileNotFoundError:  # deleted by the restore
                above = above[:-1]
        device = os.fstat(directory).st_dev
        if device == kept.st_dev:
            return
        if device not in plan.rooms:
            plan.rooms[device] = Room.of(directory, b"/".join(above) or b".")
        room, used = plan.rooms[device], self._used.get(device, 0)
        used += room.rounded(kept.st_size)
        room.needed = max(room.needed, used)  # the copy exists before the other file is removed
        if freed is not None and stat.S_ISREG(freed.st_mode) and freed.st_nlink == 1:
            used -= room.rounded(freed.st_size)
        self._used[device] = used

    def _plan_removal(self, plan: UndoPlan, path: bytes) -> None:
        parts = tuple(path.split(b"/"))
        current, written = self._current(parts), self.record.files[path]
        if current is None:
            return
        if current.st_ino != written.inode or stat.S_ISDIR(current.st_mode):
            plan.left.append(parts)
        else:
            plan.remove.append(Remove(parts, not written.is_there(current)))

    def _current(self, parts: Parts) -> os.stat_result | None:
        try:
            return lookup(self._directories.open(parts[:-1]), parts[-1])
        except FileNotFoundError:
            return None

    def _kept(self, number: int, parts: Parts) -> os.stat_result | None:
        if self._places[number] < 0:
            return None
        try:
            directory = descend(self._places[number], (REPLACED, *parts[:-1]))
        except FileNotFoundError:
            return None
        try:
            return lookup(directory, parts[-1])
        finally:
            os.close(directory)

    # Undoing

    def run(self, plan: UndoPlan, on_progress: Callable[[int, int], None]) -> UndoReport:
        """Undo the restore; `on_progress` gets the number of files done, and of all.

        Raises RestoreError, before anything is changed, if files must be copied from another file
        system and there is not enough free space.
        """
        if plan.warnings:
            raise RestoreError(plan.warnings[0])
        report = UndoReport(failed=list(plan.failed))
        total = len(plan.put_back) + len(plan.remove)
        self._make_writable()
        for parts in sorted(plan.recreate, key=len):
            with (
                self._reporting(report.failed, b"/".join(parts)),
                contextlib.suppress(FileExistsError),
            ):
                os.mkdir(parts[-1], 0o700, dir_fd=self._directories.open(parts[:-1]))
        for number, one in enumerate(plan.put_back):
            with self._reporting(report.failed, b"/".join(one.parts)):
                self._put_back(one)
                report.files += 1
            on_progress(number + 1, total)
        for number, created in enumerate(plan.remove, len(plan.put_back)):
            with self._reporting(report.failed, b"/".join(created.parts)):
                self._remove(created)
                report.removed += 1
            on_progress(number + 1, total)
        for parts in sorted(plan.directories, key=len, reverse=True):
            self._remove_directory(parts)
        self._apply_attributes(report)
        if not report.failed:
            self._finish(report)
        report.warnings += self._warnings.sentences()
        return report

    def _make_writable(self) -> None:
        """Make read-only directories of ours writable; they get their attributes in the end."""
        for path in (b"", *self.record.directories):
            with contextlib.suppress(OSError):  # then its files fail, and are reported
                opened = self._directories.open(_parts(path))
                status = os.stat(opened)
                if status.st_uid == os.geteuid() and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
                    os.chmod(handle(opened), stat.S_IMODE(status.st_mode) | stat.S_IRWXU)
                if status.st_uid == os.geteuid() or os.geteuid() == 0:
                    remove_by_prefix(opened, self._temp_prefixes)

    def _put_back(self, one: PutBack) -> None:
        """Move a kept file to its name; keep a changed one that is there."""
        *above, name = one.parts
        directory = self._directories.open(above)
        if one.changed:
            self._keep_changed(directory, above, name, one.place)
        kept = descend(self._places[one.place], (REPLACED, *above))
        try:
            move(kept, name, directory, name, self._warnings, replace=True)
        finally:
            os.close(kept)

    def _remove(self, created: Remove) -> None:
        *above, name = created.parts
        directory = self._directories.open(above)
        if created.changed:
            self._keep_changed(directory, above, name, 0)
        with contextlib.suppress(FileNotFoundError):  # moved, where links are impossible
            os.unlink(name, dir_fd=directory)

    def _keep_changed(self, directory: int, above: list[bytes], name: bytes, place: int) -> None:
        if self._places[place] < 0:
            self.record.places[place].mkdir(mode=0o700, parents=True, exist_ok=True)
            self._places[place] = open_real(self.record.places[place])
        changed = descend(self._places[place], (CHANGED, *above), create=True)
        try:
            link_or_move(directory, name, changed, free_name(changed, name), self._warnings)
        finally:
            os.close(changed)

    def _remove_directory(self, parts: Parts) -> None:
        try:
            os.rmdir(parts[-1], dir_fd=self._directories.open(parts[:-1]))
        except OSError as error:
            path = b"/".join(parts)
            self._warnings.add(f"A created directory was not removed ({tell(error)[:-1]})", path)

    def _apply_attributes(self, report: UndoReport) -> None:
        """Apply the attributes of directories, after everything in them was put back."""
        attributes = {**self.record.directories, **self.record.removed}
        for path in sorted(attributes, key=lambda p: p.count(b"/"), reverse=True):
            node = attributes[path]
            if node is None:
                continue
            with self._reporting(report.failed, path), contextlib.suppress(FileNotFoundError):
                opened = self._directories.open(_parts(path))
                recorded = {os.fsdecode(name) for name, _ in node.xattrs}
                for name in read_attributes(handle(opened)).keys() - recorded:
                    try:
                        os.removexattr(handle(opened), name)
                    except OSError as error:
                        raise_failure(error)
                apply_to_directory(opened, FileMetadata(node, path), self._warnings)

    def _finish(self, report: UndoReport) -> None:
        """Mark the log as done; remove the directories that contained replaced files."""
        log = UndoLog.open(self.record.file)
        log.add(("undone",), sync=True)
        log.close()
        for path, place in zip(self.record.places, self._places, strict=True):
            if place >= 0:
                _remove_empty(place)
            remove_place(path)
            if path.exists():
                report.kept.append(path)
        if not self.record.places:  # the restore was killed before it logged the first one
            remove_place(self.record.target / os.fsdecode(DIRECTORY) / self.record.id)
        if not report.kept:
            self.record.file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _reporting(self, failed: list[Failure], path: bytes) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            failed.append(Failure(path, tell(error)))
        except CesbrError as error:
            failed.append(Failure(path, error.message))


def _parts(path: bytes) -> Parts:
    return tuple(filter(None, path.split(b"/")))


def _remove_empty(place: int) -> None:
    """Remove the empty directories in which replaced files were."""
    with contextlib.suppress(FileNotFoundError):
        for _, directories, _, opened in os.fwalk(REPLACED, topdown=False, dir_fd=place):
            for name in directories:
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=opened)
        os.rmdir(REPLACED, dir_fd=place)


def _open_place(place: Path, record: UndoRecord) -> int:
    """Open a directory for replaced files, -1 if it was empty and therefore removed."""
    if place in record.empty:
        return -1
    try:
        opened = open_real(place)
    except OSError as error:
        if not (record.replaced or record.deleted):  # killed before it was created
            return -1
        raise RestoreError(
            f"Cannot open {show(os.fsencode(place))}, which contains the replaced files:"
            f" {os.strerror(error.errno or 0)}. Mount its file system, or run 'cesbr undo --remove"
            f" {record.id}'."
        ) from error
    if os.fstat(opened).st_uid != os.geteuid():
        os.close(opened)
        raise RestoreError(
            f"{show(os.fsencode(place))} belongs to another user. Undo the restore as that user."
        )
    return opened


def remove_record(record: UndoRecord) -> None:
    """Remove an undo log and all files that were kept for it; raises RestoreError."""
    try:
        log = UndoLog.open(record.file)
        log.add(("removing",), sync=True)  # from now on it cannot be undone
        log.close()
        for place in record.places:
            try:
                opened = open_real(place)
            except FileNotFoundError:
                continue
            try:
                if os.fstat(opened).st_uid == os.geteuid():
                    for name in (REPLACED, CHANGED):
                        with contextlib.suppress(FileNotFoundError):
                            shutil.rmtree(name, dir_fd=opened)
            finally:
                os.close(opened)
            remove_place(place)
        record.file.unlink(missing_ok=True)
    except OSError as error:
        raise RestoreError(
            f"Cannot remove the files kept for {record.id}: {tell(error)}"
        ) from error


def kept_size(record: UndoRecord) -> tuple[int, int]:
    """Return the number and size in bytes of the files that are kept for a restore."""
    files = size = 0
    for place in record.places:
        for directory, _, names in os.walk(place):
            for name in names:
                with contextlib.suppress(OSError):
                    size += os.lstat(os.path.join(directory, name)).st_size
                    files += 1
    return files, size
