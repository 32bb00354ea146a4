"""How large folders are, and what each of them adds to the repository.

What a folder adds are the blobs below it that no other backup refers to: what the repository would
be the smaller by if its backup had never held it.  They count as they are stored, compressed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from cesbrfs.catalog import folder_names
from cesbrfs.catalog.backups import Backup
from cesbrfs.errors import CesbrError, RepositoryUnreachableError, UsageError
from cesbrfs.history.timeline import Parts, Progress, cannot_be_shown
from cesbrfs.repo.format.model import Node, Snapshot, Tree, hard_link_id
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.util.escape import show
from cesbrfs.util.tasks import AT_ONCE, gather
from cesbrfs.vfs.entries import Entry, SnapshotEntry, VirtualDir, VirtualFile, VirtualSymlink
from cesbrfs.vfs.tree import BackupTree

_Blob = tuple[BlobType, bytes]
_SHARED: Final = -1


@dataclass(frozen=True, slots=True)
class Usage:
    """A folder or file: the bytes and the number of the files in it, and the bytes it adds.

    A file with several hard links counts once, as du(1) has it.
    """

    parts: Parts
    size: int
    files: int
    added: int


@dataclass(slots=True)
class _Sum:
    """What was counted; `links` are hard-linked files, which count once, `blobs` what is added."""

    size: int = 0
    files: int = 0
    links: dict[int, int] = field(default_factory=dict)
    blobs: set[_Blob] = field(default_factory=set)

    def take(self, other: _Sum, times: int = 1) -> None:
        """Add what was counted elsewhere, which occurs as often as `times`."""
        self.size += other.size * times
        self.files += other.files * times
        self.links.update(other.links)
        self.blobs |= other.blobs


class UsageReport:
    """Measures in one view.  `troubles` are folders that could not be read."""

    def __init__(self, view: BackupTree, progress: Progress | None = None) -> None:
        self._view: Final = view
        self._repository: Final = view.repository
        self._progress = progress
        self._seen = 0
        self._sums: dict[bytes, _Sum] = {}
        self.troubles: Final[list[CesbrError]] = []
        self._measured = ""

    async def measure(self, parts: Parts, depth: int) -> list[Usage]:
        """Return the sizes at a path of the view and of the folders below, `depth` levels down.

        What is listed comes before what it holds.  At the root, and only there, each backup is
        compared with all others, and the root itself is not listed.  Raises NotFoundError.
        """
        self._measured = "/" + "/".join(map(show, parts))
        entry = await self._view.at(parts)
        if not parts:
            return await self._all_backups(depth)
        if parts == (folder_names.SNAPSHOTS,):
            raise UsageError("Name one of the snapshots below /_snapshots.")
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
        """Return the root trees of the backup that a path lies in, and those of all others."""
        backups = await self._view.backups()
        everything = {s.id: s for s in backups.loose}
        for backup in backups.by_name.values():
            everything |= {s.id: s for s in _snapshots(backup)}
        if parts[0] == folder_names.SNAPSHOTS:
            entry = await self._view.at(parts[:2])
            assert isinstance(entry, SnapshotEntry)
            own = [entry.snapshot]
            shared: set[str] = set()
        else:
            own = _snapshots(backups.by_name[parts[0]])
            # A snapshot may belong to several backups: then it is in the others, too.
            rest = (b for name, b in backups.by_name.items() if name != parts[0])
            shared = {s.id for backup in rest for s in _snapshots(backup)}
        ours = {s.id for s in own} - shared
        return _roots(own), _roots(s for s in everything.values() if s.id not in ours)

    # Which blobs only one has

    async def _unique(
        self, groups: Sequence[Iterable[bytes]], others: Sequence[Iterable[bytes]]
    ) -> list[set[_Blob]]:
        """Return for each group of root trees the blobs that no other group, nor `others`, has."""
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
        """Note in `owners` what is below `roots` as that of `number`, or as shared.

        With `trees`, those already seen, what nobody owns is not noted.  A tree is looked into a
        second time when it turns out to be shared: so is all below it.
        """
        waiting = [(root, True) for root in roots]
        while waiting:
            batch: list[tuple[bytes, bool]] = []
            while waiting and len(batch) < AT_ONCE:
                tree, is_root = waiting.pop()
                blob = (BlobType.TREE, tree)
                if trees is not None and blob not in owners:
                    news = blob not in trees
                    trees.add(blob)
                else:
                    news = _claim(owners, blob, number)
                if news:
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
        read = self._repository.top if is_root else self._repository.tree
        try:
            return await read(tree)
        except RepositoryUnreachableError:
            raise
        except CesbrError as error:
            self.troubles.append(error)
            return Tree.of({})

    def _tell_refused(self, reasons: Iterable[str]) -> None:
        """Note entries that cannot be shown, and so not be measured."""
        for reason in reasons:
            error = CesbrError(f"{self._measured}: {cannot_be_shown(reason).message}")
            if all(known.message != error.message for known in self.troubles):
                self.troubles.append(error)

    # Adding up

    async def _list(
        self, parts: Parts, entry: Entry, depth: int, unique: set[_Blob], rows: list[Usage]
    ) -> _Sum:
        """Add up what is below `entry`; list it and its folders down to `depth` in `rows`."""
        place = len(rows)
        total = _Sum()
        if isinstance(entry, VirtualDir) or (depth > 0 and entry.node.type == "dir"):
            if isinstance(entry, SnapshotEntry):
                _count_tree(total, _tree_of(entry), unique)
                self._tell_refused(await self._view.refused(entry))
            for name, child in (await self._view.children(entry)).items():
                if isinstance(child, VirtualFile | VirtualSymlink):
                    continue
                if child.node.type == "dir":
                    total.take(await self._list((*parts, name), child, depth - 1, unique, rows))
                else:
                    _count(total, child.node, unique)
        elif isinstance(entry, SnapshotEntry) and entry.node.type == "dir":
            await self._below(total, entry, unique)
        else:
            _count(total, entry.node, unique)
        if depth >= 0:
            whole = len(parts) == 1 and parts[0] != folder_names.SNAPSHOTS
            # A backup has more than it shows: the folders above its parts, and its manifest.
            added = await self._stored(unique if whole else total.blobs)
            size = total.size + sum(total.links.values())
            rows.insert(place, Usage(parts, size, total.files + len(total.links), added))
        return total

    async def _below(self, total: _Sum, entry: SnapshotEntry, unique: set[_Blob]) -> None:
        """Add up everything in a folder, level by level.

        What occurs several times in a level is read once: folders within each other can make 2**50
        paths of a few trees.
        """
        first = _tree_of(entry)
        level = Counter([] if first is None else [first])
        while level:
            below: Counter[tuple[bytes, bool]] = Counter()
            for (tree, is_root), times in level.items():
                if (BlobType.TREE, tree) not in unique:  # nor is anything below it
                    total.take(await self._shared(tree, is_root), times)
                    continue
                _count_tree(total, (tree, is_root), unique)
                held = await self._tree(tree, is_root)
                self._tell_refused(held.refused)
                for node in held.nodes.values():
                    if node.type != "dir":
                        _count(total, node, unique, times)
                    elif node.subtree is not None:
                        below[node.subtree, False] += times
            level = below

    async def _shared(self, tree: bytes, is_root: bool) -> _Sum:
        """Return the sum of a folder that adds nothing; each distinct one is added up once."""
        waiting = [(tree, is_root)]
        while waiting:
            at, top = waiting[-1]
            if at in self._sums:
                waiting.pop()
                continue
            held = await self._tree(at, top)
            nodes = held.nodes.values()
            below = [node.subtree for node in nodes if node.subtree is not None]
            unknown = [(sub, False) for sub in below if sub not in self._sums]
            if unknown:
                waiting += unknown
                continue
            self._tell_refused(held.refused)
            total = _Sum()
            for node in nodes:
                if node.type != "dir":
                    _count(total, node, set())
            for sub in below:
                total.take(self._sums[sub])
            self._sums[at] = total
            waiting.pop()
        return self._sums[tree]

    async def _stored(self, blobs: Iterable[_Blob]) -> int:
        """Return the bytes that blobs take in the repository."""
        index = await self._repository.index()
        places = (index.places(kind, blob) for kind, blob in blobs)
        return sum(found[0].length for found in places if found)


def _claim(owners: dict[_Blob, int], blob: _Blob, number: int) -> bool:
    """Make a blob that of `number`, or shared where it is another's; tell whether that is news."""
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
    """Return a stored folder's tree, and whether it is a snapshot's root; None without one."""
    tree = entry.snapshot.tree if entry.top else entry.node.subtree
    return None if tree is None else (tree, entry.top)


def _snapshots(backup: Backup) -> list[Snapshot]:
    """Return all snapshots of a backup."""
    return list(backup.members)


def _roots(snapshots: Iterable[Snapshot]) -> list[bytes]:
    return [snapshot.tree for snapshot in snapshots if snapshot.tree is not None]
