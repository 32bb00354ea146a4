"""Make read-only directories writable for the time of a restore. Blocking.

A restore leaves directories as read-only as they were backed up. A later restore into the same
target must write there again, also without being root.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from cesbrfs.restore.journal import JournalWriter
from cesbrfs.restore.metadata import handle
from cesbrfs.restore.plan import PlannedDirectory

_ALL: Final = os.R_OK | os.W_OK | os.X_OK


def is_closed(opened: int) -> bool:
    """Return whether an open directory (O_PATH) of the current user is not searchable."""
    return _lacks(opened, os.X_OK)


def open_up(opened: int, directory: PlannedDirectory, journal: JournalWriter | None) -> None:
    """Make an open directory (O_PATH) writable and searchable for its owner; raises OSError."""
    if not _lacks(opened, _ALL):
        return
    mode = stat.S_IMODE(os.stat(opened).st_mode)
    if directory.closed_mode is None:
        directory.closed_mode = mode
    if journal:  # a later restore can set the mode again if this one is killed
        journal.directory(directory.path, dressed=directory.dressed, mode=directory.closed_mode)
    os.chmod(handle(opened), mode | stat.S_IRWXU)


def close_again(opened: int, directory: PlannedDirectory) -> None:
    """Set the mode that an open directory (O_PATH) had before `open_up`; raises OSError."""
    if directory.closed_mode is not None:
        os.chmod(handle(opened), directory.closed_mode)


def _lacks(opened: int, rights: int) -> bool:
    if os.access(handle(opened), rights, effective_ids=True):
        return False
    return os.stat(opened).st_uid == os.geteuid()
