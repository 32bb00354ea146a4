"""The heap of a mount and of a restore."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
from cesbrfs.util.heap import steady_heap, trim

def resident() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

steady_heap()
blocks = [b"x" * 100_000 for _ in range(500)]
del blocks[::2]
before = resident()
trim()
print(before - resident())
"""


def test_trim_returns_what_is_free_between_pages_in_use() -> None:
    """25 MB are free in 250 pieces, none of them at the top of the heap."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) > 15_000
