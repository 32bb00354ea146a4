"""What an archive contains if a part of a backup cannot be read."""

from __future__ import annotations

from cesbrfs.archive.members import members
from cesbrfs.vfs.tree import BackupTree
from tests.support.memory_repo import MemoryRepo


async def test_what_cannot_be_read_is_reported() -> None:
    """A missing directory and an invalid name are reported; everything else is in the archive."""
    repo = MemoryRepo()
    top = repo.directory(
        "top",
        repo.directory("lost") | {"subtree": "ab" * 32},
        repo.file("..", b"invalid name"),
        repo.file("present", b"content"),
    )
    repo.snapshot(repo.tree(top), ["/top"])
    view = BackupTree(await repo.open())
    (snapshot,) = await view.children(await view.at((b"_snapshots",)))
    place = await view.resolve(f"/_snapshots/{snapshot.decode()}")
    failed: dict[str, str] = {}
    found = [
        member.name
        async for member in members(
            view, [place], lambda path, error: failed.update({path: str(error)})
        )
    ]
    assert [name.rpartition(b"/")[2] for name in found][-3:] == [b"top", b"lost", b"present"]
    at = f"/_snapshots/{snapshot.decode()}/top"
    assert failed.keys() == {at, f"{at}/lost"}
    assert "was left out" in failed[at]
