"""Paths with wildcards."""

from __future__ import annotations

import pytest

from cesbrfs.errors import NotFoundError
from cesbrfs.vfs.glob import expand
from cesbrfs.vfs.tree import BackupTree
from tests.support.memory_repo import MemoryRepo


async def view_of(*names: str) -> BackupTree:
    """Return a view of one backup A whose /A/redmine/volumes/files contains `names`."""
    repo = MemoryRepo()
    path = "/var/lib/ces/redmine/volumes/files"
    directory = repo.directory("files", *[repo.file(name, b"x") for name in names])
    repo.snapshot(repo.tree(repo.path(path, directory)), [path], tags=["A"])
    return BackupTree(await repo.open())


FILES = "/A/redmine/volumes/files"


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (f"{FILES}/*.txt", ["a.txt", "b.txt"]),
        (f"{FILES}/[ab].t?t", ["a.txt", "b.txt"]),
        (f"{FILES}/[!a].txt", ["b.txt"]),
        (f"{FILES}/.*", [".hidden"]),
        (f"{FILES}/*", ["a.txt", "b.txt", "c", "star*", "star1"]),
        ("/*/red*/../redmine/./volumes/*/c", ["c"]),
        (f"{FILES}/star*", ["star*"]),
        (f"{FILES}/sta*", ["star*", "star1"]),
        (rf"{FILES}/*\x2a", ["star*"]),
        ("/latest/redmine/volumes/files/c*", ["c"]),
    ],
)
async def test_what_matches(pattern: str, found: list[str]) -> None:
    """As in a shell, but an existing literal name has precedence; `latest` never matches."""
    view = await view_of("a.txt", "b.txt", "c", ".hidden", "star*", "star1")
    places = await expand(view, pattern)
    assert [place.parts[-1].decode() for place in places] == found
    assert all(place.entry is not None for place in places)


async def test_from_where_one_is() -> None:
    """A relative path starts in the given directory."""
    view = await view_of("a.txt")
    (place,) = await expand(view, "volumes/*/a*", (b"A", b"redmine"))
    assert place.shown == f"{FILES}/a.txt"


@pytest.mark.parametrize("pattern", ["/B*", f"{FILES}/*/x", f"{FILES}/[z]", "/A/[", "/none"])
async def test_nothing_matches(pattern: str) -> None:
    """It is an error, as for any missing path."""
    with pytest.raises(NotFoundError):
        await expand(await view_of("a.txt"), pattern)
