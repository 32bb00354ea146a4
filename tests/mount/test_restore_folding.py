"""Restore to a file system that folds case or Unicode normalisation (NFC)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cesbrfs.restore import Overwrite
from tests.support.case_folding import folding
from tests.support.restore_site import BACKUP, VOLUME, Site

_ALL = f"/{BACKUP}/{VOLUME}"
_PAIRS = {"case": ("Name", "name"), "nfc": ("cafe\u0301", "caf\u00e9")}


@pytest.fixture(params=sorted(_PAIRS))
def how(request: pytest.FixtureRequest) -> str:
    """The kind of folding: ``case`` or ``nfc``."""
    return str(request.param)


@pytest.fixture
def site(tmp_path: Path, how: str) -> Iterator[Site]:
    """A backup with colliding files (small and large), directories, and one of each."""
    site = Site(tmp_path / "target")
    one, two = _PAIRS[how]
    large = [bytes([n]) * 300_000 for n in range(1, 8)]
    site.volume(
        site.directory("small", site.file(one, b"first"), site.file(two, b"second")),
        site.directory("large", site.file(one, b"first"), site.file(two, *large)),
        site.directory(
            "mixed", site.file(one, b"first"), site.directory(two, site.file("x", b"1"))
        ),
        site.directory(
            "directories",
            site.directory(one, site.file("x", b"1")),
            site.directory(two, site.file("x", b"2")),
        ),
        site.file("fine", b"1"),
    )
    with folding(site.target, how):
        yield site


@pytest.mark.parametrize("overwrite", list(Overwrite))
async def test_colliding_names(site: Site, how: str, overwrite: Overwrite) -> None:
    """One of two colliding names is restored, the other reported; a repeat changes nothing."""
    before: dict[str, bytes] = {}
    for _ in range(2):
        report = await site.restore(_ALL, overwrite=overwrite)
        assert report.exit_code == 3
        failed = {failure.path.decode(): failure.error for failure in report.failed}
        directories = {path.split("/")[3] for path in failed}
        assert (len(failed), directories) == (4, {"small", "large", "mixed", "directories"})
        assert all("does not distinguish" in error for error in failed.values())
        assert (site.restored / "fine").read_bytes() == b"1"
        found = {str(p): p.read_bytes() for p in site.restored.rglob("*") if p.is_file()}
        assert before in ({}, found)
        before = found
        planned = await site.plan(_ALL, overwrite=overwrite)
        assert {refused.path.decode() for refused in planned.refused} == failed.keys()


async def test_names_that_look_the_same_are_escaped(site: Site, how: str) -> None:
    """Names that differ only in normalisation are printed with code points."""
    report = await site.restore(f"{_ALL}/small")
    (failure,) = report.failed
    shown = _PAIRS["case"] if how == "case" else ("cafe\\u0301", "caf\\xe9")
    assert all(f"'{name}'" in failure.error for name in shown)


async def test_another_spelling_is_the_same_file(site: Site, how: str) -> None:
    """An existing file with another spelling of the name is replaced."""
    one, two = _PAIRS[how]
    (site.restored / "small").mkdir(parents=True)
    (site.restored / "small" / two).write_text("live")
    report = await site.restore(f"{_ALL}/small/{one}", overwrite=Overwrite.ALWAYS)
    assert (report.failed, report.files) == ([], 1)
    assert (site.restored / "small" / two).read_bytes() == b"first"
