"""Folders that their owner may not write to or search: opened while a restore lasts.  Blocking.

Backups hold read-only folders, and so a restore leaves them.  The next one into the same target
must write there again, without the rights of root.
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
    """Tell whether an open folder (O_PATH) of our own cannot be searched."""
    return _lacks(opened, os.X_OK)


def open_up(opened: int, folder: PlannedFolder, journal: JournalWriter | None) -> None:
    """Let the owner of a folder (open, O_PATH) write to it and search it; raises OSError."""
    if not _lacks(opened, _ALL):
        return
    mode = stat.S_IMODE(os.stat(opened).st_mode)
    if folder.closed_mode is None:
        folder.closed_mode = mode
    if journal:  # should this one be killed, the next one knows
        journal.folder(folder.path, dressed=folder.dressed, mode=folder.closed_mode)
    os.chmod(handle(opened), mode | stat.S_IRWXU)


def close_again(opened: int, folder: PlannedFolder) -> None:
    """Give an open folder (O_PATH) the mode back that it had before `open_up`; raises OSError."""
    if folder.closed_mode is not None:
        os.chmod(handle(opened), folder.closed_mode)


def _lacks(opened: int, rights: int) -> bool:
    if os.access(handle(opened), rights, effective_ids=True):
        return False
    return os.stat(opened).st_uid == os.geteuid()
