"""Check whether an existing file equals the one to restore. Blocking.

As with restic's ``--overwrite if-changed``, size and modification time are compared instead of the
content. Type, mode, owner and extended attributes are compared as well.
"""

from __future__ import annotations

import errno
import os
import stat

from cesbrfs.restore.metadata import ACLS, ROOTS, handle
from cesbrfs.restore.plan import PlannedFile

_PERMISSIONS = 0o777


def looks_same(file: PlannedFile, status: os.stat_result, directory: int) -> bool:
    """Return whether the file with this status in an open directory (O_PATH) equals `file`.

    Metadata that only root can restore is compared only by root. A file that cannot be examined
    counts as different; nothing is raised.
    """
    try:
        return _same_status(file, status) and _same_attributes(
            file, handle(directory) + b"/" + file.name
        )
    except OSError:
        return False


def _same_status(file: PlannedFile, status: os.stat_result) -> bool:
    looks = file.looks
    if stat.S_IFMT(looks.mode) != stat.S_IFMT(status.st_mode):
        return False
    root = os.geteuid() == 0
    if root and looks.owner not in (None, (status.st_uid, status.st_gid)):
        return False
    if stat.S_ISLNK(looks.mode):  # reading it would change its time of access
        return (looks.target_bytes, file.mtime_ns) == (status.st_size, status.st_mtime_ns)
    modes = stat.S_IMODE(looks.mode) ^ stat.S_IMODE(status.st_mode)
    if modes if root else modes & _PERMISSIONS:
        return False
    if stat.S_ISREG(looks.mode):
        return (file.size, file.mtime_ns) == (status.st_size, status.st_mtime_ns)
    return looks.rdev == status.st_rdev


def _same_attributes(file: PlannedFile, path: bytes) -> bool:
    recorded = {os.fsdecode(name): value for name, value in file.looks.xattrs}
    if os.geteuid():
        recorded = {n: value for n, value in recorded.items() if not n.startswith(ROOTS)}
    try:
        there = set(os.listxattr(path, follow_symlinks=False))
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOSYS):
            raise
        there = set()
    if not recorded.keys() <= there or not there.intersection(ACLS) <= recorded.keys():
        return False
    return all(
        os.getxattr(path, name, follow_symlinks=False) == value for name, value in recorded.items()
    )
