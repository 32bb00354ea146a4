"""The metrics of a mount, in addition to those of the backups."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from cesbrfs import __version__
from cesbrfs.catalog import metrics as backups
from cesbrfs.catalog.refresh import ListingStatistics
from cesbrfs.fuse.latency import BOUNDS, Latency
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import HasCounters
from cesbrfs.util.openmetrics import (
    Family,
    Kind,
    Metric,
    by_label,
    count_and_sum,
    histogram,
    single,
)

_NS: Final = 1e9

REQUESTS: Final = Family(
    "cesbrfs_requests", Kind.COUNTER, "FUSE requests answered.", ("operation",)
)
REQUEST_SECONDS: Final = Family(
    "cesbrfs_request_duration_seconds",
    Kind.HISTOGRAM,
    "Time from taking a FUSE request to its answer.",
    ("operation",),
)
ERRORS: Final = Family(
    "cesbrfs_errors",
    Kind.COUNTER,
    "FUSE requests that failed because of the storage, damaged data or a bug.",
)
LISTING_SECONDS: Final = Family(
    "cesbrfs_listing_duration_seconds", Kind.SUMMARY, "Duration of listings of the snapshots."
)
LAST_LISTING: Final = Family(
    "cesbrfs_last_listing_timestamp_seconds",
    Kind.GAUGE,
    "Start of the last listing of the snapshots that succeeded.",
)
LISTING_FAILURES: Final = Family(
    "cesbrfs_listing_failures", Kind.COUNTER, "Listings of the snapshots that failed."
)
STORAGE_REQUESTS: Final = Family(
    "cesbrfs_storage_requests", Kind.COUNTER, "Successful requests to the storage.", ("kind",)
)
STORAGE_BYTES: Final = Family(
    "cesbrfs_storage_read_bytes", Kind.COUNTER, "Bytes read from the storage.", ("kind",)
)
STORAGE_ERRORS: Final = Family(
    "cesbrfs_storage_errors",
    Kind.COUNTER,
    "Failed requests to the storage, those that were retried included.",
    ("error",),
)
CACHE_HITS: Final = Family(
    "cesbrfs_cache_hits", Kind.COUNTER, "Values found in a cache in memory.", ("cache",)
)
CACHE_MISSES: Final = Family(
    "cesbrfs_cache_misses", Kind.COUNTER, "Values that were loaded into the cache.", ("cache",)
)
CACHE_BYTES: Final = Family(
    "cesbrfs_cache_bytes", Kind.GAUGE, "Size of the values in the cache.", ("cache",)
)
RESIDENT: Final = Family(
    "cesbrfs_resident_memory_bytes", Kind.GAUGE, "Resident memory of the mount process."
)
STARTED: Final = Family("cesbrfs_start_time_seconds", Kind.GAUGE, "Start of the mount.")
BUILD_INFO: Final = Family(
    "cesbrfs_build_info", Kind.GAUGE, "Always 1.", ("version", "python_version")
)
NUMBERS: Final[Mapping[str, Family]] = {
    name: Family(f"cesbrfs_{name}", Kind.GAUGE, text)
    for name, text in (
        ("lookups", "Lookups that the kernel has not forgotten."),
        ("inodes", "Inodes of generated directories and hard links that the kernel has cached."),
        ("stored_folders", "Stored directories of which the kernel has cached entries."),
        ("open_files", "Open files."),
        ("open_folders", "Open directories."),
        ("tasks", "Tasks of the mount."),
        ("repository_gone", "1 while the storage answers but holds no repository, else 0."),
    )
}
"""Gauges by their name in status.json."""
FAMILIES: Final = (
    *backups.FAMILIES,
    REQUESTS,
    REQUEST_SECONDS,
    ERRORS,
    LISTING_SECONDS,
    LAST_LISTING,
    LISTING_FAILURES,
    STORAGE_REQUESTS,
    STORAGE_BYTES,
    STORAGE_ERRORS,
    CACHE_HITS,
    CACHE_MISSES,
    CACHE_BYTES,
    *NUMBERS.values(),
    RESIDENT,
    STARTED,
    BUILD_INFO,
)


def request_metrics(latency: Mapping[str, Latency], errors: int) -> Iterator[Metric]:
    """Yield the metrics of the FUSE requests."""
    yield by_label(REQUESTS, {name: one.count for name, one in latency.items()})
    yield Metric(
        REQUEST_SECONDS,
        tuple(
            sample
            for name, one in sorted(latency.items())
            for sample in histogram(BOUNDS, one.buckets, one.total_ns / _NS, {"operation": name})
        ),
    )
    yield single(ERRORS, errors)


def repository_metrics(
    repository: Repository, listings: ListingStatistics, listed_ns: int
) -> Iterator[Metric]:
    """Yield the metrics of listings, storage and caches."""
    yield Metric(LISTING_SECONDS, count_and_sum(listings.count, listings.seconds, {}))
    yield single(LAST_LISTING, listed_ns / _NS)
    yield single(LISTING_FAILURES, listings.failures)
    if isinstance(repository.storage, HasCounters):
        counters = repository.storage.counters
        yield by_label(STORAGE_REQUESTS, counters.requests)
        yield by_label(STORAGE_BYTES, counters.bytes)
        yield by_label(STORAGE_ERRORS, counters.errors)
    caches = repository.caches
    yield by_label(CACHE_HITS, {name: cache.hits for name, cache in caches.items()})
    yield by_label(CACHE_MISSES, {name: cache.misses for name, cache in caches.items()})
    yield by_label(CACHE_BYTES, {name: cache.used for name, cache in caches.items()})


def process_metrics(numbers: Mapping[str, int], started: float) -> Iterator[Metric]:
    """Yield the metrics of the process; `started` is a time in seconds since the epoch."""
    for name, value in numbers.items():
        yield single(NUMBERS[name], value)
    yield single(RESIDENT, resident_bytes())
    yield single(STARTED, started)
    yield single(BUILD_INFO, 1, version=__version__, python_version=platform.python_version())


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes (proc(5), statm)."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
