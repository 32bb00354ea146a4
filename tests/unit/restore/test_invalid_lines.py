"""Lines of journals and undo logs that are no records are ignored."""

from __future__ import annotations

from pathlib import Path

import pytest

from cesbrfs.restore.journal import PreviousRun
from cesbrfs.restore.undo_log import UndoRecord

_NESTED = b'["restore",' + b"[" * 100_000


@pytest.mark.parametrize(
    "line",
    [
        b'["file","\xff',
        _NESTED,
        bytes(100),
        b'["restore",{}]',
        b'["restore",{"time":1,"backup":1,"target":1,"paths":1,"in_place":1}]',
        b'["directory","/d",1]',
        b'["removes","/d",{"xattrs":{"a":"no hex"}}]',
    ],
)
def test_invalid_lines(line: bytes) -> None:
    """They neither raise nor change what was read before."""
    journal, undo = PreviousRun(), UndoRecord("id", Path("log"))
    for record in (journal, undo):
        before = repr(record)
        if isinstance(record, PreviousRun):
            record.take(line, "boot")
        else:
            record.take(line)
        assert repr(record) == before
