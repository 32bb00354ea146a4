"""Configure glibc's malloc. Does nothing with another libc.

glibc gives each thread its own arena, and each large block its own mapping, which it returns to the
kernel at once. The first keeps memory that no other thread can use, the second makes the kernel
clear every page again.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
from typing import Final

_log = logging.getLogger(__name__)

# Parameters of mallopt(3).
_ARENA_MAX: Final = -8
_MMAP_THRESHOLD: Final = -3
_TRIM_THRESHOLD: Final = -1

_LARGE: Final = 16 << 20
_SPARE: Final = 8 << 20


def steady_heap(spare: int = _SPARE) -> None:
    """Use one arena, reuse large blocks, and keep `spare` free bytes; call it before any thread."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGE), (_TRIM_THRESHOLD, spare)):
        if not mallopt(parameter, value):
            _log.debug("mallopt(%d, %d) was refused", parameter, value)


def trim() -> None:
    """Return the free pages of the heap to the system, also those between pages in use.

    malloc itself returns only those at the top. Takes 8 ms where 90 MiB are free.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)
