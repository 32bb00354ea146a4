"""Restores, compared with ``restic restore``: complete commands, page cache dropped.

Targets are kept until the end of the run: ext4 does not reuse inodes for some minutes after they
were deleted, and the search for others makes creating files several times slower.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from tests.bench.data import BACKUP, MIB, Repo, Store
from tests.bench.measures import CESBR, Bench, Group, Measure, Sample, program
from tests.bench.mounts import Contender, drop_caches

_CACHE = "restores"
_ONE = "one"


def groups(store: Store) -> list[Group]:
    """Return the measures of restores."""
    sizes = store.sizes
    large = (sizes.random_mib + sizes.text_mib) * MIB
    small = f"{sizes.restore_files:,} small files in {sizes.restore_directories:,} directories"
    one = f"one file of 1 MiB out of {sizes.restore_one_of:,}; restic: `--include`"
    return [
        Group([Measure("restore-small", f"restore {small}")], _small),
        Group(
            [Measure("restore-large", "restore one random and one text file", amount=large)],
            _large,
        ),
        Group([Measure("restore-one", f"restore {one}")], _single),
    ]


def _small(bench: Bench, contender: Contender) -> Iterator[Sample]:
    yield _restored(bench, contender, "restore-small", bench.store.small(), "")


def _large(bench: Bench, contender: Contender) -> Iterator[Sample]:
    yield _restored(bench, contender, "restore-large", bench.store.large(), "")


def _single(bench: Bench, contender: Contender) -> Iterator[Sample]:
    repo = bench.store.with_one(bench.store.sizes.restore_one_of)
    yield _restored(bench, contender, "restore-one", repo, _ONE)


def _restored(bench: Bench, contender: Contender, name: str, repo: Repo, path: str) -> Sample:
    """Time a restore of the volume, or of `path` in it; check the number of files and bytes."""
    target = bench.work / "restored" / uuid.uuid4().hex
    target.parent.mkdir(exist_ok=True)
    if contender.binary is None:
        volume = f"bench/volumes/data/{path}".rstrip("/")
        arguments = ["--backup", BACKUP, volume, "--target", str(target), "--yes", "--quiet"]
        command = [*CESBR, "restore", *arguments]
    else:
        command = [str(contender.binary), "--quiet", "--no-lock", "restore", repo.snapshot]
        command += ["--target", str(target)]
        if path:
            command += ["--include", f"{repo.volume}/{path}"]
    os.sync()
    drop_caches()
    seconds, _ = program(bench, contender, repo, _CACHE, command)
    return Sample(name, seconds, _size(target))


def _size(top: Path) -> int:
    """Return the bytes of all restored files, plus their number."""
    files = [path for path in top.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files) + len(files)
