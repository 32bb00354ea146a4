"""What `status` prints: the repository, the latest backup, the next run, every setting."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cesbr.state.drills import shown_drills
from cesbr.ui import humanize
from cesbr.ui.table import pairs
from cesbrfs.ces.systemd_units import SERVICE, TIMER, next_run
from cesbrfs.errors import CesbrError, PartialError
from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    from cesbrfs.config.settings import Settings
    from cesbrfs.repo.repository import Repository

UNIT_DIR: Final = Path("/etc/systemd/system")
"""Where the timer of the backups is installed."""
_WANTED_BY: Final = "timers.target.wants"
_NS: Final = 1_000_000_000
_BYTES: Final = ("cache_size", "data_cache_size")
_SECONDS: Final = ("patience", "script_timeout")
_UNITS: Final = ((3600, "h"), (60, "min"))

_Json = dict[str, object]


async def latest_backup(repository: Repository, settings: Settings) -> dict[str, object] | None:
    """Return the backup that ``latest`` points to; None where there is none."""
    from cesbrfs.vfs.tree import BackupTree

    view = BackupTree(repository, rules=settings.rules, backup_tag=settings.backup_tag)
    latest = await view.latest()
    if latest is None:
        return None
    report = await view.reports.of(latest)
    return {
        "id": latest.id,
        "time": format_time(latest.time_ns),
        "age": max(0, time.time() - latest.time_ns / _NS),
        "size": report.size(latest),
        "status": report.status.value,
        "dogus": await view.dogus(latest),
    }


def scheduled(directory: Path = UNIT_DIR) -> dict[str, object]:
    """Return when the timer of the backups runs next, or why it does not."""
    try:
        text = (directory / TIMER).read_text(errors="replace")
    except OSError:
        message = "not scheduled; run 'cesbr schedule --install' for a daily backup"
        return {"next": None, "message": message}
    following = next_run(text, datetime.now().astimezone())
    if following is None:
        return {"next": None, "message": f"{directory / TIMER} was edited and has other times"}
    if not os.path.lexists(directory / _WANTED_BY / TIMER):
        message = f"the timer is disabled; run 'systemctl enable --now {TIMER}'"
        return {"next": None, "message": message}
    return {"next": format_time(int(following.timestamp()) * _NS), "message": None}


def drill_state(directory: Path | None, repository: str, dogus: Sequence[str]) -> _Json | None:
    """Return the dogu whose last successful drill is the oldest, None without dogus."""
    oldest = shown_drills(directory, repository).oldest(dogus)
    if oldest is None:
        return None
    dogu, drill = oldest
    if drill is None:
        return {"dogu": dogu, "time": None, "age": None}
    age = max(0, time.time() - drill.time)
    return {"dogu": dogu, "time": format_time(int(drill.time) * _NS), "age": age}


def status_text(status: Mapping[str, object], available: int | None) -> str:
    """Return what `status` prints; `status` is its JSON."""
    repository, restic = status["repository"], status["restic"]
    mounts, settings = status["mounts"], status["settings"]
    registry, backup = status["registry"], status["backup"]
    assert isinstance(repository, dict)
    assert isinstance(restic, dict)
    assert isinstance(mounts, list)
    assert isinstance(settings, dict)
    assert isinstance(registry, dict)
    assert isinstance(backup, dict)
    rows = [("Repository:", repository["url"] or "none"), ("State:", repository["state"])]
    if repository["message"]:
        rows.append(("", repository["message"]))
    rows += [("", message) for message in repository.get("damaged", ())]
    rows += _backup_rows(status)
    rows.append(("Registry:", registry["address"]))
    if registry["message"]:
        rows.append(("", registry["message"]))
    version = f"{restic['version']} ({restic['path']})" if restic["version"] else restic["message"]
    rows.append(("restic:", version))
    rows += [("Mounted:", mounted_text(mounted)) for mounted in mounts]
    text = pairs(rows, available) + "Settings:\n" + _settings_table(settings, available)
    if backup:
        text += "Backup settings of this instance:\n" + _settings_table(backup, available)
    return text


def _backup_rows(status: Mapping[str, object]) -> list[tuple[str, str]]:
    latest, schedule = status["latest"], status["schedule"]
    assert isinstance(schedule, dict)
    rows = []
    if isinstance(latest, dict):
        age = humanize.age(latest["age"])
        when = humanize.local_time(_ns(latest["time"]))
        shown = show(os.fsencode(str(latest["id"])))
        size = humanize.size(latest["size"])
        doubt = "" if latest["status"] == "complete" else f", {latest['status']}"
        rows.append(("Latest:", f"{shown} of {when}, {age} ago, {size}{doubt}"))
    elif status["repository"]["state"] == "ready":  # type: ignore[index]  # as above
        rows.append(("Latest:", "no complete backup of the whole instance"))
    drill = status["drill"]
    if isinstance(drill, dict):
        age = "never" if drill["age"] is None else f"{humanize.age(drill['age'])} ago"
        oldest = "" if drill["age"] is None else ", the oldest"
        rows.append(("Last drill:", f"{age} ({drill['dogu']}{oldest})"))
    following = schedule["next"]
    rows.append(
        ("Next:", humanize.local_time(_ns(following)) if following else str(schedule["message"]))
    )
    if schedule.get("last_run"):
        ended = humanize.local_time(_ns(str(schedule["last_run"])))
        good = schedule["result"] == "success"
        how = "success" if good else f"failed ({schedule['result']}); see 'journalctl -u {SERVICE}'"
        rows.append(("Last run:", f"{ended}, {how}"))
    return rows


def age_problem(status: Mapping[str, object], limit: str, seconds: float) -> CesbrError | None:
    """Return why the last complete backup is not younger than `limit`, which is in `seconds`.

    A young one is not enough if something could not be read: a newer one may be incomplete.
    """
    repository, last = status["repository"], status["last_complete"]
    assert isinstance(repository, dict)
    if repository["state"] != "ready":
        reason = repository["message"] or f"the repository is {repository['state']}."
        return CesbrError(f"The age of the last complete backup is not known: {reason}")
    damaged = repository.get("damaged", ())
    if not isinstance(last, dict):
        problem = _no_complete(status["latest"])
    elif last["age"] > seconds:
        shown = show(os.fsencode(str(last["id"])))
        problem = (
            f"The last complete backup of the whole instance, {shown}, is {_old(last['age'])} old,"
            f" more than {limit}. 'journalctl -u {SERVICE}' shows why no newer one was made."
        )
    else:
        return PartialError(damaged[0]) if damaged else None
    return CesbrError(f"{problem} {damaged[0]}" if damaged else problem)


def _no_complete(latest: object) -> str:
    """Return the sentences for an instance without a complete backup."""
    if not isinstance(latest, dict):
        return "There is no complete backup of the whole instance. Run 'cesbr backup'."
    shown = show(os.fsencode(str(latest["id"])))
    return (
        f"There is no complete backup of the whole instance. The newest one, {shown}, is"
        f" {latest['status']}."
    )


def _old(seconds: float) -> str:
    """Return an age in hours for a few days, so that 25 hours differ from 47."""
    hours = seconds / 3600
    return f"{hours:.0f} h" if 2 <= hours < 100 else humanize.age(seconds)  # noqa: PLR2004 - hours


def _ns(text: str) -> int:
    return int(datetime.fromisoformat(text.partition(".")[0] + "+00:00").timestamp()) * _NS


def mounted_text(mounted: Mapping[str, object]) -> str:
    """Return a mount as one line: where it is, and the state that it reports."""
    text = f"{mounted['mountpoint']} (from {mounted['source']})"
    status = mounted["status"]
    if not isinstance(status, dict):
        return f"{text}, {mounted['message']}" if mounted["message"] else text
    since = humanize.age(status["uptime_seconds"])
    parts = [text, str(status["repository"]["state"]), f"for {since}"]
    if status["errors_total"]:
        parts.append(humanize.count(status["errors_total"], "error"))
    if status["damaged"]:
        parts.append(humanize.count(len(status["damaged"]), "damaged file"))
    return ", ".join(parts)


def _settings_table(settings: Mapping[str, Mapping[str, object]], available: int | None) -> str:
    rows = [
        (
            f"  {name}",
            _setting(name, setting["value"]),
            f"({setting['source']})" + (f" {setting['problem']}" if "problem" in setting else ""),
        )
        for name, setting in settings.items()
    ]
    text = humanize.table(rows)
    if available is None or max(map(humanize.width, text.splitlines()), default=0) <= available:
        return text
    return pairs([(name, f"{value}  {source}") for name, value, source in rows], available)


def _setting(name: str, value: object) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return _listed(value)
    if name in _BYTES and isinstance(value, int):
        return humanize.size(value)
    if name in _SECONDS and isinstance(value, int | float):
        return _span(value)
    return str(value)


def _listed(values: Sequence[object]) -> str:
    if isinstance(values[0], dict):  # --json has them
        return humanize.count(len(values), "rule")
    return ", ".join(map(str, values))


def _span(seconds: float) -> str:
    """Return a time span in the largest unit that divides it: ``1 h``, ``90 s``."""
    for length, unit in _UNITS:
        if seconds and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"
