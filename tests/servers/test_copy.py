"""Test copies of backups in another repository, with real versions of restic."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cesbrfs.annotate import protect, set_note
from cesbrfs.catalog.rules import DEFAULT_BACKUP_TAG
from cesbrfs.copy_backups import copy_backups, copy_of
from cesbrfs.errors import ResticError
from cesbrfs.readiness import initialise
from cesbrfs.restic import Restic
from tests.servers.test_forget import Shelf, open_shelf
from tests.support.restic_repo import ResticRepo

KEY = " a key with spaces, which restic would strip "


@asynccontextmanager
async def copied_to(source: Shelf, directory: Path) -> AsyncIterator[Shelf]:
    """Create a target with the chunker parameters of `source`, and another key."""
    repo = ResticRepo(source.repo.binary, directory, KEY)
    target = await Restic.open(repo.access, binary=str(repo.binary))

    async def opened() -> Restic:
        return target

    said: list[str] = []
    assert await initialise(repo.access, open_restic=opened, say=said.append, source=source.restic)
    repository = await repo.open()
    yield Shelf(repo, target, repository)
    await repository.aclose()


async def copying(source: Shelf, target: Shelf, *names: str) -> int:
    """Copy some backups, or all; return the number of copied snapshots."""
    backups = (await source.look())[0]
    return await copy_backups(
        [backups.find(name) for name in names] or list(backups.by_name.values()),
        source=source.restic,
        target=target.restic,
        repository=target.repository,
        pattern=DEFAULT_BACKUP_TAG,
    )


async def shown(shelf: Shelf) -> list[tuple[object, ...]]:
    """Return what `backups` shows of each backup."""
    backups, reports = await shelf.look()
    return [
        (b.id, b.time_ns, b.host, reports[b.id].status.value, b.protected, b.note)
        for b in backups.by_name.values()
    ]


def chunker_polynomial(repo: ResticRepo) -> object:
    return json.loads(repo.run("cat", "config"))["chunker_polynomial"]


async def test_the_copy_shows_the_same_backups(restic_binary: Path, tmp_path: Path) -> None:
    """Also those of other tools, and those with rewritten snapshots; a second copy adds nothing.

    A backup that lost a snapshot in the copy is incomplete there until it is copied again.
    """
    source = await open_shelf(restic_binary, tmp_path / "source")
    source.backup("a", 1)
    *_, manifest = source.backup("b", 2)
    for day in (1, 2):
        source.snapshot(["nightly"], f"2026-11-0{day} 20:00:00")
    source.snapshot(["started", "kind=volumes"], "2026-11-03 10:00:00")
    backups = (await source.look())[0]
    writing: dict[str, Any] = {"restic": source.restic, "repository": source.repository}
    await protect([backups.find("a")], **writing)
    await set_note(backups.find("b"), "a, b", **writing)
    async with copied_to(source, tmp_path / "copy") as target:
        assert chunker_polynomial(target.repo) == chunker_polynomial(source.repo)
        assert await copying(source, target, "a") == 3
        assert await shown(target) == (await shown(source))[:1]
        assert await copying(source, target) == 6
        assert await shown(target) == await shown(source)
        assert await copying(source, target) == 0

        copies = (await target.look())[0]
        lost = copies.find("b").snapshots[0]
        target.repo.run("forget", lost.id)
        assert (await target.statuses())["b"] == "incomplete"
        assert await copying(source, target, "b") == 1
        assert await shown(target) == await shown(source)

        original = (await source.look())[0].find("b")
        assert original.manifest is not None
        assert original.manifest.original == manifest
        found = copy_of(original, list((await target.look())[0].by_name.values()))
        assert found is not None
        assert found.id == "b"
        # Protected in the source alone: nothing is copied twice.
        await protect([original], **writing)
        assert await copying(source, target) == 0
        assert len(target.repo.snapshots()) == 9
        # And back: the source already has all of it.
        assert await copying(target, source) == 0
    await source.repository.aclose()


async def test_a_manifest_is_copied_last(restic_old: Path, tmp_path: Path) -> None:
    """A copy that fails before leaves the backup incomplete, and the next one completes it."""
    source = await open_shelf(restic_old, tmp_path / "source")
    source.backup("a", 1)
    target = await open_shelf(restic_old, tmp_path / "copy")
    program, calls = tmp_path / "restic", tmp_path / "calls"
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {calls}\n'
        f'[ "$(wc -l < {calls})" -lt 2 ] && exec {restic_old} "$@"\nexit 1\n'
    )
    program.chmod(0o755)
    working = target.restic
    target.restic = Restic(program, working.version, working.access)
    with pytest.raises(ResticError):
        await copying(source, target)
    assert await target.statuses() == {"a": "incomplete"}
    assert len(target.repo.snapshots()) == 2
    target.restic = working
    assert await copying(source, target) == 1
    assert await target.statuses() == {"a": "complete"}
    assert len(calls.read_text().splitlines()) == 2
    for shelf in (source, target):
        await shelf.repository.aclose()
