"""The systemd units that back an instance up every day.  Pure.

A service that runs ``cesbr backup`` and then ``cesbr forget``, and a timer that starts it.  They
hold no secret: the commands read the address and the key where they always do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, time, timedelta
from typing import Final

from cesbrfs.errors import UsageError

SERVICE: Final = "cesbr-backup.service"
TIMER: Final = "cesbr-backup.timer"
MARK: Final = "# Made by 'cesbr schedule'; the next --install replaces it, --remove removes it."
"""The first line of each unit; what does not begin with it is somebody else's."""


def units(
    times: Sequence[time],
    command: Sequence[str],
    *,
    home: str,
    on_failure: str | None = None,
    folder: str | None = None,
) -> Mapping[str, str]:
    """Return the texts of the service and the timer by their file names.

    `command` is ``cesbr`` with its flags, `home` the home folder of the user who installs them,
    `on_failure` a unit to start when a run fails, `folder` that of a local repository.  UsageError
    when there are no times.
    """
    if not times:
        raise UsageError(
            "No time is set for the backups; set /config/backup/time in the registry to a time"
            ' such as {"Times":["02:30:00"]}, or say --at 02:30.'
        )
    return {SERVICE: _service(command, home, on_failure, folder), TIMER: _timer(times)}


def _service(command: Sequence[str], home: str, on_failure: str | None, folder: str | None) -> str:
    backup = _line([*command, "backup"])
    forget = _line([*command, "forget", "--policy", "configured", "--yes", "--prune"])
    hook = f"OnFailure={_one_line(on_failure)}\n" if on_failure else ""
    if folder:  # a disk that is in fstab is mounted before the backup, or there is none
        hook = f"RequiresMountsFor={_quoted(folder)}\n{hook}"
    return f"""{MARK}
[Unit]
Description=Backup of the Cloudogu EcoSystem
After=network-online.target
Wants=network-online.target
{hook}
[Service]
Type=oneshot
# The second runs when the first has made a complete backup.
ExecStart={backup}
ExecStart={forget}
Environment={_quoted("HOME=" + home)}
# Only cesbr gets the signal: it ends restic in the way that leaves no lock.
KillMode=mixed
TimeoutStopSec=60
"""


def _timer(times: Sequence[time]) -> str:
    calendar = "".join(f"OnCalendar=*-*-* {at:%H:%M:%S}\n" for at in sorted(set(times)))
    return f"""{MARK}
[Unit]
Description=Backups of the Cloudogu EcoSystem, daily

[Timer]
{calendar}# A time at which the machine was off is made up for.
Persistent=true

[Install]
WantedBy=timers.target
"""


def next_run(timer: str, now: datetime) -> datetime | None:
    """Return when a timer unit of ours runs next after `now`; None where it names other times."""
    found = re.findall(r"^OnCalendar=(.*)$", timer, re.MULTILINE)
    clocks = [re.fullmatch(r"\*-\*-\* (\d\d):(\d\d):(\d\d)", text) for text in found]
    runs = []
    for clock in clocks:
        if clock is None:
            return None
        hour, minute, second = map(int, clock.groups())
        today = now.replace(hour=hour, minute=minute, second=second, microsecond=0, tzinfo=None)
        runs += [(today + timedelta(days=day)).astimezone() for day in (0, 1)]
    return min((run for run in runs if run > now), default=None)


def _line(words: Sequence[str]) -> str:
    program, *others = words  # of the program's own path systemd expands no "$"
    return " ".join([_quoted(program), *(_quoted(word).replace("$", "$$") for word in others)])


def _quoted(word: str) -> str:
    """Return a word as systemd reads it back, in quotes where it needs them."""
    word = _one_line(word).replace("%", "%%")
    if word and not set(word) & set(" \t'\"\\;"):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _one_line(text: str) -> str:
    """Return `text`; UsageError for what no line of a unit can hold."""
    if any(character < " " for character in text):
        raise UsageError(f"{text!r} cannot stand in a unit of systemd; use a name without it.")
    return text
