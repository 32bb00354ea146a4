"""Compare equal bytes in different blobs, and cache the results."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from cesbrfs.history.diff import diff_backups
from cesbrfs.history.versions import versions
from cesbrfs.repo.repository import CacheConfig, Repository
from cesbrfs.repo.storage import FileType
from cesbrfs.util.secret import Secret
from cesbrfs.vfs.compare import equal_bytes
from cesbrfs.vfs.directory_index import DirectoryIndex
from cesbrfs.vfs.tree import BackupTree
from tests.support.memory_repo import PASSWORD, MemoryRepo
from tests.unit.history.test_history import FILES, found, line_of, save


def cut(data: bytes, lengths: Sequence[int]) -> list[bytes]:
    """Split `data` after these lengths."""
    ends = [end for end in accumulate(lengths) if end < len(data)]
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


LENGTHS = st.lists(st.integers(1, 4), max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=12), st.binary(max_size=12), LENGTHS, LENGTHS, st.booleans())
def test_equal_bytes_whatever_the_chunks(
    one: bytes, other: bytes, first: list[int], second: list[int], same: bool
) -> None:
    """Files with equal bytes are equal, however they are split into blobs."""
    other = one if same else other

    async def run() -> None:
        repo = MemoryRepo()
        nodes = [repo.file("a", *cut(one, first)), repo.file("b", *cut(other, second))]
        blobs = [[bytes.fromhex(text) for text in node["content"]] for node in nodes]
        equal, _ = await equal_bytes(await repo.open(), *blobs)
        assert equal == (one == other)

    trio.run(run)


async def test_what_differs_in_a_blob_of_one_length_is_not_read() -> None:
    """With the same chunk boundaries, different blob IDs prove a difference without reads."""
    repo = MemoryRepo()
    nodes = [repo.file("f", b"same", b"one.", b"end"), repo.file("f", b"same", b"two.", b"end")]
    blobs = [[bytes.fromhex(text) for text in node["content"]] for node in nodes]
    assert await equal_bytes(await repo.open(), *blobs) == (False, False)


async def test_other_chunks_are_no_other_content(tmp_path: Path) -> None:
    """One line in find, one version, no diff; a second process reads no content."""
    repo = MemoryRepo()
    save(repo, "a", repo.file("f", b"one", b"two"), repo.file("g", b"xx", b"y"))
    save(repo, "b", repo.file("f", b"on", b"etw", b"o"), repo.file("g", b"x", b"yy"), hour=2)
    repo.flush()
    read: list[str] = []
    for again in (False, True):
        caching = CacheConfig(directory=tmp_path)
        view = BackupTree(await Repository.open(repo.storage, Secret(PASSWORD), caching))
        memo = DirectoryIndex(view.repository)
        line = await line_of(view, memo=memo)
        if again:
            repo.storage.before_read = lambda kind, name: (
                read.append(name) if kind is FileType.PACK else None
            )
            await view.layout((await view.backups()).by_name[b"a"])
            read.clear()
        (match,) = await found(line, names=["f"])
        assert (match.moments, line.newest(match.moments).id) == (0b11, "b")
        assert len(await found(line, names=["g"])) == 2
        (version,) = (await versions(line, (*FILES, b"f"))).versions
        assert version.moments == 0b11
        before, after = [await line_of(view, name, memo=memo) for name in "ab"]
        for path in ((), FILES, (*FILES, b"f")):
            changes = [c.parts[-1] async for c in diff_backups(before, after, path)]
            assert changes == ([] if path == (*FILES, b"f") else [b"g"])
        await memo.save()
        assert len(memo.compared) == 2
    assert not read


async def test_a_file_among_our_own_directories_is_compared_too() -> None:
    """A dump is placed without a stored parent directory."""
    repo = MemoryRepo()
    for number, parts in enumerate(((b"one", b"two"), (b"on", b"etwo"))):
        tree = repo.tree(repo.file("redmine.sql", *parts))
        tags = [f"b{number}", "kind=dump", "dogu=redmine"]
        time = f"2026-11-22T{number:02}:00:00Z"
        repo.snapshot(tree, ["/redmine.sql"], tags=tags, time=time)
    view = BackupTree(await repo.open())
    path = (b"redmine", b"dumps", b"redmine.sql")
    (version,) = (await versions(await line_of(view), path)).versions
    assert version.moments == 0b11
    memo = DirectoryIndex(view.repository)
    before, after = [await line_of(view, name, memo=memo) for name in ("b0", "b1")]
    assert [change async for change in diff_backups(before, after, ())] == []
