"""Search and comparison of backups, checked against the output of restic."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from cesbrfs.history.diff import diff_backups
from cesbrfs.history.find import Criteria, Match, find
from cesbrfs.history.usage import UsageReport
from cesbrfs.vfs.directory_index import DirectoryIndex
from cesbrfs.vfs.timeline import Timeline, of_backups
from cesbrfs.vfs.tree import BackupTree
from tests.support.restic_repo import ResticRepo, create

ABOVE = (b"redmine", b"volumes", b"files")


@dataclass(frozen=True)
class Backed:
    """A volume with four backups, a, b, c and d."""

    repo: ResticRepo
    volume: Path
    snapshots: dict[str, str]


@pytest.fixture(scope="module", params=["old", "new"])
def backed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backed:
    """Back up a volume with all kinds of names, with changes between the backups."""
    binary: Path = request.getfixturevalue(f"restic_{request.param}")
    directory = tmp_path_factory.mktemp("history")
    volume = directory / "var/lib/ces/redmine/volumes/files"
    (volume / "deep/er").mkdir(parents=True)
    for name in (
        b"plain.txt",
        b"two  blanks.txt",
        b"line\nend.txt",
        b"no\xfftext.txt",
        b"'\"\\.txt",
    ):
        Path(os.fsdecode(os.path.join(os.fsencode(volume), b"deep", name))).write_bytes(name)
    (volume / "deep/er/empty").touch()
    (volume / "link.txt").symlink_to("deep/plain.txt")
    repo = create(binary, directory / "repo")
    snapshots = {}
    for number, backup in enumerate("abcd"):
        if backup == "b":
            (volume / "deep/plain.txt").write_text("changed")
            (volume / "added").mkdir()
            (volume / "added/inside.txt").write_text("i")
        if backup == "c":
            (volume / "deep/er/empty").unlink()
            (volume / "deep/er").rmdir()
            (volume / "deep/er").write_text("a file now")
        if backup == "d":
            (volume / "deep/plain.txt").chmod(0o600)
        time = f"2026-11-22 0{number}:00:00"
        snapshots[backup] = repo.backup(volume, tags=[backup], time=time)
    return Backed(repo, volume, snapshots)


async def line_of(view: BackupTree, memo: DirectoryIndex, *backups: str) -> Timeline:
    there = (await view.backups()).by_name.values()
    return await of_backups(view, memo, [b for b in there if not backups or b.id in backups])


def as_text(name: bytes) -> str:
    return name.decode(errors="replace")


@pytest.mark.parametrize("glob", ["*.txt", "e*", "*", "nothing"])
async def test_find_agrees_with_restic(backed: Backed, glob: str) -> None:
    """Every path in every backup, and no others."""
    view = BackupTree(await backed.repo.open())
    line = await line_of(view, DirectoryIndex(view.repository))
    ours: set[tuple[str, str]] = set()

    async def take(match: Match) -> None:
        path = f"{backed.volume}/{as_text(b'/'.join(match.parts[3:]))}"
        ours.update((moment.id, path) for moment in line.of(match.moments))

    await find(line, ABOVE, Criteria(names=[glob]), take)
    backups = {snapshot: backup for backup, snapshot in backed.snapshots.items()}
    # For names that are not UTF-8, the JSON of restic has U+FFFD for each byte.
    theirs = {
        (backups[said["snapshot"]], match["path"])
        for said in json.loads(backed.repo.run("find", "--json", glob))
        for match in said["matches"]
        if match["path"].startswith(f"{backed.volume}/")
    }
    assert ours == theirs
    assert bool(ours) == (glob != "nothing")


@pytest.mark.parametrize("metadata", [False, True])
@pytest.mark.parametrize(("first", "second"), ["ab", "bc", "cd", "ad", "aa", "da"])
async def test_diff_agrees_with_restic(
    backed: Backed, first: str, second: str, *, metadata: bool
) -> None:
    """The same marks for the same paths, except below a directory that became a file."""
    view = BackupTree(await backed.repo.open())
    memo = DirectoryIndex(view.repository)
    before, after = [await line_of(view, memo, backup) for backup in (first, second)]
    ours = set()
    async for change in diff_backups(before, after, ABOVE, attributes=metadata):
        row = change.after or change.before
        assert row is not None
        path = f"{backed.volume}/{as_text(b'/'.join(change.parts[3:]))}"
        if len(change.parts) > len(ABOVE):
            ours.add((path + "/" * (row.type == "dir"), change.mark))
    flags = ["--metadata"] if metadata else []
    snapshots = [backed.snapshots[backup] for backup in (first, second)]
    theirs = set()
    for line in backed.repo.run("diff", "--json", *flags, *snapshots).splitlines():
        said = json.loads(line)
        if said["message_type"] == "change" and said["path"].startswith(f"{backed.volume}/"):
            theirs.add((said["path"], said["modifier"][0]))  # "TU" also means another type
    # restic reports changed metadata of a directory if anything below it differs.
    theirs -= {said for said in theirs if said[1] == "U" and said[0].endswith("/")} - ours
    unsaid = {(f"{backed.volume}/deep/er/empty", "+"), (f"{backed.volume}/deep/er/empty", "-")}
    assert ours - unsaid == theirs
    if first != second and (metadata or first + second != "cd"):
        assert ours


def _stats(repo: ResticRepo, mode: str, *snapshots: str) -> int:
    said = json.loads(repo.run("stats", "--json", "--mode", mode, *snapshots))
    return int(said["total_size"])


async def test_du_agrees_with_restic(backed: Backed) -> None:
    """The size is the sum of the file sizes; "added" is what only this backup stores."""
    twin = backed.volume / "deep/twin"  # one file under two names counts once
    twin.hardlink_to(backed.volume / "deep/plain.txt")
    more = backed.repo.backup(backed.volume, tags=["e"], time="2026-11-22 05:00:00")
    backed.repo.backup(backed.volume.parent.parent, tags=["f"], time="2026-11-22 06:00:00")
    try:
        view = BackupTree(await backed.repo.open())
        sizes = UsageReport(view)
        everything = set(backed.repo.snapshot_ids())
        told = {row.parts: row for row in await sizes.measure((), 1)}
        assert list(told) == [(name,) for name in (b"a", b"b", b"c", b"d", b"e", b"f")]
        total = _stats(backed.repo, "raw-data")
        for backup, snapshot in {**backed.snapshots, "e": more}.items():
            row = told[backup.encode(),]
            assert row.size == _stats(backed.repo, "restore-size", snapshot)
            assert row.added == total - _stats(backed.repo, "raw-data", *everything - {snapshot})
            assert await sizes.measure((backup.encode(),), 0) == [row]
        rows = await sizes.measure((b"b",), 9)
        assert rows[0].parts == (b"b",)
        assert rows[-1].parts == (b"b", *ABOVE, b"deep", b"er")
        assert [row.parts for row in rows] == sorted(row.parts for row in rows)
        assert all(row.added <= rows[0].added for row in rows)
        assert sizes.troubles == []
    finally:
        twin.unlink()
