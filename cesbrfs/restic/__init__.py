"""Drives the restic binary: every process of it in this project is started in this package.

`driver` has the commands, `binary` finds the program, `environment` says what it inherits,
`process` runs and stops it, `output` parses its output, `diagnose` finds reasons that it does not
print; `events` and `errors` are pure: its JSON events, and the classification of its failures.
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
