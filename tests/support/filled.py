"""Test files for any storage, and the expected results of listing and reading them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from cesbrfs.errors import DamagedError, FileMissingError
from cesbrfs.repo.storage import FileInfo, FileType, Storage, read_exactly
from cesbrfs.util.secret import Secret

KEY: Final = Secret(b"key")
ODD: Final = "a b+cü%41&=~"
"""A directory name with special characters, which are percent-encoded in a URL."""
NAMES: Final = [f"{number:064x}" for number in range(3)]
PACK: Final = bytes(range(256)) * 4096
FILES: Final = {
    "config": b"0123456789",
    f"keys/{NAMES[0]}": b"9876543210",
    f"keys/{NAMES[1]}": b"",
    f"keys/{NAMES[0]}-tmp-1": b"temporary",
    f"data/00/{NAMES[0]}": PACK,
}


def fill(root: Path) -> None:
    """Write the test files to that directory below `root`."""
    for name, data in FILES.items():
        path = root / ODD / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


async def check_all(storage: Storage) -> None:
    """List and read the files in every way, also at and beyond their ends.

    Partial reads of config are not tested: no reader uses them, and restic's server ignores ranges.
    """
    listed = sorted(await storage.list(FileType.KEY))
    assert listed == [FileInfo(NAMES[0], 10), FileInfo(NAMES[1], 0)]
    assert list(await storage.list(FileType.PACK)) == [FileInfo(NAMES[0], len(PACK))]
    assert list(await storage.list(FileType.SNAPSHOT)) == []
    assert await storage.read(FileType.CONFIG) == b"0123456789"
    assert await storage.read(FileType.KEY, NAMES[0], 3, 4) == b"6543"
    assert await storage.read(FileType.KEY, NAMES[0], 8) == b"10"
    assert await storage.read(FileType.KEY, NAMES[0], 9, 1) == b"0"
    assert await storage.read(FileType.PACK, NAMES[0]) == PACK
    assert await storage.read(FileType.PACK, NAMES[0], 1, 999_999) == PACK[1:1_000_000]
    assert await storage.read(FileType.KEY, NAMES[1]) == b""
    for offset, length in ((0, 10), (0, 11), (9, 5), (3, 4), (3, 1 << 40), (10, 1), (500, 10)):
        found = await storage.read(FileType.KEY, NAMES[0], offset, length)
        assert found == b"9876543210"[offset : offset + length]
    assert await storage.read(FileType.KEY, NAMES[0], 10) == b""
    assert await read_exactly(storage, FileType.KEY, NAMES[0], 8, 2) == b"10"
    for offset, length in ((0, 11), (5, 6), (10, 1), (500, 10)):
        with pytest.raises(DamagedError, match="is truncated"):
            await read_exactly(storage, FileType.KEY, NAMES[0], offset, length)
    with pytest.raises(FileMissingError):
        await storage.read(FileType.SNAPSHOT, NAMES[0])
