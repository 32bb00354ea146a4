"""Small repositories in memory, of format 1 or 2, whole or wrong in any way a test asks for.

repo = MemoryRepo()
repo.snapshot(repo.tree(repo.file("a.txt", b"content"), repo.folder("d")), paths=["/d"])
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
from typing import Any, Final

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
    """A blob as it lies in a pack: `record` sealed, `uncompressed_length` bytes long once opened."""

    kind: BlobType
    id: bytes
    record: bytes
    uncompressed_length: int
    compressed: bool


class WatchedStorage(MemoryStorage):
    """Counts its listings by kind, and calls `before_read` with kind and name of what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.listings: Counter[FileType] = Counter()
        self.before_read: Callable[[FileType, str], object] = lambda _kind, _name: None

    async def list(self, kind: FileType) -> Sequence[FileInfo]:
        """List as the memory does."""
        self.listings[kind] += 1
        return await super().list(kind)

    async def read(
        self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read as the memory does, after `before_read`."""
        self.before_read(kind, name)
        return await super().read(kind, name, offset, length)


class MemoryRepo:
    """Builds a repository in `storage`; what was saved since the last `flush` is not in it yet."""

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
        """Return the record of `uncompressed_length`."""
        return seal_record(self.keys, plain, next(self._nonces).to_bytes(16, "big"))

    def put(self, kind: FileType, raw: bytes) -> str:
        """Keep a file under the name that its content gives it, and return the name."""
        name = hashlib.sha256(raw).hexdigest()
        self.storage.files[kind, name] = raw
        return name

    def put_unpacked(self, kind: FileType, content: Json, *, compress: bool | None = None) -> str:
        """Keep a snapshot or index file, compressed as the format is by default."""
        plain = json.dumps(content).encode()
        if self.version > 1 if compress is None else compress:
            plain = b"\x02" + zstandard.compress(plain)
        return self.put(kind, self.seal(plain))

    def set_config(self, **fields: Any) -> None:
        """Write ``config``."""
        self.storage.files[FileType.CONFIG, ""] = self.seal(json.dumps(fields).encode())

    def add_key(self, password: bytes, **fields: Any) -> str:
        """Add a key file for `password`; `fields` replace its own."""
        key_file = KeyFile(kdf="scrypt", N=2, r=1, p=1, salt=b"salt of " + password)
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
        """Seal a blob, compressed as the format is by default, without saving it anywhere."""
        compressed = self.version > 1 if compress is None else compress
        compressed &= bool(content)  # an index cannot tell a compressed blob of length 0
        plain = content
        if compressed:  # restic's frames do not say how long their content is
            plain = zstandard.ZstdCompressor(write_content_size=False).compress(content)
        blob_id = hashlib.sha256(content).digest()
        return Blob(kind, blob_id, self.seal(plain), len(content), compressed)

    def pack(self, *blobs: Blob) -> tuple[str, list[Json]]:
        """Keep a pack of these blobs; return its name and what an index says of each."""
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
        """Keep an index file of packs as `pack` returns them, and return its name."""
        content = {"packs": [{"id": name, "blobs": entries} for name, entries in packs]}
        return self.put_unpacked(FileType.INDEX, content)

    def save(self, kind: BlobType, content: bytes) -> str:
        """Save a blob with the next `flush`, once; return its ID in hex."""
        blob = self.blob(kind, content)
        if (kind, blob.id) not in self._saved:
            self._saved.add((kind, blob.id))
            self._pending.append(blob)
        return blob.id.hex()

    def flush(self) -> str | None:
        """Write one pack of all that was saved, mixed, and its index; return the pack's name."""
        if not self._pending:
            return None
        pack = self.pack(*self._pending)
        self._pending.clear()
        self.index(pack)
        return pack[0]

    # Trees and snapshots

    def tree(self, *nodes: Json) -> str:
        """Save a folder's tree and return its ID in hex."""
        return self.save(BlobType.TREE, json.dumps({"nodes": nodes}).encode() + b"\n")

    def file(self, name: str, *parts: bytes, **fields: Any) -> Json:
        """Save a file's content, one blob for each part; return its node."""
        node = {
            "name": name,
            "type": "file",
            "mode": 0o644,
            "mtime": TIME,
            "size": sum(len(part) for part in parts),
            "content": [self.save(BlobType.DATA, part) for part in parts],
        }
        return node | fields

    def folder(self, name: str, *nodes: Json, **fields: Any) -> Json:
        """Save a folder of these nodes; return its own node."""
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
        """Return the folder at the root that leads by `path` to `node`, whose name is the last."""
        *above, _ = path.strip("/").split("/")
        for name in reversed(above):
            node = self.folder(name, node)
        return node

    def snapshot(self, tree: str | None, paths: Sequence[str] = ("/",), **fields: Any) -> str:
        """Flush, then keep a snapshot file; return its ID."""
        self.flush()
        content = {"time": TIME, "tree": tree, "paths": list(paths), "hostname": "ces"}
        return self.put_unpacked(FileType.SNAPSHOT, content | fields)

    def forget(self, snapshot: str) -> None:
        """Remove a snapshot file."""
        del self.storage.files[FileType.SNAPSHOT, snapshot]

    async def open(self, password: bytes = PASSWORD) -> Repository:
        """Flush, then open it with our reader."""
        self.flush()
        return await Repository.open(self.storage, Secret(password))


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
