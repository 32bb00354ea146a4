"""Where a restore takes its data from: the backup, its host and status, copies that stay aside."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cesbr.ui import humanize
from cesbr.ui.table import hanging
from cesbrfs.catalog import directory_names
from cesbrfs.catalog.status import copies_json
from cesbrfs.errors import RegistryUnreachableError, UsageError
from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.util.escape import show

if TYPE_CHECKING:
    import argparse

    from cesbr.session import Context
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.catalog.layout import Placement
    from cesbrfs.restore import Selection
    from cesbrfs.vfs.tree import BackupTree

_SHOWN: Final = 20
"""Copies that are named; --json has them all."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A backup that something is restored from; `copies` are other copies of what was chosen."""

    backup: Backup
    status: str
    copies: Sequence[Placement]

    def as_json(self) -> dict[str, object]:
        """Return it as ``plan --json`` prints it."""
        return {
            "id": self.backup.id,
            "time": format_time(self.backup.time_ns),
            "host": self.backup.host,
            "status": self.status,
            "safety": self.backup.safety,
            "copies": copies_json(self.copies),
        }


async def origins_of(view: BackupTree, selection: Selection) -> list[Origin]:
    """Return the backups of a selection."""
    by_name = (await view.backups()).by_name
    origins: list[Origin] = []
    for name in selection.backups:
        if name not in by_name:
            continue
        backup = by_name[name]
        chosen = [item.parts for item in selection.items if item.backup == name]
        layout = await view.layout(backup)
        copies = [c for c in layout.copies if any(_meet(c.path, parts) for parts in chosen)]
        origins.append(Origin(backup, (await view.reports.of(backup)).status.value, copies))
    return origins


def _meet(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> bool:
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]


def origins_text(origins: Sequence[Origin], available: int | None) -> str:
    """Return a line for each backup, and for each copy that is not restored."""
    lines: list[str] = []
    for origin in origins:
        backup = origin.backup
        safety = ", a safety backup" if backup.safety else ""
        lines.append(
            f"From backup {_shown(backup.id)} of {humanize.local_time(backup.time_ns)}, host"
            f" {_shown(backup.host) or 'unknown'}, {origin.status}{safety}."
        )
        for copy in origin.copies[:_SHOWN]:
            path = "/".join(map(show, copy.path))
            lines.append(
                f"Another copy of {path} stays aside: {_shown(copy.source)} in snapshot"
                f" {copy.snapshot.id[:8]}, below"
                f" /{show(backup.name)}/{directory_names.SNAPSHOTS.decode()}."
            )
        if len(origin.copies) > _SHOWN:
            lines.append(f"and {len(origin.copies) - _SHOWN:,} more")
    return "".join(hanging("", line, available) for line in lines)


def add_other_host_flag(parser: argparse.ArgumentParser) -> None:
    """Declare ``--other-host``."""
    parser.add_argument(
        "--other-host",
        action="store_true",
        help="restore onto this instance although the backup is of another host",
    )


async def other_host(context: Context, backup: Backup) -> str | None:
    """Return why `backup` is not restored onto this instance: another host's; else None.

    An instance without a name in its registry is new, and takes any backup.
    """
    instance = (await context.session.settings()).instance()
    try:
        fqdn = await instance.fqdn()
    except RegistryUnreachableError as error:
        host = _shown(backup.host)
        context.out.note(f"Whether this instance is {host} is not known: {error.message}")
        return None
    own = {fqdn, socket.gethostname()}
    if fqdn is None or not backup.host or backup.host in own:
        return None
    return (
        f"Backup {_shown(backup.id)} is of host {_shown(backup.host)}, this instance is"
        f" {_shown(fqdn)}. Pass --other-host to restore it here all the same."
    )


async def require_own_host(context: Context, backup: Backup, *, unless: bool) -> None:
    """Raise UsageError when `backup` is of another host than this instance, `unless` allowed."""
    refused = None if unless else await other_host(context, backup)
    if refused is not None:
        raise UsageError(refused)


def _shown(text: str) -> str:
    return show(os.fsencode(text))
