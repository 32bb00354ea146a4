"""Drives the restic binary: every process of it in this project is started in this package.

`driver` has the commands, `binary` finds the program, `environment` says what it inherits,
`process` runs it and ends it cleanly, `hearing` listens to it, `looking` finds out what it does not
say; `events` and `failure` are pure: what it says, and what a failure of it means.
"""

from cesbrfs.restic.binary import OLDEST, Version, find_restic, read_version
from cesbrfs.restic.driver import Restic
from cesbrfs.restic.errors import classify
from cesbrfs.restic.events import (
    BackupSummary,
    CheckReport,
    Event,
    ItemError,
    PruneReport,
    Status,
    Summary,
)

__all__ = [
    "OLDEST",
    "BackupSummary",
    "CheckReport",
    "Event",
    "ItemError",
    "PruneReport",
    "Restic",
    "Status",
    "Summary",
    "Version",
    "classify",
    "find_restic",
    "read_version",
]
