"""Trees of any content are listed as `restic ls` lists them."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import trio

from cesbrfs.repo.format.model import Node
from cesbrfs.repo.format.timestamps import parse_time
from tests.support.memory_repo import PASSWORD, MemoryRepo

_NODES = 400
_PARTS = (
    "a",
    "ä",
    "👩",
    " ",
    "\\n",
    "\\t",
    '\\"',
    "\\\\",
    "\\x01",
    "\\u202e",
    "\\U0001f680",
    "'",
    "%",
)
_TIMES = (
    "2026-11-22T21:30:00Z", "2026-11-22T21:30:00.123456789+01:00", "1969-12-31T23:59:59.5-11:30",
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2024-02-29T12:00:00.1Z",
)  # fmt: skip
_TYPES = ("file", "dir", "symlink", "fifo", "socket", "chardev", "dev")


def _nodes(chosen: random.Random, subtree: str) -> list[dict[str, Any]]:
    """Return nodes with different names, in the form that restic writes."""
    found: dict[str, dict[str, Any]] = {}
    while len(found) < _NODES:
        name = "".join(chosen.choices(_PARTS, k=chosen.randrange(1, 6)))
        kind = chosen.choice(_TYPES)
        node = {
            "name": name,
            "type": kind,
            "mode": chosen.choice([0o644, 0o7777, 1 << 23 | 0o755, 1 << 20 | 0o777, 0]),
            "mtime": chosen.choice(_TIMES),
            "uid": chosen.choice([0, 1000, 2**32 - 1]),
            "gid": chosen.choice([0, 100, 2**32 - 1]),
        }
        if kind == "file":
            node |= {"size": chosen.choice([0, 1, 2**40]), "content": []}
        if kind == "dir":
            node["subtree"] = subtree
        if kind == "symlink":
            node["linktarget"] = chosen.choice(["a", "../ä", "/"])
        found[name] = node
    return sorted(found.values(), key=lambda node: node["name"])


def _ours(node: Node) -> tuple[object, ...]:
    size = node.size if node.type == "file" else 0
    return node.type, size, node.mode & 0o777, node.mtime_ns, node.uid, node.gid


async def _read(repo: MemoryRepo, tree: str) -> dict[bytes, Node]:
    return dict((await (await repo.open()).trees.get(bytes.fromhex(tree))).nodes)


def test_any_node_is_read_as_by_restic(restic_binary: Path, tmp_path: Path) -> None:
    """Names, types, sizes, permissions, owners and times are the same."""
    repo = MemoryRepo()
    tree = repo.tree(*_nodes(random.Random(1), repo.tree()))
    repo.snapshot(tree)
    repo.flush()
    directory = tmp_path / "repo"
    repo.write_to(directory)
    ours = trio.run(_read, repo, tree)
    listed = subprocess.run(
        [restic_binary, "--no-cache", "--no-lock", "-r", directory, "ls", "--json", "latest"],
        env={"RESTIC_PASSWORD": PASSWORD.decode(), "HOME": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    theirs: dict[bytes, tuple[object, ...]] = {}
    for line in listed.stdout.splitlines():
        found = json.loads(line)
        if found["struct_type"] == "node":
            permissions, size = found.get("mode", 0) & 0o777, found.get("size", 0)
            owner = found["uid"], found["gid"]
            node = (found["type"], size, permissions, parse_time(found["mtime"]), *owner)
            theirs[found["path"].encode()[1:]] = node
    assert len(ours) == _NODES
    assert {name: _ours(node) for name, node in ours.items()} == theirs
