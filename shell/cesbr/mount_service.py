"""Install and remove the systemd service that keeps the backups mounted."""

from __future__ import annotations

import argparse
import os
import pwd
import shlex
from typing import TYPE_CHECKING

from cesbr import units
from cesbrfs.ces.mount_unit import MARK, render_mount_unit, unit_name
from cesbrfs.config.layers import absolute_path
from cesbrfs.errors import MountError
from cesbrfs.fuse.mountpoint import resolve
from cesbrfs.fuse.options import parse_options
from cesbrfs.repo.location import local_directory
from cesbrfs.util.mountinfo import our_mounts

if TYPE_CHECKING:
    from cesbr.session import Context


async def install(context: Context, arguments: argparse.Namespace) -> int:
    """Write the service for a mount point, and start it if systemd reads its directory."""
    directory, runs = units.unit_directory(arguments.unit_dir)
    where = absolute_path(arguments.mountpoint)
    name = unit_name(where)
    parse_options(arguments.options)  # raises UsageError
    _check(where, installed=(directory / name).exists())
    command = [*units.program("cesbrfs"), "--foreground", *units.setting_flags(context)]
    for option in arguments.options:
        units.refuse_password(option)
        command += ["-o", option]
    address = (await context.session.settings()).repository
    text = render_mount_unit(
        [*command, where],
        where,
        home=pwd.getpwuid(os.getuid()).pw_dir,
        directory=local_directory(address) if address else None,
    )
    await units.warn_of_environment(context)
    units.write_units(directory, {name: text}, MARK)
    quoted = shlex.quote(name)
    report = f"Installed {directory / name}.\n"
    if runs:
        await units.systemctl("daemon-reload")
        await units.systemctl("enable", name)
        await units.systemctl("restart", name)  # returns once the mount answers
        report += (
            f"The backups are mounted on {where}.\n"
            f"State:   systemctl status {quoted}\n"
            f"Log:     journalctl -u {quoted}\n"
        )
    else:
        report += f"Nothing was started. Run 'systemctl enable --now {quoted}' to start it.\n"
    result = {"directory": str(directory), "unit": name, "mountpoint": where, "started": runs}
    await context.out.result(result, report)
    return 0


async def remove(context: Context, arguments: argparse.Namespace) -> int:
    """Stop the service for a mount point, which unmounts it, and remove the unit."""
    directory, runs = units.unit_directory(arguments.unit_dir)
    name = unit_name(absolute_path(arguments.mountpoint))
    there = units.existing_units(directory, (name,), MARK)
    if runs and there:
        await units.systemctl("disable", "--now", name)
    units.remove_units(directory, there)
    if runs and there:
        await units.systemctl("daemon-reload")
    text = f"Removed from {directory}: {name if there else 'nothing'}.\n"
    await context.out.result({"directory": str(directory), "removed": there}, text)
    return 0


def _check(where: str, *, installed: bool) -> None:
    """Raise MountError if the service could not mount on `where`."""
    mounted = any(mount.mountpoint == resolve(where) for mount in our_mounts())
    if mounted and not installed:
        raise MountError(f"{where} is mounted already. Unmount it with 'cesbr umount' first.")
    if not mounted and not os.path.isdir(where):
        raise MountError(f"The mount point {where} is not a directory. Create it with 'mkdir'.")
