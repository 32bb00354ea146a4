"""Copying backups to another repository."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from cesbr.commands import Command
from cesbr.ui import humanize
from cesbr.ui.table import fitted
from cesbrfs.errors import PartialError, RepositoryMissingError, UsageError
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    import re
    from collections.abc import Sequence

    from cesbr.session import Context
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.repo.location import Access
    from cesbrfs.repo.repository import Repository
    from cesbrfs.restic import Restic


@dataclass(frozen=True, slots=True)
class _Copied:
    """A backup, its status, and that of its copy (None: not copied), with its ID there."""

    backup: Backup
    status: str
    copy_id: str | None
    copy_status: str | None
    snapshots: int

    @property
    def equal(self) -> bool:
        """Whether the copy has the status of the backup."""
        return self.copy_status == self.status

    def as_json(self) -> dict[str, object]:
        """Return the fields; `snapshots` is the number of snapshots that the copy lacked."""
        return {
            "id": self.backup.id,
            "status": self.status,
            "copy": None
            if self.copy_status is None
            else {"id": self.copy_id, "status": self.copy_status},
            "snapshots": self.snapshots,
        }


def _copy_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("backups", metavar="ID", nargs="*", help="copy these backups")
    parser.add_argument("--all", action="store_true", help="copy all backups")
    parser.add_argument(
        "--to", metavar="URL", required=True, help="the repository that gets the copies"
    )
    parser.add_argument(
        "--to-password-file",
        metavar="FILE",
        help="its password (default: the password of the configured repository)",
    )
    parser.add_argument(
        "--init",
        action="store_true",
        help="create it if it does not exist, with the same chunker parameters",
    )
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="only show what would be copied"
    )


async def _copy(context: Context, arguments: argparse.Namespace) -> int:
    from cesbrfs.copy_backups import copy_backups, missing_snapshots
    from cesbrfs.restic import Restic

    if arguments.all == bool(arguments.backups):
        raise UsageError("Name the backups to copy, or pass --all for all of them.")
    settings = await context.session.settings()
    access = await _target(context, arguments.to, arguments.to_password_file)
    view = await context.view(may_init=False)
    listed = list((await view.backups(max_age=0)).by_name.values())
    if not arguments.all:
        named = [await view.find_backup(wanted) for wanted in arguments.backups]
        listed = list({backup.id: backup for backup in named}.values())
    source = await context.session.restic()
    target = Restic(source.binary, source.version, access)
    may_init = arguments.init and not arguments.dry_run
    repository = await _open(context, source, target, may_init=may_init)
    try:
        if repository.id == view.repository.id:
            raise UsageError(f"{access.display_url} is the repository that contains the backups.")
        present = await repository.snapshots()
        pattern = settings.backup_tag
        missing = {b.id: len(missing_snapshots(b, present, pattern)) for b in listed}
        if not arguments.dry_run:
            with context.out.progress("Copying") as progress:
                await copy_backups(
                    listed,
                    source=source,
                    target=target,
                    repository=repository,
                    pattern=pattern,
                    on_line=lambda line: progress.update(note=line),
                )
        statuses = [(await view.reports.of(backup)).status.value for backup in listed]
        copies = await _copies(repository, listed, pattern)
    finally:
        await repository.aclose()
    results = [
        _Copied(backup, status, *copy, missing[backup.id])
        for backup, status, copy in zip(listed, statuses, copies, strict=True)
    ]
    await context.out.result(
        {"repository": access.display_url, "backups": [result.as_json() for result in results]},
        lambda: _text(results, access.display_url, context.out.room),
    )
    different = not arguments.dry_run and not all(result.equal for result in results)
    return PartialError.exit_code if different else 0


async def _target(context: Context, url: str, password_file: str | None) -> Access:
    """Return the access to the repository that gets the copies."""
    from cesbrfs.config.settings import load

    session = context.session
    flags = replace(session.flags, repository=url)
    if password_file is not None:
        flags = replace(flags, password_file=password_file)
    settings = load(flags, session.environ)
    access = await session.access()
    key = access.key
    if password_file is not None and settings.password is not None:
        key = await settings.password.obtain("--to-password-file")
    return replace(access, url=settings.repository or url, key=key)


async def _open(context: Context, source: Restic, target: Restic, *, may_init: bool) -> Repository:
    """Open the target, which is initialised first if it is missing and `may_init` is set."""
    from cesbrfs.readiness import initialise, look

    async def restic() -> Restic:
        return target

    settings = await context.session.settings()
    verdict, repository = await look(target.access, settings.caching)
    if repository is None and may_init and isinstance(verdict.error, RepositoryMissingError):
        await initialise(
            target.access,
            open_restic=restic,
            say=context.out.note,
            cache_dir=settings.cache_dir,
            source=source,
        )
        verdict, repository = await look(target.access, settings.caching)
    if repository is not None:
        return repository
    if type(verdict.error) is RepositoryMissingError and not may_init:
        raise RepositoryMissingError(
            f"There is no repository at {target.access.display_url}. Correct --to, or pass --init"
            " to create it."
        )
    assert verdict.error is not None, "what cannot be opened has an error"
    raise verdict.error


async def _copies(
    repository: Repository, backups: Sequence[Backup], pattern: re.Pattern[str]
) -> list[tuple[str | None, str | None]]:
    """Return for each backup the ID and status of its copy, None if there is none."""
    from cesbrfs.catalog.backups import group
    from cesbrfs.catalog.status import Reports
    from cesbrfs.copy_backups import copy_of
    from cesbrfs.util.tasks import gather

    there = list(group(await repository.snapshots(), pattern).by_name.values())
    reports = Reports(repository)

    async def described(backup: Backup) -> tuple[str | None, str | None]:
        copy = copy_of(backup, there)
        return (None, None) if copy is None else (copy.id, (await reports.of(copy)).status.value)

    return await gather([partial(described, backup) for backup in backups])


def _text(results: Sequence[_Copied], url: str, available: int | None) -> str:
    if not results:
        return "There is no backup.\n"
    rows = [
        (
            show(os.fsencode(result.backup.id)),
            result.status,
            result.copy_status or "missing",
            f"{result.snapshots:,}",
        )
        for result in results
    ]
    table = fitted(rows, ("ID", "Status", "Copy", "New snapshots"), available, right=())
    done = sum(result.equal for result in results)
    return table + f"{humanize.count(done, 'backup')} of {len(results):,} in {url}.\n"


COMMANDS: Final = (
    Command(
        "copy",
        "Copy backups to another repository.",
        "copy --all --to /srv/copy --init",
        _copy_arguments,
        _copy,
        "Only what the other repository lacks is copied, so the same command continues after an"
        " interruption.  Both repositories are reached with the same credentials in the"
        " environment.",
        all_backups=True,
    ),
)
