"""What a storage's answers tell of the way to it: how long one takes to begin, how fast it comes.

Reading twice as far costs nothing while the bytes take less time than the round trip.  So reads
reach as far as the round trip and the rate make worth while: far over a slow but broad way, hardly
further than asked over a narrow one.
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
    """Estimates of `round_trip` in seconds and `rate` in bytes a second, learnt as reads go."""

    def __init__(self) -> None:
        self.round_trip = _FIRST_ROUND_TRIP
        self.rate = _FIRST_RATE

    def add_sample(self, count: int, seconds: float) -> None:
        """Learn from one answer of `count` bytes."""
        if count <= _SMALL:
            most = max(_OUTLIER * self.round_trip, _PLAUSIBLE)
            self.round_trip += _WEIGHT * (min(seconds, most) - self.round_trip)
        elif count >= _LARGE:
            rate = count / max(seconds - self.round_trip, seconds / 8, 1e-6)
            self.rate += _WEIGHT * (rate - self.rate)

    @property
    def bandwidth_delay_product(self) -> int:
        """Return how many bytes are worth asking for at once where only the first are needed."""
        return min(max(int(self.round_trip * self.rate), _LEAST), _MOST)

    @property
    def ahead(self) -> int:
        """Return how many bytes should be under way while a reader goes straight on."""
        return _DEPTH * self.bandwidth_delay_product
