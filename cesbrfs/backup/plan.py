"""The plan of a backup (its steps) and the results of its points. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cesbrfs.catalog.backups import SAFETY_TAG
from cesbrfs.util.escape import for_json

Kind = Literal["metadata", "registry", "volumes", "configuration", "dump", "manifest"]
Status = Literal["complete", "incomplete"]


@dataclass(frozen=True, slots=True)
class Failure:
    """A path (a file's, a document's, a registry key) that is not in the backup, and why."""

    path: bytes
    error: str

    def as_json(self) -> dict[str, object]:
        """Return ``{path, error}``, and ``path_b64`` for a path that is not UTF-8."""
        return {**for_json(self.path, "path"), "error": self.error}


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A path that needs no backup, and why."""

    path: bytes
    reason: str

    def as_json(self) -> dict[str, object]:
        """Return ``{path, reason}``, and ``path_b64`` for a path that is not UTF-8."""
        return {**for_json(self.path, "path"), "reason": self.reason}


@dataclass(frozen=True, slots=True)
class DumpCommand:
    """The program that dumps the data of a dogu in `provider`; it may take `seconds`."""

    provider: str
    words: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class PointStep:
    """One point of data to back up; `dogu` is None for those of the instance.

    Either `paths`, directories to back up, or a `document`, the name of a file whose content is
    generated (or is `content` if known already, or the output of `dump`). Neither: nothing can
    be backed up. `failed` is what should be part of the point but cannot be.
    """

    kind: Kind
    dogu: str | None
    paths: tuple[Path, ...] = ()
    document: str | None = None
    content: bytes | None = field(default=None, repr=False)
    dump: DumpCommand | None = None
    failed: tuple[Failure, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    def tags(self, backup_id: str, *, safety: bool = False) -> tuple[str, ...]:
        """Return the tags of the point's snapshot; `safety`: of a safety backup."""
        owner = () if self.dogu is None else (f"dogu={self.dogu}",)
        return (backup_id, f"kind={self.kind}", *owner, *((SAFETY_TAG,) if safety else ()))

    def as_json(self) -> dict[str, object]:
        """Return the step as ``--dry-run --json`` shows it."""
        return {
            "kind": self.kind,
            "dogu": self.dogu,
            "paths": [str(path) for path in self.paths] or [self.document] * bool(self.document),
            "failed": [failure.as_json() for failure in self.failed],
            "left_out": [left_out.as_json() for left_out in self.left_out],
        }


@dataclass(frozen=True, slots=True)
class BackupPlan:
    """All steps of a backup except the manifest; `left_out` belongs to none of them."""

    steps: tuple[PointStep, ...]
    left_out: tuple[LeftOut, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Return the plan as ``--dry-run --json`` shows it."""
        return {
            "steps": [step.as_json() for step in self.steps],
            "left_out": [left_out.as_json() for left_out in self.left_out],
        }


@dataclass(frozen=True, slots=True)
class PointResult:
    """The result for a point: ID (None: no snapshot) and tree of its snapshot, sizes in bytes."""

    kind: Kind
    dogu: str | None
    snapshot: str | None = None
    files: int = 0
    bytes: int = 0
    added: int = 0
    failed: tuple[Failure, ...] = ()
    tree: str | None = None

    def as_json(self) -> dict[str, object]:
        """Return the point as ``backup --json`` shows it."""
        return {
            "kind": self.kind,
            "dogu": self.dogu,
            "snapshot": self.snapshot,
            "files": self.files,
            "bytes": self.bytes,
            "added": self.added,
            "failed": [failure.as_json() for failure in self.failed],
        }


@dataclass(frozen=True, slots=True)
class BackupResult:
    """A backup that ran to its end. `failed` has all failures, including those of the points."""

    id: str
    points: tuple[PointResult, ...]
    failed: tuple[Failure, ...]

    @property
    def status(self) -> Status:
        """``complete`` if nothing failed."""
        return "incomplete" if self.failed else "complete"

    @property
    def exit_code(self) -> int:
        """0, or 3 if something failed."""
        return 3 if self.failed else 0

    def as_json(self) -> dict[str, object]:
        """Return ``{id, status, points, failed}``."""
        return {
            "id": self.id,
            "status": self.status,
            "points": [point.as_json() for point in self.points],
            "failed": [failure.as_json() for failure in self.failed],
        }
