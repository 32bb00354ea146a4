"""Backups every day: systemd's units for them, shown, installed and removed."""

from __future__ import annotations

import argparse
import os
import pwd
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cesbr.commands import Command
from cesbrfs.config.layers import absolute_path
from cesbrfs.errors import CesbrError, UsageError

if TYPE_CHECKING:
    from cesbr.session import Context

_UNIT_DIR: Final = Path("/etc/systemd/system")
_SYSTEMD: Final = Path("/run/systemd/system")
"""There while systemd runs the machine."""
_SYSTEMCTL_SECONDS: Final = 60.0


def _arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--install", action="store_true", help="install them and start the timer")
    what.add_argument("--remove", action="store_true", help="stop the timer and remove them")
    parser.add_argument(
        "--at",
        metavar="HH:MM",
        action="append",
        help="back up at this time, in place of /config/backup/time; may be given more than once",
    )
    parser.add_argument(
        "--on-failure", metavar="UNIT", help="a unit of systemd to start when a backup fails"
    )
    parser.add_argument(
        "--unit-dir",
        metavar="DIR",
        help=f"where the units lie (default {_UNIT_DIR}); elsewhere nothing is started",
    )


async def _schedule(context: Context, arguments: argparse.Namespace) -> int:
    directory = Path(_absolute(arguments.unit_dir) or _UNIT_DIR)
    runs = not arguments.unit_dir and _SYSTEMD.is_dir()
    if arguments.remove:
        removed = await _remove(directory, runs=runs)
        text = f"Removed from {directory}: {', '.join(removed) or 'nothing'}.\n"
        await context.out.result({"folder": str(directory), "removed": removed}, text)
        return 0
    times = await _times(context, arguments)
    made = await _units(context, arguments, times)
    await _warn_of_environment(context)
    if arguments.install:
        await _install(directory, made, runs=runs)
    installed = all(_text(directory / name) == text for name, text in made.items())
    result = {
        "folder": str(directory),
        "times": [f"{at:%H:%M:%S}" for at in times],
        "installed": installed,
        "units": dict(made),
    }
    shown = "" if arguments.install else _shown(made)
    await context.out.result(
        result, shown + _advice(directory, times, installed=installed, runs=runs)
    )
    return 0


async def _times(context: Context, arguments: argparse.Namespace) -> tuple[time, ...]:
    from cesbrfs.ces.backup_config import backup_config

    if not arguments.at:
        settings = await context.session.settings()
        return (await backup_config(settings.open_registry())).times
    try:
        return tuple(sorted({time.fromisoformat(at) for at in arguments.at}))
    except ValueError as error:
        raise UsageError("--at takes a time of day such as 02:30.") from error


async def _units(
    context: Context, arguments: argparse.Namespace, times: Sequence[time]
) -> Mapping[str, str]:
    from cesbrfs.ces.systemd_units import render_units
    from cesbrfs.repo.location import local_directory

    home = pwd.getpwuid(os.getuid()).pw_dir
    command = [*_program(), *_flags(context)]
    address = (await context.session.settings()).repository
    return render_units(
        times,
        command,
        home=home,
        on_failure=arguments.on_failure,
        directory=local_directory(address) if address else None,
    )


def _program() -> list[str]:
    """Return how this cesbr is started, by absolute paths."""
    beside = Path(sys.executable).with_name("cesbr")
    program = str(beside) if beside.exists() else shutil.which("cesbr")
    return [program] if program else [sys.executable, "-m", "cesbr"]


def _flags(context: Context) -> list[str]:
    """Return the settings passed as options, which the units pass as well."""
    from cesbrfs.util.secret import redact

    given = context.session.flags
    for address in (given.repository, given.registry):
        if address is not None and redact(address) != address:
            raise UsageError(
                f"{redact(address)} holds a password, which every user could read in a unit; set"
                " the address in the settings file instead."
            )
    flags: list[str] = []
    for flag, value in (
        ("--repo", _place(given.repository)),
        ("--password-file", _absolute(given.password_file)),
        ("--registry", _place(given.registry)),
        ("--root", _absolute(given.root)),
        ("--config", _absolute(given.config)),
        ("--patience", given.patience),
    ):
        flags += [flag, value] if value is not None else []
    return flags


async def _warn_of_environment(context: Context) -> None:
    sources = (await context.session.settings()).sources
    lost = sorted(name for name, source in sources.items() if source.startswith("environment"))
    if lost:
        context.out.note(
            f"The units do not have what is set in the environment here ({', '.join(lost)}); say it"
            " in the settings file, or by flags of this command."
        )


def _place(address: str | None) -> str | None:
    """Return an address as it is, a directory by its whole path."""
    return address if address is None or ":" in address else _absolute(address)


def _absolute(path: str | None) -> str | None:
    return None if path is None else absolute_path(path)


async def _install(directory: Path, made: Mapping[str, str], *, runs: bool) -> None:
    from cesbrfs.ces.systemd_units import TIMER

    for name in made:
        _require_ours(directory / name)
    try:
        for name, text in made.items():
            beside = directory / f".{name}.new"
            beside.write_text(text)
            beside.chmod(0o644)
            beside.replace(directory / name)
    except OSError as error:
        raise CesbrError(
            f"The units cannot be written to {directory} ({error.strerror}); run it as root, or"
            " name another directory with --unit-dir."
        ) from error
    if runs:
        await _systemctl("daemon-reload")
        await _systemctl("enable", TIMER)
        await _systemctl("restart", TIMER)  # it may have run already, with other times


async def _remove(directory: Path, *, runs: bool) -> list[str]:
    from cesbrfs.ces.systemd_units import SERVICE, TIMER

    there = [name for name in (TIMER, SERVICE) if (directory / name).exists()]
    for name in there:
        _require_ours(directory / name)
    if runs and TIMER in there:
        await _systemctl("disable", "--now", TIMER)
    try:
        for name in there:
            (directory / name).unlink()
    except OSError as error:
        raise CesbrError(
            f"The units cannot be removed from {directory} ({error.strerror}); run it as root."
        ) from error
    if runs and there:
        await _systemctl("daemon-reload")
    return there


def _require_ours(file: Path) -> None:
    """Raise UsageError for a unit that somebody else wrote."""
    from cesbrfs.ces.systemd_units import MARK

    if (text := _text(file)) is not None and not text.startswith(MARK):
        raise UsageError(f"{file} was not made by 'cesbr schedule'; move it away first.")


def _text(file: Path) -> str | None:
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return None


async def _systemctl(*arguments: str) -> None:
    import trio

    shown = f"systemctl {' '.join(arguments)}"
    try:
        with trio.fail_after(_SYSTEMCTL_SECONDS):
            done = await trio.run_process(
                ["systemctl", *arguments], capture_stdout=True, capture_stderr=True, check=False
            )
    except OSError as error:
        raise CesbrError(f"{shown} could not be run ({error.strerror}); run it as root.") from error
    except trio.TooSlowError as error:
        raise CesbrError(f"{shown} did not end within {_SYSTEMCTL_SECONDS:.0f} s.") from error
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise CesbrError(f"{shown} failed: {message.splitlines()[-1].rstrip('.')}.")


def _shown(made: Mapping[str, str]) -> str:
    return "".join(f"==> {name}\n{text}\n" for name, text in made.items())


def _advice(directory: Path, times: Sequence[time], *, installed: bool, runs: bool) -> str:
    when = ", ".join(f"{at:%H:%M:%S}" for at in times)
    if not installed:
        where = "" if directory == _UNIT_DIR else f" --unit-dir {shlex.quote(str(directory))}"
        return (
            f"Not installed in {directory} as above; 'cesbr schedule --install{where}' does it.\n"
        )
    text = f"Installed in {directory}: backups every day at {when}.\n"
    if not runs:
        return text + "Nothing was started; 'systemctl enable --now cesbr-backup.timer' does it.\n"
    return text + (
        "Next:    systemctl list-timers cesbr-backup.timer\n"
        "Result:  systemctl status cesbr-backup.service\n"
        "Log:     journalctl -u cesbr-backup.service\n"
    )


COMMANDS: Final = (
    Command(
        "schedule",
        "Show, install or remove the systemd units that back up every day.",
        "schedule --install --at 02:30",
        _arguments,
        _schedule,
        "They run 'backup' and, when that made a complete backup, 'forget --policy configured"
        " --prune'.  The times are those of /config/backup/time; after a change, install again.",
    ),
)
