"""Lock files (flock) that carry a small JSON payload."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cesbrfs.errors import CesbrError

_MAX_PAYLOAD_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class LockFile:
    """An open lock file. `held` is False if another process holds the lock."""

    descriptor: int
    held: bool

    def read(self) -> bytes:
        """Return the payload; it may be truncated if its writer was killed."""
        return os.pread(self.descriptor, _MAX_PAYLOAD_BYTES, 0)

    def write(self, payload: Mapping[str, object]) -> None:
        """Replace the payload, encoded as JSON, and flush it to disk."""
        self.clear()
        os.pwrite(self.descriptor, json.dumps(payload).encode() + b"\n", 0)
        os.fsync(self.descriptor)

    def clear(self) -> None:
        """Remove the payload."""
        os.ftruncate(self.descriptor, 0)


@contextmanager
def lock_file(file: Path, *, create: bool) -> Iterator[LockFile | None]:
    """Open `file` and try to lock it, without blocking.

    The kernel releases the lock when the process exits, so the file is never removed. Raises
    CesbrError if the file cannot be opened; without `create`, yields None instead.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    try:
        if create:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, flags, 0o600)
    except OSError as error:
        if create:
            raise CesbrError(
                f"Cannot open {file}: {error.strerror}. Check the disk and the permissions of its"
                " directory, or run the command as root."
            ) from error
        yield None
        return
    try:
        yield LockFile(descriptor, try_flock(descriptor))
    finally:
        os.close(descriptor)


def try_flock(descriptor: int) -> bool:
    """Lock the open file `descriptor` exclusively; return False if another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked_directory(directory: Path) -> Iterator[None]:
    """Lock `directory` exclusively, blocking until other processes release it. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
