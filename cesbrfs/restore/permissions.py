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
from cesbrfs.restore.plan import PlannedFolder

_ALL: Final = os.R_OK | os.W_OK | os.X_OK


def is_closed(opened: int) -> bool:
    """Return whether an open directory (O_PATH) of the current user is not searchable."""
    return _lacks(opened, os.X_OK)


def open_up(opened: int, folder: PlannedFolder, journal: JournalWriter | None) -> None:
    """Make an open directory (O_PATH) writable and searchable for its owner; raises OSError."""
    if not _lacks(opened, _ALL):
        return
    mode = stat.S_IMODE(os.stat(opened).st_mode)
    if folder.closed_mode is None:
        folder.closed_mode = mode
    if journal:  # a later restore can set the mode again if this one is killed
        journal.folder(folder.path, dressed=folder.dressed, mode=folder.closed_mode)
    os.chmod(handle(opened), mode | stat.S_IRWXU)


def close_again(opened: int, folder: PlannedFolder) -> None:
    """Set the mode that an open directory (O_PATH) had before `open_up`; raises OSError."""
    if folder.closed_mode is not None:
        os.chmod(handle(opened), folder.closed_mode)


def _lacks(opened: int, rights: int) -> bool:
    if os.access(handle(opened), rights, effective_ids=True):
        return False
    return os.stat(opened).st_uid == os.geteuid()
