"""Restore from damaged repositories of restic: everything else is restored, the rest is named."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from cesbrfs.repo.format.pack import BlobLocation, BlobType
from cesbrfs.restore import ToDirectory, execute, make_plan, select
from cesbrfs.restore.report import LostRange
from cesbrfs.vfs.open import open_backups
from cesbrfs.vfs.tree import BackupTree
from tests.support.restic_repo import PASSWORD, ResticRepo, create
from tests.support.restore_site import BACKUP, VOLUME, WRITERS, Site, names

_LARGE = random.Random(11).randbytes(17 << 20)  # three blobs, of 8 MiB at most
_ALL = f"/{BACKUP}/{VOLUME}"


def _file(repo: ResticRepo, pack: bytes) -> Path:
    name = pack.hex()
    return repo.directory / "data" / name[:2] / name


def _flip(repo: ResticRepo, location: BlobLocation) -> None:
    file = _file(repo, location.pack)
    file.chmod(0o600)
    data = bytearray(file.read_bytes())
    data[location.offset + 20] ^= 1
    file.write_bytes(data)


async def _damage(repo: ResticRepo, view: BackupTree) -> LostRange:
    """Damage a tree and a blob, and remove a pack; return the range of the blob in ``large``."""
    index = await view.repository.index()
    gone, large, sub = [
        (await view.resolve(f"{_ALL}/{name}")).entry.node for name in ("gone", "large", "sub")
    ]
    assert sub.subtree is not None
    blobs = [index.places(BlobType.DATA, blob)[0] for blob in large.blobs]
    assert len(blobs) > 2
    _flip(repo, blobs[1])
    _flip(repo, index.places(BlobType.TREE, sub.subtree)[0])
    pack = index.places(BlobType.DATA, gone.blobs[0])[0].pack
    assert pack not in {location.pack for location in blobs}
    _file(repo, pack).unlink()
    return LostRange(blobs[0].uncompressed_length, blobs[1].uncompressed_length)


@pytest.mark.parametrize("writers", [WRITERS[0], WRITERS[2]])
async def test_all_that_can_be_restored_is_restored(
    restic_old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writers: str
) -> None:
    """A damaged blob, a damaged tree and a missing pack, with threads and with workers."""
    Site.by_writers(writers, tmp_path, monkeypatch)
    volume = tmp_path / "var/lib/ces/redmine/volumes/files"
    (volume / "sub").mkdir(parents=True)
    (volume / "gone").write_text("gone")
    repo = create(restic_old, tmp_path / "repo")
    repo.backup(volume)  # so that this file is in a separate pack
    (volume / "large").write_bytes(_LARGE)
    (volume / "sub/file").write_text("below")
    fine = {f"fine {number}": f"content {number}" for number in range(40)}
    for name, text in fine.items():
        (volume / name).write_text(text)
    repo.backup(volume, tags=(BACKUP, "kind=volumes", "dogu=redmine"))
    async with open_backups(str(repo.directory), PASSWORD) as view:
        lost = await _damage(repo, view)
    target = tmp_path / "target"
    async with open_backups(str(repo.directory), PASSWORD) as view:
        selection = select([await view.resolve(_ALL)])
        planned = await make_plan(view, selection, ToDirectory(target))
        report = await execute(view, planned, salvage=True)
    failed = {os.path.basename(failure.path).decode(): failure.error for failure in report.failed}
    assert failed.keys() == {"gone", "large", "sub"}
    assert "The pack of data blob" in failed["gone"]
    assert "is damaged" in failed["large"]
    assert "is damaged" in failed["sub"]
    assert (report.exit_code, report.files) == (3, len(fine))
    restored = target / VOLUME
    assert names(restored) == fine.keys() | {"large.damaged"}
    assert {name: (restored / name).read_text() for name in fine} == fine
    (salvaged,) = report.salvaged
    assert (salvaged.size, salvaged.lost) == (len(_LARGE), (lost,))
    end = lost.offset + lost.length
    expected = _LARGE[: lost.offset] + bytes(lost.length) + _LARGE[end:]
    assert (restored / "large.damaged").read_bytes() == expected
    wanted, found = (volume / "large").stat(), (restored / "large.damaged").stat()
    assert (found.st_mode, found.st_mtime_ns) == (wanted.st_mode, wanted.st_mtime_ns)
    assert found.st_blocks * 512 < wanted.st_size
