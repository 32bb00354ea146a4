"""Archives from real repositories: what GNU tar extracts is what restic restores."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cesbrfs.archive.export import Export
from cesbrfs.archive.members import chosen
from cesbrfs.archive.tar_writer import TarWriter
from cesbrfs.archive.zip_writer import ZipWriter
from cesbrfs.errors import CesbrError
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.vfs.tree import BackupTree
from tests.sample.instance import Instance
from tests.support.compare import Record, differences, records
from tests.support.restic_repo import ResticRepo, create

_VOLUMES = ("files", "plugins", "localConfig")
_LARGE = (8 << 20) + 700_000


@pytest.fixture(scope="module")
def sample(
    tmp_path_factory: pytest.TempPathFactory, make_instance: Callable[[Path], Instance]
) -> Instance:
    """The sample instance with a large file; tests do not change it."""
    instance = make_instance(tmp_path_factory.mktemp("export") / "instance")
    (instance.volume("redmine", "files") / "large").write_bytes(os.urandom(_LARGE))
    return instance


@pytest.fixture(scope="module")
def repo(
    restic_new: Path, sample: Instance, tmp_path_factory: pytest.TempPathFactory
) -> ResticRepo:
    """A repository with one backup of redmine's volumes, with all unusual files."""
    made = create(restic_new, tmp_path_factory.mktemp("export-repo") / "repo")
    made.backup(*(sample.volume("redmine", name) for name in _VOLUMES), tags=["B1"])
    return made


class _Exported:
    """An archive, and what failed."""

    def __init__(self) -> None:
        self.stream = io.BytesIO()
        self.failed: dict[str, str] = {}

    async def write(self, data: bytes) -> None:
        self.stream.write(data)

    def fail(self, path: str, error: CesbrError) -> None:
        self.failed[path] = error.message

    async def run(
        self,
        view: BackupTree,
        path: str,
        kind: type[TarWriter | ZipWriter],
        *,
        sparse: bool = False,
    ) -> None:
        export = Export(view, kind(self.write), self.fail, lambda _: None, sparse=sparse)
        await export.run(chosen([await view.resolve(path)]))
        self.stream.seek(0)


def _all(top: Path) -> dict[bytes, Record]:
    """Describe the volumes below `top`, without what restic restores in another way."""
    found: dict[bytes, Record] = {}
    for name in _VOLUMES:
        for path, record in records(str(top / name)).items():
            twins = record.twins if stat.S_ISREG(record.mode) else frozenset[bytes]()
            if not path.endswith((b"/socket", b"/times/2400")):
                found[name.encode() + b"/" + path] = replace(record, twins=twins)
    return found


def _extract(archive: Path, target: Path) -> list[str]:
    """Extract everything with GNU tar; return its warnings, except for unusual times."""
    target.mkdir()
    done = subprocess.run(
        ["tar", "-x", "-p", "-f", archive, "--xattrs", "--xattrs-include=*", "-C", target],
        capture_output=True,
        check=True,
        text=True,
    )
    return [line for line in done.stderr.splitlines() if "time stamp" not in line]


def _copy(repo: ResticRepo, directory: Path) -> ResticRepo:
    subprocess.run(["cp", "-a", repo.directory, directory], check=True)
    return replace(repo, directory=directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="owners and devices need root")
@pytest.mark.parametrize("sparse", [False, True])
async def test_tar_extracts_what_restic_restores(
    repo: ResticRepo, sample: Instance, tmp_path: Path, sparse: bool
) -> None:
    """Types, content, modes, owners, times, attributes and hard links are equal."""
    theirs, ours, archive = tmp_path / "theirs", tmp_path / "ours", tmp_path / "archive.tar"
    repo.run("restore", "latest", "--target", theirs)
    exported = _Exported()
    await exported.run(BackupTree(await repo.open()), "/B1", TarWriter, sparse=sparse)
    assert exported.failed == {}
    archive.write_bytes(exported.stream.getvalue())
    assert _extract(archive, ours) == []
    expected = _all(theirs / sample.volume("redmine", ".").relative_to("/"))
    assert len(expected) > 100
    assert differences(_all(ours / "redmine/volumes"), expected) == []
    with tarfile.open(archive) as opened:
        names = [os.fsencode(member.name) for member in opened]
    assert b"redmine/volumes/files/oddities/names/not utf-8 \xff\xfe\xc3" in names
    assert names[:2] == [b"backup.json", b"redmine"]


async def test_damaged_content_leaves_a_valid_archive(
    repo: ResticRepo, sample: Instance, tmp_path: Path
) -> None:
    """Small files are left out, damaged parts of large ones are zeros; both are named."""
    own = _copy(repo, tmp_path / "repo")
    opened = await own.open()
    view = BackupTree(opened)
    files = "/B1/redmine/volumes/files"
    index = await opened.index()
    large = (await view.resolve(f"{files}/large")).entry.node
    small = (await view.resolve(f"{files}/oddities/shapes/no line end")).entry.node
    for blob in (large.blobs[1], small.blobs[0]):
        place = index.places(BlobType.DATA, blob)[0]
        pack = own.directory / "data" / place.pack.hex()[:2] / place.pack.hex()
        pack.chmod(0o600)
        with pack.open("r+b") as file:
            file.seek(place.offset + 20)
            file.write(bytes(8))
    lengths = await opened.blobs.lengths(large.blobs)
    original = (sample.volume("redmine", "files") / "large").read_bytes()
    expected = bytearray(original)
    expected[lengths[0] : lengths[0] + lengths[1]] = bytes(lengths[1])
    exported = _Exported()
    await exported.run(view, files, TarWriter)
    assert set(exported.failed) == {f"{files}/large", f"{files}/oddities/shapes/no line end"}
    assert "Zeros replace" in exported.failed[f"{files}/large"]
    with tarfile.open(fileobj=exported.stream) as archive:
        names = archive.getnames()
        content = archive.extractfile("redmine/volumes/files/large")
        assert content is not None
        assert content.read() == expected
    assert "redmine/volumes/files/oddities/shapes/no line end" not in names
    assert len(names) > 100


async def test_zip_names_what_it_cannot_contain(repo: ResticRepo, sample: Instance) -> None:
    """Files, directories and symlinks have their modes; everything else is named."""
    files = "/B1/redmine/volumes/files"
    exported = _Exported()
    await exported.run(BackupTree(await repo.open()), files, ZipWriter)
    odd = f"{files}/oddities"
    assert {f"{odd}/special/fifo", f"{odd}/names/not utf-8 \\xff\\xfe\\xc3"} <= set(exported.failed)
    assert all("Export it with --format tar." in reason for reason in exported.failed.values())
    with zipfile.ZipFile(exported.stream) as archive:
        assert archive.testzip() is None
        below = "redmine/volumes/files/"
        large = (sample.volume("redmine", "files") / "large").read_bytes()
        assert archive.read(f"{below}large") == large
        link = archive.getinfo(f"{below}oddities/links/to a file")
        assert stat.S_ISLNK(link.external_attr >> 16)
        assert archive.read(link) == b"here/one"
        mode = archive.getinfo(f"{below}oddities/modes/setuid").external_attr >> 16
        assert mode == stat.S_IFREG | 0o4755
