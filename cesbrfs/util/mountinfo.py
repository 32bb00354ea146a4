"""What is mounted on this machine, and which of it is ours."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

SUBTYPE: Final = "cesbrfs"
"""What the kernel calls a mount of ours, after ``fuse.``."""
_MOUNTINFO: Final = "/proc/self/mountinfo"
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """One mount of the machine: where, of which type, from what, and its ``st_dev``."""

    mountpoint: str
    fstype: str
    source: str
    device: int


def mounts() -> Iterator[Mounted]:
    """List the machine's mounts, from /proc/self/mountinfo (see proc(5))."""
    with open(_MOUNTINFO, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            fields = before.split(" ")
            major, _, minor = fields[2].partition(":")
            fstype, source, *_ = after.split(" ")
            yield Mounted(
                _plain(fields[4]), fstype, _plain(source), os.makedev(int(major), int(minor))
            )


def _plain(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def unmounted_mountpoint(folder: str) -> str | None:
    """Return a mountpoint of fstab(5), at or above `folder`, on which nothing is mounted.

    As for mount(8), LIBMOUNT_FSTAB names another file than /etc/fstab.
    """
    mounted = {each.mountpoint for each in mounts()}
    real = os.path.realpath(folder)
    for point in _fstab_mountpoints(os.environ.get("LIBMOUNT_FSTAB") or "/etc/fstab"):
        there = os.path.realpath(point)
        if there not in mounted and os.path.commonpath((real, there)) == there:
            return point
    return None


def _fstab_mountpoints(fstab: str) -> list[str]:
    try:
        with open(fstab, encoding="utf-8", errors="surrogateescape") as lines:
            fields = [line.split() for line in lines]
    except OSError:
        return []
    return [
        _plain(words[1])
        for words in fields
        if len(words) > 1 and not words[0].startswith("#") and words[1].startswith("/")
    ]


def our_mounts() -> list[Mounted]:
    """List the mounts that this program serves."""
    return [mounted for mounted in mounts() if mounted.fstype == f"fuse.{SUBTYPE}"]
