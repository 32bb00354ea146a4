"""Formatting of sizes, times, tables and columns."""

from __future__ import annotations

import time

import pytest
from cesbr.ui import humanize


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_048_575, "1.0 MiB"),
        (5 << 40, "5.0 TiB"),
        (3 << 50, "3.0 PiB"),
    ],
)
def test_sizes(count: int | None, shown: str) -> None:
    """Units are powers of 1024, and no number has four digits before the point."""
    assert humanize.size(count) == shown


def test_times_are_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are printed in the local zone, to the second."""
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        assert humanize.local_time(1_700_000_000_123_456_789) == "2023-11-15 00:13:20"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_tables_align_wide_characters() -> None:
    """Columns are aligned, whatever the width of the characters."""
    lines = humanize.table([("字", "1", "x"), ("ab c", "23", "")], right={1}).splitlines()
    assert lines == ["字     1  x", "ab c  23"]
    assert humanize.table([]) == ""


def test_long_lines_are_cut_at_a_word() -> None:
    """A line that would wrap is truncated with an ellipsis."""
    assert humanize.table([("a", "one two three")], limit=13) == "a  one two …\n"
    assert humanize.table([("a", "one two three")], limit=16) == "a  one two three\n"


def test_columns_fill_the_width() -> None:
    """As few lines as possible, in column order; a name that is too wide gets a separate line."""
    assert humanize.columns(["a", "bb", "c", "d"], 9) == "a   c\nbb  d\n"
    assert humanize.columns(["a", "bb", "c", "d"], 80) == "a  bb  c  d\n"
    assert humanize.columns(["x" * 20, "y"], 10) == "x" * 20 + "\ny\n"
    assert humanize.columns([], 10) == ""
