"""Estimate round-trip time and throughput of a storage from observed reads.

Reading further costs no time as long as the additional bytes take less than a round trip. Requests
are therefore large on connections with high latency and high bandwidth, and small on slow ones.
"""

from __future__ import annotations

from typing import Final

_SMALL: Final = 64 << 10
"""The time of an answer of up to so many bytes counts as a round trip."""
_LARGE: Final = 256 << 10
"""The rate is taken from answers of at least so many."""
_WEIGHT: Final = 0.2
_OUTLIER: Final = 4
"""What took more than so many round trips waited for something else: for a server that was away, or
for others.  It counts as so many."""
_PLAUSIBLE: Final = 0.01
"""Seconds that are no outlier in any case."""
_FIRST_ROUND_TRIP: Final = 0.02
_FIRST_RATE: Final = 50e6
_LEAST: Final = 128 << 10
_MOST: Final = 4 << 20
_DEPTH: Final = 8


class Throughput:
    """Estimates of `round_trip` in seconds and `rate` in bytes per second."""

    def __init__(self) -> None:
        self.round_trip = _FIRST_ROUND_TRIP
        self.rate = _FIRST_RATE

    def add_sample(self, count: int, seconds: float) -> None:
        """Update the estimates with one response of `count` bytes."""
        if count <= _SMALL:
            most = max(_OUTLIER * self.round_trip, _PLAUSIBLE)
            self.round_trip += _WEIGHT * (min(seconds, most) - self.round_trip)
        elif count >= _LARGE:
            rate = count / max(seconds - self.round_trip, seconds / 8, 1e-6)
            self.rate += _WEIGHT * (rate - self.rate)

    @property
    def bandwidth_delay_product(self) -> int:
        """The number of bytes worth requesting at once if only the first ones are needed."""
        return min(max(int(self.round_trip * self.rate), _LEAST), _MOST)

    @property
    def ahead(self) -> int:
        """The number of bytes to have requested ahead of a sequential reader."""
        return _DEPTH * self.bandwidth_delay_product
