"""Small files of an instance that one process at a time holds, and notes something in."""

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

_MAX: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class LockFile:
    """An open file; `held` tells whether we hold it, else another process does."""

    descriptor: int
    held: bool

    def read(self) -> bytes:
        """Return what is noted, of a holder that was killed maybe half of it."""
        return os.pread(self.descriptor, _MAX, 0)

    def write(self, noted: Mapping[str, object]) -> None:
        """Note it, and see that it is on the disk before anything else happens."""
        self.clear()
        os.pwrite(self.descriptor, json.dumps(noted).encode() + b"\n", 0)
        os.fsync(self.descriptor)

    def clear(self) -> None:
        """Note nothing any more."""
        os.ftruncate(self.descriptor, 0)


@contextmanager
def state_file(file: Path, *, create: bool) -> Iterator[LockFile | None]:
    """Open `file` and hold it, unless another process does.

    The kernel lets go of it with the process, however that ends, so the file may stay.  Without
    `create` it is None where it is missing or cannot be opened, which otherwise is a CesbrError.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    try:
        if create:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, flags, 0o600)
    except OSError as error:
        if create:
            raise CesbrError(
                f"The file {file} cannot be opened: {error.strerror}; see to its folder, or do"
                " this as root."
            ) from error
        yield None
        return
    try:
        yield LockFile(descriptor, _hold(descriptor))
    finally:
        os.close(descriptor)


def _hold(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
