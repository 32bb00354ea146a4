"""Generate the systemd service that keeps the backups mounted. Pure.

The unit contains no secrets: ``cesbrfs`` reads the address and the encryption key from the
configuration.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from typing import Final

from cesbrfs.ces.systemd_units import command_line, quoted
from cesbrfs.errors import UsageError

MARK: Final = "# Made by 'cesbr mount'; the next --install replaces it, --remove removes it."
"""First line of each generated unit. Other files are never overwritten or removed."""
PACKAGED: Final = "cesbrfs.service"
"""The service in the Debian package, which mounts on /backups."""
_NAME_MAX: Final = 255
_PACKAGED_HEAD: Final = f"""\
# Mount the backups on /backups: mkdir /backups && systemctl enable --now {PACKAGED}
# Change the mount point or add options with 'systemctl edit {PACKAGED}'.
"""
_SERVICE: Final = """\
# With all privileges (+): without them root cannot signal a process of another user.
ExecReload=+/bin/kill -HUP $MAINPID
# A mount whose event loop hangs is ended with SIGABRT and started again.
WatchdogSec=60
Restart=on-failure
RestartSec=10
# Retrying does not help with a usage error or a wrong key.
RestartPreventExitStatus=2 12

# Options that give the service its own mount namespace (ProtectSystem=, ProtectHome=, PrivateTmp=,
# PrivateDevices=, ProtectKernel…=, ReadOnlyPaths= and others) would hide the mount from all others.
NoNewPrivileges=yes
# Mount and set read-ahead (SYS_ADMIN), read any repository, key file and registry (DAC), name the
# processes that use the mount (SYS_PTRACE), and drop all of these with -o drop_privileges=.
CapabilityBoundingSet=CAP_SYS_ADMIN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_SYS_PTRACE
CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_CHOWN
DevicePolicy=closed
DeviceAllow=/dev/fuse rw
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service @mount
SystemCallErrorNumber=EPERM
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def unit_name(mountpoint: str) -> str:
    """Return the name of the service for a mount point, such as ``cesbrfs-mnt-backups.service``.

    The path is escaped as by ``systemd-escape --path``. Raises UsageError if it is too long.
    """
    path = posixpath.normpath(mountpoint).strip("/")
    escaped = re.sub(rb"^\.|[^A-Za-z0-9:_./]", _escape, path.encode("utf-8", "surrogateescape"))
    name = f"cesbrfs-{escaped.decode('ascii').replace('/', '-') or '-'}.service"
    if len(name) > _NAME_MAX:
        raise UsageError(f"The path {mountpoint} is too long for the name of a systemd unit.")
    return name


def _escape(match: re.Match[bytes]) -> bytes:
    return b"\\x%02x" % ord(match[0])


def render_mount_unit(
    command: Sequence[str], mountpoint: str, *, home: str, directory: str | None = None
) -> str:
    """Return the service that runs `command`, ``cesbrfs --foreground`` with its options.

    `home` is the home directory of the installing user, and `directory` the path of a local
    repository: systemd mounts its disk first.
    """
    needed = [path for path in (directory, posixpath.dirname(mountpoint)) if path]
    return _render(
        f"{MARK}\n",
        f"RequiresMountsFor={' '.join(map(quoted, needed))}\n",
        f"Environment={quoted('HOME=' + home)}\nExecStart={command_line(command)}\n",
    )


def render_packaged_unit() -> str:
    """Return the service of the Debian package; drop-ins set its mount point and its options."""
    return _render(
        _PACKAGED_HEAD,
        "",
        "Environment=HOME=%h\n"
        "Environment=MOUNTPOINT=/backups OPTIONS=allow_other\n"
        "ExecStart=/usr/bin/cesbrfs --foreground -o ${OPTIONS} ${MOUNTPOINT}\n",
    )


def _render(head: str, requires: str, start: str) -> str:
    return f"""{head}[Unit]
Description=Backups of the Cloudogu EcoSystem as a read-only file system
Documentation=man:cesbrfs(1)
Wants=network-online.target
After=network-online.target local-fs.target remote-fs.target
{requires}
[Service]
Type=notify
{start}{_SERVICE}"""
