"""The ``-o`` options of a mount.  Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cesbrfs.errors import UsageError

_PASSED_OVER: Final = re.compile(
    r"ro|(no)?(auto|atime|diratime|relatime|exec|suid|dev|fail|user|users|owner|group|sync|async)"
    r"|_netdev|defaults|x-.*|comment=.*|fsname=.*|subtype=.*"
)
"""What mount(8) and fstab say to everyone.  A mount of ours is always ro, nosuid and nodev."""
_SETTINGS: Final = frozenset({
    "password_file", "registry", "root", "config", "cache_size", "data_cache_size", "cache_dir",
    "patience",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class MountOptions:
    """`uid` and `gid` replace recorded owners; `settings` are flags by name, for fstab."""

    allow_other: bool = False
    uid: int | None = None
    gid: int | None = None
    xattrs: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)


def parse_options(given: Iterable[str]) -> MountOptions:
    """Read the arguments of ``-o``, each a list with commas; UsageError for an unknown one."""
    allow_other, xattrs = False, True
    uid: int | None = None
    gid: int | None = None
    settings: dict[str, str] = {}
    for option in (part for text in given for part in text.split(",") if part):
        name, _, value = option.partition("=")
        if option == "allow_other":
            allow_other = True
        elif option == "owner_root":
            uid = gid = 0
        elif option == "noxattr":
            xattrs = False
        elif name == "uid":
            uid = _number(option, value)
        elif name == "gid":
            gid = _number(option, value)
        elif name in _SETTINGS and value:
            settings[name] = value
        elif option == "rw":
            raise UsageError("A mount of backups cannot be written to; leave out -o rw.")
        elif not _PASSED_OVER.fullmatch(option):
            raise UsageError(
                f"-o {option} is not known; there are allow_other, owner_root, uid=, gid=, noxattr"
                f" and {', '.join(sorted(name + '=' for name in _SETTINGS))}."
            )
    return MountOptions(allow_other, uid, gid, xattrs, settings)


def _number(option: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) >= 1 << 32:
        raise UsageError(f"-o {option}: the value must be a numeric ID.")
    return int(value)
