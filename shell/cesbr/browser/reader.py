"""Read what the browser asks for, in trio's thread.

Each request replaces the one before in its slot: what is no longer wanted is cancelled. Results and
errors go to `deliver`, which never waits.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from cesbr.browser.messages import (
    BackupInfo,
    Cancel,
    Described,
    Deselect,
    DiffLive,
    Failed,
    ListDirectory,
    Listed,
    ListVersions,
    Plan,
    Preview,
    Request,
    Result,
    Row,
    Select,
    Selection,
    Slot,
    Text,
    TextLine,
)
from cesbr.browser.queries import diff_lines, plan_lines, preview_lines, version_lines
from cesbr.browser.texts import backup_lines
from cesbr.commands.navigate import describe, status_text
from cesbr.damage import damaged_files
from cesbr.state.drills import DrillHistory, shown_drills
from cesbr.state.state_dir import state_directory
from cesbr.ui import humanize
from cesbr.ui.errors import describe as describe_error
from cesbrfs.catalog import directory_names
from cesbrfs.errors import CesbrError, RepositoryUnreachableError
from cesbrfs.util.escape import printable, show
from cesbrfs.util.tasks import gather
from cesbrfs.vfs.entries import SnapshotEntry

if TYPE_CHECKING:
    from cesbr.session import Context
    from cesbrfs.catalog.backups import Backup
    from cesbrfs.vfs.tree import BackupTree

PAUSE_SECONDS: Final = 0.06
"""What the cursor only passes by is not read."""
_DESCRIBED: Final = 16
"""Backups that are described at once."""


class Reader:
    """Answers the requests of one browser."""

    def __init__(self, context: Context, deliver: Callable[[Result], object]) -> None:
        self._context = context
        self._deliver = deliver
        self._searching = trio.Lock()

    async def serve(self, requests: trio.MemoryReceiveChannel[Request]) -> None:
        """Answer requests until cancelled."""
        running: dict[Slot, trio.CancelScope] = {}
        changes, received = trio.open_memory_channel[Select | Deselect](math.inf)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._change_selection, received)
            async for request in requests:
                if isinstance(request, Select | Deselect):
                    changes.send_nowait(request)
                    continue
                old = running.pop(request.slot, None)
                if old is not None:
                    old.cancel()
                if not isinstance(request, Cancel):
                    running[request.slot] = trio.CancelScope()
                    nursery.start_soon(self._answer, request, running[request.slot])

    async def _change_selection(
        self, changes: trio.MemoryReceiveChannel[Select | Deselect]
    ) -> None:
        """Change the selection as requested, in this order."""
        async for change in changes:
            await self._answer(change, trio.CancelScope())

    async def _answer(self, request: Request, scope: trio.CancelScope) -> None:
        with scope:
            try:
                async for result in self._results(request):
                    self._deliver(result)
            except Exception as error:  # noqa: BLE001 - shown in the pane, where the user is
                self._deliver(Failed(request, printable(describe_error(error)[0])))

    async def _results(self, request: Request) -> AsyncIterator[Result]:
        if isinstance(request, ListDirectory):
            if request.parts:
                yield await self._list(request)
            else:
                async for result in self._list_backups(request):
                    yield result
        elif isinstance(request, Select | Deselect):
            yield await self._change(request)
        elif isinstance(request, Plan):
            yield Text(request, await plan_lines(self._context, in_place=request.in_place))
        elif isinstance(request, Preview):
            await trio.sleep(PAUSE_SECONDS)
            yield Text(request, await preview_lines(self._context, request.parts))
        elif isinstance(request, ListVersions | DiffLive):
            await trio.sleep(PAUSE_SECONDS)
            async with self._searching:  # one search at a time uses the index
                search = diff_lines if isinstance(request, DiffLive) else version_lines
                lines = await search(self._context, request.parts)
            yield Text(request, lines)

    # The list

    async def _list(self, request: ListDirectory) -> Listed:
        view = await self._context.view()
        entry = await view.at(request.parts)
        rows = [
            Row(name, node.type, node.mode, node.size, node.mtime_ns)
            for name, child in (await view.children(entry)).items()
            for node in (child.node,)
        ]
        reasons = list(await view.refused(entry))
        if isinstance(entry, SnapshotEntry):
            unknown = await view.unknown(entry)
            rows += [Row(name, "unknown") for name in unknown]
            reasons += [f"{show(name)}: {reason}" for name, reason in unknown.items()]
        rows.sort(key=lambda row: (not row.is_directory, row.name))
        problem = ""
        if reasons:
            number = humanize.count(len(reasons), "entry", "entries")
            problem = f"Cannot read {number}: {reasons[0]}."
        return Listed(request, rows, problem)

    async def _list_backups(self, request: ListDirectory) -> AsyncIterator[Result]:
        """Yield the backups, newest first, then what is known of them only after reading."""
        view = await self._context.view()
        backups = await view.backups()
        newest = list(backups.by_name.values())[::-1]
        rows = [Row(backup.name, "dir", mtime_ns=backup.time_ns) for backup in newest]
        if backups.loose:
            rows.append(Row(directory_names.SNAPSHOTS, "dir"))
        damaged = list(damaged_files(view.repository.damaged).values())
        more = f" ({len(damaged) - 1:,} more)" if len(damaged) > 1 else ""
        yield Listed(request, rows, damaged[0] + more if damaged else "")
        latest = await view.latest()
        directory = state_directory(self._context.session.environ)
        drills = await trio.to_thread.run_sync(shown_drills, directory, view.repository.id)
        for at in range(0, len(newest), _DESCRIBED):
            some = newest[at : at + _DESCRIBED]
            infos = await gather([partial(_info, view, backup, latest, drills) for backup in some])
            yield Described({b.name: info for b, info in zip(some, infos, strict=True)})

    # The selection

    async def _change(self, request: Select | Deselect) -> Selection:
        basket = self._context.session.basket(await self._context.view())

        def change() -> Selection:
            if isinstance(request, Select):
                basket.add([request.parts])
            else:
                basket.remove([request.parts])
            return Selection(basket.paths)

        return await trio.to_thread.run_sync(change)


async def _info(
    view: BackupTree, backup: Backup, latest: Backup | None, drills: DrillHistory
) -> BackupInfo:
    """Return what the list and the pane show of a backup, or why it cannot be read."""
    try:
        described = await describe(view, backup, drills)
    except RepositoryUnreachableError:
        raise
    except CesbrError as error:
        return BackupInfo("unreadable", "", (TextLine(error.message, "error"),))
    is_latest = latest is not None and latest.name == backup.name
    dogus = "all" if described.whole else " ".join(described.dogus)
    status = status_text(described) + ", latest" * is_latest
    return BackupInfo(status, dogus, tuple(backup_lines(backup, described, status)))
