"""The ``-o`` options of a mount.  Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cesbrfs.errors import UsageError
from cesbrfs.util.secret import redact

NOSYMFOLLOW: Final = "nosymfollow"
_PASSED_ON: Final = frozenset({"noexec", NOSYMFOLLOW})
"""Generic mount options that the kernel applies to a mount of ours."""
_OPPOSITES: Final[Mapping[str, str]] = {"exec": "noexec", "symfollow": NOSYMFOLLOW}
_FOR_USERS: Final = frozenset({"user", "users", "owner", "group"})
_IGNORED: Final = re.compile(
    # For mount(8) itself and for systemd, as it hands them on.
    r"(no)?(auto|fail|user|users|owner|group)|_netdev|defaults|x-.*|X-.*|comment=.*|silent|loud"
    # Without meaning for a mount that is always read-only, nosuid and nodev. mount(8) adds rw, dev
    # and suid where fstab does not mention them.
    r"|r[ow]|(no)?(suid|dev|atime|diratime|relatime|strictatime|lazytime|iversion|mand)"
    r"|sync|async|dirsync"
    # What a mount of ours has anyway.
    r"|default_permissions|fsname=.*|subtype=.*"
)
"""Generic mount options that change nothing here."""
_SETTINGS: Final = frozenset({
    "password_file", "registry", "root", "config", "cache_size", "data_cache_size", "cache_dir",
    "patience",
})  # fmt: skip


_SWITCHES: Final[Mapping[str, Mapping[str, bool | int]]] = {
    "allow_other": {"allow_other": True},
    "owner_root": {"uid": 0, "gid": 0},
    "noxattr": {"xattrs": False},
    "noversions": {"versions": False},
}
"""The fields of `MountOptions` that options without a value set."""
_MASKS: Final = frozenset({"umask", "fmask", "dmask"})
_OCTAL: Final = re.compile(r"0?[0-7]{1,3}")
_DURATION: Final = re.compile(r"([0-9]{1,9})([smh])")
_UNIT_SECONDS: Final[Mapping[str, int]] = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class MountOptions:
    """`uid` and `gid` replace recorded owners that the file `id_map` does not map.

    `fmask` and `dmask` are permission bits that files and directories are shown without.
    `settings` are flags by name, for fstab.
    """

    allow_other: bool = False
    uid: int | None = None
    gid: int | None = None
    id_map: str | None = None
    fmask: int = 0
    dmask: int = 0
    xattrs: bool = True
    versions: bool = True
    """Whether there are the directories ``_dogus`` and ``_versions``."""
    generic: tuple[str, ...] = ()
    """Generic mount options that the kernel applies, such as ``noexec``."""
    settings: Mapping[str, str] = field(default_factory=dict)
    idle_seconds: float | None = None
    """Unmount after this time without use."""
    drop_privileges: str | None = None
    """Name or ID of the user as whom to serve the mount."""
    text: str = ""
    """The options as given, without passwords."""


def parse_options(given: Iterable[str]) -> MountOptions:
    """Parse the arguments of ``-o``, comma-separated lists; UsageError for unknown options."""
    generic: list[str] = []
    settings: dict[str, str] = {}
    found: dict[str, Any] = {}
    masks: dict[str, int] = {}
    options = [part for text in given for part in text.split(",") if part]
    for option in options:
        name, _, value = option.partition("=")
        if option in _SWITCHES:
            found.update(_SWITCHES[option])
        elif name in _VALUES:
            field_name, parse = _VALUES[name]
            found[field_name] = parse(option, value)
        elif name in _MASKS:
            masks[name] = _octal(option, value)
        elif name in _SETTINGS and value:
            settings[name] = value
        else:
            generic.append(option)
    umask = masks.get("umask", 0)
    return MountOptions(
        **found,
        fmask=masks.get("fmask", umask),
        dmask=masks.get("dmask", umask),
        generic=_generic(generic),
        settings=settings,
        text=",".join(map(redact, options)),
    )


def _generic(given: Iterable[str]) -> tuple[str, ...]:
    """Return which of the generic options the kernel is to apply; UsageError for an unknown one.

    The last of an option and its opposite counts, and ``user`` implies ``noexec``, as for mount(8).
    """
    found: dict[str, None] = {}
    for option in given:
        if option in _PASSED_ON:
            found[option] = None
        elif option in _OPPOSITES:
            found.pop(_OPPOSITES[option], None)
        elif not _IGNORED.fullmatch(option):
            raise UsageError(
                f"-o {option} is not supported. Use allow_other, owner_root, uid=, gid=, idmap=,"
                " umask=, fmask=, dmask=, noxattr, noversions, idle=, drop_privileges=,"
                f" {', '.join(sorted(_PASSED_ON))},"
                f" {', '.join(sorted(name + '=' for name in _SETTINGS))}."
            )
        elif option in _FOR_USERS:
            found["noexec"] = None
    return tuple(found)


def _seconds(option: str, value: str) -> float:
    duration = _DURATION.fullmatch(value)
    if duration is None or not int(duration[1]):
        raise UsageError(f"-o {option}: the value must be a time such as 90s, 10m or 1h.")
    return float(int(duration[1]) * _UNIT_SECONDS[duration[2]])


def _octal(option: str, value: str) -> int:
    if not _OCTAL.fullmatch(value):
        raise UsageError(f"-o {option}: the value must be octal permission bits, such as 027.")
    return int(value, 8)


def _text(option: str, value: str) -> str:
    if not value:
        raise UsageError(f"-o {option} needs a value.")
    return value


def _number(option: str, value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) >= 1 << 32:
        raise UsageError(f"-o {option}: the value must be a numeric ID.")
    return int(value)


_VALUES: Final[Mapping[str, tuple[str, Callable[[str, str], object]]]] = {
    "uid": ("uid", _number),
    "gid": ("gid", _number),
    "idmap": ("id_map", _text),
    "idle": ("idle_seconds", _seconds),
    "drop_privileges": ("drop_privileges", _text),
}
"""The field of `MountOptions` and the parser of each option with a value."""
