"""Append lines to a file that several threads and processes write."""

from __future__ import annotations

import os


def append_lines(descriptor: int, lines: bytes) -> None:
    """Append complete `lines` in one write to a file opened with O_APPEND; raises OSError.

    The empty line in front ends an incomplete one that another write has left. After a short write
    all lines are written again, because another process may have appended its own in between.
    Readers must ignore empty and incomplete lines, and may find a line twice.
    """
    data = b"\n" + lines
    while os.write(descriptor, data) < len(data):
        pass
