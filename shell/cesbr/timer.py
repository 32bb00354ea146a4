"""Ask systemd about the timer of the backups, or read its unit if systemd does not run."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import trio

from cesbr.ui.status import scheduled
from cesbrfs.ces.systemd_units import SERVICE, TIMER
from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.util.environment import public_environment

SYSTEMD: Final = Path("/run/systemd/system")
"""There while systemd runs the machine."""
_SECONDS: Final = 5.0
_NS: Final = 1_000_000_000
_PROPERTIES: Final = (
    "Id", "ActiveState", "NextElapseUSecRealtime", "ExecMainExitTimestamp", "Result",
)  # fmt: skip


async def timer_state() -> dict[str, object]:
    """Return the next run of the timer, or why there is none, and the end of the last run.

    `result` is systemd's word for how the last run ended: ``success`` or a reason.
    """
    state = scheduled()
    units = await unit_properties((TIMER, SERVICE), _PROPERTIES)
    timer, service = units.get(TIMER, {}), units.get(SERVICE, {})
    following = _time(timer.get("NextElapseUSecRealtime", ""))
    if timer.get("ActiveState") == "active" and following is not None:
        state |= {"next": following, "message": None}
    ended = _time(service.get("ExecMainExitTimestamp", ""))
    return state | {"last_run": ended, "result": service.get("Result") if ended else None}


async def unit_properties(
    units: Sequence[str], properties: Sequence[str]
) -> Mapping[str, Mapping[str, str]]:
    """Return `properties`, of which one is ``Id``, by unit; {} if systemd does not answer."""
    if not SYSTEMD.is_dir():
        return {}
    command = ["systemctl", "show", "--timestamp=unix", f"--property={','.join(properties)}"]
    try:
        with trio.fail_after(_SECONDS):
            done = await trio.run_process(
                [*command, "--", *units],
                capture_stdout=True,
                stderr=subprocess.DEVNULL,
                check=False,
                env=public_environment(os.environ),
            )
    except (OSError, trio.TooSlowError):
        return {}
    found = {}
    for block in done.stdout.decode(errors="replace").split("\n\n"):
        pairs = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        found[pairs.get("Id", "")] = pairs
    return found


def _time(text: str) -> str | None:
    """Return a time that systemctl printed as ``@1764288000``, None if there is none."""
    found = re.fullmatch(r"@(\d+)", text)
    return format_time(int(found[1]) * _NS) if found and int(found[1]) else None
