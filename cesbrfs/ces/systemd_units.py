"""Generate systemd units for scheduled backups of an instance. Pure.

A service runs ``cesbr backup`` and then ``cesbr forget``; a timer starts it. The units contain no
secrets: both commands read the address and the encryption key from the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, time, timedelta
from typing import Final

from cesbrfs.errors import UsageError

SERVICE: Final = "cesbr-backup.service"
TIMER: Final = "cesbr-backup.timer"
DRILL_SERVICE: Final = "cesbr-drill.service"
DRILL_TIMER: Final = "cesbr-drill.timer"
_DRILL_CALENDAR: Final = "Sun *-*-* 05:00:00"
MARK: Final = "# Made by 'cesbr schedule'; the next --install replaces it, --remove removes it."
"""First line of each generated unit. Other files are never overwritten or removed."""


def render_units(
    times: Sequence[time],
    command: Sequence[str],
    *,
    home: str,
    on_failure: str | None = None,
    directory: str | None = None,
    metrics: str | None = None,
) -> Mapping[str, str]:
    """Return the file names and texts of the service and the timer.

    `command` is ``cesbr`` with its options, `home` the home directory of the installing user,
    `on_failure` a unit to start when a run fails, `directory` the path of a local repository, and
    `metrics` the file for the metrics of the backups, which each run writes at its end.
    Raises UsageError if `times` is empty.
    """
    if not times:
        raise UsageError(
            "No backup time is configured. Set /config/backup/time in the registry, for example to"
            ' {"Times":["02:30:00"]}, or pass --at 02:30.'
        )
    service = _service(command, home, on_failure, directory, metrics)
    return {SERVICE: service, TIMER: _timer(times)}


def render_drill_units(
    command: Sequence[str], *, home: str, on_failure: str | None = None
) -> Mapping[str, str]:
    """Return the file names and texts of the service and the timer of a weekly restore drill.

    The parameters are those of `render_units`.
    """
    hook = f"OnFailure={_one_line(on_failure)}\n" if on_failure else ""
    service = f"""{MARK}
[Unit]
Description=Restore drill of the backups of the Cloudogu EcoSystem
After=network-online.target {SERVICE}
Wants=network-online.target
{hook}
[Service]
Type=oneshot
ExecStart={command_line([*command, "drill"])}
Environment={quoted("HOME=" + home)}
Nice=10
IOSchedulingClass=idle
"""
    timer = f"""{MARK}
[Unit]
Description=Restore drill of the backups of the Cloudogu EcoSystem, weekly

[Timer]
OnCalendar={_DRILL_CALENDAR}
Persistent=true

[Install]
WantedBy=timers.target
"""
    return {DRILL_SERVICE: service, DRILL_TIMER: timer}


def _service(
    command: Sequence[str],
    home: str,
    on_failure: str | None,
    directory: str | None,
    metrics: str | None,
) -> str:
    backup = command_line([*command, "backup"])
    forget = command_line([*command, "forget", "--policy", "configured", "--yes", "--prune"])
    hook = f"OnFailure={_one_line(on_failure)}\n" if on_failure else ""
    if directory:  # wait for mounts of fstab; if one fails, no backup is made
        hook = f"RequiresMountsFor={quoted(directory)}\n{hook}"
    after = ""
    if metrics:
        written = command_line([*command, "metrics", "--quiet", "--output", metrics])
        after = (
            "# Also after a run that failed; an error here does not make the run fail.\n"
            f"ExecStopPost=-{written}\n"
        )
    return f"""{MARK}
[Unit]
Description=Backup of the Cloudogu EcoSystem
After=network-online.target
Wants=network-online.target
{hook}
[Service]
Type=oneshot
# forget runs only after a complete backup.
ExecStart={backup}
ExecStart={forget}
{after}Environment={quoted("HOME=" + home)}
# Signal cesbr only: it stops restic so that no lock is left in the repository.
KillMode=mixed
TimeoutStopSec=60
"""


def _timer(times: Sequence[time]) -> str:
    calendar = "".join(f"OnCalendar=*-*-* {at:%H:%M:%S}\n" for at in sorted(set(times)))
    return f"""{MARK}
[Unit]
Description=Backups of the Cloudogu EcoSystem, daily

[Timer]
{calendar}# Catch up on a backup that was missed while the machine was off.
Persistent=true

[Install]
WantedBy=timers.target
"""


def next_run(timer: str, now: datetime) -> datetime | None:
    """Return the next run after `now` of a timer from `render_units`; None for other timers."""
    calendars = re.findall(r"^OnCalendar=(.*)$", timer, re.MULTILINE)
    clocks = [re.fullmatch(r"\*-\*-\* (\d\d):(\d\d):(\d\d)", text) for text in calendars]
    runs = []
    for clock in clocks:
        if clock is None:
            return None
        hour, minute, second = map(int, clock.groups())
        today = now.replace(hour=hour, minute=minute, second=second, microsecond=0, tzinfo=None)
        runs += [(today + timedelta(days=day)).astimezone() for day in (0, 1)]
    return min((run for run in runs if run > now), default=None)


def command_line(words: Sequence[str]) -> str:
    """Quote and escape the words of a command for ``ExecStart=``."""
    program, *arguments = words  # systemd does not expand "$" in the path of the program
    return " ".join([quoted(program), *(quoted(word).replace("$", "$$") for word in arguments)])


def quoted(word: str) -> str:
    """Quote and escape a word for a systemd unit."""
    word = _one_line(word).replace("%", "%%")
    if word and not set(word) & set(" \t'\"\\;"):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _one_line(text: str) -> str:
    """Return `text`; UsageError if it contains control characters."""
    if any(character < " " for character in text):
        raise UsageError(
            f"Invalid text {text!r} for a systemd unit: it contains control characters. Remove"
            " them."
        )
    return text
