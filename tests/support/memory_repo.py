"""Build small repositories in memory, of format 1 or 2, valid or damaged on purpose.

repo = MemoryRepo()
repo.snapshot(repo.tree(repo.file("a.txt", b"content"), repo.directory("d")), paths=["/d"])
repository = await repo.open()
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio
import zstandard

from cesbrfs.repo.format.crypto import Keys, seal_record
from cesbrfs.repo.format.model import KeyFile
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.kdf import derive_keys
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import FileInfo, FileType
from cesbrfs.repo.storage.memory import MemoryStorage
from cesbrfs.util.secret import Secret

PASSWORD: Final = b"in memory"
TIME: Final = "2026-11-22T21:30:00.123456789+01:00"

Json = dict[str, Any]
"""A JSON object as restic writes it."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob of a pack: `record` is encrypted; `uncompressed_length` is in bytes."""

    kind: BlobType
    id: bytes
    record: bytes
    uncompressed_length: int
    compressed: bool


class WatchedStorage(MemoryStorage):
    """Counts listings by file type, and calls `before_read(kind, name)` before each read.

    Reads of a file type in `held` wait for its event first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.listings: Counter[FileType] = Counter()
        self.before_read: Callable[[FileType, str], object] = lambda _kind, _name: None
        self.held: dict[FileType, trio.Event] = {}

    async def list(self, kind: FileType) -> Sequence[FileInfo]:
        """Count, then list."""
        self.listings[kind] += 1
        return await super().list(kind)

    async def read(
        self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
    ) -> bytes:
        """Wait, call `before_read`, then read."""
        if kind in self.held:
            await self.held[kind].wait()
        self.before_read(kind, name)
        return await super().read(kind, name, offset, length)


class MemoryRepo:
    """Builds a repository in `storage`; saved blobs are written by `flush`."""

    def __init__(self, version: int = 2, password: bytes = PASSWORD) -> None:
        self.version: Final = version
        self.storage: Final = WatchedStorage()
        self.keys: Final = Keys(bytes(range(32)), bytes(range(16)), bytes(range(100, 116)))
        self._nonces = itertools.count(1)
        self._pending: list[Blob] = []
        self._saved: set[tuple[BlobType, bytes]] = set()
        self.add_key(password)
        self.set_config(version=version, id="c0" * 32, chunker_polynomial="25b468838dcb75")

    # Files

    def seal(self, plain: bytes) -> bytes:
        """Encrypt `plain` and return the record."""
        return seal_record(self.keys, plain, next(self._nonces).to_bytes(16, "big"))

    def put(self, kind: FileType, raw: bytes) -> str:
        """Write a file named by the SHA-256 of its content; return the name."""
        name = hashlib.sha256(raw).hexdigest()
        self.storage.files[kind, name] = raw
        return name

    def put_unpacked(self, kind: FileType, content: Json, *, compress: bool | None = None) -> str:
        """Write a snapshot or index file, compressed by default in format 2."""
        plain = json.dumps(content).encode()
        if self.version > 1 if compress is None else compress:
            plain = b"\x02" + zstandard.compress(plain)
        return self.put(kind, self.seal(plain))

    def set_config(self, **fields: Any) -> None:
        """Write the config file."""
        self.storage.files[FileType.CONFIG, ""] = self.seal(json.dumps(fields).encode())

    def add_key(self, password: bytes, **fields: Any) -> str:
        """Add a key file for `password`; `fields` override its fields."""
        key_file = KeyFile(kdf="scrypt", N=2, r=1, p=1, salt=_salt(password))
        master = {
            "mac": {"k": _base64(self.keys.mac_k), "r": _base64(self.keys.mac_r)},
            "encrypt": _base64(self.keys.encrypt),
        }
        nonce = next(self._nonces).to_bytes(16, "big")
        sealed = seal_record(derive_keys(password, key_file), json.dumps(master).encode(), nonce)
        content = {
            "created": TIME,
            "username": "root",
            "hostname": "ces",
            "kdf": "scrypt",
            "N": 2,
            "r": 1,
            "p": 1,
            "salt": _base64(key_file.salt or b""),
            "data": _base64(sealed),
        }
        return self.put(FileType.KEY, json.dumps(content | fields).encode())

    # Packs and indexes

    def blob(self, kind: BlobType, content: bytes, *, compress: bool | None = None) -> Blob:
        """Encrypt a blob, compressed by default in format 2, without saving it."""
        compressed = self.version > 1 if compress is None else compress
        compressed &= bool(content)  # an index cannot represent a compressed blob of length 0
        plain = content
        if compressed:  # restic's zstd frames have no content size
            plain = zstandard.ZstdCompressor(write_content_size=False).compress(content)
        blob_id = hashlib.sha256(content).digest()
        return Blob(kind, blob_id, self.seal(plain), len(content), compressed)

    def pack(self, *blobs: Blob) -> tuple[str, list[Json]]:
        """Write a pack of these blobs; return its name and the index entries."""
        header = b""
        entries: list[Json] = []
        offset = 0
        for blob in blobs:
            kind = blob.kind | (2 if blob.compressed else 0)
            plain = blob.uncompressed_length.to_bytes(4, "little") if blob.compressed else b""
            header += bytes((kind,)) + len(blob.record).to_bytes(4, "little") + plain + blob.id
            entry: Json = {
                "id": blob.id.hex(),
                "type": blob.kind.name.lower(),
                "offset": offset,
                "length": len(blob.record),
            }
            if blob.compressed:
                entry["uncompressed_length"] = blob.uncompressed_length
            entries.append(entry)
            offset += len(blob.record)
        sealed = self.seal(header)
        body = b"".join(blob.record for blob in blobs)
        return self.put(FileType.PACK, body + sealed + len(sealed).to_bytes(4, "little")), entries

    def index(self, *packs: tuple[str, Sequence[Json]]) -> str:
        """Write an index file of packs as returned by `pack`; return its name."""
        content = {"packs": [{"id": name, "blobs": entries} for name, entries in packs]}
        return self.put_unpacked(FileType.INDEX, content)

    def save(self, kind: BlobType, content: bytes) -> str:
        """Save a blob (deduplicated) with the next `flush`; return its ID in hex."""
        blob = self.blob(kind, content)
        if (kind, blob.id) not in self._saved:
            self._saved.add((kind, blob.id))
            self._pending.append(blob)
        return blob.id.hex()

    def flush(self) -> str | None:
        """Write all saved blobs to one pack, and its index; return the name of the pack."""
        if not self._pending:
            return None
        pack = self.pack(*self._pending)
        self._pending.clear()
        self.index(pack)
        return pack[0]

    # Trees and snapshots

    def tree(self, *nodes: Json) -> str:
        """Save a tree and return its ID in hex."""
        return self.save(BlobType.TREE, json.dumps({"nodes": nodes}).encode() + b"\n")

    def file(self, name: str, *parts: bytes, **fields: Any) -> Json:
        """Save the content of a file, one blob for each part; return its node."""
        node = {
            "name": name,
            "type": "file",
            "mode": 0o644,
            "mtime": TIME,
            "size": sum(len(part) for part in parts),
            "content": [self.save(BlobType.DATA, part) for part in parts],
        }
        return node | fields

    def directory(self, name: str, *nodes: Json, **fields: Any) -> Json:
        """Save a directory with these nodes; return its node."""
        node = {
            "name": name,
            "type": "dir",
            "mode": 1 << 31 | 0o755,
            "mtime": TIME,
            "content": None,
            "subtree": self.tree(*nodes),
        }
        return node | fields

    def path(self, path: str, node: Json) -> Json:
        """Return the top directory of `path`, which ends with `node`."""
        *above, _ = path.strip("/").split("/")
        for name in reversed(above):
            node = self.directory(name, node)
        return node

    def snapshot(self, tree: str | None, paths: Sequence[str] = ("/",), **fields: Any) -> str:
        """Flush, then write a snapshot file; return its ID."""
        self.flush()
        content = {"time": TIME, "tree": tree, "paths": list(paths), "hostname": "ces"}
        return self.put_unpacked(FileType.SNAPSHOT, content | fields)

    def forget(self, snapshot: str) -> None:
        """Delete a snapshot file."""
        del self.storage.files[FileType.SNAPSHOT, snapshot]

    def write_to(self, directory: Path) -> None:
        """Flush, then write all files to a local repository."""
        self.flush()
        for (kind, name), content in self.storage.files.items():
            path = directory / kind.value / name
            if kind is FileType.CONFIG:
                path = directory / "config"
            elif kind is FileType.PACK:
                path = directory / "data" / name[:2] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    async def open(self, password: bytes = PASSWORD) -> Repository:
        """Flush, then open the repository with our reader."""
        self.flush()
        return await Repository.open(self.storage, Secret(password))


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _salt(password: bytes) -> bytes:
    """Return 64 bytes, as restic requires."""
    return hashlib.sha512(password).digest()
