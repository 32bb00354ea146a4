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


class LostRange(NamedTuple):
    """A range of a file in bytes, which is a hole in what was salvaged."""

    offset: int
    length: int


class Salvaged(NamedTuple):
    """A damaged file at `path` whose intact parts were written as `saved_as`, of `size` bytes.

    Both paths are below the target.
    """

    path: bytes
    saved_as: bytes
    size: int
    lost: tuple[LostRange, ...]

    @property
    def lost_bytes(self) -> int:
        """The number of bytes in holes."""
        return sum(lost.length for lost in self.lost)


@dataclass(slots=True)
class RestoreReport:
    """What was done below `target`.

    `files` were written, `linked` of them as further names of one file; `bytes` of content were
    written and read back; `directories` were made; `skipped` files stayed as they were; `unchanged`
    looked as they would be restored; `done` had been restored by an earlier run.  `warnings` are
    sentences about what could not be restored faithfully.  Files in `salvaged`
    are in `failed`, too.
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
    salvaged: list[Salvaged] = field(default_factory=list)
    deleted: int = 0
    deleted_directories: int = 0

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
            "deleted": self.deleted,
            "deleted_folders": self.deleted_directories,
            "failed": [{**for_json(f.path, "path"), "error": f.error} for f in self.failed],
            "warnings": self.warnings,
            "salvaged": [
                {
                    **for_json(s.path, "path"),
                    **for_json(s.saved_as, "saved_as"),
                    "size": s.size,
                    "lost": [lost._asdict() for lost in s.lost],
                }
                for s in self.salvaged
            ],
            "left_out": [{**for_json(r.path, "path"), "reason": r.reason} for r in self.left_out],
        }
