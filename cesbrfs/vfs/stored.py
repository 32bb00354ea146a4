"""What stored folders hold, for as long as their snapshots are there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

from cesbrfs.errors import BlobMissingError
from cesbrfs.repo.format.direntry import DirEntries
from cesbrfs.repo.format.model import Snapshot, Tree
from cesbrfs.repo.repository import Repository, no_tree
from cesbrfs.vfs.entries import TreeRef

_T = TypeVar("_T")


class SnapshotReader:
    """Reads stored folders; raises NotFoundError where one went with its snapshot."""

    def __init__(self, repository: Repository) -> None:
        self._repository: Final = repository

    async def tree(self, inside: TreeRef) -> Tree:
        """Return all that is known of what a folder holds."""
        if inside.tree is None:
            raise no_tree()
        read = self._repository.top if inside.top else self._repository.tree
        return await self._unless_forgotten(inside.snapshot, partial(read, inside.tree))

    def tree_nowait(self, inside: TreeRef) -> Tree | None:
        """Return what `tree` would, if nothing has to be waited for; None does not say that."""
        return self._repository.tree_nowait(inside.tree) if inside.tree is not None else None

    async def rows(self, inside: TreeRef) -> DirEntries:
        """Return the same in short."""
        if inside.tree is None:
            raise no_tree()
        listings = self._repository.listings
        read = partial(listings.get, inside.tree)
        if inside.top:
            read = partial(listings.get_top, inside.tree, self._repository.top)
        return await self._unless_forgotten(inside.snapshot, read)

    def entries_nowait(self, inside: TreeRef) -> DirEntries | None:
        """Return what `rows` would, if nothing has to be waited for; None does not say that."""
        if inside.tree is None:
            return None
        listings = self._repository.listings
        return (listings.get_top_nowait if inside.top else listings.get_nowait)(inside.tree)

    async def _unless_forgotten(self, snapshot: Snapshot, read: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await read()
        except BlobMissingError as error:
            await self._repository.raise_if_forgotten(snapshot, error)
            raise
