"""Placing: where below its backup each part of a snapshot is shown.

A snapshot whose tags ``kind=`` and ``dogu=`` say what it holds is placed by them.  Any other is
placed by rules over the paths it holds, and by what dogu.json and registry JSON say themselves.
What no rule places is shown whole, never hidden.

A snapshot may hold several copies of a dogu's data, such as an old one below ``/srv``.  The one at
the instance's own path, ``/var/lib/ces``, is placed, and the others are only shown whole.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from cesbrfs.catalog import folder_names
from cesbrfs.catalog.backups import Backup, tag_value
from cesbrfs.catalog.rules import DEFAULT_RULES, Rule
from cesbrfs.catalog.search import SearchQueue
from cesbrfs.errors import CesbrError, RepositoryUnreachableError
from cesbrfs.repo.format.model import Node, Snapshot, Tree
from cesbrfs.repo.format.tree import NAME_MAX
from cesbrfs.repo.repository import Repository
from cesbrfs.util.escape import show

_log = logging.getLogger(__name__)

REVISION: Final = 3
"""Changes when the same snapshots are placed in another way: cached layouts depend on it."""
_PARTS_MAX: Final = 2048
"""Names in a path at most, as Linux's paths of 4,096 bytes can have."""
_BREATHE: Final = 512
"""Entries matched against the rules between two points where the task can be cancelled."""
_DOCUMENT_MAX: Final = 16 << 20
"""A dogu.json or registry JSON larger than this (bytes) is not read to find out whose it is."""
_OWN_DOGUS: Final = "/var/lib/ces/"
_OWN: Final = (_OWN_DOGUS, "/")
"""Where an instance has its dogus' data, and its configuration's ``etc``."""
_REGISTRY_ROOTS: Final = ("config", "dogu", "dogu_v2")

_Names = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """One part of a snapshot: shown at `path` below the backup, `source` in the snapshot.

    `base` is the folder that a rule found it in, such as ``/var/lib/ces/``; None if tags place it.
    """

    path: tuple[bytes, ...]
    snapshot: Snapshot
    node: Node
    source: str
    base: str | None = None

    @property
    def rank(self) -> int:
        """0 at the instance's own path or placed by tags, 1 at such a path deeper down, else 2."""
        if self.base is None or self.base in _OWN:
            return 0
        return 1 if self.base.endswith(_OWN_DOGUS) else 2

    @property
    def owner(self) -> tuple[bytes, ...]:
        """Whose data it is, and of which kind: the first two names of its path."""
        return self.path[:2]


@dataclass(slots=True)
class Layout:
    """Everything a backup shows: its placements by path, and the snapshots shown whole.

    `copies` are the parts that have no place because another copy of the same data has it; `cut`
    are those of the snapshots shown whole that have too many directories to search all of them.
    """

    placed: dict[tuple[bytes, ...], Placement] = field(default_factory=dict)
    whole: list[Snapshot] = field(default_factory=list)
    copies: list[Placement] = field(default_factory=list)
    cut: list[Snapshot] = field(default_factory=list)
    _above: set[tuple[bytes, ...]] = field(default_factory=set)

    def claim(self, placement: Placement) -> bool:
        """Take the place unless another part stands there, above or below it, or it is no path."""
        path = placement.path
        if not all(0 < len(part) <= NAME_MAX for part in path):
            return False
        above = [path[:length] for length in range(1, len(path))]
        if path in self.placed or path in self._above or any(p in self.placed for p in above):
            self.copies.append(placement)
            return False
        self.placed[path] = placement
        self._above.update(above)
        return True


async def lay_out(
    repository: Repository, backup: Backup, rules: Sequence[Rule] = DEFAULT_RULES
) -> Layout:
    """Place the parts of every snapshot of `backup`.

    What is at the instance's own path claims its place first, then what is in the newest snapshot.
    A dogu whose data is there is shown from there alone.  Superseded snapshots are shown whole.
    """
    layout = Layout()
    candidates: list[tuple[int, Placement]] = []
    lacking: dict[str, Snapshot] = {}
    for age, snapshot in enumerate(reversed(backup.snapshots)):
        try:
            placer = _Placer(repository, snapshot, rules)
            found, complete = await placer.place()
            if placer.cut:
                layout.cut.append(snapshot)
                _report_cut(backup, snapshot, found)
        except RepositoryUnreachableError:  # it may be back in a moment: nothing is settled
            raise
        except CesbrError:  # its trees cannot be read: shown, and its reader gets the error
            found, complete = [], False
        candidates += [(age, placement) for placement in found]
        if not (found and complete):
            lacking[snapshot.id] = snapshot
    best: dict[tuple[bytes, ...], int] = {}
    for _, placement in candidates:
        best[placement.owner] = min(placement.rank, best.get(placement.owner, placement.rank))
    for _, placement in sorted(candidates, key=_precedence):
        if placement.rank > best[placement.owner]:
            layout.copies.append(placement)
        elif layout.claim(placement):
            continue
        lacking[placement.snapshot.id] = placement.snapshot
    layout.whole += [s for s in reversed(backup.snapshots) if s.id in lacking]
    layout.whole += backup.superseded
    return layout


def _report_cut(backup: Backup, snapshot: Snapshot, found: Sequence[Placement]) -> None:
    """Log that not all of a snapshot was searched: a warning where no dogu was where it should."""
    level = logging.INFO if any(placement.rank == 0 for placement in found) else logging.WARNING
    _log.log(
        level,
        "Not all directories of snapshot %s were searched for data of dogus, because it has too"
        " many. See /%s/%s/%s for the whole snapshot, or set rules by path.",
        snapshot.id[:8], show(backup.name), folder_names.SNAPSHOTS.decode(), snapshot.id[:8],
    )  # fmt: skip


def _precedence(candidate: tuple[int, Placement]) -> tuple[int, int, int]:
    """Order by rank, then the newest snapshot first, then the shortest path to the copy."""
    age, placement = candidate
    return placement.rank, age, (placement.base or "").count("/")


async def locate(repository: Repository, snapshot: Snapshot) -> tuple[dict[str, Node], bool]:
    """Find what was backed up as each of the snapshot's paths; tell whether that is all it holds.

    restic stores an absolute path as it is, a relative one without its beginning, and of ``.`` only
    the content.  So a path is found at the longest end of it that the tree has; the only path of a
    snapshot that holds more than that is the root itself, a node without a name.  Paths that lead
    to one place (restic renames the second ``x`` of ``a/x b/x``) cannot be told apart.
    """
    held: dict[_Names, list[tuple[str, Node]]] = {}
    for path in dict.fromkeys(snapshot.paths):
        if place := await _find(repository, snapshot, path):
            held.setdefault(place[0], []).append((path, place[1]))
    whole = await _covers(repository, snapshot, held.keys())
    if len(snapshot.paths) == 1 and not (held and whole):
        return {snapshot.paths[0]: _root(snapshot)}, True
    found = {path: node for alike in held.values() if len(alike) == 1 for path, node in alike}
    return found, whole and all(len(alike) == 1 for alike in held.values())


async def _find(
    repository: Repository, snapshot: Snapshot, path: str
) -> tuple[_Names, Node] | None:
    """Return where in the tree the longest end of `path` lies, and what lies there."""
    parts = tuple(part.encode() for part in path.split("/") if part not in ("", "."))
    if not parts:
        return (), _root(snapshot)
    if len(parts) > _PARTS_MAX:
        return None
    top = (await repository.root(snapshot)).nodes
    for start in range(len(parts)):
        at = parts[start:]
        node = top.get(at[0])
        for name in at[1:]:
            if node is None or node.subtree is None:
                node = None
                break
            node = (await repository.tree(node.subtree)).nodes.get(name)
        if node is not None:
            return at, node
    return None


async def _covers(repository: Repository, snapshot: Snapshot, held: Collection[_Names]) -> bool:
    """Tell whether everything in the snapshot lies at or below the places `held`."""
    if () in held:
        return True
    leading = {at[:length] for at in held for length in range(1, len(at))}
    folders: list[tuple[_Names, Tree]] = [((), await repository.root(snapshot))]
    while folders:
        above, tree = folders.pop()
        if tree.refused:  # not placed: to be seen where the snapshot is shown whole
            return False
        for name, node in tree.nodes.items():
            at = (*above, name)
            if at in held:
                continue
            if at not in leading or node.subtree is None:
                return False
            folders.append((at, await repository.tree(node.subtree)))
    return True


def _root(snapshot: Snapshot) -> Node:
    return Node(
        name=b"", type="dir", mode=0o40755, mtime_ns=snapshot.time_ns, subtree=snapshot.tree
    )


class _Placer:
    """Finds the places of one snapshot's parts."""

    def __init__(self, repository: Repository, snapshot: Snapshot, rules: Sequence[Rule]) -> None:
        self._repository = repository
        self._snapshot = snapshot
        self._rules = rules
        self._kind = tag_value(snapshot, "kind")
        self._dogu = tag_value(snapshot, "dogu")
        self._found: list[Placement] = []
        self._complete = True
        self._looked_at = 0
        self.cut = False
        """Whether directories were left out because there are too many."""

    async def place(self) -> tuple[list[Placement], bool]:
        """Return the places, and whether they show all that the snapshot holds."""
        located, self._complete = await locate(self._repository, self._snapshot)
        for path, node in located.items():
            if not await self._by_tags(path, node):
                await self._search(path, node)
        return self._found, self._complete

    def _add(self, path: Sequence[bytes], node: Node, source: str, base: str | None = None) -> bool:
        self._found.append(Placement(tuple(path), self._snapshot, node, source, base))
        return True

    async def _by_tags(self, path: str, node: Node) -> bool:
        """Place what the snapshot's own tags describe; False when they do not."""
        owner = folder_names.folder_name(self._dogu) if self._dogu else folder_names.INSTANCE
        if node.type == "file" and (self._dogu or self._kind == "registry"):
            files = {
                "metadata": (folder_names.DOGU_JSON,),
                "registry": (folder_names.REGISTRY_JSON,),
                "dump": (folder_names.DUMPS, node.name),
            }
            if self._kind in files:
                return self._add((owner, *files[self._kind]), node, path)
        if self._kind == "configuration":
            return self._add(
                (owner, folder_names.CONFIGURATION, *_below(path, "etc", node)), node, path
            )
        if self._kind == "volumes" and self._dogu:
            *_, last = path.rstrip("/").split("/")
            if last == "volumes" and node.type == "dir":
                for child in (await self._children(node)).values():
                    self._add((owner, folder_names.VOLUMES, child.name), child, _join(path, child))
                return True
            return self._add((owner, folder_names.VOLUMES, *_volume(path, node)), node, path)
        return False

    async def _search(self, path: str, node: Node) -> None:
        """Place `node`, or what is below it, by rules."""
        queue = SearchQueue(self._rules, path)
        await self._by_rules(queue, path, node, 0)
        while following := queue.pop():
            path, node, depth = following
            try:
                children = await self._children(node)
            except RepositoryUnreachableError:
                raise
            except CesbrError:
                if not node.name:
                    raise
                children = {}  # the error is shown where the whole snapshot is read
            if not children:
                self._complete = False
            for child in children.values():
                await self._by_rules(queue, _join(path, child), child, depth + 1)
        if queue.cut:
            self.cut, self._complete = True, False

    async def _by_rules(self, queue: SearchQueue, path: str, node: Node, depth: int) -> None:
        """Place `node` by the first rule that matches, else queue it if it is a directory."""
        self._looked_at += 1
        if self._looked_at % _BREATHE == 0:
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
            dogu = self._dogu or await self._owner(kind, node) or dogu
        if dogu is None and kind in ("volumes", "metadata"):
            return False
        owner = (
            folder_names.folder_name(dogu)
            if dogu and dogu != "_instance"
            else folder_names.INSTANCE
        )
        if kind == "volumes":
            volume = match.groupdict().get("volume")
            name = node.name or (volume or "").encode()
            base = path[: match.start("dogu")] if match.groupdict().get("dogu") else ""
            return bool(name) and self._add((owner, folder_names.VOLUMES, name), node, path, base)
        if kind == "configuration":
            below = _below(path, "etc", node)
            base = path[: len(path) - len(b"/".join(below).decode("utf-8", "surrogateescape"))]
            return self._add((owner, folder_names.CONFIGURATION, *below), node, path, base)
        leaf = folder_names.DOGU_JSON if kind == "metadata" else folder_names.REGISTRY_JSON
        base = path[: match.start("dogu")] if match.groupdict().get("dogu") else "/"
        return self._add((owner, leaf), node, path, base)

    async def _owner(self, kind: str, node: Node) -> str | None:
        """Ask a dogu.json or registry JSON whose it is; None when it does not say."""
        try:
            content = await self._repository.open_file(node)
            if content.size > _DOCUMENT_MAX:
                return None
            document = json.loads(await content.read(0, content.size))
        except RepositoryUnreachableError:
            raise
        except (CesbrError, ValueError, RecursionError):
            return None
        if not isinstance(document, dict):
            return None
        return dogu_of_metadata(document) if kind == "metadata" else owner_of_registry(document)

    async def _children(self, node: Node) -> dict[bytes, Node]:
        if node.subtree is None:
            return {}
        if node.name:
            tree = await self._repository.tree(node.subtree)
        else:
            tree = await self._repository.root(self._snapshot)
        if tree.refused:  # as above
            self._complete = False
        return tree.nodes


def dogu_of_metadata(document: dict[str, object]) -> str | None:
    """Return the simple name in a dogu.json (its keys in any case), None without one."""
    for key, value in document.items():
        if key.lower() == "name" and isinstance(value, str):
            return value.rpartition("/")[2] or None
    return None


def owner_of_registry(document: dict[str, object]) -> str | None:
    """Return the dogu that all keys of a registry JSON are about, else ``_instance``.

    None when the keys are no registry keys.
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


def _below(path: str, marker: str, node: Node) -> tuple[bytes, ...]:
    """Return the path from its last part `marker` on, else its base name."""
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    if marker in parts:
        at = len(parts) - 1 - parts[::-1].index(marker)
        return tuple(part.encode("utf-8", "surrogateescape") for part in parts[at:])
    return (node.name or b"files",)


def _volume(path: str, node: Node) -> tuple[bytes, ...]:
    """Return what follows ``volumes/`` in the path, else its base name."""
    _, found, rest = path.rpartition("/volumes/")
    parts = [part for part in rest.split("/") if part not in ("", ".", "..")] if found else []
    if len(parts) > 1:
        return tuple(part.encode("utf-8", "surrogateescape") for part in parts)
    return (node.name or (parts[0].encode("utf-8", "surrogateescape") if parts else b"files"),)
