"""Backup IDs, and comparison of restic's reports with the repository."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cesbrfs.backup import Failure, PointResult, PointStep, new_backup_id
from cesbrfs.backup.executor import _confirm
from cesbrfs.repo.format.model import Snapshot


def test_backup_ids_sort_by_time_and_differ() -> None:
    """An ID contains the start time in UTC; two IDs of the same second differ."""
    moment = 1_795_383_000_123_456_789
    one, two = new_backup_id(moment), new_backup_id(moment)
    assert re.fullmatch("20261122T213000Z-[0-9a-f]{6}", one)
    assert one != two
    assert new_backup_id(moment - 1_000_000_000) < min(one, two)


def _snapshot(digit: str, *paths: str, backup: str = "ours") -> Snapshot:
    return Snapshot(id=digit * 64, time_ns=0, tree=None, paths=paths, tags=(backup, "kind=volumes"))


def test_short_ids_become_whole() -> None:
    """Eight digits are resolved among the snapshots of this backup only."""
    step = PointStep("volumes", "d", paths=(Path("/v"),))
    theirs, ours = _snapshot("a", "/v", backup="theirs"), _snapshot("b", "/v")
    for digit, expected in (("a", None), ("b", ours.id)):
        point = PointResult("volumes", "d", snapshot=digit * 8)
        (confirmed,) = _confirm([step], [point], "ours", [theirs, ours])
        assert confirmed.snapshot == expected
        assert bool(confirmed.failed) is (expected is None)


def test_a_directory_that_the_snapshot_lacks_is_a_failure_once() -> None:
    """A requested directory missing in the snapshot is reported once, as by restic if it did."""
    odd = Path(os.fsdecode(b"/v/odd \xff\xfe"))
    step = PointStep("volumes", "d", paths=(Path("/v/a"), Path("/v/b"), Path("/v/c"), odd))
    told = Failure(b"/v/b", "permission denied")
    point = PointResult("volumes", "d", snapshot="b" * 64, failed=(told,))
    (confirmed,) = _confirm(
        [step], [point], "ours", [_snapshot("b", "/v/a", "/v/odd \ufffd\ufffd")]
    )
    assert [f.path for f in confirmed.failed] == [b"/v/b", b"/v/c"]
    assert confirmed.failed[0] is told


def test_points_without_a_snapshot_stay_as_they_are() -> None:
    """Items that failed completely are not checked."""
    point = PointResult("metadata", "d", failed=(Failure(b"dogu.json", "no"),))
    assert _confirm([PointStep("metadata", "d")], [point], "ours", []) == [point]
