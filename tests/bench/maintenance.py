"""Backups and checks, compared with restic: complete commands.

restic's side of a backup is one ``restic backup`` for each point of data, one after another, as an
administrator's script would run them.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from typing import Final

from tests.bench.data import BACKUP, Repo, Store
from tests.bench.measures import CESBR, Bench, Group, Measure, Sample, program
from tests.bench.mounts import Contender, drop_caches

_CACHE: Final = "maintenance"


def groups(store: Store) -> list[Group]:
    """Return the measures of backups and checks."""
    several = "back up the sample instance, 40 points of data; restic: one after another"
    check = f"check a repository with {store.sizes.small_files:,} files, without reading data"
    return [
        Group([Measure("backup", several)], _backup),
        Group([Measure("check", check)], _check),
    ]


def _backup(bench: Bench, contender: Contender) -> Iterator[Sample]:
    """Back up the instance to a new repository; check the number of snapshots."""
    points = bench.store.points()
    directory = bench.work / "backups" / uuid.uuid4().hex
    shutil.copytree(points.empty, directory)
    repo = Repo("points", str(directory), "", "")
    try:
        drop_caches()
        if contender.binary is None:
            command = [*CESBR, "--root", str(points.root), "backup", "--quiet"]
            seconds, _ = program(bench, contender, repo, _CACHE, command)
        else:
            restic = [str(contender.binary), "--quiet", "backup", "--tag", BACKUP]
            seconds = sum(
                program(bench, contender, repo, _CACHE, [*restic, path])[0] for path in points.paths
            )
        yield Sample("backup", seconds, len(list((directory / "snapshots").iterdir())))
    finally:
        shutil.rmtree(directory)


def _check(bench: Bench, contender: Contender) -> Iterator[Sample]:
    repo = bench.store.main_as_usual()
    command = [*CESBR, "check"] if contender.binary is None else [str(contender.binary), "check"]
    drop_caches()
    seconds, _ = program(bench, contender, repo, _CACHE, command)
    yield Sample("check", seconds)
