"""Searches over many backups, compared with ``restic find``: complete commands."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tests.bench.data import Store
from tests.bench.measures import CESBR, Bench, Group, Measure, Sample, program
from tests.bench.mounts import Contender, drop_caches

_CACHE = "history"
_GLOB = "added-*7.txt"


def groups(store: Store) -> list[Group]:
    """Return the measures of a history of backups."""
    backups, files = store.sizes.history
    amount = f"{backups} backups of {files:,} files"
    return [
        Group(
            [
                Measure("find-all-first", f"find names in {amount}; no cache yet"),
                Measure("find-all-second", "the same again, in another process"),
                Measure("versions", f"versions of a file in {amount}; restic finds its name"),
            ],
            _look_back,
        )
    ]


def _look_back(bench: Bench, contender: Contender) -> Iterator[Sample]:
    bench.store.history()
    bench.empty_cache(contender, _CACHE)
    names = _finding(contender, _GLOB)
    drop_caches()
    yield Sample("find-all-first", *_found(bench, contender, names))
    yield Sample("find-all-second", *_found(bench, contender, names))
    path = "dogu01/volumes/data/00/00/added-0.txt"
    if contender.binary is None:
        command = [*CESBR, "versions", path]
    else:
        command = _finding(contender, "added-0.txt")
    yield Sample("versions", _found(bench, contender, command)[0])
    bench.empty_cache(contender, _CACHE)


def _finding(contender: Contender, glob: str) -> list[str]:
    if contender.binary is None:
        return [*CESBR, "find", "--each", "--name", glob]
    return [str(contender.binary), "--no-lock", "find", glob]


def _found(bench: Bench, contender: Contender, command: Sequence[str]) -> tuple[float, int]:
    """Return the duration of a command in seconds, and the number of paths it found."""
    seconds, said = program(bench, contender, bench.store.history(), _CACHE, command)
    return seconds, sum(b"/" in line for line in said.splitlines())
