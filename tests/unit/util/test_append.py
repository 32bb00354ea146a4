"""Lines that several processes append survive short and failed writes of one of them."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cesbrfs.restore.journal import Journal
from cesbrfs.restore.undo_log import UndoLog, read_log
from cesbrfs.util.append import append_lines


@contextmanager
def _no_file_larger_than(size: int) -> Iterator[None]:
    """Let writes beyond `size` be short, and then fail with EFBIG, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def _lines(file: Path) -> list[bytes]:
    return [line for line in file.read_bytes().split(b"\n") if line]


def test_a_line_after_an_incomplete_one_is_complete(tmp_path: Path) -> None:
    """The disk is full for one line; the next line, of any process, can be read."""
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    append_lines(descriptor, b"first\n")
    with _no_file_larger_than(file.stat().st_size + 3), pytest.raises(OSError, match="too large"):
        append_lines(descriptor, b"second\n")
    append_lines(descriptor, b"third\n")
    os.close(descriptor)

    assert _lines(file) == [b"first", b"se", b"third"]


def test_a_short_write_mixes_no_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process appends a line after the first half of a write."""
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    write = os.write
    halves = [True, False, False]

    def short(to: int, data: bytes) -> int:
        return write(to, data[: len(data) // 2] if halves.pop(0) else data)

    def short_then_other(to: int, data: bytes) -> int:
        written = short(to, data)
        if written < len(data):
            append_lines(descriptor, b"other\n")
        return written

    monkeypatch.setattr(os, "write", short_then_other)
    append_lines(descriptor, b"one\ntwo\n")
    monkeypatch.undo()
    os.close(descriptor)

    lines = _lines(file)
    assert {b"one", b"two", b"other"} <= set(lines)
    assert not halves


def test_an_undo_log_and_a_journal_go_on_after_a_full_disk(tmp_path: Path) -> None:
    """What is logged when there is room again is found, and the line that did not fit is not."""
    file = tmp_path / "1.undo"
    log = UndoLog.open(file)
    log.add(("replaces", "a"))
    with _no_file_larger_than(file.stat().st_size + 5), pytest.raises(OSError, match="too large"):
        log.add(("replaces", "b"))
    log.add(("replaces", "c"))
    log.close()
    assert list(read_log(file).replaced) == [b"a", b"c"]

    with Journal(tmp_path / "journals", tmp_path) as journal:
        journal.begin({})
        size = os.fstat(journal.descriptor).st_size
        with _no_file_larger_than(size + 5):
            journal.directory(b"lost", dressed=True, mode=0o500)
        journal.directory(b"closed", dressed=True, mode=0o500)
        assert journal.reread().modes == {b"closed": 0o500}
