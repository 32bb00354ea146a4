"""Requests are sorted into the buckets that contain their durations."""

from __future__ import annotations

from cesbrfs.fuse.latency import BOUNDS, FAST_NS, Latency


def _observed(*durations_ns: int) -> list[int]:
    latency = Latency()
    for duration in durations_ns:
        latency.count += 1
        latency.total_ns += duration
        if duration > FAST_NS:
            latency.add_slow(duration)
    return latency.buckets


def test_each_bound_belongs_to_the_bucket_below_it() -> None:
    """A duration equal to a bound is at most that bound, one nanosecond more is not."""
    for number, bound in enumerate(BOUNDS):
        limit = round(bound * 1e9)
        at, above = _observed(limit), _observed(limit + 1)
        assert (at[number], sum(at)) == (1, 1)
        assert (above[number + 1], sum(above)) == (1, 1)


def test_fast_requests_are_in_the_first_bucket() -> None:
    """They are counted without being sorted."""
    assert _observed(0, 1, FAST_NS, 10**12) == [3, *[0] * (len(BOUNDS) - 1), 1]
