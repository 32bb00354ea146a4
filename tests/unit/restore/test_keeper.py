"""Files that are kept although the same name is kept already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cesbrfs.restore.keeper import Keeper
from cesbrfs.restore.metadata import Warnings
from cesbrfs.restore.undo_log import UndoLog

_PARTS = (b"a", b"b")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The directory for replaced files."""
    made = tmp_path / "place"
    made.mkdir()
    return made


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[int]:
    """A descriptor of the directory that a restore writes to."""
    (tmp_path / "target").mkdir()
    descriptor = os.open(tmp_path / "target", os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def keeper(tmp_path: Path, place: Path) -> Iterator[Keeper]:
    """Keeps all files in that directory."""
    log = UndoLog.open(tmp_path / "log")
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    yield Keeper(log, {-1: descriptor}, Warnings())
    os.close(descriptor)
    log.close()


def kept(place: Path) -> dict[str, str]:
    """Return the content of all kept files."""
    files = (path for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(place)): path.read_text() for path in files}


def test_what_changed_between_two_restores(
    keeper: Keeper, opened: int, tmp_path: Path, place: Path
) -> None:
    """The first version is the one to put back; each later version is kept apart."""
    file, new = tmp_path / "target/f", tmp_path / "target/new"
    keeper.keep(opened, _PARTS, b"f")
    assert kept(place) == {}, "there is nothing to keep"
    for content in ("before", "second", "third"):
        new.write_text(content)
        new.rename(file)
        for _ in range(2):  # the same file again changes nothing
            keeper.keep(opened, _PARTS, b"f")
            if content != "before":
                break
    assert kept(place) == {
        "replaced/a/b/f": "before",
        "changed/a/b/f": "second",
        "changed/a/b/f.~1~": "third",
    }
    assert file.read_text() == "third"


def test_what_is_deleted_twice(keeper: Keeper, opened: int, tmp_path: Path, place: Path) -> None:
    """A file that was created again after it was deleted is kept as well."""
    file = tmp_path / "target/f"
    for content in ("before", "again"):
        file.write_text(content)
        keeper.take(opened, _PARTS, b"f")
        assert not file.exists()
    assert kept(place) == {"replaced/a/b/f": "before", "changed/a/b/f": "again"}
