"""Mounting the backups as directories, by the mount program, and unmounting them."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

import cesbrfs
from cesbr import units
from cesbr.commands import Command
from cesbrfs.config.layers import absolute_path
from cesbrfs.config.password import PASSED_FD
from cesbrfs.errors import CesbrError, MountError, UsageError
from cesbrfs.fuse import mountpoint as mountpoints
from cesbrfs.fuse.requirements import require_pyfuse3
from cesbrfs.util.escape import show
from cesbrfs.util.mountinfo import Mounted, our_mounts

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.config.settings import Settings
    from cesbrfs.repo.location import Access

_PASSWORDS: Final = (
    "CESBR_PASSWORD_FILE",
    "CESBR_PASSWORD_COMMAND",
    "RESTIC_PASSWORD",
    "RESTIC_PASSWORD_FILE",
    "RESTIC_PASSWORD_COMMAND",
)


def _mount_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("mountpoint", metavar="DIR", help="an empty directory to mount on")
    parser.add_argument(
        "-o",
        dest="options",
        metavar="OPTION[,…]",
        action="append",
        default=[],
        help="allow_other, owner_root, uid=N, gid=N, idmap=FILE, umask=M, fmask=M, dmask=M,"
        " noxattr, noversions, idle=TIME, drop_privileges=USER",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--install", action="store_true", help="install a systemd service that mounts on DIR"
    )
    what.add_argument(
        "--remove", action="store_true", help="stop the service for DIR and remove it"
    )
    parser.add_argument(
        "--unit-dir",
        metavar="DIR",
        help=f"directory for the service ({units.UNIT_DIR}); in another one nothing is started",
    )


async def _mount(context: Context, arguments: argparse.Namespace) -> int:
    """Start the mount program, which returns once the mount works, and runs in the background."""
    if not arguments.remove:
        require_pyfuse3()
    if arguments.install or arguments.remove:
        from cesbr import mount_service

        change = mount_service.install if arguments.install else mount_service.remove
        return await change(context, arguments)
    if arguments.unit_dir:
        raise UsageError("--unit-dir is for --install and --remove only.")
    await context.view()  # reports its state, and initialises a missing repository
    settings = await context.session.settings()
    access = await context.session.access()
    where = _absolute(arguments.mountpoint)
    # -P: no module is imported from the current directory.
    command = [sys.executable, "-P", "-m", "cesbrfs", where]
    for option in arguments.options:
        command += ["-o", option]
    from cesbrfs.restic.environment import passed_bytes

    environment = child_environment(context.session.environ, settings, access)
    with tempfile.TemporaryFile() as stderr, passed_bytes(access.key.value) as key:
        done = await trio.run_process(
            command,
            env=environment | {PASSED_FD: str(key)},
            pass_fds=(key,),
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # A file, not a pipe: the mount keeps it open for as long as it lives.
            stderr=stderr,
            start_new_session=True,
        )
        stderr.seek(0)
        message = stderr.read().decode("utf-8", "replace").strip()
    if done.returncode:
        raise _failure(message, done.returncode)
    if message:
        context.out.note(message, lines=True)
    await context.out.result(
        {"mountpoint": where, "source": access.display_url},
        f"The backups are mounted on {_shown(where)}; 'cesbr umount {_shown(where)}' ends it.\n",
    )
    return 0


def child_environment(
    environ: Mapping[str, str], settings: Settings, access: Access
) -> dict[str, str]:
    """Return the environment that hands these settings to the mount program.

    An address with a password must not be in its arguments. The key is passed through a
    descriptor, because a password file may be a pipe that can be read only once.
    """
    child = {name: value for name, value in environ.items() if name not in _PASSWORDS}
    child |= access.environment
    child["CESBR_REPOSITORY"] = access.url
    child["CESBR_REGISTRY"] = settings.registry
    child["CESBR_ROOT"] = str(settings.root)
    child["CESBR_PATIENCE"] = str(settings.patience)
    if settings.config_file is not None:
        child["CESBR_CONFIG"] = str(settings.config_file)
    source = str(Path(cesbrfs.__file__).parent.parent)
    child["PYTHONPATH"] = os.pathsep.join(filter(None, (source, environ.get("PYTHONPATH"))))
    return child


def _failure(message: str, code: int) -> CesbrError:
    """Return the mount program's error as one of ours, with its exit code."""
    error = MountError(message.removeprefix("cesbrfs: ") or "The mount program failed.")
    error.exit_code = code if code > 0 else 1
    return error


def _umount_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "mountpoint", metavar="DIR", nargs="?", help="what to unmount (default: the only mount)"
    )
    parser.add_argument(
        "--lazy", action="store_true", help="although it is in use: gone when nothing uses it"
    )


async def _umount(context: Context, arguments: argparse.Namespace) -> int:
    where = _to_unmount(arguments.mountpoint)
    await trio.to_thread.run_sync(partial(mountpoints.unmount, where, lazy=arguments.lazy))
    await context.out.result({"mountpoint": where}, f"{_shown(where)} is unmounted.\n")
    return 0


def _to_unmount(given: str | None) -> str:
    """Return the mountpoint to unmount."""
    if given is None:
        ours = [mounted.mountpoint for mounted in our_mounts()]
        if len(ours) == 1:
            return ours[0]
        listed = f"say which: {', '.join(map(_shown, ours))}." if ours else "there is no mount."
        raise UsageError(f"Unmount what?  {listed[:1].upper()}{listed[1:]}")
    return mountpoints.find_mount(os.path.abspath(given)).mountpoint


def _refresh_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "mountpoint", metavar="DIR", nargs="?", help="the mount (default: all mounts of this user)"
    )


def _to_refresh(given: str | None) -> list[Mounted]:
    """Return the mounts to list again."""
    if given is not None:
        return [mountpoints.find_mount(os.path.abspath(given))]
    own = [mounted for mounted in our_mounts() if mounted.user == os.geteuid()]
    if not own:
        raise MountError("This user has no mount. Pass a mount point, or mount the backups.")
    return own


async def _refresh(context: Context, arguments: argparse.Namespace) -> int:
    """Have mounts list the backups now; MountError names those that could not."""
    from cesbrfs.fuse.control import reload

    listed: list[dict[str, object]] = []
    failed: list[str] = []
    for mounted in _to_refresh(arguments.mountpoint):
        try:
            backups = await reload(mounted)
        except MountError as error:
            failed.append(error.message)
        else:
            listed.append({"mountpoint": mounted.mountpoint, "backups": backups})
    text = "".join(
        f"{_shown(str(each['mountpoint']))}: {_counted(each['backups'])}.\n" for each in listed
    )
    await context.out.result(listed, text)
    if failed:
        raise MountError(" ".join(failed))
    return 0


def _counted(backups: object) -> str:
    return "1 backup" if backups == 1 else f"{backups} backups"


def _absolute(path: str) -> str:
    return absolute_path(path)


def _shown(path: str) -> str:
    return show(os.fsencode(path))


COMMANDS: Final = (
    Command(
        "mount",
        "Mount the backups on a directory, read-only, until 'umount'.",
        "mount /mnt/backups",
        _mount_arguments,
        _mount,
        "New backups appear in it by themselves. With --install, systemd mounts them at each boot.",
    ),
    Command("umount", "Unmount the backups.", "umount /mnt/backups", _umount_arguments, _umount),
    Command(
        "refresh",
        "Have running mounts list the backups now.",
        "refresh /mnt/backups",
        _refresh_arguments,
        _refresh,
        "Returns once they have.",
    ),
)
