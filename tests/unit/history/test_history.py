"""History commands on in-memory repositories, compared with a plain walk."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cesbrfs.errors import NotFoundError, UsageError
from cesbrfs.history.diff import diff_backups, history
from cesbrfs.history.find import Criteria, Match, find
from cesbrfs.history.live import LiveInstance, diff_live
from cesbrfs.history.usage import UsageReport
from cesbrfs.history.versions import versions
from cesbrfs.repo.repository import CacheConfig, Repository
from cesbrfs.repo.storage import FileType
from cesbrfs.util.secret import Secret
from cesbrfs.vfs.directory_index import DirectoryIndex
from cesbrfs.vfs.entries import Entry, VirtualFile, VirtualSymlink
from cesbrfs.vfs.timeline import Timeline, of_backups, of_snapshot
from cesbrfs.vfs.tree import BackupTree
from tests.support.memory_repo import PASSWORD, Json, MemoryRepo

VOLUME = "/var/lib/ces/redmine/volumes/files"
FILES = (b"redmine", b"volumes", b"files")


def save(repo: MemoryRepo, backup: str, *nodes: Json, hour: int = 1, **fields: object) -> str:
    """Back up a volume that contains `nodes`."""
    tree = repo.tree(repo.path(VOLUME, repo.directory("files", *nodes)))
    time = f"2026-11-22T{hour:02}:00:00Z"
    return repo.snapshot(tree, [VOLUME], **{"tags": [backup], "time": time} | fields)


async def line_of(view: BackupTree, *backups: str, memo: DirectoryIndex | None = None) -> Timeline:
    there = (await view.backups()).by_name.values()
    chosen = [backup for backup in there if not backups or backup.id in backups]
    return await of_backups(view, memo or DirectoryIndex(view.repository), chosen)


async def found(line: Timeline, start: tuple[bytes, ...] = (), **wanted: object) -> list[Match]:
    matches: list[Match] = []

    async def take(match: Match) -> None:
        matches.append(match)

    await find(line, start, Criteria(**wanted), take)  # type: ignore[arg-type]  # as given
    return matches


def each(line: Timeline, matches: Sequence[Match]) -> list[tuple[str, bytes]]:
    """Return the backup and the path of everything found, sorted."""
    pairs = [(m.id, b"/".join(match.parts)) for match in matches for m in line.of(match.moments)]
    assert len(set(pairs)) == len(pairs)
    return sorted(pairs)


async def plain(view: BackupTree, glob: str) -> list[tuple[str, bytes]]:
    """Find names by walking every backup separately."""
    pairs: list[tuple[str, bytes]] = []

    async def walk(backup: str, path: tuple[bytes, ...], entry: Entry) -> None:
        for name, child in (await view.children(entry)).items():
            if isinstance(child, VirtualFile | VirtualSymlink):
                continue
            if fnmatch.fnmatchcase(os.fsdecode(name), glob):
                pairs.append((backup, b"/".join((*path, name))))
            if stat.S_ISDIR(child.node.mode):
                await walk(backup, (*path, name), child)

    for backup in (await view.backups()).by_name.values():
        await walk(backup.id, (), await view.at((backup.name,)))
    return sorted(pairs)


def files_below(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


TREES = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.sampled_from(["x", "y"]), max_size=3),
    lambda below: st.dictionaries(
        st.sampled_from(["a", "b", "d", "e\\n", "\\xff", "s p"]), st.sampled_from(["x"]) | below
    ),
    max_leaves=6,
)


def nodes_of(repo: MemoryRepo, tree: dict[str, object]) -> list[Json]:
    return [
        repo.directory(name, *nodes_of(repo, held))
        if isinstance(held, dict)
        else repo.file(name, str(held).encode())
        for name, held in sorted(tree.items())
    ]


@settings(max_examples=40)
@given(trees=st.lists(TREES, min_size=1, max_size=4), glob=st.sampled_from(["*", "a", "[ab]", "?"]))
def test_the_memoised_find_equals_a_plain_walk(trees: list[dict[str, object]], glob: str) -> None:
    """Every match in every backup is found exactly once, whatever the backups share."""

    async def run() -> None:
        repo = MemoryRepo()
        for number, tree in enumerate(trees):
            save(repo, f"b{number}", *nodes_of(repo, tree), hour=number)
        view = BackupTree(await repo.open())
        line = await line_of(view)
        assert each(line, await found(line, names=[glob])) == await plain(view, glob)

    trio.run(run)


async def test_one_line_for_one_content() -> None:
    """Equal contents are grouped under the newest backup; other content is another match."""
    repo = MemoryRepo()
    for number, text in enumerate((b"one", b"one", b"two", b"one")):
        save(repo, f"b{number}", repo.file("f", text), hour=number)
    line = await line_of(BackupTree(await repo.open()))
    two, one = await found(line, names=["f"])
    assert (two.moments, one.moments) == (0b0100, 0b1011)
    assert line.newest(one.moments).id == "b3"
    assert line.oldest(one.moments).id == "b0"
    (directory,) = await found(line, names=["files"])
    assert directory.moments == 0b1111


async def test_directories_that_backups_share_are_read_once(tmp_path: Path) -> None:
    """A second run reads no directories and computes no layouts."""
    repo = MemoryRepo()
    for number in range(5):
        shared = repo.directory("shared", repo.file("deep", b"deep"))
        save(repo, f"b{number}", shared, repo.file("f", b"%d" % number), hour=number)

    async def opened() -> Repository:
        return await Repository.open(
            repo.storage, Secret(PASSWORD), CacheConfig(directory=tmp_path)
        )

    view = BackupTree(await opened())
    memo = DirectoryIndex(view.repository)
    line = await line_of(view, memo=memo)
    first = each(line, await found(line, names=["*"]))
    assert memo.loaded == 6  # five volumes and their shared parents
    await memo.save()
    view = BackupTree(await opened())
    memo = DirectoryIndex(view.repository)
    packs: list[str] = []
    repo.storage.before_read = lambda kind, name: packs.append(name) if kind is FileType.PACK else 0
    line = await line_of(view, memo=memo)
    assert each(line, await found(line, names=["*"])) == first
    assert memo.loaded == 0
    assert packs == []
    kept = files_below(tmp_path)
    assert any(path.name == "names.sealed" for path in kept)
    assert not any(b"shared" in path.read_bytes() for path in kept)
    assert {path.stat().st_mode & 0o077 for path in kept} == {0}


@pytest.mark.parametrize("damage", [b"", b"nothing of the kind", None])
async def test_what_was_kept_and_is_damaged_is_made_anew(
    tmp_path: Path, damage: bytes | None
) -> None:
    """A truncated or foreign cache record is ignored."""
    repo = MemoryRepo()
    save(repo, "b", repo.file("f", b"x"))
    caching = CacheConfig(directory=tmp_path)
    view = BackupTree(await Repository.open(repo.storage, Secret(PASSWORD), caching))
    memo = DirectoryIndex(view.repository)
    line = await line_of(view, memo=memo)
    expected = each(line, await found(line, names=["*"]))
    await memo.save()
    (record,) = [path for path in files_below(tmp_path) if path.name == "names.sealed"]
    record.write_bytes(record.read_bytes()[:-1] if damage is None else damage)
    line = await line_of(BackupTree(await Repository.open(repo.storage, Secret(PASSWORD), caching)))
    assert each(line, await found(line, names=["*"])) == expected


async def test_every_criterion() -> None:
    """Sizes, times, types, paths, expressions; several of the same kind are alternatives."""
    repo = MemoryRepo()
    nodes = (
        repo.file("Big.TXT", b"0123456789", mtime="2026-01-02T00:00:00Z"),
        repo.file("small.txt", b"0", mtime="2026-01-01T00:00:00Z"),
        repo.directory("sub", repo.file("odd\\xff\\n name", b"")),
        {"name": "link", "type": "symlink", "linktarget": "small.txt", "mode": 1 << 27 | 0o777},
    )
    save(repo, "b", *nodes)
    line = await line_of(BackupTree(await repo.open()))

    async def names(**wanted: object) -> list[bytes]:
        return [match.parts[-1] for match in await found(line, FILES, **wanted)]

    assert await names(names=["*.txt"]) == [b"small.txt"]
    assert await names(names=["*.txt"], ignore_case=True) == [b"Big.TXT", b"small.txt"]
    assert await names(names=["link", "sub"]) == [b"link", b"sub"]
    assert await names(least=2) == [b"Big.TXT"]
    assert await names(most=1) == [b"small.txt", b"odd\xff\n name"]
    assert await names(types=frozenset({"symlink", "dir"})) == [b"link", b"sub"]
    day = 1_767_312_000 * 10**9  # 2026-01-02
    assert await names(newer_ns=day, types=frozenset({"file"}), least=1) == [b"Big.TXT"]
    assert await names(older_ns=day - 1, least=1) == [b"small.txt"]
    assert await names(paths=["redmine/*/sub/*"]) == [b"odd\xff\n name"]
    assert await names(regexes=["files/s[a-z]+\\.t", "^nothing"]) == [b"small.txt"]
    assert await names(names=["odd*name"]) == [b"odd\xff\n name"]
    with pytest.raises(UsageError, match="regular expression"):
        await names(regexes=["("])
    with pytest.raises(NotFoundError):
        await found(line, (b"nope",))
    (alone,) = await found(line, (*FILES, b"small.txt"), names=["s*"])
    assert alone.parts[-1] == b"small.txt"
    assert not await found(line, (*FILES, b"small.txt"), names=["x*"])


async def test_a_directory_that_cannot_be_read_is_passed_over() -> None:
    """Everything else is found, and the error is reported."""
    repo = MemoryRepo()
    lost = repo.directory("lost", repo.file("x", b"x"))
    lost["subtree"] = "ab" * 32
    save(repo, "b", lost, repo.directory("there", repo.file("x", b"x")))
    line = await line_of(BackupTree(await repo.open()))
    assert [match.parts[-2] for match in await found(line, names=["x"])] == [b"there"]
    assert [trouble.parts[-1] for trouble in line.troubles] == [b"lost"]


async def test_a_snapshot_of_no_backup_is_searched_by_itself() -> None:
    """It is shown unchanged, with the paths of the snapshot."""
    repo = MemoryRepo()
    snapshot = repo.snapshot(repo.tree(repo.file("f", b"x")), ["/f"])
    view = BackupTree(await repo.open())
    line = await of_snapshot(view, DirectoryIndex(view.repository), snapshot[:8].encode())
    (match,) = await found(line, names=["f"])
    assert match.parts == (b"f",)
    assert line.moments[0].parts == (b"_snapshots", snapshot[:8].encode())


async def test_versions_come_and_go() -> None:
    """Added, changed, removed and returned files; backups of other dogus are ignored."""
    repo = MemoryRepo()
    other = repo.tree(repo.path("/var/lib/ces/ldap/volumes/db", repo.directory("db")))
    states = (None, b"one", b"one", "other", b"two", None, b"one")
    for number, state in enumerate(states):
        if state == "other":
            time = f"2026-11-22T{number:02}:00:00Z"
            repo.snapshot(other, ["/var/lib/ces/ldap/volumes/db"], tags=[f"b{number}"], time=time)
        else:
            files = [repo.file("f", state)] if isinstance(state, bytes) else []
            save(repo, f"b{number}", *files, hour=number)
    line = await line_of(BackupTree(await repo.open()))
    told = await versions(line, (*FILES, b"f"))
    assert [version.moments for version in told.versions] == [0b0010000, 0b1000110]
    assert [(event.moment.id, event.what) for event in told.events] == [
        ("b1", "appeared"),
        ("b4", "changed"),
        ("b5", "vanished"),
        ("b6", "appeared"),
    ]
    assert told.covering == 0b1110111
    with pytest.raises(NotFoundError):
        await versions(line, (*FILES, b"g"))


async def test_differences_between_backups() -> None:
    """Every mark occurs; directories include their content; metadata only on request."""
    repo = MemoryRepo()
    kept = repo.directory("kept", repo.file("same", b"same"))
    link = {"name": "l", "type": "symlink", "mode": 1 << 27 | 0o777}
    save(
        repo, "a", kept, repo.file("changed", b"1"), repo.file("gone", b"g"),
        repo.file("kind", b"k"), repo.file("mode", b"m"), link | {"linktarget": "x"},
    )  # fmt: skip
    save(
        repo, "b", kept, repo.file("changed", b"2"), repo.directory("new", repo.file("n", b"n")),
        repo.directory("kind"), repo.file("mode", b"m", mode=0o600), link | {"linktarget": "y"},
        hour=2,
    )  # fmt: skip
    view = BackupTree(await repo.open())
    memo = DirectoryIndex(view.repository)
    before, after = [await line_of(view, name, memo=memo) for name in "ab"]

    async def told(parts: tuple[bytes, ...] = (), *, attributes: bool = False) -> list[str]:
        changes = diff_backups(before, after, parts, attributes=attributes)
        return [f"{c.mark} {b'/'.join(c.parts[3:]).decode()}" async for c in changes]

    expected = ["M changed", "- gone", "T kind", "M l", "+ new", "+ new/n"]
    assert await told() == expected
    assert await told(FILES) == expected
    assert "U mode" in await told(attributes=True)
    assert await told((*FILES, b"changed")) == ["M changed"]
    assert await told((*FILES, b"kept")) == []
    with pytest.raises(NotFoundError):
        await told((b"nope",))
    line = await line_of(view, memo=memo)
    steps = await history(line, FILES)
    assert [step.moment.id for step in steps] == ["a", "b"]
    assert [step.what for step in steps] == ["appeared", "changed"]
    assert len(steps[1].changes) == len(expected)


async def test_equal_directories_at_many_paths_are_compared_once() -> None:
    """Thirty directories form 2**30 paths, which differ in a time only."""
    repo = MemoryRepo()
    for number, time in enumerate(("2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"), 1):
        node = repo.directory("a", repo.file("leaf", b"same", mtime=time))
        for _ in range(30):
            node = repo.directory("a", node, node | {"name": "b"})
        save(repo, str(number), node, hour=number)
    view = BackupTree(await repo.open())
    one, two = await line_of(view, "1"), await line_of(view, "2")
    with trio.fail_after(60):
        assert not [change async for change in diff_backups(one, two, FILES)]


async def test_a_history_has_a_limit_for_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Further changes of a step are counted."""
    monkeypatch.setattr("cesbrfs.history.diff.CHANGES_MAX", 2)
    repo = MemoryRepo()
    save(repo, "1", hour=1)
    save(repo, "2", *(repo.file(name, b"x") for name in "abcde"), hour=2)
    *_, step = await history(await line_of(BackupTree(await repo.open())), FILES)
    assert [change.parts[-1] for change in step.changes] == [b"a", b"b"]
    assert step.more == 3


async def test_differences_from_the_instance(tmp_path: Path) -> None:
    """Files are compared by content; equal size and time suffices without --checksum."""
    files = tmp_path / "var/lib/ces/redmine/volumes/files"
    (files / "sub").mkdir(parents=True)
    contents = {"same": b"12", "touched": b"12", "grown": b"123", "hidden": b"99", "sub/new": b"n"}
    for name, content in contents.items():
        (files / name).write_bytes(content)
    for name in ("same", "hidden"):
        os.utime(files / name, ns=(0, 10**18))
    time = "2001-09-09T01:46:40Z"
    repo = MemoryRepo()
    parts = (b"1", b"2")
    nodes = [
        repo.file(n, *parts, mtime=time) for n in ("gone", "grown", "hidden", "same", "touched")
    ]
    save(repo, "a", *nodes, repo.directory("sub"))
    view = BackupTree(await repo.open())
    line = await line_of(view)

    def place(at: tuple[bytes, ...]) -> tuple[bytes, ...] | str:
        return () if len(at) < 2 else (b"var", b"lib", b"ces", *at)

    async def told(*, checksum: bool = False) -> list[str]:
        ground = LiveInstance(tmp_path, place, checksum=checksum)
        changes = diff_live(view, line, (), ground)
        return [f"{c.mark} {b'/'.join(c.parts[3:]).decode()}" async for c in changes]

    quick = ["- gone", "M grown", "+ sub/new"]
    assert await told() == quick
    assert await told(checksum=True) == [*quick[:2], "M hidden", quick[2]]


async def test_what_backups_share_is_measured_once() -> None:
    """The cost depends on the differences; a shared blob is not counted as added."""
    repo = MemoryRepo()
    directories = [repo.directory(f"d{n}", repo.file("f", b"%d" % n * 100)) for n in range(30)]
    backups = 20
    for number in range(backups):
        save(repo, f"b{number}", *directories, repo.file("own", b"own %d" % number), hour=number)
    looked_at: list[int] = []
    sizes = UsageReport(BackupTree(await repo.open()), looked_at.append)
    rows = await sizes.measure((), 1)
    assert [row.files for row in rows] == [31] * backups
    assert len({row.size for row in rows}) == 2  # "own 9" and "own 10"
    # There are six directories above a volume; all are visited twice, shared ones three times.
    assert max(looked_at) <= 3 * (7 * backups + 30)
    (alone,) = await sizes.measure((b"b3", *FILES, b"own"), 0)
    (shared,) = await sizes.measure((b"b3", *FILES, b"d7"), 0)
    assert alone.added > 0
    assert (shared.files, shared.size, shared.added) == (1, 100, 0)


async def test_sizes_of_blobs_that_no_index_names() -> None:
    """They are a trouble, not 0 bytes; an index file that came back is found."""
    repo = MemoryRepo()
    node = repo.file("f", b"content" * 100)
    repo.flush()
    (index,) = [key for key in repo.storage.files if key[0] is FileType.INDEX]
    save(repo, "A", node)
    kept = repo.storage.files.pop(index)
    view = BackupTree(await repo.open())
    lost = UsageReport(view)
    (row,) = await lost.measure((b"A", *FILES, b"f"), 0)
    assert row.added == 0
    (trouble,) = lost.troubles
    assert "f: the stored size lacks 1 of the blobs" in trouble.message
    repo.storage.files[index] = kept
    whole = UsageReport(view)
    (row,) = await whole.measure((b"A", *FILES, b"f"), 0)
    assert row.added > 0
    assert not whole.troubles
