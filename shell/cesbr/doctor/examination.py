"""Run all checks, those that do not depend on each other at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

import trio

from cesbr.doctor import machine, repository, services
from cesbr.doctor.finding import Finding, bounded, error, in_thread, skipped
from cesbr.doctor.settings import CHECK, SECRETS, check_secrets, check_settings
from cesbrfs.config.layers import Flags
from cesbrfs.config.settings import Settings
from cesbrfs.util.secret import redact

ORDER: Final = (
    CHECK, SECRETS, repository.REGISTRY, repository.REPOSITORY, repository.KEY, repository.BACKUP,
    repository.DRILL, repository.CLOCK, machine.RESTIC, machine.FUSE, machine.CACHE,
    machine.REPOSITORY_SPACE, machine.CACHE_SPACE, services.SCHEDULE, services.MOUNTS,
)  # fmt: skip
"""All checks in the order in which they are shown."""

_Check = Callable[[], Awaitable[Finding]]


async def examine(flags: Flags, environ: Mapping[str, str]) -> list[Finding]:
    """Return the finding of each check, in the order of `ORDER`."""
    examination = _Examination()
    await examination.run(flags, environ)
    missing = (check for check in ORDER if check not in examination.findings)
    for check in missing:
        examination.note(skipped(check, "the settings cannot be used"))
    return [examination.findings[check] for check in ORDER]


class _Examination:
    """The findings so far, by check."""

    def __init__(self) -> None:
        self.findings: dict[str, Finding] = {}
        self._settings: Settings | None = None
        self._environ: Mapping[str, str] = {}

    def note(self, finding: Finding) -> None:
        self.findings[finding.check] = finding

    async def _check(self, check: str, run: _Check, seconds: float | None = None) -> None:
        self.note(await (bounded(check, run) if seconds is None else bounded(check, run, seconds)))

    async def run(self, flags: Flags, environ: Mapping[str, str]) -> None:
        self._environ = environ

        async def load() -> Finding:
            finding, self._settings = await in_thread(partial(check_settings, flags, environ))
            return finding

        await self._check(CHECK, load)
        settings = self._settings
        async with trio.open_nursery() as nursery:

            def start(check: str, run: _Check) -> None:
                nursery.start_soon(self._check, check, run)

            start(machine.FUSE, machine.check_fuse)
            start(services.SCHEDULE, services.check_schedule)
            restic = settings.restic if settings else environ.get("CESBR_RESTIC")
            start(machine.RESTIC, partial(machine.check_restic, restic))
            if settings is None:
                start(services.MOUNTS, partial(services.check_mounts, {"url": ""}))
                return
            secrets = partial(in_thread, partial(check_secrets, settings, environ))
            start(SECRETS, secrets)
            start(machine.CACHE, partial(machine.check_cache, settings.cache_dir))
            start(machine.CACHE_SPACE, partial(machine.check_cache_space, settings))
            await self._check_backups(settings)

    async def _check_backups(self, settings: Settings) -> None:
        """Check what depends on the registry and the repository."""
        resolved = settings

        async def registry() -> Finding:
            nonlocal resolved
            finding, resolved = await repository.check_registry(settings)
            return finding

        await self._check(repository.REGISTRY, registry, repository.SECONDS)
        space = partial(machine.check_repository_space, resolved)
        await self._check(machine.REPOSITORY_SPACE, space)
        state = {"url": redact(resolved.repository or "")}
        try:
            with trio.fail_after(repository.SECONDS):
                async with repository.opened(resolved) as found:
                    if found.repository is not None:
                        state["id"] = found.repository.id
                    await self._check_opened(resolved, found)
        except trio.TooSlowError:
            self._unreachable(f"no answer within {repository.SECONDS:.0f} s")
        except Exception as problem:  # noqa: BLE001 - one failed check must not hide the others
            self._unreachable(repr(problem))
        await self._check(services.MOUNTS, partial(services.check_mounts, state))

    async def _check_opened(self, settings: Settings, found: repository.Opened) -> None:
        for check, run in (
            (repository.REPOSITORY, partial(repository.check_repository, settings, found)),
            (repository.KEY, partial(repository.check_key, settings, found)),
            (repository.BACKUP, partial(repository.check_backup, settings, found)),
            (repository.DRILL, partial(repository.check_drill, settings, found, self._environ)),
            (repository.CLOCK, partial(repository.check_clock, found)),
        ):
            await self._check(check, run, repository.SECONDS)

    def _unreachable(self, why: str) -> None:
        action = "Check the connection, or the disk, of the repository"
        if repository.REPOSITORY not in self.findings:
            self.note(error(repository.REPOSITORY, f"the repository cannot be read: {why}", action))
        for check in (repository.KEY, repository.BACKUP, repository.DRILL, repository.CLOCK):
            if check not in self.findings:
                self.note(skipped(check, "the repository cannot be opened"))
