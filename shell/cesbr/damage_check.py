"""Check the repository with restic, and explain the damage in terms of backups."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cesbrfs.damage.examine import (
    DamageReport,
    Everything,
    examine,
    lacks_snapshots,
    suspected_packs,
)
from cesbrfs.errors import CesbrError
from cesbrfs.util.tasks import gather

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.vfs.tree import BackupTree

_CLOSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check: restic's messages, and the damage.

    `damage` is None if there is none, or if it could not be examined for the reason `unexplained`.
    """

    errors: Sequence[str]
    damage: DamageReport | None = None
    unexplained: CesbrError | None = None

    @property
    def is_ok(self) -> bool:
        """Whether no damage was found."""
        return not self.errors and (self.damage is None or not self.damage.total)


async def check(context: Context, *, read_data: bool, read_data_subset: str | None) -> CheckResult:
    """Check the repository; examine all backups only if something is damaged."""
    restic = await context.restic()
    with context.out.progress("Checking") as progress:
        errors: tuple[str, ...] = ()
        incomplete = False
        unread: CesbrError | None = None

        async def run_restic() -> None:
            nonlocal errors
            report = await restic.check(
                read_data=read_data,
                read_data_subset=read_data_subset,
                on_line=lambda line: progress.update(note=line),
            )
            errors = report.errors

        async def look_for_snapshots() -> None:
            nonlocal incomplete, unread
            try:
                incomplete = await lacks_snapshots(await context.view())
            except CesbrError as error:  # mostly reported by restic, too
                unread = error

        await gather([run_restic, look_for_snapshots])
    if not errors and unread is not None:
        raise unread
    if not errors and not incomplete:
        return CheckResult(errors)
    with context.out.progress("Looking for affected files") as progress:

        def on_progress(directories: int) -> None:
            progress.update(note=f"{directories:,} directories")

        try:
            async with _open_without_caches(context) as view:
                look = partial(examine, view, on_progress=on_progress)
                suspects = await suspected_packs(view, errors)
                damage = await look(suspects)
                if read_data and errors and not suspects and not damage.total:
                    damage = await look(Everything())
        except CesbrError as error:
            return CheckResult(errors, unexplained=error)
    return CheckResult(errors, damage)


@asynccontextmanager
async def _open_without_caches(context: Context) -> AsyncGenerator[BackupTree, None]:
    """Open the repository again, so that nothing cached hides its damage.

    The index and blocks of a remote repository are cached in a temporary directory.
    """
    from cesbrfs.repo.repository import Repository
    from cesbrfs.repo.storage import open_storage
    from cesbrfs.vfs.tree import BackupTree

    access, settings = await context.session.access(), await context.session.settings()
    with _temporary_directory(settings.caching.directory) as directory:
        caching = replace(settings.caching, directory=directory, data=0, restic=None)
        repository = await Repository.open(open_storage(access), access.key, caching)
        try:
            yield BackupTree(repository, rules=settings.rules, backup_tag=settings.backup_tag)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_SECONDS):
                await repository.aclose()


@contextmanager
def _temporary_directory(cache: Path | None) -> Iterator[Path | None]:
    """Create a directory in the cache directory for the block; None if that is impossible."""
    with ExitStack() as stack:
        directory = None
        with suppress(OSError):
            if cache is not None:
                cache.mkdir(mode=0o700, parents=True, exist_ok=True)
                made = tempfile.TemporaryDirectory(
                    prefix="check-", dir=cache, ignore_cleanup_errors=True
                )
                directory = Path(stack.enter_context(made))
        yield directory
