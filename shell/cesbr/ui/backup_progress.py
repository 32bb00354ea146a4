"""How far a whole backup is, from what restic reports of each of its snapshots.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from cesbrfs.restic.events import Status

if TYPE_CHECKING:
    from cesbr.ui.progress import Progress
    from cesbrfs.backup import PointStep, Step

_EACH: Final = 1 << 20
"""Bytes that a snapshot counts for beside its data: each costs restic about a second."""

PointKey = tuple[str, "str | None"]
"""Kind and dogu of a point of data."""


class BackupProgress:
    """Sums up the points of a backup; neither counts nor share ever go back.

    A point weighs as much as it had in an earlier backup (`expected`, bytes), else as little as any
    other.  `saved` is the number of snapshots that were made.
    """

    def __init__(self, progress: Progress, expected: Mapping[PointKey, int]) -> None:
        self._progress = progress
        self._expected = expected
        self._weights: list[int] = []
        self._shares: dict[int, float] = {}
        self._files: dict[int, int] = {}
        self._bytes: dict[int, int] = {}
        self.saved = 0

    def begin(self, steps: Sequence[PointStep]) -> None:
        """Set the points of the backup; the manifest follows them."""
        points: list[PointKey] = [(step.kind, step.dogu) for step in steps]
        self._weights = [_EACH + self._expected.get(point, 0) for point in points] + [_EACH]

    def update(self, step: Step) -> None:
        """Take over how far one point is."""
        number = step.number
        if step.result is not None:
            self.saved += step.result.snapshot is not None
            self._raise(number, 1.0, step.result.files, step.result.bytes)
        elif isinstance(step.event, Status):
            event = step.event
            self._raise(number, event.percent_done, event.files_done, event.bytes_done)
        done = sum(self._weights[n - 1] * share for n, share in self._shares.items())
        self._progress.update(
            files=sum(self._files.values()),
            bytes=sum(self._bytes.values()),
            share=done / sum(self._weights),
            note=f"[{step.number}/{step.total}] {step.dogu or 'instance'} {step.kind}",
        )

    def _raise(self, number: int, share: float, files: int, size: int) -> None:
        # What restic has counted so far grows, so that its own share of it can go back.
        self._shares[number] = max(self._shares.get(number, 0.0), min(1.0, share))
        self._files[number] = max(self._files.get(number, 0), files)
        self._bytes[number] = max(self._bytes.get(number, 0), size)
