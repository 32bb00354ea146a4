"""Keeping the repository of the backups well."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final

import trio

from cesbr.commands import Command
from cesbr.ui import humanize
from cesbr.ui.damage import check_json, check_text
from cesbr.ui.table import fitted
from cesbrfs.errors import CesbrError, RegistryError, UsageError
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.config.settings import Settings
    from cesbrfs.repo.format.model import Lock

_SUBSET: Final = re.compile(r"\d+/\d+|\d+(\.\d+)?%|\d+[KMGTkmgt]?")
_STATE_SECONDS: Final = 30.0
"""How long `status` waits for a repository's storage."""


# init


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force",
        action="store_true",
        help="create it even where there was another one, which was removed on purpose",
    )


async def _init(context: Context, arguments: argparse.Namespace) -> int:
    from cesbrfs.readiness import initialise

    if context.no_init:
        raise UsageError("'init' creates the repository, so leave out --no-init.")
    access = await context.session.access()
    messages: list[str] = []
    created = await initialise(
        access,
        open_restic=context.session.restic,
        say=messages.append,
        cache_dir=(await context.session.settings()).cache_dir,
        force=arguments.force,
    )
    await context.out.result(
        {"repository": access.display_url, "initialised": created}, humanize.lines(messages)
    )
    return 0


# check


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument(
        "--read-data", action="store_true", help="read and check all data, too: takes long"
    )
    extent.add_argument(
        "--read-data-subset",
        metavar="SUBSET",
        help="read and check a part of the data: 1/10, 5%% or 500M",
    )


async def _check(context: Context, arguments: argparse.Namespace) -> int:
    subset = arguments.read_data_subset
    if subset is not None and not _SUBSET.fullmatch(subset):
        raise UsageError(f"{subset!r} is no part of the data; write one such as 1/10, 5% or 500M.")
    from cesbr.damage_check import check

    found = await check(context, read_data=arguments.read_data, read_data_subset=subset)
    await context.out.result(
        check_json(found.errors, found.damage),
        lambda: check_text(found, read_data=arguments.read_data, available=context.out.room),
    )
    if found.unexplained is not None:
        reason = found.unexplained.message
        context.out.note(f"Which backups are affected is not known: {reason}", always=True)
    if found.is_ok:
        return 0
    context.out.note(
        f"The repository at {(await context.session.access()).display_url} has errors; see"
        " https://restic.readthedocs.io/en/stable/077_troubleshooting.html before you repair it."
    )
    return 1


# unlock


def _unlock_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--remove-all", action="store_true", help="remove locks of running processes, too"
    )


async def _unlock(context: Context, arguments: argparse.Namespace) -> int:
    restic = await context.restic()
    view = await context.view()
    holders = await view.repository.locks()
    before = await restic.locks()
    await restic.unlock(remove_all=arguments.remove_all)
    left = await restic.locks()
    removed = len(before - left)
    text = f"{humanize.count(removed, 'lock')} removed"
    broken = len(left - {lock.id for lock in holders})
    text += f", {len(left)} left: in use, or --remove-all removes them.\n" if left else ".\n"
    if broken:
        text = (
            f"{humanize.count(removed, 'lock')} removed, {len(left)} left: {broken} of them"
            " cannot be"
            " read. Make sure that no other process works on the repository, then run 'cesbr unlock"
            " --remove-all'.\n"
        )
    await context.out.result(
        {
            "removed": removed,
            "left": len(left),
            "unreadable": broken,
            "locks": [_lock_json(lock, left) for lock in holders],
        },
        lambda: text + _locks_text(holders, left, context.out.room),
    )
    return 0


def _lock_json(lock: Lock, left: AbstractSet[str]) -> dict[str, object]:
    from cesbrfs.repo.format.timestamps import format_time

    return {
        "id": lock.id,
        "host": lock.hostname,
        "pid": lock.pid,
        "user": lock.username,
        "time": format_time(lock.time_ns),
        "exclusive": lock.exclusive,
        "removed": lock.id not in left,
    }


def _locks_text(holders: Sequence[Lock], left: AbstractSet[str], available: int | None) -> str:
    rows = [
        (
            "left" if lock.id in left else "removed",
            show(os.fsencode(lock.hostname)),
            str(lock.pid),
            show(os.fsencode(lock.username)),
            humanize.age(time.time() - lock.time_ns / 1e9),
            "alone" if lock.exclusive else "shared",
        )
        for lock in holders
    ]
    if not rows:
        return ""
    headings = ("Lock", "Host", "PID", "User", "Age", "Held")
    return fitted(rows, headings, available, right=("PID", "Age"), spare=("Age", "User"))


# status


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-age",
        metavar="DURATION",
        help="exit with 1 unless the last complete backup of the whole instance is at most this"
        " old, such as 26h, 90min or 2d",
    )


async def _status(context: Context, arguments: argparse.Namespace) -> int:
    """Show the configuration and the state; changes nothing, and works with a broken one."""
    from cesbr.mount_states import mount_states
    from cesbr.state.state_dir import state_directory
    from cesbr.timer import timer_state
    from cesbr.ui.status import age_problem, drill_state, status_text
    from cesbrfs.ces.backup_config import backup_config
    from cesbrfs.config.settings import load, require_root
    from cesbrfs.util.dates import parse_duration
    from cesbrfs.util.secret import redact

    limit: str | None = arguments.max_age
    seconds = parse_duration(limit) if limit is not None else 0
    settings = load(context.session.flags, context.session.environ)
    require_root(settings)
    problem: CesbrError | None = None
    backup: dict[str, dict[str, object]] = {}
    registry: dict[str, object] = {"address": redact(settings.registry), "message": None}
    try:
        opened = settings.open_registry()
        try:
            settings = await settings.resolve(opened)
        except CesbrError as error:
            problem = error
            if not isinstance(error, RegistryError):  # a secret's: the address may be known
                with contextlib.suppress(CesbrError):
                    settings = await settings.located(opened)
        backup = (await backup_config(opened)).describe()
    except CesbrError as error:
        registry["message"] = error.message
    repository, latest = await _repository_state(settings, problem)
    complete = latest is not None and latest["status"] == "complete"
    dogus = latest.pop("dogus") if latest is not None else []
    assert isinstance(dogus, list)
    state = state_directory(context.session.environ)
    status: dict[str, object] = {
        "repository": repository,
        "latest": latest,
        "last_complete": latest if complete else None,
        "drill": drill_state(state, str(repository.get("id")), dogus),
        "schedule": await timer_state(),
        "registry": registry,
        "restic": await _restic_state(settings),
        "mounts": await mount_states(repository),
        "settings": settings.describe(),
        "backup": backup,
    }
    failed = age_problem(status, limit, seconds) if limit is not None else None
    if limit is not None:
        message = failed.message if failed is not None else None
        status["max_age"] = {"seconds": seconds, "ok": failed is None, "message": message}
    await context.out.result(status, lambda: status_text(status, context.out.room))
    if failed is not None:
        raise failed
    return 0


_Found = dict[str, object]


async def _repository_state(
    settings: Settings, problem: CesbrError | None
) -> tuple[_Found, _Found | None]:
    """Return the repository's state, and its latest backup where that can be read."""
    from cesbr.damage import damaged_files
    from cesbr.ui.status import latest_backup
    from cesbrfs.readiness import look

    described = settings.describe()["repository"]["value"]
    state: _Found = {"url": described}
    latest: _Found | None = None
    if problem is not None:
        nowhere = described is None and not isinstance(problem, RegistryError)
        return state | {
            "state": "not configured" if nowhere else "unknown",
            "message": problem.message,
        }, None
    try:
        access = await settings.access()
        with trio.fail_after(_STATE_SECONDS):
            verdict, repository = await look(access, settings.caching)
            if repository is not None:
                state["id"] = repository.id
                try:
                    latest = await latest_backup(repository, settings)
                    state["damaged"] = list(damaged_files(repository.damaged_files.all).values())
                finally:
                    await repository.aclose()
    except trio.TooSlowError:
        message = f"{described} did not answer within {_STATE_SECONDS:.0f} s."
        return state | {"state": "unreachable", "message": message}, None
    except CesbrError as error:
        configured = settings.repository is not None and settings.password is not None
        return state | {
            "state": "unknown" if configured else "not configured",
            "message": error.message,
        }, None
    message = verdict.error.message if verdict.error else ""
    return state | {"state": verdict.state.value, "message": message or None}, latest


async def _restic_state(settings: Settings) -> dict[str, object]:
    from cesbrfs.restic import find_restic, read_version

    try:
        path = await find_restic(settings.restic)
        return {"version": str(await read_version(path)), "path": str(path)}
    except CesbrError as error:
        return {"version": None, "path": None, "message": error.message}


COMMANDS: Final = (
    Command(
        "init",
        "Create the repository; an existing one is left unchanged.",
        "init",
        _init_arguments,
        _init,
        "Commands do this by themselves at the configured address, unless --no-init is given; at an"
        " address from --repo only 'init' and 'backup' do.",
    ),
    Command(
        "check",
        "Check the repository for errors.",
        "check --read-data-subset 1/10",
        _check_arguments,
        _check,
        "Names the backups, dogus and files that damage affects, and the backups that have the same"
        " paths whole.  Without --read-data the structure is checked, not the content of the data.",
    ),
    Command(
        "unlock",
        "Remove the locks that dead processes left in the repository.",
        "unlock",
        _unlock_arguments,
        _unlock,
        "Shows the host, process, user and age of each lock.",
    ),
    Command(
        "status",
        "Show the settings, the repository's state and the mounts; changes nothing.",
        "status --max-age 26h",
        _status_arguments,
        _status,
        "With --max-age it is a check for monitoring.",
    ),
)
