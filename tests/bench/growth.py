"""Scaling of both mounts with the number of blobs, backups and files."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.bench.data import MIB, Repo, Store
from tests.bench.measures import Bench, Group, Measure, Sample, shell
from tests.bench.mounts import Contender

_CACHE = "growth"


def groups(store: Store) -> list[Group]:
    """Return the measures of growing repositories; each builds its repository."""
    sizes = store.sizes
    return [
        *(_blobs(count) for count in sizes.blobs),
        *(_backups(count) for count in sizes.backups),
        *(_flat(count) for count in sizes.directory_files),
        *(_tree(count) for count in sizes.directory_files),
    ]


def short(count: int) -> str:
    """Format 5,000,000 as 5M and 100,000 as 100k."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if count >= size and count % size == 0:
            return f"{count // size}{letter}"
    return str(count)


def _both_mounts(
    bench: Bench, contender: Contender, repo: Repo, name: str, *, look_into: bool
) -> Iterator[Sample]:
    """Mount twice, first with an empty metadata cache; list after each mount."""
    bench.empty_cache(contender, _CACHE)
    for turn in ("first", "second"):
        with bench.mount(contender, repo, cache=_CACHE) as mount:
            if look_into:
                directory = contender.volume(mount.path, repo)
            else:
                directory = contender.backups(mount.path)
            shell("ls -l . >/dev/null", directory)
            seconds = time.perf_counter() - mount.began
            mount.look()
            yield Sample(f"{name}-{turn}-ready", mount.ready_seconds)
            yield Sample(f"{name}-{turn}-ls", seconds)
            yield Sample(f"{name}-{turn}-memory", mount.memory.anonymous / MIB)
    bench.empty_cache(contender, _CACHE)


def _described(name: str, amount: str, listing: str) -> list[Measure]:
    measures = []
    for turn, how in (("first", "first mount, empty cache"), ("second", "second mount")):
        start = f"{name}-{turn}"
        measures += [
            Measure(f"{start}-ready", f"{amount}: {how}, until the first listing"),
            Measure(f"{start}-ls", f"{amount}: {how}, until `ls -l` of {listing} is done"),
            Measure(f"{start}-memory", f"{amount}: {how}, most memory, no mapped files", "MiB"),
        ]
    return measures


def _blobs(count: int) -> Group:
    name = f"blobs-{short(count)}"

    def run(bench: Bench, contender: Contender) -> Iterator[Sample]:
        repo = bench.store.blobs(count)
        return _both_mounts(bench, contender, repo, name, look_into=True)

    return Group(_described(name, f"{count:,} blobs", "a directory in a backup"), run)


def _backups(count: int) -> Group:
    name = f"backups-{short(count)}"

    def run(bench: Bench, contender: Contender) -> Iterator[Sample]:
        repo = bench.store.backups(count)
        return _both_mounts(bench, contender, repo, name, look_into=False)

    amount = f"{count:,} backups of 12 snapshots"
    return Group(_described(name, amount, "all backups (restic: `snapshots`)"), run)


def _flat(count: int) -> Group:
    name = f"flat-{short(count)}"

    def run(bench: Bench, contender: Contender) -> Iterator[Sample]:
        repo = bench.store.files("flat", count)
        with bench.mount(contender, repo) as mount:
            directory = contender.volume(mount.path, repo)
            yield Sample(f"{name}-ls", *shell("ls -l . | wc -l", directory))

    return Group([Measure(f"{name}-ls", f"`ls -l` of one directory with {count:,} files")], run)


def _tree(count: int) -> Group:
    name = f"tree-{short(count)}"

    def run(bench: Bench, contender: Contender) -> Iterator[Sample]:
        repo = bench.store.files("tree", count)
        with bench.mount(contender, repo) as mount:
            directory = contender.volume(mount.path, repo)
            yield Sample(f"{name}-find", *shell("find . | wc -l", directory))
            yield Sample(f"{name}-ls", *shell("ls -lR . | wc -l", directory))

    return Group(
        [
            Measure(f"{name}-find", f"`find` over a tree of {count:,} files, 100 a directory"),
            Measure(f"{name}-ls", "`ls -lR` of it after that"),
        ],
        run,
    )
