"""Where a repository's files are: one small protocol, and the storages that speak it."""

from __future__ import annotations

from cesbrfs.access import Access
from cesbrfs.errors import UsageError
from cesbrfs.repo.storage.base import FileInfo, FileType, ReadsAtOnce, Storage, is_file_name

__all__ = [
    "FileInfo",
    "FileType",
    "ReadsAtOnce",
    "Storage",
    "is_file_name",
    "local_folder",
    "open_storage",
]

_REMOTE = ("s3:", "sftp:", "rest:", "rclone:", "b2:", "azure:", "gs:", "swift:")


def local_folder(url: str) -> str | None:
    """Return the folder of a local repository's address, or None for one kept elsewhere."""
    if url.startswith(_REMOTE):
        return None
    return url.removeprefix("local:")


def open_storage(access: Access) -> Storage:
    """Return the storage that `access` names; nothing is contacted yet.

    Raises UsageError for an address of a kind that cannot be read.
    """
    folder = local_folder(access.url)
    if folder is None:
        raise UsageError(
            f"Repositories of the kind {access.url.partition(':')[0]!r} cannot be read by this"
            f" version ({access.shown}); use a local folder."
        )
    if not folder:
        raise UsageError("The repository's address is empty; set it with --repo.")
    from cesbrfs.repo.storage.local import LocalStorage  # noqa: PLC0415 - only the one that is used

    return LocalStorage(folder)
