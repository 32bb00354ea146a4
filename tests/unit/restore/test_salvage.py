"""The intact parts of damaged files are written under another name, with holes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cesbrfs.errors import RestoreError
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.storage import FileType
from cesbrfs.restore import Overwrite, RestoreReport, execute
from cesbrfs.restore.report import LostRange
from cesbrfs.restore.salvage import Part, located
from tests.support.restore_site import BACKUP, TIME_NS, VOLUME, WRITERS, Site, names

_ALL = f"/{BACKUP}/{VOLUME}"
_A, _B, _C, _D, _X = (letter * 100_000 for letter in (b"a", b"b", b"c", b"d", b"x"))


@pytest.fixture(params=WRITERS)
def site(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A repository, and a target that does not exist yet."""
    return Site.by_writers(request.param, tmp_path, monkeypatch)


async def _restore(site: Site, overwrite: Overwrite = Overwrite.NEVER) -> RestoreReport:
    view = await site.view()
    planned = await site.plan(_ALL, view=view, overwrite=overwrite)
    return await execute(view, planned, salvage=True)


def _break(site: Site, content: bytes) -> str:
    """Save a blob that is damaged in its pack; return its ID."""
    blob = site.repo.blob(BlobType.DATA, content)
    pack, entries = site.repo.pack(blob)
    site.repo.index((pack, entries))
    raw = bytearray(site.repo.storage.files[FileType.PACK, pack])
    raw[20] ^= 1
    site.repo.storage.files[FileType.PACK, pack] = bytes(raw)
    return blob.id.hex()


def _file(site: Site, name: str, *parts: bytes, lost: dict[int, str], **fields: Any) -> Any:
    """Return the node of a file with other blob IDs at some positions."""
    node = site.file(name, *parts, **fields)
    for at, blob in lost.items():
        node["content"][at] = blob
    return node


async def test_ranges_are_lost_and_the_rest_is_kept(site: Site) -> None:
    """Damaged blobs keep their length; the range of blobs that no index names is calculated."""
    broken = _break(site, _X)
    site.volume(
        site.file("fine", b"1"),
        _file(site, "one", _A, _D, _C, lost={1: broken}, mode=0o640),
        _file(site, "end", _A, _D, lost={1: broken}),
        _file(site, "unknown", _A, _D, _C, lost={1: "aa" * 32}),
        _file(site, "several", _A, _B, _C, _D, lost={0: "aa" * 32, 2: "bb" * 32}),
        _file(site, "nothing", _D, lost={0: broken}),
    )
    report = await _restore(site)
    assert (report.exit_code, report.files) == (3, 1)
    damaged = {"one", "end", "unknown", "several", "nothing"}
    assert {os.path.basename(failure.path).decode() for failure in report.failed} == damaged
    saved = {"one.damaged", "end.damaged", "unknown.damaged", "several.damaged"}
    assert names(site.restored) == {"fine"} | saved
    assert {os.path.basename(s.saved_as).decode() for s in report.salvaged} == saved
    lost = {os.path.basename(s.path): (s.size, s.lost) for s in report.salvaged}
    assert lost == {
        b"one": (300_000, (LostRange(100_000, 100_000),)),
        b"end": (200_000, (LostRange(100_000, 100_000),)),
        b"unknown": (300_000, (LostRange(100_000, 100_000),)),
        b"several": (400_000, (LostRange(0, 300_000),)),
    }
    hole = bytes(100_000)
    assert (site.restored / "one.damaged").read_bytes() == _A + hole + _C
    assert (site.restored / "end.damaged").read_bytes() == _A + hole
    assert (site.restored / "several.damaged").read_bytes() == 3 * hole + _D
    status = (site.restored / "one.damaged").stat()
    assert (status.st_mode & 0o777, status.st_mtime_ns) == (0o640, TIME_NS)
    assert report.as_json()["salvaged"]


async def test_other_files_are_not_replaced(site: Site) -> None:
    """A name that the backup has is not used; a file that exists is kept unless told otherwise."""
    broken = _break(site, _X)
    site.volume(
        _file(site, "a", _A, _D, lost={1: broken}),
        site.file("a.damaged", b"of the backup"),
        _file(site, "b", _A, _D, lost={1: broken}),
    )
    site.restored.mkdir(parents=True)
    (site.restored / "b").write_text("live")
    (site.restored / "b.damaged").write_text("mine")
    report = await _restore(site)
    assert (site.restored / "a.damaged").read_text() == "of the backup"
    assert (site.restored / "a.damaged-2").read_bytes() == _A + bytes(100_000)
    assert (site.restored / "b.damaged").read_text() == "mine"
    (site.restored / "b").unlink()
    report = await _restore(site)
    (warning,) = report.warnings
    assert "It exists already" in warning
    assert "and 1 more" in warning  # that of `a`, too
    assert (site.restored / "b.damaged").read_text() == "mine"
    (site.restored / "b").write_text("live")
    await _restore(site, Overwrite.ALWAYS)
    assert (site.restored / "b").read_text() == "live"
    assert (site.restored / "b.damaged").read_bytes() == _A + bytes(100_000)
    assert (site.restored / "a.damaged").read_text() == "of the backup"


async def test_long_names_are_cut(site: Site) -> None:
    """No character is cut in two."""
    name = "ä" * 127
    site.volume(_file(site, name, _A, _D, lost={1: _break(site, _X)}))
    await _restore(site)
    assert names(site.restored) == {"ä" * 123 + ".damaged"}


def test_sizes_that_contradict() -> None:
    """Nothing is written at a wrong offset."""
    assert located([b"a", b"b"], [3, None], 5) == [Part(b"a", 3), Part(None, 2)]
    with pytest.raises(RestoreError):
        located([b"a", b"b"], [3, None], 2)
