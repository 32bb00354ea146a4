"""Sizes of subtrees."""

from __future__ import annotations

from cesbrfs.vfs.measure import TreeSize, measure
from cesbrfs.vfs.tree import BackupTree
from tests.support.memory_repo import MemoryRepo


async def test_hard_links_and_directories_that_occur_twice() -> None:
    """The content of hard links counts once, that of equal directories as often as they occur."""
    repo = MemoryRepo()
    linked = {"inode": 7, "device_id": 1, "links": 2}
    pair = [repo.file(name, b"12345", **linked) for name in ("one", "two")]
    same = (repo.file("file", b"123"), {**repo.file("link"), "type": "symlink", "linktarget": "x"})
    nodes = [*pair, repo.directory("a", *same), repo.directory("b", *same)]
    repo.snapshot(repo.tree(repo.path("/data/top", repo.directory("top", *nodes))), ["/data/top"])
    view = BackupTree(await repo.open())
    (snapshot,) = await view.children(await view.at((b"_snapshots",)))
    entry = await view.at((b"_snapshots", snapshot))
    assert await measure(view, entry) == TreeSize(files=6, bytes=5 + 2 * 3)
