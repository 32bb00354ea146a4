"""Open a repository and present its backups as a tree, for scripts."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from cesbrfs.repo.cache.config import CacheConfig
from cesbrfs.repo.location import Access
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import open_storage
from cesbrfs.util.secret import Secret
from cesbrfs.vfs.tree import BackupTree

_CLOSE_SECONDS = 5.0


@asynccontextmanager
async def open_backups(
    url: str,
    password: str | bytes,
    *,
    options: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    cache_dir: Path | None = None,
) -> AsyncIterator[BackupTree]:
    """Open the repository at `url` with its password and return the tree of its backups.

    `url` has restic's form (``/path``, ``sftp:…``, ``s3:…``, ``rest:…``), `options` are restic's
    extended options, and `environ` holds credentials such as ``AWS_ACCESS_KEY_ID`` (default: the
    environment). With `cache_dir`, metadata is cached there between runs.

    Raises RepositoryMissingError, WrongKeyError and other subclasses of CesbrError.
    """
    key = password.encode() if isinstance(password, str) else password
    access = Access(
        url,
        Secret(key),
        options=options or {},
        environment=os.environ if environ is None else environ,
    )
    repository = await Repository.open(
        open_storage(access), access.key, CacheConfig(directory=cache_dir)
    )
    try:
        yield BackupTree(repository, uid=os.getuid(), gid=os.getgid())
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _CLOSE_SECONDS):
            await repository.aclose()
