"""What a shell keeps from one command to the next: settings, the open repository, where one is.

Knows no cmd2.  Nothing is read before a command needs it, and what failed is tried again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cesbr.ui.output import Output
from cesbrfs.config.settings import Flags, Settings, load, require_root
from cesbrfs.errors import CesbrError
from cesbrfs.util.escape import show

if TYPE_CHECKING:  # all of them import trio, which the prompt's start does not wait for
    import trio

    from cesbr.completion.name_index import NameIndex
    from cesbr.state.basket import Basket
    from cesbrfs.repo.location import Access
    from cesbrfs.repo.repository import Repository
    from cesbrfs.restic import Restic
    from cesbrfs.util.lru import LruCache
    from cesbrfs.vfs.directory_index import DirectoryIndex
    from cesbrfs.vfs.tree import BackupTree


@dataclass(slots=True)
class Session:
    """One shell.  `place` is where one is: the names from the view's root on."""

    flags: Flags = field(default_factory=Flags)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    place: tuple[bytes, ...] = ()
    came_from: tuple[bytes, ...] = ()
    """Where one was before, for ``cd -``."""
    view: BackupTree | None = None
    """The open repository, once a command needed it."""
    reported: frozenset[str] = frozenset()
    """Damaged files of the repository that were reported to the user."""
    looked_back: bool = False
    """Whether it was looked for what an earlier process has left behind."""
    _memo: DirectoryIndex | None = None
    _basket: Basket | None = None
    _names: LruCache[bytes, NameIndex] | None = None
    _loaded: Settings | None = None
    _settings: Settings | None = None
    _access: Access | None = None
    _restic: Restic | None = None
    _opening: trio.Lock | None = None

    @property
    def shown_place(self) -> str:
        """Where one is, as people see it; empty at the root."""
        return "".join("/" + show(part) for part in self.place)

    def go(self, place: tuple[bytes, ...]) -> None:
        """Be somewhere else."""
        self.came_from, self.place = self.place, place

    def loaded(self) -> Settings:
        """Return the settings without what the registry adds; UsageError for wrong ones."""
        if self._loaded is None:
            loaded = load(self.flags, self.environ)
            require_root(loaded)
            self._loaded = loaded
        return self._loaded

    async def settings(self) -> Settings:
        """Return the settings with what the registry adds."""
        if self._settings is None:
            self._settings = await self.loaded().resolve()
        return self._settings

    def look_ahead(self) -> None:
        """Start to derive the key, if both it and the address are available without waiting.

        It takes longer than all the imports that a command needs.
        """
        try:
            settings = self.loaded()
            known = settings.access_nowait()
        except CesbrError:
            return  # the command tells
        if known is not None:
            from cesbrfs.repo.kdf import derive_ahead

            derive_ahead(*known, settings.cache_dir)

    async def access(self) -> Access:
        """Return how to reach the repository; asks for the key once."""
        if self._access is None:
            settings = await self.settings()
            self._access = await settings.access()
            from cesbrfs.repo.kdf import derive_ahead

            # It takes as long as the imports that follow.
            derive_ahead(self._access.url, self._access.key, settings.cache_dir)
        return self._access

    async def restic(self) -> Restic:
        """Return the restic binary for this repository; touches no repository."""
        if self._restic is None:
            from cesbrfs.restic import Restic

            settings = await self.settings()
            self._restic = await Restic.open(await self.access(), binary=settings.restic)
        return self._restic

    def forget_password(self) -> None:
        """Read the password and what contains it again when it is needed the next time."""
        self._settings = self._access = self._restic = None

    def opening(self) -> trio.Lock:
        """Return what keeps a command and a completion from opening the repository twice."""
        import trio

        if self._opening is None:
            self._opening = trio.Lock()
        return self._opening

    def opened(self, repository: Repository, settings: Settings) -> BackupTree:
        """Keep an open repository for the commands to come."""
        from cesbrfs.vfs.tree import BackupTree

        self.view = BackupTree(
            repository,
            rules=settings.rules,
            backup_tag=settings.backup_tag,
            uid=os.getuid(),
            gid=os.getgid(),
        )
        return self.view

    def memo(self, view: BackupTree) -> DirectoryIndex:
        """Return what is remembered of the directories of the open repository."""
        from cesbrfs.vfs.directory_index import DirectoryIndex

        if self._memo is None:
            self._memo = DirectoryIndex(view.repository)
        return self._memo

    def names(self, view: BackupTree) -> LruCache[bytes, NameIndex]:
        """Return the cache of names in directories, for completion."""
        from cesbr.completion.name_index import NameIndex
        from cesbrfs.util.lru import LruCache

        if self._names is None:
            self._names = LruCache(view.repository.caching.names, NameIndex.held_bytes)
        return self._names

    def basket(self, view: BackupTree) -> Basket:
        """Return what is selected of the open repository; raises StateError."""
        from cesbr.state.basket import Basket
        from cesbr.state.state_dir import required_state_directory

        if self._basket is None:
            self._basket = Basket(required_state_directory(self.environ), view.repository.id)
        return self._basket

    async def aclose(self) -> None:
        """Close everything that is open."""
        view, self.view = self.view, None
        self._memo = self._basket = None
        if view is not None:
            await view.repository.aclose()


@dataclass(frozen=True, slots=True)
class Context:
    """What one command works with: the session, its output, and whether it may initialise."""

    session: Session
    out: Output
    no_init: bool = False
    reported: set[str] = field(default_factory=set)
    """Damaged files of the repository that the command has reported."""

    async def view(self, *, may_init: bool = True) -> BackupTree:
        """Return the view of the repository; a missing one is initialised first, with a note.

        Raises the error of every other state, and of a missing one where nothing may initialise.
        """
        async with self.session.opening():
            if self.session.view is not None:
                return self.session.view
            settings = await self.session.settings()
            access = await self.session.access()
            from cesbrfs.readiness import open_ready

            repository = await open_ready(
                access,
                open_restic=self.session.restic,
                auto_init=may_init and self._initialises(settings),
                say=self.out.note,
                caching=settings.caching,
            )
            return self.session.opened(repository, settings)

    async def require_active(self, *, force: bool) -> None:
        """Raise SuspendedError where the instance suspends its backups and restores.

        `force` does not even ask: a registry that is gone is then in nobody's way.
        """
        if not force:
            from cesbrfs.ces.backup_config import backup_config

            settings = await self.session.settings()
            (await backup_config(settings.open_registry())).require_active()

    def _initialises(self, settings: Settings, *, creates: bool = False) -> bool:
        """Return whether the command initialises a missing repository.

        At an address that was passed with this command only, just commands that create data
        (`creates`) do: the address may be mistyped.
        """
        given_now = settings.sources.get("repository") == "flag"
        return settings.auto_init and not self.no_init and (creates or not given_now)

    async def restic(self, *, creates: bool = False) -> Restic:
        """Return restic for a repository that is ready; a missing one is initialised first.

        `creates` is for a command that makes sense on an empty repository.
        """
        from cesbrfs.readiness import ensure_ready

        settings = await self.session.settings()
        new = await ensure_ready(
            await self.session.access(),
            open_restic=self.session.restic,
            auto_init=self._initialises(settings, creates=creates),
            say=self.out.note,
            through_restic=True,
            cache_dir=settings.cache_dir,
        )
        if new:  # what was open before was another one
            await self.session.aclose()
        return await self.session.restic()
