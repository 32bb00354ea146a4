"""Run the restic binary. No other package starts restic processes.

`driver` contains the commands, `program` runs them on a repository, `binary` finds the program,
`environment` builds its environment, `process` starts and stops it, `output` handles its output,
and `diagnose` finds causes that restic does not print. `events` (its JSON events) and `errors`
(classification of its failures) are pure.
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
