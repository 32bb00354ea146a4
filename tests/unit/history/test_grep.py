"""Searching contents whose results are large, and contents that cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import trio

from cesbrfs.history import grep
from cesbrfs.history.find import Criteria, Match
from cesbrfs.history.grep import Grep
from cesbrfs.history.line_search import LineSearch, SearchOptions, SearchResult
from cesbrfs.history.search_memo import SearchMemo
from cesbrfs.vfs.content_reader import ContentReader
from cesbrfs.vfs.directory_index import DirectoryIndex
from cesbrfs.vfs.timeline import of_backups
from cesbrfs.vfs.tree import BackupTree
from tests.support.memory_repo import MemoryRepo

_LINE = b"match" + b"." * 4090 + b"\n"
_VOLUME = "/var/lib/ces/redmine/volumes/files"


@pytest.mark.parametrize("buffered", [16 << 20, -1])
async def test_large_results_and_lost_contents(
    monkeypatch: pytest.MonkeyPatch, buffered: int
) -> None:
    """Each line is found once per file, also if no result may wait for its turn."""
    monkeypatch.setattr(grep, "_BUFFER_BYTES", buffered)
    repo = MemoryRepo()
    blobs = [b"%d\n" % number + _LINE * 256 for number in range(5)]
    nodes = [
        repo.file("copy", *blobs),
        repo.file("large", *blobs),
        repo.file("lost", b"match\n") | {"content": ["ab" * 32]},
        repo.file("lost large", b"match\n") | {"content": ["ab" * 32], "size": 5 << 20},
        repo.file("small", b"match\n"),
    ]
    tree = repo.tree(repo.path(_VOLUME, repo.directory("files", *nodes)))
    repo.snapshot(tree, [_VOLUME], tags=["a"])
    view = BackupTree(await repo.open())
    line = await of_backups(
        view, DirectoryIndex(view.repository), (await view.backups()).by_name.values()
    )
    options = SearchOptions(b"match")
    lines: Counter[bytes] = Counter()

    async def found(match: Match, result: SearchResult) -> None:
        await trio.lowlevel.checkpoint()
        lines[match.parts[-1]] += len(result.hits)

    async def run(work: Callable[[], None]) -> None:
        await trio.lowlevel.checkpoint()
        work()

    async with ContentReader.open(view.repository) as reader:
        search = Grep(
            line,
            LineSearch(options),
            SearchMemo(view.repository, options),
            reader,
            interruptibly=run,
            found=found,
            progress=lambda _: None,
        )
        await search.run((), Criteria(types=frozenset({"file"})))
    assert {name: count for name, count in lines.items() if count} == {
        b"copy": 1280, b"large": 1280, b"small": 1,
    }  # fmt: skip
    assert search.counts.files == 5
    assert len(list(line.troubles)) == 2
