"""Write files atomically: to a temporary file first, which is then renamed."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def write_atomic(
    file: Path,
    data: bytes,
    *,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
    prefix: str = ".tmp-",
) -> None:
    """Replace `file` atomically and flush file and directory to disk.

    The temporary file is in the same directory and begins with `prefix`; it is removed on errors.
    `owner` is a user and a group ID, by default those of the process. Raises OSError.
    """
    temporary = file.with_name(prefix + secrets.token_hex(8))
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as stream:
            if owner is not None:
                os.fchown(stream.fileno(), *owner)
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_directory(file.parent)


def remove_temporary(directory: Path, prefix: str) -> None:
    """Remove temporary files that killed processes have left; nobody else may write at this time.

    Errors are ignored.
    """
    with contextlib.suppress(OSError):
        for entry in os.scandir(directory):
            if entry.name.startswith(prefix):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
