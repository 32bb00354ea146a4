"""The command line of ``cesbrfs [REPO] MOUNTPOINT``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence

from cesbrfs import __version__
from cesbrfs.config.password import PASSED_FD, with_passed_password
from cesbrfs.config.settings import Flags, Settings, load, require_root
from cesbrfs.errors import CesbrError, UsageError
from cesbrfs.fuse.daemon import Starter
from cesbrfs.fuse.options import MountOptions, parse_options
from cesbrfs.fuse.requirements import require_pyfuse3
from cesbrfs.fuse.systemd import ServiceManager
from cesbrfs.util.argparser import Parser
from cesbrfs.util.escape import printable
from cesbrfs.util.log_format import traceback_text

_log = logging.getLogger(__name__)

_UNEXPECTED = (
    "cesbrfs: The mount ended unexpectedly: the log has the details. Unmount it with"
    " 'fusermount3 -u', or start cesbrfs again."
)
_NO_SOURCE = ("none", "cesbrfs", "fuse.cesbrfs")
"""Values of fstab's first column that name no repository."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = Parser(
        prog="cesbrfs",
        description="Mount the backups of a Cloudogu EcoSystem read-only.",
        epilog="Unmount with 'cesbrfs --umount MOUNTPOINT'.",
    )
    made.add_argument(
        "places",
        nargs="+",
        metavar="[REPO] MOUNTPOINT",
        help="repository and directory to mount on",
    )
    made.add_argument(
        "-f", "--foreground", action="store_true", help="stay in the foreground and log to stderr"
    )
    made.add_argument(
        "-o",
        dest="mount_options",
        action="append",
        default=[],
        metavar="OPTION[,…]",
        help="mount options: allow_other, owner_root, uid=N, gid=N, idmap=FILE, umask=M,"
        " fmask=M, dmask=M (octal), noxattr, noversions, noexec,"
        " idle=TIME (unmount after TIME without use, such as 10m); for fstab:"
        " password_file=, registry=, root=, config=, cache_size=, data_cache_size=, cache_dir=,"
        " patience=",
    )
    made.add_argument("--repo", metavar="URL", help="address of the repository")
    made.add_argument(
        "--password-file", metavar="FILE", help="file with the password of the repository"
    )
    made.add_argument("--registry", metavar="PATH-or-URL", help="CES registry")
    made.add_argument("--root", metavar="DIR", help="root directory of the instance (/)")
    made.add_argument("--config", metavar="FILE", help="configuration file")
    made.add_argument(
        "--patience", metavar="SECONDS", help="retry for SECONDS while a server is offline (60)"
    )
    made.add_argument(
        "--drop-privileges", metavar="USER", help="drop root and serve the mount as USER"
    )
    made.add_argument("-u", "--umount", action="store_true", help="unmount MOUNTPOINT")
    made.add_argument(
        "-z", "--lazy", action="store_true", help="with --umount: also if it is in use"
    )
    made.add_argument("--log", metavar="FILE", help="log to FILE")
    made.add_argument("--debug", action="store_true", help="log debug messages and show tracebacks")
    made.add_argument("--version", action="version", version=f"cesbrfs {__version__}")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    try:
        arguments = parser().parse_args(argv)
    except UsageError as error:
        return _fail(error, debug=False)
    try:
        if arguments.umount or arguments.lazy:
            return _umount(arguments)
        require_pyfuse3()
        options = parse_options(arguments.mount_options)
        repository, mountpoint = _places(arguments)
        environ = with_passed_password(os.environ)
        settings = load(_flags(arguments, options, repository), environ)
        for name in (PASSED_FD, "RESTIC_PASSWORD"):  # fusermount3 and ssh must not inherit it
            os.environ.pop(name, None)
        require_root(settings)
    except CesbrError as error:
        return _fail(error, debug=arguments.debug)
    starter = Starter()
    manager = ServiceManager.from_environment(os.environ)

    def work() -> int:
        try:
            _mount(arguments, settings, mountpoint, options, starter.ready, manager=manager)
        except CesbrError as error:
            return _fail(error, debug=arguments.debug)
        except KeyboardInterrupt:
            return 130
        except Exception as error:  # noqa: BLE001 - reported below; the mountpoint answers ENOTCONN
            _log.exception("The mount ended unexpectedly")
            if arguments.debug:
                print(traceback_text(error), file=sys.stderr, end="")
            else:
                print(_UNEXPECTED, file=sys.stderr)
            return 1
        return 0

    return work() if arguments.foreground else starter.in_background(work)


def _umount(arguments: argparse.Namespace) -> int:
    from cesbrfs.fuse.mountpoint import find_mount, unmount

    if not arguments.umount:
        raise UsageError("--lazy is for --umount only.")
    if len(arguments.places) > 1:
        raise UsageError("Too many arguments: pass one mount point to --umount.")
    unmount(find_mount(arguments.places[0]).mountpoint, lazy=arguments.lazy)
    return 0


def _mount(
    arguments: argparse.Namespace,
    settings: Settings,
    mountpoint: str,
    options: MountOptions,
    ready: Callable[[], None],
    *,
    manager: ServiceManager,
) -> None:
    from cesbrfs.repo.kdf import derive_ahead
    from cesbrfs.repo.location import local_directory
    from cesbrfs.util.heap import steady_heap

    steady_heap()
    helper, user = None, None
    if name := arguments.drop_privileges or options.drop_privileges:
        from cesbrfs.fuse import privileges
        from cesbrfs.fuse.mount_helper import MountHelper

        user = privileges.find_user(name)
        settings = privileges.settings_for(settings, user)
        privileges.forbid_new_privileges()
        helper = MountHelper.start()
    # Key derivation takes as long as all the imports that follow.
    known = settings.access_nowait() if user is None else None
    if known is not None:
        derive_ahead(*known, settings.cache_dir)
    import trio

    from cesbrfs.fuse.id_map import read_id_map
    from cesbrfs.fuse.logging import log_to
    from cesbrfs.fuse.mountpoint import check_mountpoint

    async def run() -> None:
        access = await settings.access()
        directory = local_directory(access.url)
        real = check_mountpoint(mountpoint, directory, settings.cache_dir)
        resolved = await settings.resolve()
        id_map = read_id_map(options.id_map) if options.id_map is not None else None
        owner = os.getuid(), os.getgid()
        if helper is not None and user is not None:
            from cesbrfs.fuse.mount import mount_target

            helper.configure(mount_target(real, access.display_url, options))
            privileges.drop(user, os.environ)
            if directory is not None:
                privileges.check_readable(directory, user.pw_name)
        if known is None:
            derive_ahead(access.url, access.key, settings.cache_dir)
        from cesbrfs.fuse.mount import Mounting, serve

        log_to(
            arguments.log,
            background=not arguments.foreground,
            cache_dir=settings.cache_dir,
            debug=arguments.debug,
        )
        mounting = Mounting(real, options, owner, id_map, helper)
        await serve(resolved, access, mounting, ready, manager=manager)

    trio.run(run)


def _places(arguments: argparse.Namespace) -> tuple[str | None, str]:
    """Return the repository, if given, and the absolute mountpoint."""
    *before, mountpoint = arguments.places
    if len(before) > 1:
        raise UsageError("Too many arguments: pass a repository and a mount point.")
    repository = before[0] if before and before[0] not in _NO_SOURCE else None
    if repository and arguments.repo:
        raise UsageError("The repository is given twice. Leave out --repo.")
    return repository or arguments.repo, os.path.abspath(mountpoint)


def _flags(arguments: argparse.Namespace, options: MountOptions, repository: str | None) -> Flags:
    """Combine flags and -o options; flags take precedence."""
    other = options.settings
    return Flags(
        repository=repository,
        password_file=arguments.password_file or other.get("password_file"),
        registry=arguments.registry or other.get("registry"),
        root=arguments.root or other.get("root"),
        config=arguments.config or other.get("config"),
        cache_dir=other.get("cache_dir"),
        cache_size=other.get("cache_size"),
        patience=arguments.patience or other.get("patience"),
        data_cache_size=other.get("data_cache_size"),
    )


def _fail(error: CesbrError, *, debug: bool) -> int:
    if debug:
        print(traceback_text(error), file=sys.stderr, end="")
    print(f"cesbrfs: {printable(error.message)}", file=sys.stderr)
    return error.exit_code
