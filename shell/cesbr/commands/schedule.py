"""Backups every day: systemd's units for them, shown, installed and removed."""

from __future__ import annotations

import argparse
import os
import pwd
import shlex
from collections.abc import Mapping, Sequence
from datetime import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cesbr import units
from cesbr.commands import Command
from cesbr.units import (
    existing_units,
    program,
    remove_units,
    setting_flags,
    systemctl,
    unit_text,
    warn_of_environment,
    write_units,
)
from cesbrfs.config.layers import absolute_path
from cesbrfs.errors import UsageError

if TYPE_CHECKING:
    from cesbr.session import Context


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
        "--metrics",
        metavar="FILE",
        help="have each run write the metrics of the backups to FILE (see 'cesbr metrics')",
    )
    parser.add_argument(
        "--drill",
        action="store_true",
        help="also run 'cesbr drill' every Sunday at 05:00",
    )
    parser.add_argument(
        "--unit-dir",
        metavar="DIR",
        help=f"where the units lie (default {units.UNIT_DIR}); elsewhere nothing is started",
    )


async def _schedule(context: Context, arguments: argparse.Namespace) -> int:
    directory, runs = units.unit_directory(arguments.unit_dir)
    if arguments.remove:
        removed = await _remove(directory, runs=runs)
        text = f"Removed from {directory}: {', '.join(removed) or 'nothing'}.\n"
        await context.out.result({"folder": str(directory), "removed": removed}, text)
        return 0
    times = await _times(context, arguments)
    made = await _units(context, arguments, times)
    await warn_of_environment(context)
    if arguments.install:
        await _install(directory, made, runs=runs)
    installed = all(unit_text(directory / name) == text for name, text in made.items())
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
    from cesbrfs.ces.systemd_units import render_drill_units, render_units
    from cesbrfs.repo.location import local_directory

    home = pwd.getpwuid(os.getuid()).pw_dir
    command = [*program("cesbr"), *setting_flags(context)]
    address = (await context.session.settings()).repository
    units_of_backups = render_units(
        times,
        command,
        home=home,
        on_failure=arguments.on_failure,
        directory=local_directory(address) if address else None,
        metrics=absolute_path(arguments.metrics) if arguments.metrics else None,
    )
    if not arguments.drill:
        return units_of_backups
    return {
        **units_of_backups,
        **render_drill_units(command, home=home, on_failure=arguments.on_failure),
    }


async def _install(directory: Path, made: Mapping[str, str], *, runs: bool) -> None:
    from cesbrfs.ces.systemd_units import DRILL_TIMER, MARK, TIMER

    write_units(directory, made, MARK)
    if runs:
        await systemctl("daemon-reload")
        for timer in (TIMER, DRILL_TIMER):
            if timer in made:
                await systemctl("enable", timer)
                await systemctl("restart", timer)  # it may have run already, with other times


async def _remove(directory: Path, *, runs: bool) -> list[str]:
    from cesbrfs.ces.systemd_units import DRILL_SERVICE, DRILL_TIMER, MARK, SERVICE, TIMER

    names = (TIMER, SERVICE, DRILL_TIMER, DRILL_SERVICE)
    there = existing_units(directory, names, MARK)
    for timer in (TIMER, DRILL_TIMER):
        if runs and timer in there:
            await systemctl("disable", "--now", timer)
    remove_units(directory, there)
    if runs and there:
        await systemctl("daemon-reload")
    return there


def _shown(made: Mapping[str, str]) -> str:
    return "".join(f"==> {name}\n{text}\n" for name, text in made.items())


def _advice(directory: Path, times: Sequence[time], *, installed: bool, runs: bool) -> str:
    when = ", ".join(f"{at:%H:%M:%S}" for at in times)
    if not installed:
        where = "" if directory == units.UNIT_DIR else f" --unit-dir {shlex.quote(str(directory))}"
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
