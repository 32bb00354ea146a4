"""if-changed: files equal to the backup are kept; differing files are listed first."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cesbrfs.restore import Action, Overwrite
from cesbrfs.restore.summary import fate, sheet_json, there_already
from tests.support.restore_site import BACKUP, TIME_NS, VOLUME, Site

_ALL = f"/{BACKUP}/{VOLUME}"
_XATTR = [{"name": "user.a", "value": "YQ=="}]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Files of all kinds."""
    site = Site(tmp_path / "target")
    linked = {"inode": 7, "device_id": 1, "links": 2}
    site.volume(
        site.file("file", b"content"),
        site.file("attributes", b"1", extended_attributes=_XATTR),
        site.file("one", b"linked", **linked),
        site.file("two", b"linked", **linked),
        site.node("fifo", "fifo", 1 << 25 | 0o600),
        site.node("link", "symlink", 1 << 27 | 0o777, linktarget="file"),
    )
    return site


def _touch(path: Path) -> None:
    os.utime(path, ns=(0, TIME_NS - 1), follow_symlinks=False)


def _other_content(path: Path) -> None:
    path.write_text("other content")
    os.utime(path, ns=(0, TIME_NS))


def _other_target(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")
    os.utime(path, ns=(0, TIME_NS), follow_symlinks=False)


def _other_type(path: Path) -> None:
    path.unlink()
    path.symlink_to("content")
    os.utime(path, ns=(0, TIME_NS), follow_symlinks=False)


_DIFFERENCES: list[tuple[str, Callable[[Path], object]]] = [
    ("file", _touch),
    ("file", _other_content),
    ("file", _other_type),
    ("file", lambda path: path.chmod(0o600)),
    ("file", lambda path: os.setxattr(path, "system.posix_acl_access", _acl())),
    ("attributes", lambda path: os.removexattr(path, "user.a")),
    ("attributes", lambda path: os.setxattr(path, "user.a", b"b")),
    ("fifo", lambda path: path.chmod(0o644)),
    ("link", _touch),
    ("link", _other_target),
]
if os.geteuid() == 0:
    _DIFFERENCES.append(("file", lambda path: os.chown(path, 12345, 12345)))


def _acl() -> bytes:
    from tests.sample.oddities import acl

    none = 0xFFFFFFFF
    return acl((1, 6, none), (2, 6, 65534), (4, 4, none), (16, 6, none), (32, 4, none))


async def test_nothing_changed(site: Site) -> None:
    """A second restore writes nothing, keeps all inodes, and reports the unchanged files."""
    await site.restore(_ALL)
    before = {path: path.lstat() for path in site.restored.iterdir()}
    report = await site.restore(_ALL, overwrite=Overwrite.IF_CHANGED)
    assert (report.files, report.unchanged, report.skipped, report.failed) == (0, 6, 0, [])
    assert {path: path.lstat() for path in site.restored.iterdir()} == before


@pytest.mark.parametrize("number", range(len(_DIFFERENCES)))
async def test_what_differs_is_replaced(site: Site, number: int) -> None:
    """Only a file with a difference is listed first and replaced."""
    name, change = _DIFFERENCES[number]
    await site.restore(_ALL)
    change(site.restored / name)
    planned = await site.plan(_ALL, overwrite=Overwrite.IF_CHANGED)
    assert (planned.will_overwrite, planned.unchanged) == (1, 5)
    first, *others = there_already(planned)
    assert (first.name.decode(), fate(planned, first)) == (name, "replaced")
    assert {fate(planned, other) for other in others} == {"unchanged"}
    there = sheet_json(planned)["there"]
    assert isinstance(there, list)
    assert there[0]["path"] == f"{VOLUME}/{name}"
    report = await site.restore(_ALL, overwrite=Overwrite.IF_CHANGED)
    assert (report.files, report.unchanged, report.failed) == (1, 5, [])
    again = await site.plan(_ALL, overwrite=Overwrite.IF_CHANGED)
    assert (again.will_overwrite, again.unchanged) == (0, 6)


@pytest.mark.parametrize("name", ["one", "two"])
async def test_a_changed_name_is_linked_to_the_other_again(site: Site, name: str) -> None:
    """A hard link that an editor replaced is linked again."""
    await site.restore(_ALL)
    other = site.restored / ("two" if name == "one" else "one")
    inode = other.stat().st_ino
    (site.restored / name).unlink()
    (site.restored / name).write_text("an editor's")
    report = await site.restore(_ALL, overwrite=Overwrite.IF_CHANGED)
    assert (report.linked, report.bytes) == (1, 0)
    assert {(site.restored / n).stat().st_ino for n in ("one", "two")} == {inode}


@pytest.mark.parametrize("overwrite", [Overwrite.NEVER, Overwrite.ALWAYS, Overwrite.IF_NEWER])
async def test_every_plan_shows_first_what_differs(site: Site, overwrite: Overwrite) -> None:
    """Kept and unconditionally replaced files follow the differing ones."""
    await site.restore(_ALL)
    _touch(site.restored / "link")
    planned = await site.plan(_ALL, overwrite=overwrite)
    found = list(there_already(planned))
    assert found[0].name == b"link"
    assert "unchanged" not in fate(planned, found[0])
    assert all("unchanged" in fate(planned, file) for file in found[1:])
    assert planned.unchanged == 0
    assert found[0].action is (Action.SKIP if overwrite is Overwrite.NEVER else Action.OVERWRITE)
