"""Count FUSE requests, and how long they took.

Nearly all requests are answered from memory within microseconds. For these, two additions are made;
only a request that took longer is sorted into a bucket.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

BOUNDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Upper bounds of the buckets, in seconds."""
_BOUNDS_NS: Final = tuple(round(bound * 1e9) for bound in BOUNDS)
FAST_NS: Final = _BOUNDS_NS[0]
"""Requests of at most this many nanoseconds are in the first bucket."""


class Latency:
    """Number and durations of the requests of one operation.

    The caller adds each request to `count` and `total_ns`, and calls `add_slow` for one of more
    than `FAST_NS`.
    """

    __slots__ = ("_slow", "count", "total_ns")

    def __init__(self) -> None:
        self.count = 0
        self.total_ns = 0
        self._slow = [0] * len(BOUNDS)

    def add_slow(self, duration_ns: int) -> None:
        """Sort a request of more than `FAST_NS` nanoseconds into its bucket."""
        self._slow[bisect_left(_BOUNDS_NS, duration_ns) - 1] += 1

    @property
    def buckets(self) -> list[int]:
        """The number of requests in each bucket, not cumulative; the last has no upper bound."""
        return [self.count - sum(self._slow), *self._slow]
