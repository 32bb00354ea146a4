"""Mount a repository, serve it until a signal or an unmount, and unmount it."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final, Self

import pyfuse3
import trio

from cesbrfs import __version__
from cesbrfs.catalog.backups import Backups
from cesbrfs.config.settings import Settings
from cesbrfs.errors import CesbrError, MountError
from cesbrfs.fuse import pump
from cesbrfs.fuse.filesystem import InodeFileSystem
from cesbrfs.fuse.id_map import IdMap
from cesbrfs.fuse.idle import unmount_when_idle
from cesbrfs.fuse.mount_helper import MountHelper, MountTarget
from cesbrfs.fuse.mountpoint import set_nosymfollow, unmount
from cesbrfs.fuse.operations import Operations
from cesbrfs.fuse.options import NOSYMFOLLOW, MountOptions
from cesbrfs.fuse.presentation import Presentation
from cesbrfs.fuse.reload import Reloader
from cesbrfs.fuse.signals import SignalActions, handle_signals, ignore_signals
from cesbrfs.fuse.status import MountStatus
from cesbrfs.fuse.systemd import ServiceManager
from cesbrfs.fuse.tuning import settle, tune
from cesbrfs.repo.location import Access
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import open_storage
from cesbrfs.util.heap import trim
from cesbrfs.util.mountinfo import SUBTYPE, source_name
from cesbrfs.vfs.across import AcrossBackups
from cesbrfs.vfs.tree import BackupTree

_log = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 5.0
"""Grace period for writing the caches when the mount ends."""


@dataclass(frozen=True, slots=True)
class Mounting:
    """How and where to mount. `owner` is the user and group that mount.

    With a `helper` this process has dropped root already, and the helper mounts and unmounts.
    """

    mountpoint: str
    options: MountOptions
    owner: tuple[int, int]
    id_map: IdMap | None = None
    helper: MountHelper | None = None

    def presentation(self) -> Presentation:
        """Return how attributes are shown."""
        options = self.options
        return Presentation(
            options.uid,
            options.gid,
            self.id_map,
            options.fmask,
            options.dmask,
            xattrs=options.xattrs,
            for_all=options.allow_other,
        )

    def unmount(self) -> None:
        """Unmount unless it is in use (MountError)."""
        if self.helper is not None:
            self.helper.unmount()
        else:
            unmount(self.mountpoint)

    def wait_ready(self) -> None:
        """Wait until the mount answers, and raise limits of the kernel; raises OSError."""
        if self.helper is not None:
            self.helper.wait_ready()
        else:
            # Only once it answers has the kernel set its own limits.
            tune(os.stat(self.mountpoint).st_dev)


async def serve(
    settings: Settings,
    access: Access,
    mounting: Mounting,
    ready: Callable[[], None],
    *,
    manager: ServiceManager,
) -> None:
    """Mount the repository's backups and serve them until a signal or an unmount.

    Once the mount answers, `manager` gets READY=1 and `ready` is called. Raises what opening the
    repository raises, and MountError if FUSE refuses. After any other exception the mountpoint
    stays and answers ENOTCONN: an empty directory in its place could make ``rsync --delete``
    remove a copy.
    """
    ignore_signals()
    options, (uid, gid) = mounting.options, mounting.owner
    async with AsyncExitStack() as stack:
        repository = await Repository.open(
            open_storage(access), access.key, settings.caching, access.key_hint
        )
        stack.push_async_callback(_close, repository)
        view = BackupTree(
            repository,
            rules=settings.rules,
            backup_tag=settings.backup_tag,
            uid=uid if options.uid is None else options.uid,
            gid=gid if options.gid is None else options.gid,
        )
        await view.backups()
        owner = (uid, gid) if options.allow_other else None
        across = AcrossBackups(view) if options.versions else None
        tree = InodeFileSystem(view, secrets_owner=owner, across=across)
        operations = Operations(tree, mounting.presentation())
        settle()
        _init(operations, access.display_url, mounting)
        session = stack.enter_context(_Session(mounting.helper))
        stack.callback(manager.stopping)
        await _run(operations, mounting, ready, manager)
        session.ended_cleanly = True


async def _close(repository: Repository) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_SECONDS):
        await repository.aclose()


class _Session:
    """The FUSE session. Unmounts at its end only if that was meant to come."""

    def __init__(self, helper: MountHelper | None) -> None:
        self.ended_cleanly = False
        self._helper = helper

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        # Lazily if the mount is busy: processes keep the files they have open.
        pyfuse3.close(unmount=self.ended_cleanly)
        if self._helper is not None and self.ended_cleanly:
            self._helper.detach()


def mount_target(mountpoint: str, source: str, options: MountOptions) -> MountTarget:
    """Return what a helper is to mount."""
    return MountTarget(
        mountpoint,
        source_name(source),
        allow_other=options.allow_other,
        noexec="noexec" in options.generic,
        nosymfollow=NOSYMFOLLOW in options.generic,
    )


def _init(operations: Operations, source: str, mounting: Mounting) -> None:
    if mounting.helper is not None:
        # libfuse takes a descriptor of /dev/fuse that is mounted already in place of a mountpoint.
        pyfuse3.init(operations, f"/dev/fd/{mounting.helper.mount()}", set())
    else:
        _mount(operations, source, mounting.mountpoint, mounting.options)
    pump.install(operations.is_busy, operations.tree.prefetcher.decode_next)


def _mount(operations: Operations, source: str, mountpoint: str, options: MountOptions) -> None:
    fuse_options = {
        f"fsname={source_name(source)}",
        f"subtype={SUBTYPE}",
        "ro",
        "nosuid",
        "nodev",
        *(option for option in options.generic if option != NOSYMFOLLOW),
    }
    if options.allow_other:
        # The kernel checks modes and, with `Operations.enable_acl`, ACLs. Without the option
        # only the mounting user has access, who has the key to everything.
        fuse_options |= {"allow_other", "default_permissions"}
    try:
        pyfuse3.init(operations, mountpoint, fuse_options)
    except RuntimeError as error:
        hint = "that /dev/fuse can be opened and fusermount3 is installed"
        if options.allow_other and os.getuid():
            hint += ", and that /etc/fuse.conf has 'user_allow_other'"
        raise MountError(f"{mountpoint} could not be mounted ({error}). Check {hint}.") from error
    if NOSYMFOLLOW in options.generic:
        try:
            set_nosymfollow(mountpoint, noexec="noexec" in options.generic)
        except OSError as error:
            pyfuse3.close(unmount=True)
            raise MountError(
                f"-o {NOSYMFOLLOW} could not be applied to {mountpoint} ({error.strerror})."
                " Mount as root, or leave the option out."
            ) from error


async def _run(
    operations: Operations,
    mounting: Mounting,
    ready: Callable[[], None],
    manager: ServiceManager,
) -> None:
    view, status = operations.tree.view, operations.tree.status
    reloader = Reloader(view, status, manager)
    actions = SignalActions(pyfuse3.terminate, reloader.request, lambda: view.repository.is_offline)
    async with trio.open_nursery() as nursery:
        await nursery.start(handle_signals, actions, nursery.cancel_scope)
        view.on_change = _OnChange(operations, nursery, await view.backups(math.inf))
        view.serve(nursery)
        status.monitor.refresh_in(nursery)
        nursery.start_soon(operations.interrupts.run)

        def report_ready() -> None:
            manager.ready()
            ready()
            _log_start(view.repository, mounting, status)
            nursery.start_soon(reloader.run)
            nursery.start_soon(manager.run, status.summary)
            idle_seconds = mounting.options.idle_seconds
            if idle_seconds is not None:
                end = partial(trio.to_thread.run_sync, mounting.unmount)
                nursery.start_soon(unmount_when_idle, end, idle_seconds, operations)

        nursery.start_soon(_report_ready, view, mounting, report_ready)
        await pyfuse3.main()
        nursery.cancel_scope.cancel()


def _log_start(repository: Repository, mounting: Mounting, status: MountStatus) -> None:
    _log.info(
        "cesbrfs %s: mounted %s (repository %s) on %s. Options: %s. %s.",
        __version__, repository.storage.display_url, repository.id[:8], mounting.mountpoint,
        mounting.options.text or "none", status.summary(),
    )  # fmt: skip


class _OnChange:
    """Release what the kernel and the heap hold of removed snapshots; log new and removed backups.

    `known` are the backups so far.
    """

    def __init__(self, operations: Operations, nursery: trio.Nursery, known: Backups) -> None:
        self._operations = operations
        self._nursery = nursery
        self._known = known.by_name.keys()

    def __call__(self, backups: Backups) -> None:
        self._operations.invalidate(backups)
        self._nursery.start_soon(trio.to_thread.run_sync, trim)
        names, known = backups.by_name.keys(), self._known
        self._known = names
        if names != known:
            _log.info(
                "%d backups: %d new, %d removed.",
                len(names),
                len(names - known),
                len(known - names),
            )


async def _report_ready(view: BackupTree, mounting: Mounting, ready: Callable[[], None]) -> None:
    """Call `ready` once the mount has answered a request; then load the index and caches."""
    try:
        await trio.to_thread.run_sync(mounting.wait_ready, abandon_on_cancel=True)
    except OSError as error:  # unmounted already
        _log.warning("%s does not answer: %s", mounting.mountpoint, error.strerror)
        return
    ready()
    try:
        await view.repository.listings.load()
        await view.repository.index()
        await view.prepare()
    except CesbrError as error:  # the request that needs it gets the error
        _log.debug("Preloading failed: %s", error)
    except Exception:  # noqa: BLE001 - as above; the mount continues
        _log.exception("Preloading failed unexpectedly")
