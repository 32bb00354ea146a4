"""Check the registry, the repository, its encryption key, its newest backup, and the clock."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from cesbr.doctor.finding import SECONDS as KEY_SECONDS
from cesbr.doctor.finding import Finding, error, failure, in_thread, ok, skipped, warning
from cesbr.state.drills import shown_drills
from cesbr.state.state_dir import state_directory
from cesbr.ui import humanize
from cesbr.ui.status import latest_backup
from cesbrfs.ces.backup_config import backup_config
from cesbrfs.config.settings import Settings
from cesbrfs.errors import CesbrError, RegistryError
from cesbrfs.readiness import State, Verdict, open_in
from cesbrfs.repo.location import Access, local_directory
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import HasServerClock, Storage, open_storage
from cesbrfs.util.escape import show
from cesbrfs.util.secret import Secret, redact

REGISTRY: Final = "registry"
REPOSITORY: Final = "repository"
KEY: Final = "key"
BACKUP: Final = "last backup"
DRILL: Final = "last drill"
CLOCK: Final = "clock"
SECONDS: Final = 45.0
"""Time limit of a check that accesses a network."""
_MAX_AGE: Final = 26 * 3600.0
"""Seconds; daily backups are at most this old."""
_MAX_DRILL_AGE: Final = 31 * 86_400.0
_CLOCK_WARNING: Final = 60.0
_CLOCK_ERROR: Final = 900.0
"""Seconds of difference; S3 servers refuse requests beyond it."""
_NS: Final = 1_000_000_000


async def check_registry(settings: Settings) -> tuple[Finding, Settings]:
    """Check the registry; return the settings with what it adds to them."""
    needed = settings.repository is None or settings.password is None
    address = redact(settings.registry)
    try:
        opened = settings.open_registry()
        config = await backup_config(opened)
    except CesbrError as problem:
        finding = failure(REGISTRY, problem)
        if needed:
            return finding, settings
        return warning(
            REGISTRY,
            f"{finding.found}; reading backups does not need it",
            finding.action,
        ), settings
    try:
        resolved = await settings.resolve(opened)
    except RegistryError as problem:
        return failure(REGISTRY, problem), settings
    except CesbrError:  # a secret that cannot be decrypted, which the key's check reports
        resolved = await settings.located(opened)
    if "://" not in settings.registry and not await in_thread(Path(settings.registry).is_dir):
        return warning(
            REGISTRY,
            f"there is no registry at {address}; only backups of this machine need one",
            "On an instance, set 'registry' to its address",
        ), resolved
    if not config.active:
        return warning(
            REGISTRY,
            f"{address}: backups and restores are suspended",
            "Set /config/backup/active to true to allow them",
        ), resolved
    return ok(REGISTRY, f"{address} can be read"), resolved


@dataclass(slots=True)
class Opened:
    """The result of opening the repository.

    `repository` is None unless it is ready. `key_error` is the error for a missing key; the
    repository was then opened with a wrong one, to see whether it can be reached.
    """

    verdict: Verdict | None = None
    error: CesbrError | None = None
    key_error: CesbrError | None = None
    repository: Repository | None = None
    clock_difference: float | None = None


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Opened]:
    """Open the repository for the checks, and close it; errors are in the result."""
    result = Opened()
    if settings.repository is None:
        try:
            await settings.access()
        except CesbrError as problem:
            result.error = problem
        yield result
        return
    storage: Storage | None = None
    try:
        access = await _access(settings, result)
        if directory := local_directory(access.url):  # a hanging mount must not stop the checks
            await in_thread(lambda: os.path.exists(directory))
        storage = open_storage(access)
        result.verdict, result.repository = await open_in(storage, access, settings.caching)
    except CesbrError as problem:
        result.error = problem
    if storage is not None and isinstance(storage, HasServerClock):
        result.clock_difference = storage.clock_difference
    try:
        yield result
    finally:
        if result.repository is not None:
            await result.repository.aclose()
        elif storage is not None:
            await storage.aclose()


async def _access(settings: Settings, result: Opened) -> Access:
    """Return how to reach the repository; without a key, with a wrong one."""
    try:
        with trio.fail_after(KEY_SECONDS):
            return await settings.access()
    except trio.TooSlowError:
        result.key_error = CesbrError(
            f"The encryption key was not read within {KEY_SECONDS:.0f} s. Check the password file,"
            " or run the password command by hand."
        )
    except CesbrError as problem:
        result.key_error = problem
    return Access(
        url=settings.repository or "",
        key=Secret(b"-"),
        options=settings.options,
        patience=settings.patience,
        environment=settings.environment,
    )


async def check_repository(settings: Settings, found: Opened) -> Finding:
    """Check that the repository can be reached and exists."""
    if found.error is not None:
        return failure(REPOSITORY, found.error)
    assert found.verdict is not None, "there is a verdict without an error"
    address = redact(settings.repository or "")
    source = settings.sources.get("repository", "default")
    verdict = found.verdict
    if verdict.state is State.WRONG_KEY or verdict.error is None:
        return ok(REPOSITORY, f"{address} ({source}) can be read")
    return failure(REPOSITORY, verdict.error)


async def check_key(settings: Settings, found: Opened) -> Finding:
    """Check that there is an encryption key, and that it opens the repository."""
    source = settings.sources.get("password", "default")
    if found.key_error is not None:
        return failure(KEY, found.key_error)
    if found.verdict is None:
        return skipped(KEY, "the repository cannot be opened")
    if found.verdict.state is State.WRONG_KEY and found.verdict.error is not None:
        wrong = failure(KEY, found.verdict.error)
        return error(KEY, f"{wrong.found} (key: {source})", "Use the key with which it was created")
    if found.repository is None:
        return skipped(KEY, f"it is set ({source}), but the repository cannot be opened")
    return ok(KEY, f"the key ({source}) opens the repository")


async def check_backup(settings: Settings, found: Opened) -> Finding:
    """Check the age of the newest complete backup of the whole instance."""
    if found.repository is None:
        return skipped(BACKUP, "the repository cannot be opened")
    latest = await latest_backup(found.repository, settings)
    if latest is None:
        return warning(
            BACKUP, "there is no complete backup of the whole instance", "Run 'cesbr backup'"
        )
    age = latest["age"]
    assert isinstance(age, float)
    text = f"{show(os.fsencode(str(latest['id'])))}, {humanize.age(age)} ago, {latest['status']}"
    if latest["status"] != "complete":
        return warning(
            BACKUP,
            f"{text}: no backup is known to be complete",
            "Run 'cesbr backup', which records what belongs to a backup",
        )
    if age > _MAX_AGE:
        return warning(
            BACKUP, f"{text}: older than a day", "Run 'cesbr backup', and check the schedule"
        )
    return ok(BACKUP, text)


async def check_drill(settings: Settings, found: Opened, environ: Mapping[str, str]) -> Finding:
    """Check when each dogu of the newest complete backup was last restored in a drill."""
    if found.repository is None:
        return skipped(DRILL, "the repository cannot be opened")
    latest = await latest_backup(found.repository, settings)
    dogus = latest["dogus"] if latest is not None else []
    assert isinstance(dogus, list)
    oldest = shown_drills(state_directory(environ), found.repository.id).oldest(dogus)
    if oldest is None:
        return ok(DRILL, "there is no dogu to restore")
    dogu, drill = oldest
    if drill is None:
        return warning(DRILL, f"nothing shows that {dogu} can be restored", "Run 'cesbr drill'")
    age = max(0, time.time() - drill.time)
    text = f"every dogu was restored, {dogu} {humanize.age(age)} ago"
    if age > _MAX_DRILL_AGE:
        return warning(DRILL, text, "Run 'cesbr drill', or 'cesbr schedule --install --drill'")
    return ok(DRILL, text)


async def check_clock(found: Opened) -> Finding:
    """Compare the clock with the server's, or with the time of the newest snapshot."""
    action = "Correct the clock of this machine, for example with NTP"
    difference = found.clock_difference
    if difference is not None:
        text = f"{abs(difference):.0f} s {'behind' if difference > 0 else 'ahead of'} the server"
        if abs(difference) > _CLOCK_ERROR:
            return error(CLOCK, text, action)
        if abs(difference) > _CLOCK_WARNING:
            return warning(CLOCK, text, action)
    newest = 0
    if found.repository is not None:
        newest = max((each.time_ns for each in await found.repository.snapshots()), default=0)
    ahead = newest / _NS - time.time()
    if ahead > _CLOCK_WARNING:
        return warning(
            CLOCK,
            f"the newest snapshot is {humanize.age(ahead)} in the future",
            "Correct the clock of this machine, or that of the host of the snapshot",
        )
    if difference is not None:
        return ok(CLOCK, "it agrees with the server's")
    if newest:
        return ok(CLOCK, "no snapshot is in the future")
    return ok(CLOCK, f"{humanize.local_time(time.time_ns())}; there is nothing to compare it with")
