"""Test protected backups and notes, with real versions of restic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cesbrfs.annotate import protect, set_note, unprotect
from cesbrfs.catalog.annotations import PROTECTED_TAG
from cesbrfs.errors import ResticError, UsageError
from cesbrfs.restic import Restic
from tests.servers.test_forget import Shelf, open_shelf


@pytest.fixture
async def shelf(restic_old: Path, tmp_path: Path) -> AsyncIterator[Shelf]:
    """An empty repository with the old restic."""
    made = await open_shelf(restic_old, tmp_path / "repository")
    yield made
    await made.repository.aclose()


@pytest.fixture
async def each_shelf(restic_binary: Path, tmp_path: Path) -> AsyncIterator[Shelf]:
    """An empty repository with each restic in turn."""
    made = await open_shelf(restic_binary, tmp_path / "repository")
    yield made
    await made.repository.aclose()


async def protecting(shelf: Shelf, *names: str, protected: bool = True) -> list[str]:
    """Protect backups, or remove their protection; return the IDs of those that changed."""
    backups, _ = await shelf.look()
    act = protect if protected else unprotect
    chosen = [backups.find(name) for name in names]
    changed = await act(chosen, restic=shelf.restic, repository=shelf.repository)
    return [backup.id for backup in changed]


async def noting(shelf: Shelf, name: str, text: str | None) -> bool:
    """Set or remove the note of a backup."""
    backup = (await shelf.look())[0].find(name)
    return await set_note(backup, text, restic=shelf.restic, repository=shelf.repository)


async def protected(shelf: Shelf) -> list[str]:
    """Return the IDs of the protected backups."""
    return [b.id for b in (await shelf.look())[0].by_name.values() if b.protected]


def tagged(shelf: Shelf, tag: str) -> int:
    """Return the number of snapshots with a tag."""
    return sum(tag in (snapshot.get("tags") or ()) for snapshot in shelf.repo.snapshots())


async def test_a_protected_backup_is_kept(each_shelf: Shelf) -> None:
    """By every policy and by name, also with --force, until it is unprotected.

    Its manifest alone is tagged: it stays complete, and its other snapshots are unchanged.
    """
    *points, _ = each_shelf.backup("a", 1)
    each_shelf.backup("b", 2)
    assert await protecting(each_shelf, "a") == ["a"]
    assert await protecting(each_shelf, "a") == []
    assert await each_shelf.statuses() == {"a": "complete", "b": "complete"}
    assert set(points) <= each_shelf.repo.snapshot_ids()
    assert tagged(each_shelf, PROTECTED_TAG) == 1
    (kept, _) = (await each_shelf.chosen()).decisions
    assert (kept.keep, kept.reasons, kept.as_json()["protected"]) == (True, ("protected",), True)
    with pytest.raises(UsageError, match=r"a is protected\. Run 'cesbr unprotect a' before"):
        await each_shelf.named("a", force=True)
    assert await protecting(each_shelf, "a", "b", protected=False) == ["a"]
    assert [b.id for b in (await each_shelf.chosen()).going] == ["a"]
    await each_shelf.run(await each_shelf.named("a"))
    assert await each_shelf.statuses() == {"b": "complete"}


async def test_a_backup_of_another_tool_is_protected(shelf: Shelf) -> None:
    """Each of its snapshots is tagged; the rest of the tag's backups, and its time, stay."""
    for day in (1, 2):
        for path in ("x", "y"):
            shelf.snapshot(["nightly"], f"2026-11-0{day} 10:00:00", stdin=(path, b"content"))
    before = (await shelf.look())[0]
    first, _ = (backup.id for backup in before.by_name.values())
    assert await protecting(shelf, first) == [first]
    assert tagged(shelf, PROTECTED_TAG) == 2
    after = (await shelf.look())[0]
    assert [(b.id, b.time_ns, len(b.snapshots)) for b in after.by_name.values()] == [
        (b.id, b.time_ns, len(b.snapshots)) for b in before.by_name.values()
    ]
    assert await protected(shelf) == [first]
    assert await protecting(shelf, first, protected=False) == [first]
    assert tagged(shelf, PROTECTED_TAG) == 0


async def test_an_interrupted_change_counts_as_protected(shelf: Shelf) -> None:
    """One tagged snapshot is enough, and the next call finishes the change.

    restic can be killed between two snapshots, and between writing a snapshot and removing the one
    that it replaces.
    """
    one, two = (
        shelf.snapshot(["x"], f"2026-11-01 1{hour}:00:00", stdin=(f"file{hour}", b"content"))
        for hour in (0, 1)
    )
    snapshots = shelf.repo.directory / "snapshots"
    content = (snapshots / one).read_bytes()
    shelf.repo.run("tag", "--add", PROTECTED_TAG, one)
    assert await protected(shelf) == ["x"]
    (snapshots / one).write_bytes(content)
    assert await protected(shelf) == ["x"]
    assert await protecting(shelf, "x") == ["x"]
    assert two not in shelf.repo.snapshot_ids()
    backup = (await shelf.look())[0].find("x")
    assert all(PROTECTED_TAG in snapshot.tags for snapshot in backup.snapshots)
    assert [snapshot.id for snapshot in backup.superseded] == [one]
    assert await protecting(shelf, "x", protected=False) == ["x"]
    assert await protected(shelf) == []


async def test_a_backup_protected_since_the_plan_stays(shelf: Shelf) -> None:
    """Nothing is removed, because its snapshots have new IDs that the plan does not know."""
    shelf.backup("a", 1)
    shelf.backup("b", 2)
    plan = await shelf.chosen()
    await protecting(shelf, "a")
    before = shelf.repo.snapshot_ids()
    with pytest.raises(UsageError, match="a has been protected since the plan was made"):
        await shelf.run(plan)
    assert shelf.repo.snapshot_ids() == before


async def test_notes(each_shelf: Shelf) -> None:
    """They can contain what restic does not allow in tags, and are replaced in one step."""
    each_shelf.backup("a", 1)
    each_shelf.snapshot(["foreign"], "2026-11-02 10:00:00", stdin=("x", b"content"))
    each_shelf.snapshot(["foreign"], "2026-11-02 11:00:00", stdin=("y", b"content"))
    for name in ("a", "foreign"):
        for text in ("vor dem Umzug, 100 % größer", "-x=, --tag"):
            assert await noting(each_shelf, name, text)
            assert not await noting(each_shelf, name, f" {text} ")
            assert (await each_shelf.look())[0].find(name).note == text
    assert len(each_shelf.repo.snapshots()) == 5
    assert await each_shelf.statuses() == {"a": "complete", "foreign": "unverified"}
    await protecting(each_shelf, "a")
    for name in ("a", "foreign"):
        assert await noting(each_shelf, name, None)
        assert not await noting(each_shelf, name, None)
    assert [b.note for b in (await each_shelf.look())[0].by_name.values()] == [None, None]
    assert await protected(each_shelf) == ["a"]


async def test_a_note_left_twice_by_a_kill_is_cleared(shelf: Shelf) -> None:
    """The replaced manifest still exists; either note is shown, and both are replaced."""
    *_, manifest = shelf.backup("a", 1)
    content = (shelf.repo.directory / "snapshots" / manifest).read_bytes()
    await noting(shelf, "a", "one")
    (shelf.repo.directory / "snapshots" / manifest).write_bytes(content)
    assert await shelf.statuses() == {"a": "complete"}
    await noting(shelf, "a", "two")
    assert (await shelf.look())[0].find("a").note == "two"
    await noting(shelf, "a", None)
    assert not any(t.startswith("note=") for s in shelf.repo.snapshots() for t in s["tags"])


async def test_a_restic_that_does_not_tag_is_found_out(shelf: Shelf, tmp_path: Path) -> None:
    """The protection is reported only after it is visible in the repository."""
    shelf.backup("a", 1)
    program = tmp_path / "restic"
    real = shelf.repo.binary
    program.write_text(f'#!/bin/sh\ncase "$*" in *--add=*) exit 0;; esac\nexec {real} "$@"\n')
    program.chmod(0o755)
    shelf.restic = await Restic.open(shelf.repo.access, binary=str(program))
    with pytest.raises(ResticError, match="did not change the tags"):
        await protecting(shelf, "a")
