"""Count the results of a restore, and decide when further attempts are pointless."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from cesbrfs.errors import (
    BlobMissingError,
    CesbrError,
    DamagedError,
    RepositoryDeniedError,
    RepositoryUnreachableError,
    RestoreError,
    StorageError,
)
from cesbrfs.restore.dirfd import tell
from cesbrfs.restore.files import Done, FileResult, Outcome
from cesbrfs.restore.plan import PlannedDirectory, PlannedFile, RestorePlan
from cesbrfs.restore.report import Failure, Progress, RestoreReport

_PERSISTENT_FAILURES: Final = 16
"""After this many failures in a row that would affect every file, the others are not tried."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_DAMAGE: Final = (BlobMissingError, DamagedError, StorageError)
_PERSISTENT: Final = _FULL | {errno.EROFS}


class ResultCounter:
    """Counts files and bytes, and collects failures in the report."""

    def __init__(
        self, plan: RestorePlan, on_progress: Callable[[Progress], None] | None = None
    ) -> None:
        self.report: Final = RestoreReport(plan.target, left_out=plan.left_out)
        self._plan: Final = plan
        self._on_progress: Final = on_progress
        self._files = 0
        self._bytes = 0
        self._failures_in_a_row = 0
        self._given_up: str | None = None
        self._postponed: list[PlannedFile] | None = []
        """Files that did not fit on the disk; None: nothing is postponed any more."""
        self.damaged: Final[list[PlannedFile]] = []
        """Files that failed because their content in the repository is damaged."""

    def begin(self) -> None:
        """Take over what the plan already knows."""
        report, plan = self.report, self._plan
        report.skipped, report.unchanged, report.done = plan.will_skip, plan.unchanged, plan.done
        report.failed = [Failure(r.path, r.reason) for r in plan.refused]

    def take_postponed(self) -> list[PlannedFile]:
        """Return the files to try a second time; from now on nothing is postponed."""
        postponed, self._postponed = self._postponed or [], None
        self._failures_in_a_row = 0
        return postponed

    @property
    def attempts_are_pointless(self) -> bool:
        """Whether the next files would very probably fail as well."""
        return self._given_up is not None or self._failures_in_a_row >= _PERSISTENT_FAILURES

    def skip_pointless(self, file: PlannedFile) -> bool:
        """Postpone or fail `file` if trying it is pointless; return whether that was done."""
        if self._given_up is not None:
            self.settle(file, FileResult(RestoreError(self._given_up)))
            return True
        if self._postponed is not None and self._failures_in_a_row >= _PERSISTENT_FAILURES:
            self._postponed.append(file)
            return True
        return False

    def add_bytes(self, count: int) -> None:
        """Count bytes as written, for the progress only."""
        self._bytes += count

    def settle(self, file: PlannedFile, result: FileResult, size: int = 0) -> None:
        """Count the result for a file; without free space it is postponed once."""
        outcome = result.outcome
        if self._postponed is not None and _is_full(outcome):
            self._failures_in_a_row += 1
            self._postponed.append(file)
            return
        self._files += 1
        if outcome is Done.WRITTEN:
            self._failures_in_a_row = 0
            self.report.files += 1
            self.report.bytes += size
        elif outcome is Done.SKIPPED:
            self.report.skipped += 1
        else:
            self.fail(file.path, reason(outcome))
            if isinstance(outcome, _DAMAGE):
                self.damaged.append(file)
            if _is_persistent(outcome) and self._given_up is None:
                self._failures_in_a_row += 1
                if self._failures_in_a_row >= _PERSISTENT_FAILURES:
                    self._given_up = f"Not tried after other failures. {reason(outcome)}"

    def fail_directory(self, directory: PlannedDirectory, error: OSError | CesbrError) -> None:
        """Report a directory that could not be created."""
        self.fail(directory.path, f"{reason(error)} Nothing in this directory was restored.")

    def fail_attributes(self, directory: PlannedDirectory, error: OSError) -> None:
        """Report a directory whose attributes could not be set."""
        what = "The attributes of the directory could not be set."
        self.fail(directory.path, f"{what} {tell(error)}")

    def fail(self, path: bytes, error: str) -> None:
        """Report a failure."""
        self.report.failed.append(Failure(path, error))

    def notify(self) -> None:
        """Call the progress callback."""
        if self._on_progress:
            plan = self._plan
            done = min(self._bytes, plan.bytes)  # files written twice count twice
            self._on_progress(Progress(self._files, done, plan.files, plan.bytes))


def reason(error: OSError | CesbrError) -> str:
    """Return an error as a sentence."""
    return tell(error) if isinstance(error, OSError) else error.message


def _is_full(outcome: Outcome) -> bool:
    return isinstance(outcome, OSError) and outcome.errno in _FULL


def _is_persistent(error: OSError | CesbrError) -> bool:
    if isinstance(error, OSError):
        return error.errno in _PERSISTENT
    return isinstance(error, (RepositoryUnreachableError, RepositoryDeniedError))
