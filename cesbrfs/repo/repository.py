"""One restic repository, opened for reading: snapshots, trees, blobs and the content of files.

The order matters: snapshots are listed before the index is loaded, so that every blob a listed
snapshot needs is indexed even while another process prunes; a blob that is not found makes the
index be listed once more before it counts as missing.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import trio

from cesbrfs.access import Secret
from cesbrfs.errors import (
    BlobMissingError,
    CesbrError,
    DamagedError,
    FileMissingError,
    NotFoundError,
    RepositoryDamagedError,
    RepositoryMissingError,
    StorageError,
    WrongKeyError,
)
from cesbrfs.repo.ahead import derived
from cesbrfs.repo.cache import Cache
from cesbrfs.repo.crypto import BadMacError, Keys, open_master_key, open_record
from cesbrfs.repo.index import Index, Segment, parse_segment
from cesbrfs.repo.model import (
    Config,
    Node,
    Snapshot,
    Tree,
    parse_config,
    parse_key_file,
    parse_snapshot,
    parse_tree,
)
from cesbrfs.repo.pack import BlobType, Place, decode_blob, decode_unpacked
from cesbrfs.repo.storage import FileType, Storage

_log = logging.getLogger(__name__)

DEFAULT_CACHE_BYTES: Final = 128 << 20
_TREE_CACHE_SHARE: Final = 4
_NODE_BYTES: Final = 700
"""About what a decoded node takes in memory."""
_THREAD_BYTES: Final = 128 << 10
"""Blobs above this are decoded in a thread: below, the hop costs more than the work."""
_AT_ONCE: Final = 8
"""Files read at the same time where many are needed."""


async def open_keys(storage: Storage, password: Secret) -> Keys:
    """Find the key file that `password` opens, and return the master key.

    Raises RepositoryMissingError or RepositoryDamagedError where there is no config,
    WrongKeyError when no key file is opened by the password.
    """
    if not await _has_config(storage):
        await raise_no_config(storage)
    files = await storage.list(FileType.KEY)
    if not files:
        raise RepositoryDamagedError(
            f"The repository at {storage.shown} has lost its key files; restore the folder 'keys'"
            " from a copy of the repository."
        )
    unreadable: CesbrError | None = None
    for file in files:
        try:
            raw = _genuine(await storage.read(FileType.KEY, file.name), FileType.KEY, file.name)
            key_file = parse_key_file(raw, f"key file {file.name[:8]}")
            return await trio.to_thread.run_sync(open_master_key, key_file, password.value, derived)
        except BadMacError:
            continue
        except (DamagedError, FileMissingError) as error:
            _log.warning("%s", error)
            unreadable = error
    if unreadable is not None:
        raise unreadable
    raise WrongKeyError(
        f"The encryption key is wrong for the repository at {storage.shown}: none of its"
        f" {len(files)} keys is opened by it; set the key this repository was made with."
    )


def _genuine(raw: bytes, kind: FileType, name: str) -> bytes:
    """Return a whole file's content if its name is its SHA-256, as it must be; else DamagedError.

    A MAC alone does not tell one file of the repository from another.
    """
    if hashlib.sha256(raw).hexdigest() != name:
        raise DamagedError(
            f"{kind.value}/{name[:8]} does not hold what its name promises; run 'cesbr check'."
        )
    return raw


async def _has_config(storage: Storage) -> bool:
    try:
        await storage.read(FileType.CONFIG)
    except FileMissingError:
        return False
    return True


async def raise_no_config(storage: Storage) -> None:
    """Tell why there is no config: raise RepositoryMissingError or RepositoryDamagedError.

    Only where no key, snapshot, index or pack is left was there never a repository: a new config
    beside such files would lock what they hold away for ever.
    """
    for kind in (FileType.KEY, FileType.SNAPSHOT, FileType.INDEX, FileType.PACK):
        if await storage.list(kind):
            raise RepositoryDamagedError(
                f"The repository at {storage.shown} is damaged: its file 'config' is gone but"
                f" '{kind.value}' holds files; put 'config' back from a copy of the repository."
                " It was not initialised again."
            )
    raise RepositoryMissingError(
        f"There is no repository at {storage.shown}; create it with 'cesbr init' or correct the"
        " address."
    )


class Repository:
    """An open repository.  Made by `Repository.open`."""

    def __init__(self, storage: Storage, keys: Keys, config: Config, cache_bytes: int) -> None:
        self.storage: Final = storage
        self.id: Final = config.id or ""
        self.version: Final = config.version or 0
        self.damaged: Final[dict[str, str]] = {}
        """Snapshot and index files that could not be read, with the reason."""
        self._keys: Final = keys
        self._snapshots: dict[str, Snapshot] = {}
        self._index: Index | None = None
        self._listings = 0
        self._listing: trio.Lock = trio.Lock()
        self._blobs: Cache[tuple[BlobType, bytes], bytes] = Cache(cache_bytes, len)
        self._trees: Cache[bytes, Tree] = Cache(
            cache_bytes // _TREE_CACHE_SHARE, lambda tree: 200 + _NODE_BYTES * len(tree.nodes)
        )

    @classmethod
    async def open(
        cls, storage: Storage, key: Secret, *, cache_bytes: int = DEFAULT_CACHE_BYTES
    ) -> Repository:
        """Open the repository in `storage` with its encryption key.

        Raises RepositoryMissingError, RepositoryDamagedError, WrongKeyError, and what the storage
        raises.
        """
        keys = await open_keys(storage, key)
        try:
            config = parse_config(open_record(keys, await storage.read(FileType.CONFIG)))
        except DamagedError as error:
            raise RepositoryDamagedError(
                f"The config of the repository at {storage.shown} is damaged; put it back from a"
                " copy of the repository."
            ) from error
        if config.version not in (1, 2):
            raise RepositoryDamagedError(
                f"The repository at {storage.shown} has format {config.version}, of which nothing"
                " is known; a newer version of this program may read it."
            )
        return cls(storage, keys, config, cache_bytes)

    async def aclose(self) -> None:
        """Close the storage."""
        await self.storage.aclose()

    async def snapshots(self) -> list[Snapshot]:
        """List the snapshots that are there now, oldest first.

        A snapshot file that cannot be read is left out, logged and named in `damaged`.
        """
        listed = await self._list(FileType.SNAPSHOT)
        for name in self._snapshots.keys() - listed:
            del self._snapshots[name]
        missing = [name for name in listed if name not in self._snapshots]

        async def load(name: str) -> None:
            try:
                raw = await self._read(FileType.SNAPSHOT, name)
                self._snapshots[name] = parse_snapshot(decode_unpacked(self._keys, raw), name)
            except FileMissingError:
                pass  # forgotten since it was listed
            except (DamagedError, StorageError) as error:
                self._note_damage(FileType.SNAPSHOT, name, error)
            else:
                self.damaged.pop(f"{FileType.SNAPSHOT}/{name}", None)

        await _each(load, missing)
        return sorted(self._snapshots.values(), key=lambda s: (s.time_ns, s.id))

    async def raise_if_forgotten(self, snapshot: Snapshot, error: BlobMissingError) -> None:
        """Raise NotFoundError in the place of `error` when `snapshot` is not there any more."""
        if all(held.id != snapshot.id for held in await self.snapshots()):
            raise NotFoundError(
                f"Snapshot {snapshot.id[:8]} was forgotten meanwhile, and its data removed."
            ) from error

    async def _list(self, kind: FileType) -> set[str]:
        """Return the names of the files of one kind; what is gone is not damaged any more."""
        listed = {file.name for file in await self.storage.list(kind)}
        for file in list(self.damaged):
            folder, _, name = file.partition("/")
            if folder == kind and name not in listed:
                del self.damaged[file]
        return listed

    async def _read(self, kind: FileType, name: str) -> bytes:
        return _genuine(await self.storage.read(kind, name), kind, name)

    def _note_damage(self, kind: FileType, name: str, error: CesbrError) -> None:
        file = f"{kind}/{name}"
        if file not in self.damaged:
            _log.warning("%s is left out: %s", file, error)
        self.damaged[file] = error.message

    async def index(self) -> Index:
        """Return the merged index, loading it the first time."""
        return self._index or await self._relist(self._listings)

    async def _relist(self, seen: int) -> Index:
        """List the index files again, unless that was done since listing number `seen`."""
        async with self._listing:
            if self._index is not None and self._listings > seen:
                return self._index
            listed = await self._list(FileType.INDEX)
            known = self._index.segments if self._index else {}
            segments: dict[str, Segment] = {n: s for n, s in known.items() if n in listed}
            missing = sorted(listed - segments.keys())

            async def load(name: str) -> None:
                try:
                    raw = await self.storage.read(FileType.INDEX, name)
                    segments[name] = await trio.to_thread.run_sync(self._segment, raw, name)
                except FileMissingError:
                    pass  # replaced since it was listed
                except (DamagedError, StorageError) as error:
                    self._note_damage(FileType.INDEX, name, error)
                else:
                    self.damaged.pop(f"{FileType.INDEX}/{name}", None)

            await _each(load, missing)
            if self._index is None or segments.keys() != known.keys():
                self._index = await trio.to_thread.run_sync(Index, segments)
            self._listings += 1
            return self._index

    def _segment(self, raw: bytes, name: str) -> Segment:
        genuine = _genuine(raw, FileType.INDEX, name)
        return parse_segment(decode_unpacked(self._keys, genuine), name)

    async def tree(self, tree_id: bytes) -> Tree:
        """Return the folder of this ID (32 bytes).

        Raises BlobMissingError or DamagedError when the repository does not hold it whole.
        """
        tree = await self._tree(tree_id)
        if b"." in tree.nodes or b"/" in tree.nodes:  # only a snapshot's root may have them
            nodes = {name: node for name, node in tree.nodes.items() if name not in (b".", b"/")}
            return Tree(nodes, (*tree.refused, "'.' or '/': no folder can hold this name"))
        return tree

    async def _tree(self, tree_id: bytes) -> Tree:
        return self._trees.peek(tree_id) or await self._trees.get(
            tree_id, partial(self._load_tree, tree_id)
        )

    async def _load_tree(self, tree_id: bytes) -> Tree:
        data = await self._load(BlobType.TREE, tree_id)
        what = f"tree {tree_id.hex()[:8]}"
        if len(data) > _THREAD_BYTES:
            tree = await trio.to_thread.run_sync(parse_tree, data, what)
        else:
            tree = parse_tree(data, what)
        for name in tree.refused:
            _log.warning("%s has an entry that cannot be shown: %s", what, name)
        return tree

    async def root(self, snapshot: Snapshot) -> Tree:
        """Return a snapshot's root folder; nodes named ``.`` or ``/`` give way to their content."""
        if snapshot.tree is None:
            return Tree({})
        tree = await self._tree(snapshot.tree)
        if not any(name in tree.nodes for name in (b".", b"/")):
            return tree
        nodes: dict[bytes, Node] = {}
        refused = list(tree.refused)
        for name, node in tree.nodes.items():
            if name not in (b".", b"/"):
                nodes[name] = node
            elif node.subtree is not None:
                inner = await self.tree(node.subtree)
                nodes.update(inner.nodes)
                refused += inner.refused
            else:
                refused.append(f"{name.decode()!r}: no folder can hold this name")
        return Tree(nodes, tuple(refused))

    async def data(self, blob: bytes) -> bytes:
        """Return the content of a data blob (ID of 32 bytes), checked."""
        key = (BlobType.DATA, blob)
        return self._blobs.peek(key) or await self._blobs.get(key, partial(self._load, *key))

    async def _load(self, kind: BlobType, blob: bytes) -> bytes:
        index = await self.index()
        seen = self._listings
        try:
            return await self._load_from(index.places(kind, blob), kind, blob)
        except BlobMissingError:  # packs may have been written anew since the index was listed
            index = await self._relist(seen)
            return await self._load_from(index.places(kind, blob), kind, blob)

    async def _load_from(self, places: Sequence[Place], kind: BlobType, blob: bytes) -> bytes:
        """Return the blob from the first place that holds it.

        Raises BlobMissingError when it has no place or one of its packs is gone, else the last
        place's error.
        """
        if not places:
            raise BlobMissingError(
                f"No index of {self.storage.shown} names {_blob_name(kind, blob)}; run"
                " 'cesbr check'."
            )
        failed: list[CesbrError] = []
        for place in places:
            try:
                return await self._load_at(place, blob)
            except (DamagedError, StorageError) as error:
                failed.append(error)
                if len(failed) < len(places):
                    _log.warning("%s; trying its next place", error)
        if any(isinstance(error, FileMissingError) for error in failed):
            raise BlobMissingError(
                f"No pack that should hold {_blob_name(kind, blob)} holds it in"
                f" {self.storage.shown}; run 'cesbr check'."
            ) from failed[-1]
        raise failed[-1]

    async def _load_at(self, place: Place, blob: bytes) -> bytes:
        name = place.pack.hex()
        raw = await self.storage.read(FileType.PACK, name, place.offset, place.length)
        if max(place.plain, place.length) > _THREAD_BYTES:
            return await trio.to_thread.run_sync(decode_blob, self._keys, blob, raw, place)
        return decode_blob(self._keys, blob, raw, place)

    async def open_file(self, node: Node, snapshot: Snapshot | None = None) -> FileContent:
        """Prepare a file's content for reading.

        Raises BlobMissingError when no index names one of its blobs; NotFoundError when that is
        because `snapshot`, in which it lies, was forgotten.
        """
        blobs = node.blobs
        try:
            return FileContent(self, blobs, await self._lengths(blobs), snapshot)
        except BlobMissingError as error:
            if snapshot is not None:
                await self.raise_if_forgotten(snapshot, error)
            raise

    async def _lengths(self, blobs: list[bytes]) -> list[int]:
        index = await self.index()
        seen = self._listings
        lengths = [index.plain_length(blob) for blob in blobs]
        if None in lengths:
            index = await self._relist(seen)
            lengths = [index.plain_length(blob) for blob in blobs]
        known = [length for length in lengths if length is not None]
        if len(known) < len(blobs):
            missing = blobs[lengths.index(None)]
            raise BlobMissingError(
                f"No index of {self.storage.shown} names {_blob_name(BlobType.DATA, missing)};"
                " run 'cesbr check'."
            )
        return known


def _blob_name(kind: BlobType, blob: bytes) -> str:
    return f"{kind.name.lower()} blob {blob.hex()[:8]}"


class FileContent:
    """The content of one file.  `size` is the sum of its blobs in bytes: the truth about it."""

    def __init__(
        self,
        repository: Repository,
        blobs: list[bytes],
        lengths: list[int],
        snapshot: Snapshot | None,
    ) -> None:
        self._repository = repository
        self._snapshot = snapshot
        self._blobs = blobs
        self._ends = list(itertools.accumulate(lengths))
        self.size: Final = self._ends[-1] if self._ends else 0

    async def read(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`, less only at the end of the file."""
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        at = bisect.bisect_right(self._ends, offset)
        start = self._ends[at - 1] if at else 0
        parts: list[bytes | memoryview] = []
        while start < end:
            blob = await self._blob(at, self._ends[at] - start)
            first, last = max(offset - start, 0), min(end - start, len(blob))
            whole = first == 0 and last == len(blob)
            parts.append(blob if whole else memoryview(blob)[first:last])
            start = self._ends[at]
            at += 1
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    async def _blob(self, at: int, length: int) -> bytes:
        """Return the blob at position `at`, which must have `length` bytes."""
        try:
            blob = await self._repository.data(self._blobs[at])
        except BlobMissingError as error:
            if self._snapshot is not None:
                await self._repository.raise_if_forgotten(self._snapshot, error)
            raise
        if len(blob) != length:  # another index file told another length
            raise DamagedError(
                f"The index files disagree about the length of"
                f" {_blob_name(BlobType.DATA, self._blobs[at])}; rewrite them with"
                " 'restic repair index'."
            )
        return blob


async def _each(work: Callable[[str], Awaitable[None]], names: Sequence[str]) -> None:
    """Run `work` for every name, a few at a time; the first error ends them all, as itself."""
    pending = iter(names)
    failed: list[CesbrError] = []

    async def run(scope: trio.CancelScope) -> None:
        for name in pending:
            try:
                await work(name)
            except CesbrError as error:
                failed.append(error)
                scope.cancel()
                return

    async with trio.open_nursery() as nursery:
        for _ in range(min(_AT_ONCE, len(names))):
            nursery.start_soon(run, nursery.cancel_scope)
    if failed:
        raise failed[0]
