"""Expand a backup of one file to a million files, by writing the trees as restic would.

restic would take minutes, and creating and deleting the files as long again.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio
import zstandard

from cesbrfs.repo.format.crypto import Keys, seal_record
from cesbrfs.repo.format.pack import BlobType, decode_unpacked
from cesbrfs.repo.location import Access
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import open_storage
from cesbrfs.util.secret import Secret

PER_DIRECTORY: Final = 100
_PACK_BYTES: Final = 16 << 20
_COMPRESSED_TREE: Final = 3

Json = dict[str, Any]


@dataclass(slots=True)
class _Packer:
    """Writes tree blobs into packs of the repository in `directory`."""

    directory: Path
    keys: Keys
    _records: list[tuple[bytes, bytes, int]] = field(default_factory=list)
    _packs: list[Json] = field(default_factory=list)
    _held: int = 0

    def tree(self, nodes: list[str]) -> str:
        """Write a tree of JSON nodes; return its ID."""
        content = f'{{"nodes":[{",".join(nodes)}]}}\n'.encode()
        raw = zstandard.ZstdCompressor(write_content_size=False).compress(content)
        blob = hashlib.sha256(content).digest()
        record = seal_record(self.keys, raw, os.urandom(16))
        self._records.append((blob, record, len(content)))
        self._held += len(record)
        if self._held > _PACK_BYTES:
            self._flush()
        return blob.hex()

    def index(self) -> bytes:
        """Write the last pack, and return the index file of all packs."""
        self._flush()
        return json.dumps({"packs": self._packs}).encode()

    def _flush(self) -> None:
        header, blobs, offset = b"", [], 0
        for blob, record, plain in self._records:
            size = len(record).to_bytes(4, "little") + plain.to_bytes(4, "little")
            header += bytes((_COMPRESSED_TREE,)) + size + blob
            entry = {"id": blob.hex(), "type": "tree", "offset": offset, "length": len(record)}
            blobs.append({**entry, "uncompressed_length": plain})
            offset += len(record)
        sealed = seal_record(self.keys, header, os.urandom(16))
        pack = b"".join(record for _, record, _ in self._records)
        pack += sealed + len(sealed).to_bytes(4, "little")
        name = hashlib.sha256(pack).hexdigest()
        place = self.directory / "data" / name[:2]
        place.mkdir(exist_ok=True)
        (place / name).write_bytes(pack)
        self._packs.append({"id": name, "blobs": blobs})
        self._records, self._held = [], 0


def grow(directory: Path, password: str, keys: Keys, shape: str, count: int) -> tuple[bytes, bytes]:
    """Replace the only file by `count` files; return the plain snapshot and index files.

    The files are in one directory (``flat``), or 100 per directory in two levels (``tree``). The
    caller encrypts and writes both files and deletes the old snapshot.
    """
    (only,) = (directory / "snapshots").iterdir()
    snapshot: Json = json.loads(decode_unpacked(keys, only.read_bytes()))
    above, file = trio.run(_way, directory, password, snapshot["tree"])
    packer = _Packer(directory, keys)
    files = _files(file, count)
    if shape == "flat":
        tree = packer.tree(files)
    else:
        for _ in range(2):  # directories of files, and their parents
            made = [packer.tree(part) for part in _parts(files)]
            files = [
                json.dumps(
                    {**above[-1], "name": f"{number % PER_DIRECTORY:03}", "subtree": made[number]}
                )
                for number in range(len(made))
            ]
        tree = packer.tree(files)
    for node in reversed(above):
        tree = packer.tree([json.dumps({**node, "subtree": tree})])
    return json.dumps({**snapshot, "tree": tree}).encode(), packer.index()


def _parts(nodes: list[str]) -> list[list[str]]:
    return [nodes[at : at + PER_DIRECTORY] for at in range(0, len(nodes), PER_DIRECTORY)]


def _files(node: Json, count: int) -> list[str]:
    """Return copies of a node with different names, inodes and times."""
    whole, _, _ = node["mtime"].partition(".")
    made = []
    for number in range(count):
        time = f"{whole}.{number % 1_000_000_000:09}Z"
        own = {"name": f"file-{number:07}.txt", "inode": node["inode"] + number}
        made.append(json.dumps({**node, **own, "mtime": time, "atime": time, "ctime": time}))
    return made


async def _way(directory: Path, password: str, tree: str) -> tuple[list[Json], Json]:
    """Return the directory nodes from the root to the only file, and its node."""
    key = Secret(password.encode())
    repository = await Repository.open(open_storage(Access(str(directory), key)), key)
    above: list[Json] = []
    try:
        while True:
            data = await repository.blobs.load(BlobType.TREE, bytes.fromhex(tree))
            (node,) = json.loads(data)["nodes"]
            if node["type"] == "file":
                return above, node
            above.append(node)
            tree = node["subtree"]
    finally:
        await repository.aclose()
