"""Read stored directories of snapshots that may be removed at any time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

from cesbrfs.errors import BlobMissingError
from cesbrfs.repo.format.direntry import DirEntries
from cesbrfs.repo.format.model import Snapshot, Tree
from cesbrfs.repo.read.trees import no_tree
from cesbrfs.repo.repository import Repository
from cesbrfs.vfs.entries import TreeRef

_T = TypeVar("_T")


class SnapshotReader:
    """Reader of stored directories; raises NotFoundError if the snapshot was forgotten."""

    def __init__(self, repository: Repository) -> None:
        self._repository: Final = repository

    async def tree(self, ref: TreeRef) -> Tree:
        """Return the parsed tree of a directory, with complete metadata."""
        if ref.tree is None:
            raise no_tree()
        if not ref.top and (tree := self._repository.trees.get_nowait(ref.tree)) is not None:
            return tree
        read = self._repository.trees.top if ref.top else self._repository.trees.get
        return await self._check_forgotten(ref.snapshot, partial(read, ref.tree))

    def tree_nowait(self, ref: TreeRef) -> Tree | None:
        """Like `tree`, but never blocks. None means "not cached", not "missing"."""
        return self._repository.trees.get_nowait(ref.tree) if ref.tree is not None else None

    async def entries(self, ref: TreeRef) -> DirEntries:
        """Return the compact entries of a directory."""
        if ref.tree is None:
            raise no_tree()
        listings = self._repository.listings
        read = partial(listings.get, ref.tree)
        if ref.top:
            read = partial(listings.get_top, ref.tree, self._repository.trees.top)
        return await self._check_forgotten(ref.snapshot, read)

    def entries_nowait(self, ref: TreeRef) -> DirEntries | None:
        """Like `entries`, but never blocks. None means "not cached", not "missing"."""
        if ref.tree is None:
            return None
        listings = self._repository.listings
        return (listings.get_top_nowait if ref.top else listings.get_nowait)(ref.tree)

    async def _check_forgotten(self, snapshot: Snapshot, read: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await read()
        except BlobMissingError as error:
            await self._repository.raise_if_forgotten(snapshot, error)
            raise
