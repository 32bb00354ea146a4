"""Map the parts of snapshots to paths below their backup.

Snapshots with the tags ``kind=`` and ``dogu=`` are placed by these. Others are placed by rules over
their paths, and by the names in dogu.json and the registry JSON. A snapshot that no rule matches is
shown unchanged, never hidden.

A snapshot may contain several copies of the data of a dogu, such as an old one below ``/srv``. The
copy at the instance's own path, ``/var/lib/ces``, is placed; the others are only visible in the
unchanged snapshot.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from cesbrfs.catalog import directory_names
from cesbrfs.catalog.backups import Backup, tag_value
from cesbrfs.catalog.rules import DEFAULT_RULES, Rule
from cesbrfs.catalog.search import SearchQueue
from cesbrfs.catalog.tagged_paths import (
    configuration_path,
    document_path,
    holds_all_volumes,
    owner_directory,
    unreadable_nodes,
    unreadable_volumes,
    volume_path,
)
from cesbrfs.errors import CesbrError, RepositoryUnreachableError
from cesbrfs.repo.format.model import Node, Snapshot, Tree
from cesbrfs.repo.format.tree import NAME_MAX
from cesbrfs.repo.repository import Repository
from cesbrfs.util.escape import show

_log = logging.getLogger(__name__)

REVISION: Final = 5
"""Version of the placement algorithm; part of the key of cached layouts."""
_PARTS_MAX: Final = 2048
"""Maximum number of names in a path, as in a path of 4,096 bytes."""
_CHECKPOINT_ENTRIES: Final = 512
"""Entries matched against the rules between two cancellation points."""
_DOCUMENT_MAX_BYTES: Final = 16 << 20
"""Larger dogu.json and registry JSON files are not read to determine their dogu."""
_DOGU_DATA_ROOT: Final = "/var/lib/ces/"
_INSTANCE_ROOTS: Final = (_DOGU_DATA_ROOT, "/")
"""Directories of an instance that contain dogu data and the configuration (``etc``)."""
_REGISTRY_ROOTS: Final = ("config", "dogu", "dogu_v2")

_Names = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """A part of a snapshot: `source` in the snapshot appears as `path` below the backup.

    `base` is the directory in which a rule matched, such as ``/var/lib/ces/``; None if placed by
    tags. An `unreadable` part has unknown content, and reading it raises an error.
    """

    path: tuple[bytes, ...]
    snapshot: Snapshot
    node: Node
    source: str
    base: str | None = None
    unreadable: bool = False

    @property
    def rank(self) -> int:
        """0 at the instance's own path or placed by tags, 1 at such a path further down, else 2."""
        if self.base is None or self.base in _INSTANCE_ROOTS:
            return 0
        return 1 if self.base.endswith(_DOGU_DATA_ROOT) else 2

    @property
    def owner(self) -> tuple[bytes, ...]:
        """Owner and kind of the data: the first two names of `path`."""
        return self.path[:2]


@dataclass(slots=True)
class Layout:
    """The content of a backup directory: placements by path, and unchanged snapshots (`whole`).

    `copies` are parts that are not placed because another copy of the same data has the path; `cut`
    are snapshots shown whole that have too many directories to search them all. `unreadable` are
    the errors of snapshots of which not all trees that were searched could be read, by their ID.
    Where their data would be, there are placements that raise an error when they are read, as far
    as that is known.
    """

    placed: dict[tuple[bytes, ...], Placement] = field(default_factory=dict)
    whole: list[Snapshot] = field(default_factory=list)
    copies: list[Placement] = field(default_factory=list)
    cut: list[Snapshot] = field(default_factory=list)
    unreadable: dict[str, CesbrError] = field(default_factory=dict)
    _above: set[tuple[bytes, ...]] = field(default_factory=set)

    def claim(self, placement: Placement) -> bool:
        """Add a placement unless its path is invalid or overlaps with another placement."""
        path = placement.path
        if not all(0 < len(part) <= NAME_MAX for part in path):
            return False
        if self.overlaps(path):
            self.copies.append(placement)
            return False
        self.placed[path] = placement
        self._above.update(_above(path))
        return True

    def overlaps(self, path: tuple[bytes, ...]) -> bool:
        """Return whether a placement has this path, or one above or below it."""
        return (
            path in self.placed
            or path in self._above
            or any(above in self.placed for above in _above(path))
        )


def _above(path: _Names) -> list[_Names]:
    """Return the proper prefixes of a path."""
    return [path[:length] for length in range(1, len(path))]


async def lay_out(
    repository: Repository, backup: Backup, rules: Sequence[Rule] = DEFAULT_RULES
) -> Layout:
    """Compute the layout of `backup` from all its snapshots.

    Data at the instance's own path has priority, then data of the newest snapshot. If a dogu has
    data at the instance's own path, only that data is placed. Superseded snapshots are shown
    unchanged.
    """
    layout = Layout()
    candidates: list[tuple[int, Placement]] = []
    unreadable: list[Placement] = []
    lacking: set[str] = set()
    for age, snapshot in enumerate(reversed(backup.snapshots)):
        placer = _Placer(repository, snapshot, rules)
        found, complete = await placer.place()
        if placer.cut:
            layout.cut.append(snapshot)
            _report_cut(backup, snapshot, found)
        if placer.error is not None:
            layout.unreadable[snapshot.id] = placer.error
            unreadable += [
                Placement(path, snapshot, node, "", unreadable=True)
                for path, node in placer.unreadable.items()
            ]
        candidates += [(age, placement) for placement in found]
        if not (found and complete):
            lacking.add(snapshot.id)
    lacking.update(_claim_best(layout, candidates))
    for placement in unreadable:
        if not layout.overlaps(placement.path):
            layout.claim(placement)
    layout.whole += [s for s in reversed(backup.snapshots) if s.id in lacking]
    layout.whole += backup.superseded
    return layout


def _claim_best(layout: Layout, candidates: Sequence[tuple[int, Placement]]) -> Iterator[str]:
    """Add the placements with precedence to `layout`; yield the snapshots of all others.

    Each candidate has the age of its snapshot, 0 for the newest.
    """
    best: dict[tuple[bytes, ...], int] = {}
    for _, placement in candidates:
        best[placement.owner] = min(placement.rank, best.get(placement.owner, placement.rank))
    for _, placement in sorted(candidates, key=_precedence):
        if placement.rank > best[placement.owner]:
            layout.copies.append(placement)
        elif layout.claim(placement):
            continue
        yield placement.snapshot.id


def _report_cut(backup: Backup, snapshot: Snapshot, found: Sequence[Placement]) -> None:
    """Log that not all of a snapshot was searched: a warning where no dogu was where it should."""
    level = logging.INFO if any(placement.rank == 0 for placement in found) else logging.WARNING
    _log.log(
        level,
        "Not all directories of snapshot %s were searched for data of dogus, because it has too"
        " many. See /%s/%s/%s for the whole snapshot, or set rules by path.",
        snapshot.id[:8], show(backup.name), directory_names.SNAPSHOTS.decode(), snapshot.id[:8],
    )  # fmt: skip


def _precedence(candidate: tuple[int, Placement]) -> tuple[int, int, int]:
    """Return the sort key: rank, newest snapshot first, shortest path to the copy."""
    age, placement = candidate
    return placement.rank, age, (placement.base or "").count("/")


async def locate(repository: Repository, snapshot: Snapshot) -> tuple[dict[str, Node], bool]:
    """Locate the recorded paths of a snapshot in its tree; return them and whether they cover it.

    restic stores an absolute path unchanged, a relative path without its leading parts, and for
    ``.`` only the content. A path is therefore located by its longest suffix in the tree. If a
    snapshot has a single path and more content than it, the path is the root, a node without a
    name. Paths with the same location (restic renames the second ``x`` of ``a/x b/x``) are
    ambiguous and left out.
    """
    found_at: dict[_Names, list[tuple[str, Node]]] = {}
    for path in dict.fromkeys(snapshot.paths):
        if location := await _find(repository, snapshot, path):
            found_at.setdefault(location[0], []).append((path, location[1]))
    whole = await _covers(repository, snapshot, found_at.keys())
    if len(snapshot.paths) == 1 and not (found_at and whole):
        return {snapshot.paths[0]: _root(snapshot)}, True
    found = {path: node for alike in found_at.values() if len(alike) == 1 for path, node in alike}
    return found, whole and all(len(alike) == 1 for alike in found_at.values())


async def _find(
    repository: Repository, snapshot: Snapshot, path: str
) -> tuple[_Names, Node] | None:
    """Return the longest suffix of `path` in the tree, with its node."""
    parts = tuple(part.encode() for part in path.split("/") if part not in ("", "."))
    if not parts:
        return (), _root(snapshot)
    if len(parts) > _PARTS_MAX:
        return None
    top = (await repository.trees.root(snapshot)).nodes
    for start in range(len(parts)):
        at = parts[start:]
        node = top.get(at[0])
        for name in at[1:]:
            if node is None or node.subtree is None:
                node = None
                break
            node = (await repository.trees.get(node.subtree)).nodes.get(name)
        if node is not None:
            return at, node
    return None


async def _covers(repository: Repository, snapshot: Snapshot, located: Collection[_Names]) -> bool:
    """Return whether `located` paths contain the whole content of the snapshot."""
    if () in located:
        return True
    leading = {at[:length] for at in located for length in range(1, len(at))}
    directories: list[tuple[_Names, Tree]] = [((), await repository.trees.root(snapshot))]
    while directories:
        above, tree = directories.pop()
        if tree.refused:  # an entry that cannot be placed: show the snapshot unchanged
            return False
        for name, node in tree.nodes.items():
            at = (*above, name)
            if at in located:
                continue
            if at not in leading or node.subtree is None:
                return False
            directories.append((at, await repository.trees.get(node.subtree)))
    return True


def _root(snapshot: Snapshot) -> Node:
    return Node(
        name=b"", type="dir", mode=0o40755, mtime_ns=snapshot.time_ns, subtree=snapshot.tree
    )


class _Placer:
    """Places the parts of one snapshot."""

    def __init__(self, repository: Repository, snapshot: Snapshot, rules: Sequence[Rule]) -> None:
        self._repository = repository
        self._snapshot = snapshot
        self._rules = rules
        self._kind = tag_value(snapshot, "kind")
        self._dogu = tag_value(snapshot, "dogu")
        self._found: list[Placement] = []
        self._complete = True
        self._matched = 0
        self.cut = False
        """Whether directories were left out because there are too many."""
        self.error: CesbrError | None = None
        """The first error of a directory that could not be read; `unreadable` is its content."""
        self.unreadable: dict[_Names, Node] = {}

    async def place(self) -> tuple[list[Placement], bool]:
        """Return the placements, and whether they cover the whole snapshot.

        If a tree cannot be read that is needed for all of them, there are none: the snapshot is
        shown whole, where reading it raises the error.
        """
        try:
            located, self._complete = await locate(self._repository, self._snapshot)
            for path, node in located.items():
                if not await self._by_tags(path, node):
                    await self._search(path, node)
        except RepositoryUnreachableError:  # temporary: do not cache a layout
            raise
        except CesbrError as error:
            self.error, self.unreadable = error, unreadable_nodes(self._snapshot)
            return [], False
        return self._found, self._complete

    def _add(self, path: Sequence[bytes], node: Node, source: str, base: str | None = None) -> bool:
        self._found.append(Placement(tuple(path), self._snapshot, node, source, base))
        return True

    async def _by_tags(self, path: str, node: Node) -> bool:
        """Place a path by the tags of the snapshot; return False if they do not apply."""
        if node.type == "file":
            document = document_path(self._kind, self._dogu, node.name)
            if document is not None:
                return self._add(document, node, path)
        owner = owner_directory(self._dogu)
        if self._kind == "configuration":
            below = configuration_path(path, node.name)
            return self._add((owner, directory_names.CONFIGURATION, *below), node, path)
        if self._kind == "volumes" and self._dogu:
            if holds_all_volumes(path) and node.type == "dir":
                for child in (await self._children(node)).values():
                    self._add(
                        (owner, directory_names.VOLUMES, child.name), child, _join(path, child)
                    )
                return True
            below = volume_path(path, node.name)
            return self._add((owner, directory_names.VOLUMES, *below), node, path)
        return False

    async def _search(self, path: str, node: Node) -> None:
        """Place `node` or its descendants by rules."""
        queue = SearchQueue(self._rules, path)
        await self._by_rules(queue, path, node, 0)
        while following := queue.pop():
            path, node, depth = following
            try:
                children = await self._children(node)
            except RepositoryUnreachableError:
                raise
            except CesbrError as error:
                if not node.name:
                    raise
                self._note_unreadable(path, error)
                children = {}  # the error is shown where the whole snapshot is read
            if not children:
                self._complete = False
            for child in children.values():
                await self._by_rules(queue, _join(path, child), child, depth + 1)
        if queue.cut:
            self.cut, self._complete = True, False

    def _note_unreadable(self, path: str, error: CesbrError) -> None:
        """Record a directory that cannot be listed, and the dogu whose volumes it contains."""
        self.error = self.error or error
        content = f"{path.rstrip('/')}/unknown"
        matches = (rule.match.fullmatch(content) for rule in self._rules if rule.kind == "volumes")
        match = next(filter(None, matches), None)
        dogu = self._dogu or (match.groupdict().get("dogu") if match else None)
        if match and dogu:
            place = (owner_directory(dogu), directory_names.VOLUMES)
            self.unreadable[place] = unreadable_volumes(self._snapshot)

    async def _by_rules(self, queue: SearchQueue, path: str, node: Node, depth: int) -> None:
        """Place `node` by the first rule that matches, else queue it if it is a directory."""
        self._matched += 1
        if self._matched % _CHECKPOINT_ENTRIES == 0:
            await trio.lowlevel.checkpoint()
        for rule in self._rules:
            if (match := rule.match.fullmatch(path)) and await self._by_rule(
                rule.kind, match, path, node
            ):
                return
        if node.type != "dir" or not queue.push(path, node, depth):
            self._complete = False

    async def _by_rule(self, kind: str, match: re.Match[str], path: str, node: Node) -> bool:
        dogu = self._dogu or match.groupdict().get("dogu")
        if kind in ("metadata", "registry"):
            if node.type != "file":
                return False
            try:
                dogu = self._dogu or await self._owner(kind, node) or dogu
            except RepositoryUnreachableError:
                raise
            except CesbrError as error:
                self.error = self.error or error
                if dogu is None:
                    return False
        if dogu is None and kind in ("volumes", "metadata"):
            return False
        owner = owner_directory(dogu if dogu != "_instance" else None)
        if kind == "volumes":
            volume = match.groupdict().get("volume")
            name = node.name or (volume or "").encode()
            base = path[: match.start("dogu")] if match.groupdict().get("dogu") else ""
            return bool(name) and self._add(
                (owner, directory_names.VOLUMES, name), node, path, base
            )
        if kind == "configuration":
            below = configuration_path(path, node.name)
            base = path[: len(path) - len(b"/".join(below).decode("utf-8", "surrogateescape"))]
            return self._add((owner, directory_names.CONFIGURATION, *below), node, path, base)
        leaf = directory_names.DOGU_JSON if kind == "metadata" else directory_names.REGISTRY_JSON
        base = path[: match.start("dogu")] if match.groupdict().get("dogu") else "/"
        return self._add((owner, leaf), node, path, base)

    async def _owner(self, kind: str, node: Node) -> str | None:
        """Read the owning dogu from a dogu.json or registry JSON; None if it names none."""
        content = await self._repository.open_file(node)
        if content.size > _DOCUMENT_MAX_BYTES:
            return None
        data = await content.read(0, content.size)
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            return None
        if not isinstance(document, dict):
            return None
        return dogu_of_metadata(document) if kind == "metadata" else owner_of_registry(document)

    async def _children(self, node: Node) -> dict[bytes, Node]:
        if node.subtree is None:
            return {}
        if node.name:
            tree = await self._repository.trees.get(node.subtree)
        else:
            tree = await self._repository.trees.root(self._snapshot)
        if tree.refused:  # an entry that cannot be placed
            self._complete = False
        return tree.nodes


def dogu_of_metadata(document: dict[str, object]) -> str | None:
    """Return the simple name in a dogu.json, whose keys may have any case; None if missing."""
    for key, value in document.items():
        if key.lower() == "name" and isinstance(value, str):
            return value.rpartition("/")[2] or None
    return None


def owner_of_registry(document: dict[str, object]) -> str | None:
    """Return the only dogu in the keys of a registry JSON, ``_instance`` if there are several.

    None if the keys are not registry keys.
    """
    owners: set[str] = set()
    for key in document:
        parts = key.strip("/").split("/")
        if parts[0] in _REGISTRY_ROOTS and len(parts) > 1:
            owners.add(parts[1])
        elif parts[0] == "blueprint":
            owners.add("_")
        else:
            return None
    if len(owners) == 1:
        (owner,) = owners
        return "_instance" if owner.startswith("_") or owner == "backup" else owner
    return "_instance" if owners else None


def _join(path: str, child: Node) -> str:
    return f"{path.rstrip('/')}/{child.name.decode('utf-8', 'surrogateescape')}"
