"""Compare the files in a mount with those that restic restores."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cesbrfs.backup import plan_backup, run_backup
from cesbrfs.catalog.layout import lay_out
from cesbrfs.ces.instance import Instance as CesInstance
from cesbrfs.ces.registry import FileRegistry
from cesbrfs.repo.location import Access
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import open_storage
from cesbrfs.restic import Restic
from cesbrfs.vfs.tree import BackupTree
from tests.sample.instance import Instance, build
from tests.support.compare import Record, differences, records
from tests.support.mounting import Mount
from tests.support.restic_repo import create


def restore_all(restic: Path, access: Access, snapshot: str, target: Path) -> None:
    """Restore a complete snapshot with restic."""
    subprocess.run(
        [restic, "restore", snapshot, "--target", target, "-q", "--no-lock", "--no-cache"],
        check=True,
        stdout=subprocess.DEVNULL,
        env={
            "RESTIC_REPOSITORY": access.url,
            "RESTIC_PASSWORD": access.key.value.decode(),
            "HOME": str(target.parent),
            "PATH": "/usr/bin:/bin",
        },
    )


async def _back_up(instance: Instance, restic: Path, dogus: Sequence[str] | None) -> str:
    access = instance.access
    repository = await Repository.open(open_storage(access), access.key)
    ces = CesInstance(instance.root, FileRegistry(instance.registry))
    driver = await Restic.open(access, binary=str(restic))
    plan = await plan_backup(ces, dogus)
    result = await run_backup(plan, instance=ces, restic=driver, repository=repository)
    return result.id


async def _placements(access: Access, backup_id: str) -> list[tuple[Path, str, str]]:
    """Return (path below the backup, snapshot ID, path in the snapshot) of every placement."""
    repository = await Repository.open(open_storage(access), access.key)
    backup = await BackupTree(repository).find_backup(backup_id)
    layout = await lay_out(repository, backup)
    assert not layout.whole
    return [
        (Path(*(part.decode() for part in path)), placement.snapshot.id, placement.source)
        for path, placement in layout.placed.items()
    ]


def _compare_all(
    instance: Instance,
    restic: Path,
    newer: Path,
    mount: Callable[..., Mount],
    scratch: Path,
    dogus: Sequence[str] | None = None,
) -> int:
    access = instance.access
    backup_id = trio.run(_back_up, instance, restic, dogus)
    placements = trio.run(_placements, access, backup_id)
    restored = {snapshot: scratch / snapshot[:8] for _, snapshot, _ in placements}
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(restore_all, newer, access, snapshot, target)
            for snapshot, target in restored.items()
        ]
        for job in jobs:
            job.result()
    backup = mount(access).path / backup_id
    compared = 0
    for shown, snapshot, source in placements:
        ours = records(str(backup / shown))
        theirs = records(str(restored[snapshot]) + source)
        found = differences(*exclude_unsupported(ours, theirs, Path(source)))
        assert not found, f"{shown}:\n" + "\n".join(found)
        compared += len(ours)
    return compared


def exclude_unsupported(
    ours: dict[bytes, Record], theirs: dict[bytes, Record], source: Path
) -> tuple[dict[bytes, Record], dict[bytes, Record]]:
    """Exclude metadata `restic restore` cannot restore; compare it with the live files.

    restic links regular files only, and its times end in the year 2262 (2^63 ns).
    """
    live = records(str(source)) if source.exists() else {}
    for path, record in ours.items():
        beyond = record.mtime_ns >= 1 << 63
        if beyond:
            assert record.mtime_ns == live[path].mtime_ns
        joined = bool(record.twins) and not stat.S_ISREG(record.mode)
        if joined:
            assert record.twins == live[path].twins
        if beyond or joined:
            common = replace(record, mtime_ns=0, twins=frozenset())
            ours = {**ours, path: common}
            theirs = {**theirs, path: replace(theirs[path], mtime_ns=0, twins=frozenset())}
    return ours, theirs


@pytest.mark.parametrize("version", [1, 2])
def test_tiny_instance_equals_restore(
    version: int,
    restic_binary: Path,
    restic_new: Path,
    make_instance: Callable[[Path], Instance],
    mount: Callable[..., Mount],
    tmp_path: Path,
) -> None:
    """The unusual files equal restic's restore, for both restic and format versions."""
    instance = make_instance(tmp_path / "instance")
    create(restic_binary, instance.repository, version=version, password=instance.key)
    assert (
        _compare_all(instance, restic_binary, restic_new, mount, tmp_path / "restored", ["redmine"])
        > 100
    )


def test_full_instance_equals_restore(
    restic_new: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    """Each of more than 2,000 files equals the one that restic restores."""
    instance = build(tmp_path / "instance", scale="full")
    create(restic_new, instance.repository, password=instance.key)
    assert _compare_all(instance, restic_new, restic_new, mount, tmp_path / "restored") > 2000
