"""Check the timer of the backups, the mounts, and the services that mount."""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from cesbr import units
from cesbr.doctor.finding import Finding, error, ok, skipped, warning
from cesbr.mount_states import mount_states
from cesbr.timer import SYSTEMD, timer_state, unit_properties
from cesbr.ui import humanize
from cesbr.ui.status import mounted_text
from cesbrfs.ces.mount_unit import PACKAGED
from cesbrfs.ces.systemd_units import SERVICE

SCHEDULE: Final = "schedule"
MOUNTS: Final = "mounts"
_PROPERTIES: Final = ("Id", "ActiveState", "UnitFileState", "Result", "LoadState")
_NS: Final = 1_000_000_000


async def check_schedule() -> Finding:
    """Check that the timer is active, and how the last run ended."""
    if not SYSTEMD.is_dir():
        return skipped(SCHEDULE, "systemd does not run here")
    state = await timer_state()
    if state["last_run"] and state["result"] != "success":
        return error(
            SCHEDULE,
            f"the last backup failed ({state['result']})",
            f"Read 'journalctl -u {SERVICE}'",
        )
    if not state["next"]:
        found, _, action = str(state["message"]).partition("; ")
        return warning(SCHEDULE, found, action or "Run 'cesbr schedule'")
    moment = datetime.fromisoformat(str(state["next"]).partition(".")[0] + "+00:00")
    following = humanize.local_time(int(moment.timestamp()) * _NS)
    return ok(SCHEDULE, f"the next backup begins at {following}")


async def check_mounts(repository: Mapping[str, object]) -> Finding:
    """Check that mounts of `repository` (its URL, and ID if known) answer, and their services."""
    states = await mount_states(repository)
    for state in states:
        if state["message"]:
            where = shlex.quote(str(state["mountpoint"]))
            return error(
                MOUNTS,
                f"{state['mountpoint']} {state['message']}",
                f"Unmount {where}, then mount it again",
            )
    for name, unit in (await _services()).items():
        if unit["ActiveState"] == "failed":
            reason = unit.get("Result", "unknown reason")
            return error(
                MOUNTS,
                f"the service {name} failed ({reason})",
                f"Read 'journalctl -u {shlex.quote(name)}'",
            )
        if unit["ActiveState"] == "inactive" and unit.get("UnitFileState") == "enabled":
            return warning(
                MOUNTS,
                f"the service {name} is enabled and does not run",
                f"Run 'systemctl start {shlex.quote(name)}'",
            )
    if not states:
        return ok(MOUNTS, "no backups are mounted, and no service for a mount has failed")
    return ok(MOUNTS, "; ".join(map(mounted_text, states)))


async def _services() -> dict[str, Mapping[str, str]]:
    """Return the properties of the services that mount, by name; {} without systemd."""
    pattern = str(Path(glob.escape(str(units.UNIT_DIR)), "cesbrfs-*.service"))
    names = [*map(os.path.basename, sorted(glob.glob(pattern))), PACKAGED]
    found = await unit_properties(names, _PROPERTIES)
    return {name: unit for name, unit in found.items() if unit.get("LoadState") == "loaded"}
