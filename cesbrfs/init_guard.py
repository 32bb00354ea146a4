"""Where no repository may be created, though the storage holds none.

A mistyped address, and a disk that is not mounted, look like an address that was never used.  A
repository that a command creates there takes the backups to the wrong place, and nobody notices.
"""

from __future__ import annotations

from pathlib import Path

import trio

from cesbrfs.errors import BucketMissingError, RepositoryMissingError
from cesbrfs.repo.cache.known_repositories import is_known
from cesbrfs.repo.location import Access, local_directory
from cesbrfs.repo.storage import MayHoldOthers, Storage, open_storage
from cesbrfs.util.mountinfo import unmounted_mountpoint


async def require_creatable(
    access: Access, cache_dir: Path | None, *, may_replace_known: bool = False
) -> None:
    """Raise RepositoryMissingError when no repository may be created at the address of `access`.

    `cache_dir` is this user's cache; with `may_replace_known` a repository that it knows there
    counts as removed on purpose.
    """
    try:
        await _require_creatable(access, cache_dir, may_replace_known=may_replace_known)
    except OSError as error:
        raise _refused(
            access,
            f"whether one existed there is not known, because {error.filename} cannot be read:"
            f" {error.strerror}. Check the disk.",
        ) from error


async def _require_creatable(
    access: Access, cache_dir: Path | None, *, may_replace_known: bool
) -> None:
    directory = local_directory(access.url)
    if directory is not None:
        point = await trio.to_thread.run_sync(unmounted_mountpoint, directory)
        if point is not None:
            raise _refused(
                access,
                f"{point} is a mountpoint in /etc/fstab, but nothing is mounted there. Run 'mount"
                f" {point}', or correct the address.",
            )
    storage = open_storage(access)
    try:
        known = cache_dir is not None and is_known(storage.display_url, cache_dir)
        if known and not may_replace_known:
            raise _refused(
                access,
                "it existed when this user last opened it. Mount its disk or correct the address;"
                " if it was removed on purpose, run 'cesbr init --force'.",
            )
        other = await _other_entry(storage)
    finally:
        await storage.aclose()
    if other is not None:
        raise _refused(
            access,
            f"the directory is not a repository and not empty (it contains {other!r}). Correct the"
            " address, or choose an empty directory.",
        )


async def _other_entry(storage: Storage) -> str | None:
    if not isinstance(storage, MayHoldOthers):
        return None
    try:
        return await storage.other_entry()
    except BucketMissingError:  # only 'init' creates a bucket
        return None


def _refused(access: Access, why: str) -> RepositoryMissingError:
    return RepositoryMissingError(f"The repository at {access.display_url} was not created: {why}")
