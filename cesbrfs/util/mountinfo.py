"""List the mounts of this machine, from /proc/self/mountinfo and /etc/fstab."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

SUBTYPE: Final = "cesbrfs"
"""FUSE subtype of cesbrfs mounts."""
OUR_TYPE: Final = f"fuse.{SUBTYPE}"
"""Type of cesbrfs mounts, as the kernel reports it."""
_MOUNTINFO_FILE: Final = "/proc/self/mountinfo"
_USER_ID: Final = re.compile(r"(?:^|,)user_id=([0-9]+)(?:,|$)")
_OCTAL_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mount: mountpoint, file system type, source and ``st_dev``.

    `user` is the user ID of who mounted a FUSE file system.
    """

    mountpoint: str
    fstype: str
    source: str
    device: int
    user: int | None = None


def mounts() -> Iterator[Mounted]:
    """Yield all mounts, from /proc/self/mountinfo (format: proc(5))."""
    with open(_MOUNTINFO_FILE, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            fields = before.split(" ")
            major, _, minor = fields[2].partition(":")
            fstype, source, *options = after.rstrip("\n").split(" ")
            user = _USER_ID.search(options[0]) if options else None
            yield Mounted(
                _unescape(fields[4]),
                fstype,
                _unescape(source),
                os.makedev(int(major), int(minor)),
                int(user[1]) if user else None,
            )


def _unescape(text: str) -> str:
    return _OCTAL_ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def unmounted_mountpoint(directory: str) -> str | None:
    """Return a mountpoint of fstab(5) at or above `directory` that is not mounted.

    LIBMOUNT_FSTAB overrides the path /etc/fstab, as in mount(8). Raises OSError if the file exists
    but cannot be read.
    """
    mounted = {each.mountpoint for each in mounts()}
    real = os.path.realpath(directory)
    for point in _fstab_mountpoints(os.environ.get("LIBMOUNT_FSTAB") or "/etc/fstab"):
        real_point = os.path.realpath(point)
        if real_point not in mounted and os.path.commonpath((real, real_point)) == real_point:
            return point
    return None


def _fstab_mountpoints(fstab: str) -> list[str]:
    try:
        with open(fstab, encoding="utf-8", errors="surrogateescape") as lines:
            fields = [line.split() for line in lines]
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return [
        _unescape(words[1])
        for words in fields
        if len(words) > 1 and not words[0].startswith("#") and words[1].startswith("/")
    ]


def source_name(url: str) -> str:
    """Return the source under which mountinfo lists a mount of a repository with this address."""
    return url.replace(",", "_").encode("ascii", "replace").decode()


def our_mounts() -> list[Mounted]:
    """Return the mounts served by cesbrfs."""
    return [mounted for mounted in mounts() if mounted.fstype == OUR_TYPE]
