"""The directories of snapshots, parsed from tree blobs and cached."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from typing import Final

import trio

from cesbrfs.errors import DamagedError
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.format.model import Node, Snapshot, Tree
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.format.tree import find_node, parse_names, parse_tree
from cesbrfs.repo.read.blobs import Blobs
from cesbrfs.repo.read.packs import THREAD_BYTES
from cesbrfs.util.lru import LruCache

_log = logging.getLogger(__name__)

_LARGE_TREES: Final = 2
"""Number of oversized trees that are cached as well: decoding them per request is too slow."""
_NODE_BYTES: Final = 600
"""Memory of a decoded node in bytes, without its content IDs; measured over 82,000 nodes."""
_PARTLY_PARSED_MAX: Final = 4096


class Trees:
    """Reads the trees of a repository. Tree IDs have 32 bytes.

    Reading raises BlobMissingError for a tree in no index file, and DamagedError for a damaged one.
    """

    def __init__(self, blobs: Blobs, caching: CacheConfig) -> None:
        self._blobs: Final = blobs
        self.cache: Final[LruCache[bytes, Tree]] = LruCache(
            caching.trees, _tree_bytes, _LARGE_TREES
        )
        self._partly_parsed: set[bytes] = set()
        """Trees of which one node was parsed."""

    def get_nowait(self, tree_id: bytes) -> Tree | None:
        """Like `get`, but never blocks. None means "not cached", not "missing"."""
        tree = self.cache.peek(tree_id)
        if tree is None:
            data = self._blobs.tree_nowait(tree_id)
            if data is None:
                return None
            try:
                tree = _parsed(data, tree_id)
            except DamagedError:  # `get` reports it
                return None
            self.cache.put(tree_id, tree)
        return None if b"." in tree.nodes or b"/" in tree.nodes else tree

    async def get(self, tree_id: bytes) -> Tree:
        """Return a directory."""
        tree = await self._cached(tree_id)
        if b"." in tree.nodes or b"/" in tree.nodes:  # valid only in the root of a snapshot
            nodes = {name: node for name, node in tree.nodes.items() if name not in (b".", b"/")}
            refused = (*tree.refused, "'.' or '/': invalid file name")
            return Tree.of(nodes, refused, tree.unknown)
        return tree

    async def root(self, snapshot: Snapshot) -> Tree:
        """Return the root directory of a snapshot, as described at `top`.

        Raises DamagedError for a snapshot without a tree.
        """
        if snapshot.tree is None:
            raise no_tree()
        return await self.top(snapshot.tree)

    async def top(self, tree_id: bytes) -> Tree:
        """Return the tree with this ID as the root directory of a snapshot.

        Nodes named ``.`` or ``/`` are replaced by the content of their subtrees.
        """
        tree = await self._cached(tree_id)
        if not any(name in tree.nodes for name in (b".", b"/")):
            return tree
        nodes = {name: n for name, n in tree.nodes.items() if name not in (b".", b"/")}
        refused = list(tree.refused)
        unknown = dict(tree.unknown)
        for name, node in tree.nodes.items():
            if name not in (b".", b"/"):
                continue
            if node.subtree is not None:
                inner = await self.get(node.subtree)
                for below, entry in inner.nodes.items():
                    if nodes.setdefault(below, entry) is not entry:
                        refused.append(f"{below!r}: duplicate name in the root of the snapshot")
                refused += inner.refused
                unknown |= inner.unknown
            else:
                refused.append(f"{name.decode()!r}: invalid file name")
        return Tree.of(nodes, refused, unknown)

    async def node(self, tree_id: bytes, name: bytes) -> Node | None:
        """Return one node of a directory, None if it does not exist.

        The first one of a directory is parsed alone; the whole tree with the second.
        """
        if tree_id in self._partly_parsed or self.cache.peek(tree_id) is not None:
            return (await self._cached(tree_id)).nodes.get(name)
        if len(self._partly_parsed) >= _PARTLY_PARSED_MAX:
            self._partly_parsed.clear()
        self._partly_parsed.add(tree_id)
        data = await self.read(tree_id)
        what = f"tree {tree_id.hex()[:8]}"
        if len(data) > THREAD_BYTES:
            return await trio.to_thread.run_sync(find_node, data, name, what)
        return find_node(data, name, what)

    async def names(self, tree_id: bytes) -> dict[bytes, int]:
        """Return the names in a directory in the form of `parse_names`."""
        data = await self.read(tree_id)
        what = f"tree {tree_id.hex()[:8]}"
        if len(data) > THREAD_BYTES:
            return await trio.to_thread.run_sync(parse_names, data, what)
        return parse_names(data, what)

    async def read(self, tree_id: bytes) -> bytes:
        """Return a verified tree blob."""
        return await self._blobs.load(BlobType.TREE, tree_id)

    async def parse(self, tree_id: bytes, data: bytes) -> Tree:
        """Parse a tree blob. Unlike that of `get`, the tree may have the names ``.`` and ``/``."""
        if len(data) > THREAD_BYTES:
            return await trio.to_thread.run_sync(_parsed, data, tree_id)
        return _parsed(data, tree_id)

    def cached_ids(self) -> Iterable[bytes]:
        """Return the IDs of the cached trees."""
        return (tree_id for tree_id, _ in self.cache.items())

    async def _cached(self, tree_id: bytes) -> Tree:
        return self.cache.peek(tree_id) or await self.cache.get(
            tree_id, partial(self._load, tree_id)
        )

    async def _load(self, tree_id: bytes) -> Tree:
        return await self.parse(tree_id, await self.read(tree_id))


def no_tree() -> DamagedError:
    """Return the error for a snapshot or a directory without a tree."""
    return DamagedError("Its tree is missing or cannot be read. Run 'cesbr check'.")


def _parsed(data: bytes, tree_id: bytes) -> Tree:
    """Parse a tree blob; log entries that cannot be shown."""
    what = f"tree {tree_id.hex()[:8]}"
    tree = parse_tree(data, what)
    for name in tree.refused:
        _log.warning("%s has an entry that cannot be shown: %s", what, name)
    return tree


def _tree_bytes(tree: Tree) -> int:
    nodes = tree.listed
    xattrs = sum(len(value) for node in nodes if node.xattrs for _, value in node.xattrs)
    return 200 + xattrs + sum(_NODE_BYTES + len(node.content) for node in nodes)
