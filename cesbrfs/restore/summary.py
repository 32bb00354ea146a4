"""Summary of a plan: the target and existing files of each chosen path. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.restore.overwrite import Action, Overwrite
from cesbrfs.restore.plan import PlannedDirectory, PlannedFile, RestorePlan
from cesbrfs.restore.targets import RestoreItem
from cesbrfs.util.escape import for_json

_MOST: Final = 10_000
"""Maximum number of existing files that are listed one by one."""


@dataclass(slots=True)
class PlanShare:
    """What becomes of one chosen path: all its `files` and `bytes`, and the files by their fate.

    `source` are its names from the root of the backups on, `parts` those below the target.
    """

    source: tuple[bytes, ...]
    parts: tuple[bytes, ...]
    files: int = 0
    bytes: int = 0
    new: int = 0
    replaced: int = 0
    kept: int = 0
    unchanged: int = 0
    refused: int = 0
    done: int = 0

    def count(self, file: PlannedFile) -> None:
        """Add one file."""
        self.files += 1
        self.bytes += 0 if file.follows else file.size
        self.new += file.action in (Action.CREATE, Action.REDO)
        self.done += file.action is Action.DONE
        self.replaced += file.action is Action.OVERWRITE
        self.kept += file.action is Action.SKIP and file.there is not None
        self.unchanged += file.action is Action.UNCHANGED
        self.refused += file.action is Action.REFUSE

    def as_json(self) -> dict[str, object]:
        """Return it as ``plan --json`` prints it."""
        return {
            **for_json(self.source[0], "backup"),
            **for_json(b"/".join(self.source[1:]), "path"),
            **for_json(b"/".join(self.parts), "to"),
            "files": self.files,
            "bytes": self.bytes,
            "new": self.new,
            "overwritten": self.replaced,
            "skipped": self.kept,
            "unchanged": self.unchanged,
            "refused": self.refused,
            "done": self.done,
        }


def shares(plan: RestorePlan) -> list[PlanShare]:
    """Return what becomes of each chosen path, in their order."""
    if not plan.order:
        return []
    files: dict[PlannedDirectory, dict[bytes, PlannedFile]] = {}
    return [_share(plan.order[0], landing, files) for landing in plan.landings]


def _share(
    root: PlannedDirectory,
    landing: RestoreItem,
    files: dict[PlannedDirectory, dict[bytes, PlannedFile]],
) -> PlanShare:
    """Return one share; `files` keeps the names of directories that were looked at."""
    share = PlanShare(landing.source, landing.parts)
    directory: PlannedDirectory | None = root
    for name in landing.parts[:-1]:
        directory = directory.directories.get(name) if directory else None
    if directory is not None and landing.parts:
        name = landing.parts[-1]
        if directory not in files:
            files[directory] = {file.name: file for file in directory.files}
        file = files[directory].get(name)
        if file is not None:
            share.count(file)
            return share
        directory = directory.directories.get(name)
    if directory is None:  # it is refused
        share.refused += 1
        return share
    waiting = [directory]
    while waiting:
        one = waiting.pop()
        for file in one.files:
            share.count(file)
        waiting += one.directories.values()
    return share


def there_already(plan: RestorePlan) -> Iterator[PlannedFile]:
    """Yield the files in whose place something lies, those first that it differs from."""
    for same in (False, True):
        for directory in plan.order:
            for file in directory.files:
                if file.there is not None and file.same is same:
                    yield file


def sheet_json(plan: RestorePlan) -> dict[str, object]:
    """Return the plan's figures, chosen paths, and files that are there, as JSON has them.

    Of the latter the first 10,000, those that differ before the others; `existing` counts all.
    """
    there = [
        _there_json(plan, file) for file, _ in zip(there_already(plan), range(_MOST), strict=False)
    ]
    return {**plan.as_json(), "paths": [s.as_json() for s in shares(plan)], "there": there}


def fate(plan: RestorePlan, file: PlannedFile) -> str:
    """Return in a few words whether and how an existing file is replaced."""
    if file.action is Action.UNCHANGED:
        return "unchanged"
    if file.action is Action.OVERWRITE:
        newer = plan.overwrite is Overwrite.IF_NEWER
        if file.same:
            return "replaced, though unchanged"
        return "replaced, the backup's is newer" if newer else "replaced"
    if file.action is Action.SKIP:
        newer = plan.overwrite is Overwrite.IF_NEWER
        if file.same:
            return "kept, unchanged"
        return "kept, the backup's is not newer" if newer else "kept"
    return "in the way"


def _there_json(plan: RestorePlan, file: PlannedFile) -> dict[str, object]:
    assert file.there is not None
    size, mtime_ns = file.there
    return {
        **for_json(file.path, "path"),
        "action": file.action.value,
        "fate": fate(plan, file),
        "size": size,
        "mtime": format_time(mtime_ns),
        "backup_size": file.size,
        "backup_mtime": format_time(file.mtime_ns),
    }
