"""Restores from real repositories, compared with those of restic."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cesbrfs.errors import UsageError
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.restore import (
    Overwrite,
    RestoreReport,
    ToDirectory,
    execute,
    make_plan,
    process_writer,
    select,
    worker_pool,
)
from cesbrfs.vfs.tree import BackupTree
from tests.sample.instance import Instance
from tests.sample.oddities import HOLE_BYTES
from tests.support.compare import Record, differences, records
from tests.support.restic_repo import ResticRepo, create

_VOLUMES = ("files", "plugins", "localConfig")


@pytest.fixture(params=["threads", "workers"], autouse=True)
def _writers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all restores with threads, or with worker processes."""
    if request.param == "workers":
        monkeypatch.setattr(worker_pool, "FILES_PER_WORKER", 1)
        monkeypatch.setattr(process_writer, "LARGE_BYTES", 1 << 20)


@pytest.fixture(scope="session")
def sample(
    tmp_path_factory: pytest.TempPathFactory, make_instance: Callable[[Path], Instance]
) -> Instance:
    """The sample instance; tests do not change it."""
    return make_instance(tmp_path_factory.mktemp("restore") / "instance")


def _back_up(repo: ResticRepo, sample: Instance) -> str:
    """Back up the volumes of redmine, with all unusual files, as one snapshot."""
    volumes = [sample.volume("redmine", name) for name in _VOLUMES]
    return repo.backup(*volumes, tags=["B1"])


async def _restore(
    repo: ResticRepo, path: str, target: Path, overwrite: Overwrite = Overwrite.NEVER
) -> RestoreReport:
    view = BackupTree(await repo.open())
    selection = select([await view.resolve(path)])
    return await execute(view, await make_plan(view, selection, ToDirectory(target), overwrite))


def _without_sockets(found: dict[bytes, Record]) -> dict[bytes, Record]:
    """Exclude what restic does not restore."""
    return {path: record for path, record in found.items() if not path.endswith(b"/socket")}


def _as_restic(found: dict[bytes, Record]) -> dict[bytes, Record]:
    """Ignore what restic does not restore: hard links of symlinks, times after 2262."""
    return {
        path: record if stat.S_ISREG(record.mode) else replace(record, twins=frozenset())
        for path, record in found.items()
        if not path.endswith(b"/times/2400")
    }


def _all(top: Path) -> dict[bytes, Record]:
    """Describe the volumes below `top`, which also contains other files."""
    found: dict[bytes, Record] = {}
    for name in _VOLUMES:
        for path, record in records(str(top / name)).items():
            found[name.encode() + b"/" + path] = record
    return _without_sockets(found)


async def test_equals_what_restic_restores(
    restic_binary: Path, restic_new: Path, sample: Instance, tmp_path: Path
) -> None:
    """All unusual files that any restic backed up are restored as the newer restic does."""
    repo = create(restic_binary, tmp_path / "repo")
    snapshot = _back_up(repo, sample)
    theirs = tmp_path / "theirs"
    repo.using(restic_new).run("restore", snapshot, "--target", theirs)
    report = await _restore(repo, "/B1", tmp_path / "ours")
    assert (report.failed, report.warnings, report.exit_code) == ([], [], 0)
    expected = _all(theirs / sample.volume("redmine", ".").relative_to("/"))
    assert len(expected) > 100
    ours = _all(tmp_path / "ours/redmine/volumes")
    assert differences(_as_restic(ours), _as_restic(expected)) == []


async def test_equals_what_was_backed_up(
    restic_new: Path, sample: Instance, tmp_path: Path
) -> None:
    """Restored files equal the original instance, including holes."""
    repo = create(restic_new, tmp_path / "repo")
    _back_up(repo, sample)
    await _restore(repo, "/B1", tmp_path / "ours")
    ours = tmp_path / "ours/redmine/volumes"
    assert differences(_all(ours), _all(sample.volume("redmine", "."))) == []
    shapes = ours / sample.oddities.relative_to(sample.volume("redmine", ".")) / "shapes"
    holes = [path for path in shapes.iterdir() if "hole" in path.name]
    assert len(holes) == 4
    assert all(path.stat().st_blocks * 512 < HOLE_BYTES["tiny"] // 4 for path in holes)


async def test_restoring_over_a_restored_tree(
    restic_binary: Path, sample: Instance, tmp_path: Path
) -> None:
    """By default nothing is written; with always, everything equals the backup again."""
    repo = create(restic_binary, tmp_path / "repo")
    _back_up(repo, sample)
    target = tmp_path / "ours"
    first = await _restore(repo, "/B1/redmine", target)
    once = _all(target / "redmine/volumes")
    again = await _restore(repo, "/B1/redmine", target)
    assert (again.files, again.skipped, again.failed) == (0, first.files, [])
    spoilt = target / "redmine/volumes/files/oddities/names/WR[1].txt"
    spoilt.write_text("spoilt")
    spoilt.chmod(0o777)
    over = await _restore(repo, "/B1/redmine", target, Overwrite.ALWAYS)
    assert (over.files, over.skipped, over.failed) == (first.files, 0, [])
    assert differences(_all(target / "redmine/volumes"), once) == []


async def test_names_are_literal(restic_new: Path, sample: Instance, tmp_path: Path) -> None:
    """A name that is a pattern for another file restores only itself."""
    repo = create(restic_new, tmp_path / "repo")
    _back_up(repo, sample)
    directory = "/B1/redmine/volumes/files/oddities/names"
    await _restore(repo, f"{directory}/WR[1].txt", tmp_path / "ours")
    restored = tmp_path / "ours/redmine/volumes/files/oddities/names"
    assert [path.name for path in restored.iterdir()] == ["WR[1].txt"]
    assert (restored / "WR[1].txt").read_bytes() == b"content of WR[1].txt"


async def test_flipped_bits_lose_one_file(restic_binary: Path, tmp_path: Path) -> None:
    """A damaged blob in a pack fails one file, where restic aborts the whole restore."""
    source = tmp_path / "ces/redmine/volumes/files"
    source.mkdir(parents=True)
    for number in range(20):
        (source / f"{number}").write_bytes(os.urandom(3000))
    repo = create(restic_binary, tmp_path / "repo")
    repo.backup(source, tags=["B1"])
    view = BackupTree(await repo.open())
    located = await view.resolve("/B1/redmine/volumes/files/7")
    (blob,) = located.entry.node.blobs
    (place,) = (await view.repository.index()).places(BlobType.DATA, blob)
    name = place.pack.hex()
    pack = repo.directory / "data" / name[:2] / name
    raw = bytearray(pack.read_bytes())
    raw[place.offset + 100] ^= 0x10
    pack.chmod(0o600)
    pack.write_bytes(raw)
    report = await _restore(repo, "/B1", tmp_path / "ours")
    assert [failure.path for failure in report.failed] == [b"redmine/volumes/files/7"]
    assert report.exit_code == 3
    restored = tmp_path / "ours/redmine/volumes/files"
    assert {path.name for path in restored.iterdir()} == {str(n) for n in range(20)} - {"7"}
    assert all(
        path.read_bytes() == (source / path.name).read_bytes() for path in restored.iterdir()
    )


async def test_the_repository_is_kept_out_of(restic_new: Path, tmp_path: Path) -> None:
    """A target in the repository is refused, and so is restoring a path that contains it."""
    source = tmp_path / "ces/redmine/volumes/files"
    source.mkdir(parents=True)
    (source / "config").write_text("a file")
    repo = create(restic_new, tmp_path / "out/redmine/volumes/files")
    repo.backup(source, tags=["B1"])
    before = records(str(repo.directory))
    with pytest.raises(UsageError, match="repository"):
        await _restore(repo, "/B1", repo.directory / "restored")
    report = await _restore(repo, "/B1/redmine", tmp_path / "out", Overwrite.ALWAYS)
    assert [failure.path for failure in report.failed] == [b"redmine/volumes/files"]
    assert differences(records(str(repo.directory)), before) == []
