"""Find symlinks whose targets the restic in use cannot store.

restic before 0.16 records the target of a link as JSON text: bytes that are not UTF-8 become
U+FFFD, and a restore creates a link to another path. Later versions have a field for such bytes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import trio

from cesbrfs.backup.plan import Failure
from cesbrfs.restic import Version

RAW_TARGETS: Final = Version(0, 16)
"""The first restic that stores targets of any bytes."""


async def mangled_links(version: Version, directories: Iterable[Path]) -> list[Failure]:
    """Return a failure for each symlink below `directories` that this restic stores wrongly."""
    if version >= RAW_TARGETS:
        return []
    reason = (
        f"restic {version} cannot store its target, which is not UTF-8; install restic"
        f" {RAW_TARGETS} or newer, or change the link"
    )
    tops = [os.fsencode(directory) for directory in directories]
    found = await trio.to_thread.run_sync(lambda: [*_links(tops)])
    return [Failure(path, reason) for path in found]


def _links(waiting: list[bytes]) -> Iterator[bytes]:
    """Yield the symlinks whose targets are not UTF-8.  Blocking."""
    while waiting:
        trio.from_thread.check_cancelled()
        try:
            with os.scandir(waiting.pop()) as entries:
                held = list(entries)
        except OSError:  # restic reports what cannot be read
            continue
        for entry in held:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif entry.is_symlink():
                with contextlib.suppress(OSError):  # it is gone
                    if not _is_utf8(os.readlink(entry.path)):
                        yield entry.path


def _is_utf8(target: bytes) -> bool:
    try:
        target.decode()
    except UnicodeDecodeError:
        return False
    return True
