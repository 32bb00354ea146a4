"""Announcing reads to the kernel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cesbrfs.repo.format.crypto import Keys
from cesbrfs.repo.format.pack import BlobLocation
from cesbrfs.repo.read.blob_reader import BlobReader

PACK = bytes(range(32))


def test_adjacent_blobs_are_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs far apart are not, because everything between them would be read; nor missing packs."""
    file = tmp_path / "data" / PACK.hex()[:2] / PACK.hex()
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(10_000))
    announced: list[tuple[int, int]] = []
    advise = os.posix_fadvise

    def recorded(descriptor: int, offset: int, length: int, advice: int) -> None:
        announced.append((offset, length))
        advise(descriptor, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", recorded)
    reader = BlobReader(str(tmp_path), Keys(bytes(32), bytes(16), bytes(16)))

    def at(offset: int, pack: bytes = PACK) -> BlobLocation:
        return BlobLocation(pack, offset, 100, 68, False)

    reader.will_read([at(300), at(100), at(200)])
    reader.will_read([at(0), at(9000)])
    reader.will_read([at(0, bytes(32))])
    reader.close()
    assert announced == [(100, 300)]
