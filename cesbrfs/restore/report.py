"""What a restore has done, while it runs and when it is over.  Pure."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cesbrfs.errors import PartialError
from cesbrfs.restore.targets import Refused
from cesbrfs.util.escape import for_json


class Progress(NamedTuple):
    """How far a restore is: files and bytes done, failed or not, and how many there are."""

    files: int
    bytes: int
    total_files: int
    total_bytes: int


class Failure(NamedTuple):
    """A path below the target that was not restored, and why, in one sentence."""

    path: bytes
    error: str


@dataclass(slots=True)
class RestoreReport:
    """What was done below `target`.

    `files` were written, `linked` of them as further names of one file; `bytes` of content were
    written and read back; `directories` were made; `skipped` files stayed as they were; `unchanged`
    looked as they would be restored; `done` had been restored by an earlier run.  `warnings` are
    sentences about what could not be restored faithfully.
    """

    target: Path
    files: int = 0
    directories: int = 0
    bytes: int = 0
    linked: int = 0
    skipped: int = 0
    unchanged: int = 0
    done: int = 0
    failed: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left_out: tuple[Refused, ...] = ()

    @property
    def exit_code(self) -> int:
        """0, or 3 when something failed."""
        return PartialError.exit_code if self.failed else 0

    def as_json(self) -> dict[str, object]:
        """Return the report as ``--json`` prints it."""
        return {
            "target": os.fspath(self.target),
            "files": self.files,
            "folders": self.directories,
            "bytes": self.bytes,
            "skipped": self.skipped,
            "unchanged": self.unchanged,
            "done": self.done,
            "failed": [{**for_json(f.path, "path"), "error": f.error} for f in self.failed],
            "warnings": self.warnings,
            "left_out": [{**for_json(r.path, "path"), "reason": r.reason} for r in self.left_out],
        }
