"""Find the damage below trees; each distinct tree is read once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final, NamedTuple

from cesbrfs.damage.blob_check import BlobChecker, Fault
from cesbrfs.errors import BlobMissingError, DamagedError, StorageError
from cesbrfs.repo.format.model import Node, Tree
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.repository import Repository
from cesbrfs.util.tasks import AT_ONCE, gather

_NO_FILES: Final[Mapping[bytes, Fault]] = {}


class TreeKey(NamedTuple):
    """A tree, and whether it is the root of a snapshot; `tree` is None if none is recorded."""

    tree: bytes | None
    top: bool = False


class Extent(NamedTuple):
    """Number of damaged entries below a tree, and how many of them are lost."""

    damaged: int
    lost: int


_NOTHING: Final = Extent(0, 0)


def subtree_of(node: Node) -> TreeKey | None:
    """Return the key of a directory's tree, None for anything else."""
    return TreeKey(node.subtree) if node.type == "dir" else None


class TreeScan:
    """The damage of trees (`faults`), and of the files in them (`files`)."""

    def __init__(
        self,
        repository: Repository,
        checker: BlobChecker,
        on_progress: Callable[[int], object] | None = None,
    ) -> None:
        self._repository: Final = repository
        self._checker: Final = checker
        self._on_progress: Final = on_progress
        self._below: Final[dict[TreeKey, tuple[TreeKey, ...]]] = {}
        self._extents: Final[dict[TreeKey, Extent]] = {}
        self._files: Final[dict[TreeKey, dict[bytes, Fault]]] = {}
        self._faults: Final[dict[TreeKey, Fault]] = {}

    async def scan(self, roots: Iterable[TreeKey]) -> None:
        """Visit all trees at and below `roots`.

        Raises RepositoryUnreachableError and other errors that do not concern single trees.
        """
        seen = set(self._below)
        waiting = list(dict.fromkeys(roots))
        while waiting:
            batch: list[TreeKey] = []
            while waiting and len(batch) < AT_ONCE:
                key = waiting.pop()
                if key not in seen:
                    seen.add(key)
                    batch.append(key)
            await gather([partial(self._visit, key) for key in batch])
            for key in batch:
                waiting += [below for below in self._below[key] if below not in seen]
            if self._on_progress is not None:
                self._on_progress(len(seen))

    async def _visit(self, key: TreeKey) -> None:
        self._below[key] = ()
        try:
            tree = await self.tree(key)
        except (BlobMissingError, DamagedError, StorageError) as error:
            self._faults[key] = await self._lost_tree(key, error)
            return
        assert key.tree is not None
        fault = await self._checker.blob(BlobType.TREE, key.tree)
        if fault is not None and fault.copies:
            self._faults[key] = fault
        below: list[TreeKey] = []
        files: dict[bytes, Fault] = {}
        for name, node in tree.nodes.items():
            subtree = subtree_of(node)
            if subtree is not None:
                below.append(subtree)
            elif node.content and (fault := await self._checker.file(node)) is not None:
                files[name] = fault
        self._below[key] = tuple(below)
        if files:
            self._files[key] = files

    async def _lost_tree(self, key: TreeKey, error: Exception) -> Fault:
        if key.tree is None:
            return Fault("no tree is recorded for it")
        fault = await self._checker.blob(BlobType.TREE, key.tree)
        if fault is not None and fault.is_loss:
            return Fault(f"its directory cannot be read: {fault.reason}")
        del error
        return Fault(f"its directory cannot be read: tree {key.tree.hex()[:8]} is damaged")

    async def tree(self, key: TreeKey) -> Tree:
        """Return the content of a directory; raises like `Repository.tree`."""
        if key.tree is None:
            raise DamagedError("It has no tree.")
        trees = self._repository.trees
        read = trees.top if key.top else trees.get
        return await read(key.tree)

    async def file(self, node: Node) -> Fault | None:
        """Return the damage of the content of a file."""
        return await self._checker.file(node)

    def fault(self, key: TreeKey) -> Fault | None:
        """Return the damage of a visited tree itself."""
        return self._faults.get(key)

    def files(self, key: TreeKey) -> Mapping[bytes, Fault]:
        """Return the damaged files in a visited tree by name."""
        return self._files.get(key, _NO_FILES)

    def at(self, key: TreeKey) -> Extent:
        """Return the extent of the damage of a visited tree itself, and below it."""
        below, fault = self.below(key), self._faults.get(key)
        if fault is None:
            return below
        return Extent(below.damaged + 1, below.lost + fault.is_loss)

    def below(self, key: TreeKey) -> Extent:
        """Return the extent of the damage below a visited tree; computed once per tree."""
        pending = [key]
        while pending:
            at = pending[-1]
            if at in self._extents:
                pending.pop()
                continue
            unknown = [below for below in self._below[at] if below not in self._extents]
            if unknown:
                pending += unknown
                continue
            pending.pop()
            files = self._files.get(at, _NO_FILES).values()
            parts = [self.at(below) for below in self._below[at]]
            self._extents[at] = Extent(
                len(files) + sum(part.damaged for part in parts),
                sum(fault.is_loss for fault in files) + sum(part.lost for part in parts),
            )
        return self._extents.get(key, _NOTHING)

    def is_whole(self, key: TreeKey) -> bool:
        """Return whether a visited tree and everything below it can be read."""
        return not self.at(key).lost

    async def first_loss(self, key: TreeKey) -> tuple[tuple[bytes, ...], Fault]:
        """Return the path below a tree that is not whole to its first lost entry, and its fault."""
        parts: tuple[bytes, ...] = ()
        while True:
            fault = self._faults.get(key)
            if fault is not None and fault.is_loss:
                return parts, fault
            lost = {n: fault for n, fault in self.files(key).items() if fault.is_loss}
            for name, fault in lost.items():
                return (*parts, name), fault
            for name, node in (await self.tree(key)).nodes.items():
                subtree = subtree_of(node)
                if subtree is not None and not self.is_whole(subtree):
                    parts, key = (*parts, name), subtree
                    break
