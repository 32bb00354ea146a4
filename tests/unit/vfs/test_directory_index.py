"""Listings made from nodes that were parsed before equal those of whole trees."""

from __future__ import annotations

import json

import msgspec
import pytest

from cesbrfs.repo.format.tree import find_node, parse_tree
from cesbrfs.vfs.directory_index import DirectoryIndex
from tests.support.memory_repo import Json, MemoryRepo

NODE: Json = {"name": "f", "type": "file", "mode": 0o644, "content": []}
ODD: dict[str, list[Json]] = {
    "usual": [NODE, NODE | {"name": "g", "mode": 0o600}, NODE | {"name": "d", "type": "dir"}],
    "escaped": [NODE | {"name": "\\xff\\n"}, NODE | {"name": "ü"}],
    "twice": [NODE, NODE],
    "twice, differently": [NODE, NODE | {"mode": 0o600}],
    "unknown type": [NODE, NODE | {"name": "g", "type": "irregular"}],
    "impossible name": [NODE, NODE | {"name": "a/b"}],
    "special names": [NODE | {"name": "."}, NODE],
    "empty": [],
}


@pytest.mark.parametrize("odd", ODD)
async def test_known_nodes_make_the_same_listing(odd: str) -> None:
    """A tree that shares nodes with others has the listing that a new index reads."""
    repo = MemoryRepo()
    trees = [repo.tree(NODE), repo.tree(*ODD[odd]), repo.tree(*ODD["usual"])]
    repository = await repo.open()
    shared = DirectoryIndex(repository)
    for tree in map(bytes.fromhex, trees):
        alone = DirectoryIndex(repository)
        expected = msgspec.msgpack.encode(list((await alone.listing(tree)).values()))
        assert msgspec.msgpack.encode(list((await shared.listing(tree)).values())) == expected
        assert shared.refused(tree) == alone.refused(tree)
        parsed = await repository.trees.get(tree)
        assert set(await alone.listing(tree)) == {*parsed.nodes, *parsed.unknown}


@pytest.mark.parametrize("odd", ODD)
def test_a_single_node_is_that_of_the_whole_tree(odd: str) -> None:
    """`find_node` returns what parsing the whole tree does, None for what cannot be shown."""
    data = json.dumps({"nodes": ODD[odd]}).encode()
    nodes = parse_tree(data).nodes
    for name in (b"f", b"g", b"d", b"\xff\n", "ü".encode(), b"missing", b"a/b"):
        assert find_node(data, name) == nodes.get(name)


async def test_new_nodes_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second directory with one more name parses only this one."""
    repo = MemoryRepo()
    many = [NODE | {"name": f"f{number}"} for number in range(200)]
    trees = [repo.tree(*many), repo.tree(*many, NODE)]
    repository = await repo.open()
    index = DirectoryIndex(repository)
    await index.listing(bytes.fromhex(trees[0]))

    async def parsed(tree: bytes, data: bytes) -> None:
        raise AssertionError(tree, data)

    monkeypatch.setattr(repository.trees, "parse", parsed)
    assert len(await index.listing(bytes.fromhex(trees[1]))) == 201
