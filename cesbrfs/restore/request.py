"""What a user asked a restore for: from the command line, to the journal, and back to resume it.

Pure.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cesbrfs.errors import UsageError
from cesbrfs.restore.overwrite import Overwrite
from cesbrfs.util.escape import show, unshow

_SUFFIX_STARTS: Final = (".", "-", "_", "~", "+")
"""First characters of suffixes, so that no path is taken for one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRequest:
    """A request to restore paths of backups; without paths and `backup`, the selection.

    `overwrite` None is the default of the target. `safety_backup` None: ask.
    """

    paths: tuple[str, ...] = ()
    backup: str | None = None
    target: str | None = None
    in_place: bool = False
    suffix: str | None = None
    overwrite: Overwrite | None = None
    other_host: bool = False
    verify: bool = False
    salvage: bool = False
    maintenance: bool = False
    stop_dogu: bool = False
    safety_backup: bool | None = None
    resume: bool = False
    dry_run: bool = False
    yes: bool = False
    force: bool = False
    delete: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    owner_by_name: bool = False
    backup_dir: str | None = None
    no_backup_dir: bool = False
    undo: str | None = None
    """The ID of the undo log that a resumed restore continues."""
    resumes_selection: bool | None = None
    """Whether the resumed restore was one of the selection; None if nothing is resumed."""

    def check(self) -> None:
        """Raise UsageError for options that conflict."""
        if self.safety_backup and not (self.in_place or self.resume):
            raise UsageError("--safety-backup requires --in-place.")
        if self.stop_dogu and not (self.in_place or self.resume):
            raise UsageError("--stop-dogu requires --in-place.")
        if self.resume and (self.paths or self.backup):
            raise UsageError(
                "--resume restores the recorded paths. Remove either --resume or the paths."
            )
        if self.delete and self.include:
            raise UsageError("Pass either --delete or --include, not both; see --exclude.")
        if self.delete and self.suffix is not None:
            raise UsageError("Pass either --delete or --suffix, not both.")
        if self.backup_dir and self.no_backup_dir:
            raise UsageError("Pass either --backup-dir or --no-backup-dir, not both.")
        if self.in_place and self.target:
            raise UsageError("Pass either --target or --in-place, not both.")
        if self.suffix and not self.suffix.startswith(_SUFFIX_STARTS):
            raise UsageError(
                f"A suffix begins with one of {' '.join(_SUFFIX_STARTS)}; for the Backup ID, pass"
                " --suffix after the paths."
            )

    @property
    def is_of_selection(self) -> bool:
        """Whether the selection is restored."""
        if self.resumes_selection is not None:
            return self.resumes_selection
        return not self.paths and not self.backup

    @property
    def keeps(self) -> bool:
        """Whether replaced files are kept, to undo the restore."""
        return not self.no_backup_dir and (
            self.in_place or self.delete or self.backup_dir is not None
        )

    @property
    def effective_overwrite(self) -> Overwrite:
        """The rule about existing files."""
        if self.overwrite is not None:
            return self.overwrite
        replaces = (self.in_place and self.suffix is None) or self.delete
        return Overwrite.IF_CHANGED if replaces else Overwrite.NEVER

    def as_json(
        self, repository: str, paths: Sequence[str], target: Path, undo: str | None = None
    ) -> dict[str, object]:
        """Return what the journal records: the chosen `paths` and the `target` are absolute."""
        directory = None if self.backup_dir is None else os.path.abspath(self.backup_dir)
        return {
            "repository": repository,
            "paths": list(paths),
            "basket": self.is_of_selection,
            "in_place": self.in_place,
            "target": show(os.fsencode(target)),
            "overwrite": str(self.effective_overwrite),
            "suffix": None if self.suffix is None else show(os.fsencode(self.suffix)),
            "verify": self.verify,
            "salvage": self.salvage,
            "other_host": self.other_host,
            "delete": self.delete,
            "include": list(self.include),
            "exclude": list(self.exclude),
            "owner_by_name": self.owner_by_name,
            "backup_dir": None if directory is None else show(os.fsencode(directory)),
            "no_backup_dir": self.no_backup_dir,
            "undo": undo,
        }

    def resumed(self, recorded: Mapping[str, Any]) -> RestoreRequest:
        """Return this request with the paths, target and rules of a recorded one."""
        suffix, directory = recorded["suffix"], recorded.get("backup_dir")
        return replace(
            self,
            backup=None,
            paths=tuple(recorded["paths"]),
            resumes_selection=recorded["basket"],
            in_place=recorded["in_place"],
            target=None if recorded["in_place"] else _unescape(recorded["target"]),
            overwrite=Overwrite(recorded["overwrite"]),
            verify=self.verify or recorded.get("verify", False),
            salvage=self.salvage or recorded.get("salvage", False),
            other_host=self.other_host or recorded.get("other_host", False),
            suffix=None if suffix is None else _unescape(suffix),
            delete=recorded.get("delete", False),
            include=tuple(recorded.get("include", ())),
            exclude=tuple(recorded.get("exclude", ())),
            owner_by_name=recorded.get("owner_by_name", False),
            backup_dir=None if directory is None else _unescape(directory),
            no_backup_dir=recorded.get("no_backup_dir", False),
            undo=recorded.get("undo"),
        )


def _unescape(text: str) -> str:
    return os.fsdecode(unshow(text) or b"")
