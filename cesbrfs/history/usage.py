"""Measure directories: their size, and the space that only they occupy in the repository.

The second figure (`added`) is the stored, compressed size of the blobs below a directory that no
other backup refers to: without the directory, the repository would be smaller by this amount.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from cesbrfs.catalog import directory_names
from cesbrfs.catalog.backups import Backup
from cesbrfs.errors import CesbrError, RepositoryUnreachableError, UsageError
from cesbrfs.repo.format.index import Index
from cesbrfs.repo.format.model import Node, Snapshot, Tree, hard_link_id
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.util.escape import show
from cesbrfs.util.tasks import AT_ONCE, gather
from cesbrfs.vfs.entries import Entry, SnapshotEntry, VirtualDir, VirtualFile, VirtualSymlink
from cesbrfs.vfs.timeline import Parts, Progress, cannot_be_shown
from cesbrfs.vfs.tree import BackupTree

_Blob = tuple[BlobType, bytes]
_SHARED: Final = -1


@dataclass(frozen=True, slots=True)
class Usage:
    """The disk usage of a directory or file: bytes, number of files, and added stored bytes.

    A file with several hard links counts once, as in du(1).
    """

    parts: Parts
    size: int
    files: int
    added: int


@dataclass(slots=True)
class _Sum:
    """A running total: `links` are sizes of hard-linked files, `blobs` the added blobs."""

    size: int = 0
    files: int = 0
    links: dict[int, int] = field(default_factory=dict)
    blobs: set[_Blob] = field(default_factory=set)

    def add(self, other: _Sum, times: int = 1) -> None:
        """Add another total `times` times."""
        self.size += other.size * times
        self.files += other.files * times
        self.links.update(other.links)
        self.blobs |= other.blobs


class UsageReport:
    """Measures paths of a tree. `troubles` are read errors of directories."""

    def __init__(self, view: BackupTree, progress: Progress | None = None) -> None:
        self._view: Final = view
        self._repository: Final = view.repository
        self._progress = progress
        self._seen = 0
        self._sums: dict[bytes, _Sum] = {}
        self.troubles: Final[list[CesbrError]] = []
        self._measured = ""

    async def measure(self, parts: Parts, depth: int) -> list[Usage]:
        """Return the usage of a path and of the directories below it, `depth` levels down.

        Directories come before their content. At the root, each backup is measured against all
        others, and the root itself is not listed. Raises NotFoundError.
        """
        self._measured = "/" + "/".join(map(show, parts))
        entry = await self._view.at(parts)
        if not parts:
            return await self._all_backups(depth)
        if parts == (directory_names.SNAPSHOTS,):
            raise UsageError("Pass the path of a snapshot below /_snapshots.")
        own, others = await self._owners(parts)
        (unique,) = await self._unique([own], [others])
        rows: list[Usage] = []
        await self._list(parts, entry, depth, unique, rows)
        return rows

    async def _all_backups(self, depth: int) -> list[Usage]:
        backups = await self._view.backups()
        groups = [_roots(_snapshots(backup)) for backup in backups.by_name.values()]
        uniques = await self._unique(groups, [_roots(backups.loose)])
        rows: list[Usage] = []
        for backup, unique in zip(backups.by_name.values(), uniques, strict=True):
            entry = await self._view.at((backup.name,))
            await self._list((backup.name,), entry, depth - 1, unique, rows)
        return rows

    async def _owners(self, parts: Parts) -> tuple[list[bytes], list[bytes]]:
        """Return the root trees of the backup that contains a path, and those of all others."""
        backups = await self._view.backups()
        everything = {s.id: s for s in backups.loose}
        for backup in backups.by_name.values():
            everything |= {s.id: s for s in _snapshots(backup)}
        if parts[0] == directory_names.SNAPSHOTS:
            entry = await self._view.at(parts[:2])
            assert isinstance(entry, SnapshotEntry)
            own = [entry.snapshot]
            shared: set[str] = set()
        else:
            own = _snapshots(backups.by_name[parts[0]])
            # A snapshot may belong to several backups and then counts as shared.
            rest = (b for name, b in backups.by_name.items() if name != parts[0])
            shared = {s.id for backup in rest for s in _snapshots(backup)}
        ours = {s.id for s in own} - shared
        return _roots(own), _roots(s for s in everything.values() if s.id not in ours)

    # Unique blobs

    async def _unique(
        self, groups: Sequence[Iterable[bytes]], others: Sequence[Iterable[bytes]]
    ) -> list[set[_Blob]]:
        """Return for each group of root trees the blobs in no other group and not in `others`."""
        owners: dict[_Blob, int] = {}
        for number, roots in enumerate(groups):
            await self._own(owners, number, roots)
        trees: set[_Blob] = set()
        for roots in others:
            await self._own(owners, len(groups), roots, trees)
        unique: list[set[_Blob]] = [set() for _ in groups]
        for blob, owner in owners.items():
            if 0 <= owner < len(groups):
                unique[owner].add(blob)
        return unique

    async def _own(
        self,
        owners: dict[_Blob, int],
        number: int,
        roots: Iterable[bytes],
        trees: set[_Blob] | None = None,
    ) -> None:
        """Record `number` in `owners` for all blobs below `roots`; mark other owners' as shared.

        With `trees`, the set of trees already visited, blobs without an owner are not recorded. A
        tree that turns out to be shared is visited again, because everything below it is shared.
        """
        waiting = [(root, True) for root in roots]
        while waiting:
            batch: list[tuple[bytes, bool]] = []
            while waiting and len(batch) < AT_ONCE:
                tree, is_root = waiting.pop()
                blob = (BlobType.TREE, tree)
                if trees is not None and blob not in owners:
                    changed = blob not in trees
                    trees.add(blob)
                else:
                    changed = _claim(owners, blob, number)
                if changed:
                    batch.append((tree, is_root))
            for found in await gather([partial(self._tree, *one) for one in batch]):
                for node in found.nodes.values():
                    for data in node.blobs:
                        if trees is None or (BlobType.DATA, data) in owners:
                            _claim(owners, (BlobType.DATA, data), number)
                    if node.subtree is not None:
                        waiting.append((node.subtree, False))

    async def _tree(self, tree: bytes, is_root: bool) -> Tree:
        self._seen += 1
        if self._progress is not None:
            self._progress(self._seen)
        trees = self._repository.trees
        read = trees.top if is_root else trees.get
        try:
            return await read(tree)
        except RepositoryUnreachableError:
            raise
        except CesbrError as error:
            self.troubles.append(error)
            return Tree.of({})

    def _note_refused(self, reasons: Iterable[str]) -> None:
        """Add errors for entries that cannot be shown and are therefore not measured."""
        for reason in reasons:
            error = CesbrError(f"{self._measured}: {cannot_be_shown(reason).message}")
            if all(known.message != error.message for known in self.troubles):
                self.troubles.append(error)

    # Totals

    async def _list(
        self, parts: Parts, entry: Entry, depth: int, unique: set[_Blob], rows: list[Usage]
    ) -> _Sum:
        """Return the total of `entry`; add it and its directories down to `depth` to `rows`."""
        position = len(rows)
        total = _Sum()
        if isinstance(entry, VirtualDir) or (depth > 0 and entry.node.type == "dir"):
            if isinstance(entry, SnapshotEntry):
                _count_tree(total, _tree_of(entry), unique)
                self._note_refused(await self._view.refused(entry))
            for name, child in (await self._view.children(entry)).items():
                if isinstance(child, VirtualFile | VirtualSymlink):
                    continue
                if child.node.type == "dir":
                    total.add(await self._list((*parts, name), child, depth - 1, unique, rows))
                else:
                    _count(total, child.node, unique)
        elif isinstance(entry, SnapshotEntry) and entry.node.type == "dir":
            await self._below(total, entry, unique)
        else:
            _count(total, entry.node, unique)
        if depth >= 0:
            whole = len(parts) == 1 and parts[0] != directory_names.SNAPSHOTS
            # A backup has more blobs than its tree shows: parent directories and the manifest.
            added = await self._stored(unique if whole else total.blobs)
            size = total.size + sum(total.links.values())
            rows.insert(position, Usage(parts, size, total.files + len(total.links), added))
        return total

    async def _below(self, total: _Sum, entry: SnapshotEntry, unique: set[_Blob]) -> None:
        """Add everything in a directory to `total`, level by level.

        A tree that occurs several times in a level is read once: nested directories can form 2**50
        paths from a few trees.
        """
        first = _tree_of(entry)
        level = Counter([] if first is None else [first])
        while level:
            below: Counter[tuple[bytes, bool]] = Counter()
            for (tree, is_root), times in level.items():
                if (BlobType.TREE, tree) not in unique:  # then nothing below it is unique
                    total.add(await self._shared(tree, is_root), times)
                    continue
                _count_tree(total, (tree, is_root), unique)
                tree_content = await self._tree(tree, is_root)
                self._note_refused(tree_content.refused)
                for node in tree_content.nodes.values():
                    if node.type != "dir":
                        _count(total, node, unique, times)
                    elif node.subtree is not None:
                        below[node.subtree, False] += times
            level = below

    async def _shared(self, tree: bytes, is_root: bool) -> _Sum:
        """Return the total of a directory without unique blobs; computed once per distinct tree."""
        waiting = [(tree, is_root)]
        while waiting:
            at, top = waiting[-1]
            if at in self._sums:
                waiting.pop()
                continue
            tree_content = await self._tree(at, top)
            nodes = tree_content.nodes.values()
            below = [node.subtree for node in nodes if node.subtree is not None]
            unknown = [(sub, False) for sub in below if sub not in self._sums]
            if unknown:
                waiting += unknown
                continue
            self._note_refused(tree_content.refused)
            total = _Sum()
            for node in nodes:
                if node.type != "dir":
                    _count(total, node, set())
            for sub in below:
                total.add(self._sums[sub])
            self._sums[at] = total
            waiting.pop()
        return self._sums[tree]

    async def _stored(self, blobs: Iterable[_Blob]) -> int:
        """Return the stored size of blobs in bytes; those in no index file are a trouble."""
        size, missing = _sum_stored(await self._repository.index(), set(blobs))
        for kind in BlobType:  # lists the index files again if a blob is missing
            ids = {blob for of, blob in missing if of is kind}
            if ids:
                await self._repository.blobs.not_indexed(kind, ids)
        more, lost = _sum_stored(await self._repository.index(), missing)
        if lost:
            self.troubles.append(
                CesbrError(
                    f"{self._measured}: the stored size lacks {len(lost):,} of the blobs, which no"
                    " index file contains. Run 'cesbr check'."
                )
            )
        return size + more


def _sum_stored(index: Index, blobs: Iterable[_Blob]) -> tuple[int, set[_Blob]]:
    """Return the stored size of blobs in bytes, and those that the index does not contain."""
    size = 0
    missing: set[_Blob] = set()
    for kind, blob in blobs:
        if places := index.places(kind, blob):
            size += places[0].length
        else:
            missing.add((kind, blob))
    return size, missing


def _claim(owners: dict[_Blob, int], blob: _Blob, number: int) -> bool:
    """Set the owner of a blob, or mark it as shared; return whether this changed it."""
    owner = owners.get(blob)
    now = number if owner in (None, number) else _SHARED
    owners[blob] = now
    return owner != now


def _count(total: _Sum, node: Node, unique: set[_Blob], times: int = 1) -> None:
    size = node.size if node.type == "file" else 0
    link = hard_link_id(node) if node.type == "file" else 0
    if link:
        total.links[link] = size
    else:
        total.size += size * times
        total.files += times
    for blob in node.blobs:
        if (BlobType.DATA, blob) in unique:
            total.blobs.add((BlobType.DATA, blob))


def _count_tree(total: _Sum, tree: tuple[bytes, bool] | None, unique: set[_Blob]) -> None:
    if tree is not None and (BlobType.TREE, tree[0]) in unique:
        total.blobs.add((BlobType.TREE, tree[0]))


def _tree_of(entry: SnapshotEntry) -> tuple[bytes, bool] | None:
    """Return the tree of a stored directory and whether it is a root; None if it has no tree."""
    tree = entry.snapshot.tree if entry.top else entry.node.subtree
    return None if tree is None else (tree, entry.top)


def _snapshots(backup: Backup) -> list[Snapshot]:
    """Return all snapshots of a backup."""
    return list(backup.members)


def _roots(snapshots: Iterable[Snapshot]) -> list[bytes]:
    return [snapshot.tree for snapshot in snapshots if snapshot.tree is not None]
