"""A restic repository opened for reading: snapshots, trees and file content.

Snapshots are listed before the index is loaded, so that every blob of a listed snapshot is indexed
even if another process prunes. If a blob is not in the index, the index is listed again before the
blob is reported as missing.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import trio

from cesbrfs.errors import (
    BlobMissingError,
    CesbrError,
    DamagedError,
    FileMissingError,
    NotFoundError,
    RepositoryDamagedError,
    RepositoryGoneError,
    RepositoryMissingError,
    WrongKeyError,
)
from cesbrfs.repo.cache.cache_dir import CacheDir
from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.cache.directory_store import DirectoryStore
from cesbrfs.repo.cache.known_repositories import known_key_file, note_known
from cesbrfs.repo.cache.metadata import MetadataCache
from cesbrfs.repo.format.crypto import Keys
from cesbrfs.repo.format.index import Index
from cesbrfs.repo.format.model import Config, Lock, Node, Snapshot, parse_lock, parse_snapshot
from cesbrfs.repo.format.pack import SNAPSHOT_MAX, BlobType, decode_unpacked, encode_unpacked
from cesbrfs.repo.kdf import kept_keys
from cesbrfs.repo.keys import open_config, open_keys
from cesbrfs.repo.read.blobs import Blobs
from cesbrfs.repo.read.damaged_files import DamagedFiles
from cesbrfs.repo.read.directories import DirectoryCache
from cesbrfs.repo.read.file_reader import FileReader
from cesbrfs.repo.read.local_packs import LocalPacks
from cesbrfs.repo.read.packs import Packs
from cesbrfs.repo.read.remote_packs import RemotePacks
from cesbrfs.repo.read.trees import Trees
from cesbrfs.repo.read.unpacked import UnpackedFiles, through_network
from cesbrfs.repo.storage import FileType, HasAvailability, Storage, SyncReadable, is_file_name
from cesbrfs.util.lru import LruCache
from cesbrfs.util.secret import Secret

__all__ = ["CacheConfig", "FileReader", "Repository"]

_log = logging.getLogger(__name__)

_WORTH_KEEPING: Final = 64
"""Minimum number of new snapshot files of a local repository that are cached on disk."""


class Repository:
    """An open repository. Created by `Repository.open`."""

    def __init__(
        self,
        storage: Storage,
        keys: Keys,
        config: Config,
        caching: CacheConfig,
        password: Secret,
    ) -> None:
        self.storage: Final = storage
        self.key_file = ""
        """Name of the key file that opened the repository."""
        self._password: Final = password
        self.caching: Final = caching
        self.is_remote: Final = through_network(storage)
        """Whether each request to the storage costs a round trip."""
        self._files: Final = UnpackedFiles(storage, self._confirm)
        self._worth_keeping: Final = 1 if self.is_remote else _WORTH_KEEPING
        self._snapshots: dict[str, Snapshot] = {}
        self._listed_once = False
        self._confirming: Final = trio.Lock()
        self._gone: CesbrError | None = None
        self._refused: frozenset[str] = frozenset()
        """Key files that the password does not open, after the repository was replaced."""
        self._identify(keys, config)
        self.blobs: Final = Blobs(self._files, keys, caching, self._packs(), self._disk)
        self.listings: Final = DirectoryCache(self.blobs, self._segments(), caching)
        self.trees: Final = Trees(self.blobs, caching)
        self.blobs.on_pruned = self._evict_pruned

    def _identify(self, keys: Keys, config: Config) -> None:
        """Set the keys, the ID, the format version and the cache directory of the repository."""
        self._keys = keys
        self.id = config.id or ""
        self.version = config.version or 0
        # An invalid ID could be a path that leads out of the cache directory.
        top = self.caching.directory
        self._directory = top / self.id if top and is_file_name(self.id) else None
        self._disk = MetadataCache(self._directory) if self._directory else None

    def _packs(self) -> Packs:
        if isinstance(self.storage, SyncReadable):
            return LocalPacks(self.storage, self._keys, self.caching)
        return RemotePacks(self.storage, self._keys, self._directory, self.caching)

    def _segments(self) -> DirectoryStore | None:
        directory = self._directory
        if directory is None:
            return None
        return DirectoryStore(CacheDir(directory / "rows"), self._keys, self.caching)

    @classmethod
    async def open(
        cls,
        storage: Storage,
        key: Secret,
        caching: CacheConfig = CacheConfig(),  # noqa: B008 - frozen
        key_hint: str = "",
    ) -> Repository:
        """Open the repository in `storage` with its encryption key.

        Key files whose names begin with `key_hint` are tried first, then the one that opened the
        repository last.

        Raises RepositoryMissingError, RepositoryDamagedError, WrongKeyError, and the errors of the
        storage.
        """
        directory = caching.directory
        hints = [
            key_hint,
            known_key_file(storage.display_url, directory) or "" if directory else "",
        ]
        opened = ""

        def keep(name: str, raw: bytes) -> None:
            nonlocal opened
            opened = name
            if directory is not None and through_network(storage):
                _keep_key(kept_keys(storage.display_url, directory), name, raw)

        keys = await open_keys(storage, key, keep, hints)
        config = await open_config(storage, keys)
        if directory is not None:
            await trio.to_thread.run_sync(note_known, storage.display_url, directory, opened)
        repository = cls(storage, keys, config, caching, key)
        repository.key_file = opened
        return repository

    def serve(self, nursery: trio.Nursery) -> None:
        """Read ahead, and write cached listings to disk, in tasks of `nursery`."""
        self.blobs.read_ahead_in(nursery)
        nursery.start_soon(self.listings.flush_periodically)

    async def aclose(self) -> None:
        """Write cached entries to disk, and close the storage."""
        try:
            await self.listings.keep()
        finally:
            await self.storage.aclose()

    @property
    def keys(self) -> Keys:
        """The master key, for worker processes that read blobs themselves."""
        return self._keys

    @property
    def caches(self) -> Mapping[str, LruCache[bytes, Any]]:
        """The caches in memory, by what they contain."""
        return {"trees": self.trees.cache, **self.blobs.caches, **self.listings.caches}

    @property
    def is_offline(self) -> bool:
        """Whether the storage did not respond to the last request."""
        return isinstance(self.storage, HasAvailability) and self.storage.is_offline

    @property
    def damaged_files(self) -> DamagedFiles:
        """Snapshot and index files that could not be read.

        Others may note ``trees/<snapshot ID>`` and ``manifests/<snapshot ID>``; they are removed
        with the snapshot.
        """
        return self._files.damaged

    @property
    def damaged(self) -> dict[str, str]:
        """Those of `damaged_files` whose last attempt failed, with the reason."""
        return self.damaged_files.current

    @property
    def is_gone(self) -> bool:
        """Whether the storage responds, but the last attempt to find the repository failed."""
        return self._gone is not None

    async def _confirm(self) -> bool:
        """Check that the storage still contains this repository; return whether it was replaced.

        A replacement is used from then on. Raises RepositoryGoneError if there is no repository,
        and RepositoryDamagedError or WrongKeyError if the replacement cannot be opened.
        """
        async with self._confirming:
            try:
                return await self._reopen()
            except RepositoryMissingError as error:
                gone = RepositoryGoneError(
                    f"The repository at {self.storage.display_url} has disappeared. Check that its"
                    " disk is mounted, or that its server still has the directory; access resumes"
                    " when it is back."
                )
                self._note_gone(gone)
                raise gone from error
            except (RepositoryDamagedError, WrongKeyError) as error:
                self._note_gone(error)
                raise

    async def _reopen(self) -> bool:
        try:
            config = await open_config(self.storage, self._keys)
        except (FileMissingError, RepositoryDamagedError):
            config = None  # missing, or encrypted with other keys
        if config is not None and (config.id or "") == self.id:
            self.version = config.version or 0
            self._note_back()
            return False
        keys = await self._new_keys()
        config = await open_config(self.storage, keys)
        _log.warning(
            "The repository at %s was replaced by another one (ID %s, previously %s), which is"
            " used from now on.",
            self.storage.display_url, (config.id or "")[:8], self.id[:8],
        )  # fmt: skip
        self._identify(keys, config)
        self._snapshots.clear()
        self._listed_once = False
        self.damaged_files.clear()
        self.blobs.start_over(keys, self._packs(), self._disk)
        self.listings.start_over(self._segments())
        self._note_back()
        return True

    async def _new_keys(self) -> Keys:
        """Open the key files again, unless the password has already failed on the same ones."""
        names = frozenset(file.name for file in await self.storage.list(FileType.KEY))
        if names and names == self._refused:
            raise WrongKeyError(*self._gone.args if self._gone else ())
        try:
            return await open_keys(self.storage, self._password)
        except WrongKeyError:
            self._refused = names
            raise

    def _note_gone(self, error: CesbrError) -> None:
        if self._gone is None:
            _log.error("%s", error)
        self._gone = error

    def _note_back(self) -> None:
        if self._gone is not None:
            _log.warning("The repository at %s is available again.", self.storage.display_url)
        self._gone = None

    async def index(self) -> Index:
        """Return the index, loading it the first time."""
        return await self.blobs.index()

    async def snapshots(self) -> list[Snapshot]:
        """Return the current snapshots, oldest first.

        A snapshot file that cannot be read is omitted, logged, and reported in `damaged`.
        """
        listed = await self._files.list(FileType.SNAPSHOT)
        self._note_back()
        for name in self._snapshots.keys() - listed:
            del self._snapshots[name]
            self.damaged_files.remove(f"trees/{name}")
            self.damaged_files.remove(f"manifests/{name}")
        raws: dict[str, bytes] = {}
        if self._disk is not None and not self._listed_once and len(listed) >= self._worth_keeping:
            raws = await trio.to_thread.run_sync(self._disk.snapshots)
            for name in listed & raws.keys():
                with contextlib.suppress(Exception):  # read again below, which reports the error
                    self._take_snapshot(name, raws[name])
        self._listed_once = True

        async def take(name: str, raw: bytes) -> None:
            self._take_snapshot(name, raw)
            raws[name] = raw

        missing = listed - self._snapshots.keys()
        damaged = self.damaged.keys() & {f"snapshots/{name}" for name in missing}
        await self._files.load(FileType.SNAPSHOT, missing, take)
        # Files that the keys do not decrypt may belong to another repository.
        worse = self.damaged.keys() & {f"snapshots/{name}" for name in missing} - damaged
        if worse and await self._confirm():
            return await self.snapshots()
        if self._disk is not None and len(missing) >= self._worth_keeping:
            kept = {name: raw for name, raw in raws.items() if name in listed}
            await trio.to_thread.run_sync(self._disk.keep_snapshots, kept)
        return sorted(self._snapshots.values(), key=lambda s: (s.time_ns, s.id))

    def _take_snapshot(self, name: str, raw: bytes) -> None:
        self._snapshots[name] = parse_snapshot(decode_unpacked(self._keys, raw, SNAPSHOT_MAX), name)

    async def locks(self) -> list[Lock]:
        """Return the current locks of the repository, oldest first.

        A lock that cannot be read is omitted, logged, and reported in `damaged`.
        """
        locks: list[Lock] = []

        async def take(name: str, raw: bytes) -> None:
            locks.append(parse_lock(decode_unpacked(self._keys, raw, SNAPSHOT_MAX), name))

        await self._files.load(FileType.LOCK, await self._files.list(FileType.LOCK), take)
        return sorted(locks, key=lambda lock: (lock.time_ns, lock.id))

    async def raise_if_forgotten(self, snapshot: Snapshot, error: BlobMissingError) -> None:
        """Raise NotFoundError from `error` if `snapshot` no longer exists."""
        if all(other.id != snapshot.id for other in await self.snapshots()):
            raise NotFoundError(
                f"Snapshot {snapshot.id[:8]} was forgotten, and its data was removed."
            ) from error

    async def _evict_pruned(self, index: Index) -> None:
        """Evict trees that a prune removed; otherwise they accumulate up to the cache bounds.

        Data blobs are not evicted, because their files may still be open.
        """
        cached = self.listings.trees().union(self.trees.cached_ids())
        gone = await trio.to_thread.run_sync(index.lacking, BlobType.TREE, cached)
        self.trees.cache.drop(gone.__contains__)
        self.listings.drop(gone)

    # Data derived from trees, cached on disk by name

    async def load(self, name: str) -> bytes | None:
        """Return the data stored as `name`; None if it is missing or damaged."""
        disk = self._disk
        if disk is None:
            return None

        def work() -> bytes | None:
            record = disk.sealed(name)
            try:
                return decode_unpacked(self._keys, record) if record else None
            except DamagedError as error:
                _log.warning(
                    "The cached copy of %s is damaged and will be rewritten: %s", name, error
                )
                return None

        return await trio.to_thread.run_sync(work)

    async def keep(self, name: str, data: bytes) -> None:
        """Store `data` on disk as `name`, encrypted with the repository's keys; overwrites."""
        disk = self._disk
        if disk is None:
            return

        def work() -> None:
            disk.keep_sealed(name, encode_unpacked(self._keys, data, os.urandom(16)))

        await trio.to_thread.run_sync(work)

    async def data(self, blob: bytes) -> bytes:
        """Return the verified content of a data blob (ID of 32 bytes)."""
        return await self.blobs.data(blob)

    async def open_file(self, node: Node, snapshot: Snapshot | None = None) -> FileReader:
        """Return a reader for the content of a file.

        Raises BlobMissingError if one of its blobs is in no index file, or NotFoundError if the
        reason is that `snapshot`, which contains the file, was removed.
        """

        async def missing(error: BlobMissingError) -> None:
            if snapshot is not None:
                await self.raise_if_forgotten(snapshot, error)

        blobs = node.blobs
        try:
            return FileReader(self.blobs, blobs, await self.blobs.lengths(blobs), missing)
        except BlobMissingError as error:
            await missing(error)
            raise


def _keep_key(directory: Path, name: str, raw: bytes) -> None:
    """Cache a key file and remove all others, so that `derive_ahead` can use it next time."""
    kept = CacheDir(directory)
    names = [file.name for file in kept.files()]
    for other in names:
        if other != name:
            kept.remove(other)
    if name not in names:
        kept.write(name, (raw,))
