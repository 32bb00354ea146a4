"""The directory tree over a repository while restic backs up, forgets and prunes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cesbrfs.errors import NotFoundError
from cesbrfs.repo.repository import FileReader
from cesbrfs.vfs.entries import Entry, VirtualFile
from cesbrfs.vfs.tree import BackupTree
from tests.support.restic_repo import create


async def listed(view: BackupTree, entry: Entry, above: str = "") -> dict[str, bytes]:
    """Read every file below `entry` by its path."""
    found: dict[str, bytes] = {}
    for name, child in (await view.children(entry)).items():
        path = f"{above}/{os.fsdecode(name)}"
        if child.node.type == "dir":
            found.update(await listed(view, child, path))
        elif child.node.type == "symlink":
            found[path] = child.node.target
        else:
            content = await view.content(child)
            if isinstance(content, VirtualFile):
                found[path] = content.content
            else:
                found[path] = await content.read(0, content.size)
    return found


async def test_the_whole_tree_while_restic_works_on_it(restic_binary: Path, tmp_path: Path) -> None:
    """Backups appear, change and disappear; kept ones remain readable after a prune."""
    repo = create(restic_binary, tmp_path / "repo")
    volume = tmp_path / "ces/redmine/volumes/files"
    volume.mkdir(parents=True)
    (volume / "f.txt").write_bytes(b"first version")
    (volume / "gone.txt").write_bytes(b"will be gone")
    os.symlink("f.txt", volume / "link")
    view = BackupTree(await repo.open(), clock=iter(range(1000)).__next__)
    assert await listed(view, view.root) == {}

    first = repo.backup(volume, tags=["A"])
    found = await listed(view, view.root)
    said = json.loads(found.pop("/A/backup.json"))
    assert [point["snapshot"] for point in said["points"]] == [first]
    below = "/redmine/volumes/files"
    assert found == {
        "/latest": b"A",
        f"/A{below}/f.txt": b"first version",
        f"/A{below}/gone.txt": b"will be gone",
        f"/A{below}/link": b"f.txt",
    }
    another = BackupTree(await repo.open())  # it has read no file, so nothing is cached
    old = await another.resolve(f"/latest{below}/gone.txt")
    assert old.shown == f"/A{below}/gone.txt"
    opened = await another.content(old.entry)
    assert isinstance(opened, FileReader)

    (volume / "f.txt").write_bytes(b"second version")
    (volume / "gone.txt").unlink()
    repo.backup(volume, tags=["B"])
    loose = repo.backup(volume / "f.txt")
    found = await listed(view, view.root)
    assert found["/latest"] == b"B"
    assert found[f"/A{below}/f.txt"] == b"first version"
    assert found[f"/B{below}/f.txt"] == b"second version"
    assert found[f"/_snapshots/{loose[:8]}{volume}/f.txt"] == b"second version"

    repo.run("forget", first, "--prune", "--max-unused", "0")
    fresh = BackupTree(await repo.open(), clock=iter(range(1000)).__next__)
    assert await listed(view, view.root) == await listed(fresh, fresh.root)
    with pytest.raises(NotFoundError):
        await view.resolve("/A")
    with pytest.raises(NotFoundError, match=first[:8]):
        await opened.read(0, 4)
