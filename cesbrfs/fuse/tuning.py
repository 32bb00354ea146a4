"""Tune the garbage collector and the kernel for a mount."""

from __future__ import annotations

import gc
import logging
import os
import sys
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

# Thresholds of the garbage collector for its three generations.
_YOUNG: Final = 50_000
_MIDDLE: Final = 20
_OLD: Final = 100
_TURN_SECONDS: Final = 0.0005


def settle() -> None:
    """Tune the interpreter after all modules are loaded.

    Existing objects are never garbage. Later ones are mostly inodes, which form no cycles, so
    frequent collections are wasted. Threads that decode blobs must not wait long for the
    interpreter lock.
    """
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
    sys.setswitchinterval(_TURN_SECONDS)


READ_AHEAD_KIB: Final = 4096
"""With more, one reader gains nothing and several lose (measured)."""
MAX_BACKGROUND: Final = 128


def tune(device: int) -> None:
    """Raise read-ahead and the number of background requests of the mount with ``st_dev`` `device`.

    Needs root and, for background requests, a mounted fusectl; skips what is not permitted.
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
            _log.debug("%s not changed (%s)", file, error.strerror)
