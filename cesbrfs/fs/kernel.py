"""What root may ask of the kernel for a mount: to read further ahead, and more at once."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

_log = logging.getLogger(__name__)

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
