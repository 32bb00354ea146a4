"""Wait for other processes, and make them hang."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from tests.shell.conftest import Site

_SECONDS = 30


def wait_until(true: Callable[[], object], what: str) -> None:
    """Wait until a condition that another process causes is true."""
    deadline = time.monotonic() + _SECONDS
    while not true():
        assert time.monotonic() < deadline, f"not within {_SECONDS} s: {what}"
        time.sleep(0.02)


def hang_the_index(site: Site) -> None:
    """Make the storage hang when restic reads the index, after it took its lock."""
    index = next((site.repository / "index").iterdir())
    index.unlink()
    os.mkfifo(index)
