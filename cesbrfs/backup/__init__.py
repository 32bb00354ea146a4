"""Instance -> backup: one restic snapshot per point of data, and a manifest at the end.

`plan_backup` says what would be backed up and asks only the instance; `run_backup` does it.  What
fails is reported by its path and does not keep the rest from being backed up.
"""

from cesbrfs.backup.dumps import DumpRunner
from cesbrfs.backup.executor import Step, new_backup_id, run_backup
from cesbrfs.backup.plan import BackupPlan, BackupResult, Failure, LeftOut, PointResult, PointStep
from cesbrfs.backup.planner import choose, plan_backup

__all__ = [
    "BackupPlan",
    "BackupResult",
    "DumpRunner",
    "Failure",
    "LeftOut",
    "PointResult",
    "PointStep",
    "Step",
    "choose",
    "new_backup_id",
    "plan_backup",
    "run_backup",
]
