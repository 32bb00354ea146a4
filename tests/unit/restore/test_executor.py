"""Files in the target after a plan was executed."""

from __future__ import annotations

import os
import random
import resource
import stat
from pathlib import Path

import pytest

from cesbrfs.restore import Overwrite, Progress, execute
from cesbrfs.restore.dirfd import CACHED_DIRECTORIES
from cesbrfs.restore.journal import Journal
from tests.support.restore_site import BACKUP, TIME_NS, VOLUME, WRITERS, Site, names

_ALL = f"/{BACKUP}/{VOLUME}"


@pytest.fixture(params=WRITERS)
def site(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A repository, and a target that does not exist yet."""
    return Site.by_writers(request.param, tmp_path, monkeypatch)


@pytest.fixture(params=WRITERS[:2])
def memory_site(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Site:
    """The same, with an in-memory repository."""
    return Site.by_writers(request.param, tmp_path, monkeypatch)


async def test_only_the_chosen_is_written(site: Site) -> None:
    """One file is restored with its parents and their metadata, and nothing else."""
    parent = site.directory(
        "deep", site.file("a", b"1"), site.file("b", b"2"), mode=1 << 31 | 0o2750 & 0o777
    )
    site.volume(parent, site.file("beside", b"3"))
    report = await site.restore(f"{_ALL}/deep/a")
    assert report.files == 1
    assert names(site.restored) == {"deep", "deep/a"}
    made = (site.restored / "deep").stat()
    assert (stat.S_IMODE(made.st_mode), made.st_mtime_ns) == (0o750, TIME_NS)
    ours = (site.target / "redmine").stat()
    assert (stat.S_IMODE(ours.st_mode), ours.st_mtime_ns) == (0o755, TIME_NS)


async def test_parents_that_exist_stay_as_they_are(site: Site) -> None:
    """A directory that is not selected keeps its mode, whatever is overwritten in it."""
    site.volume(site.directory("deep", site.file("a", b"1")))
    (site.restored / "deep").mkdir(parents=True, mode=0o700)
    (site.restored / "deep").chmod(0o711)
    await site.restore(f"{_ALL}/deep/a", overwrite=Overwrite.ALWAYS)
    assert stat.S_IMODE((site.restored / "deep").stat().st_mode) == 0o711


@pytest.mark.parametrize(
    ("overwrite", "existing_ns", "mode"),
    [
        (Overwrite.NEVER, 0, 0o711),
        (Overwrite.ALWAYS, TIME_NS + 1, 0o755),
        (Overwrite.IF_NEWER, TIME_NS - 1, 0o755),
        (Overwrite.IF_NEWER, TIME_NS, 0o711),
    ],
)
async def test_chosen_directory_that_exists(
    site: Site, overwrite: Overwrite, existing_ns: int, mode: int
) -> None:
    """A selected directory gets the recorded metadata if a file would be replaced."""
    site.volume(site.file("a", b"1"))
    site.restored.mkdir(parents=True)
    site.restored.chmod(0o711)
    os.utime(site.restored, ns=(existing_ns, existing_ns))
    await site.restore(_ALL, overwrite=overwrite)
    assert stat.S_IMODE(site.restored.stat().st_mode) == mode


@pytest.mark.parametrize(
    ("overwrite", "existing_ns", "replaced"),
    [
        (Overwrite.NEVER, 0, False),
        (Overwrite.ALWAYS, TIME_NS + 1, True),
        (Overwrite.IF_NEWER, TIME_NS - 1, True),
        (Overwrite.IF_NEWER, TIME_NS, False),
        (Overwrite.IF_NEWER, TIME_NS + 1, False),
    ],
)
async def test_existing_file(
    site: Site, overwrite: Overwrite, existing_ns: int, replaced: bool
) -> None:
    """An existing file is replaced or skipped by the rule; skipping is no failure."""
    site.volume(site.file("a", b"from the backup"))
    site.restored.mkdir(parents=True)
    there = site.restored / "a"
    there.write_text("live")
    os.utime(there, ns=(existing_ns, existing_ns))
    report = await site.restore(_ALL, overwrite=overwrite)
    assert there.read_text() == ("from the backup" if replaced else "live")
    assert (report.files, report.skipped, report.exit_code) == (replaced, not replaced, 0)
    assert report.as_json()["skipped"] == int(not replaced)


async def test_restoring_again_skips_everything(site: Site) -> None:
    """A second restore with the default rule changes nothing, including links and FIFOs."""
    site.volume(
        site.file("a", b"1"),
        site.node("link", "symlink", 1 << 27 | 0o777, linktarget="a"),
        site.node("fifo", "fifo", 1 << 25 | 0o600),
    )
    await site.restore(_ALL)
    before = {path: path.lstat() for path in site.restored.iterdir()}
    report = await site.restore(_ALL)
    assert (report.files, report.skipped, report.failed) == (0, 3, [])
    assert {path: path.lstat() for path in site.restored.iterdir()} == before


async def test_replacing_everything_again(site: Site) -> None:
    """Existing links and FIFOs are replaced like files."""
    site.volume(
        site.file("a", b"1"),
        site.node("link", "symlink", 1 << 27 | 0o777, linktarget="a"),
        site.node("fifo", "fifo", 1 << 25 | 0o640),
    )
    await site.restore(_ALL)
    (site.restored / "link").unlink()
    (site.restored / "link").symlink_to("elsewhere")
    report = await site.restore(_ALL, overwrite=Overwrite.ALWAYS)
    assert (report.files, report.failed, report.warnings) == (3, [], [])
    assert os.readlink(site.restored / "link") == "a"
    assert stat.S_ISFIFO((site.restored / "fifo").stat().st_mode)


async def test_what_is_in_the_way_fails_alone(site: Site) -> None:
    """A directory in place of a file, or vice versa, is reported; the rest is restored."""
    site.volume(
        site.file("a", b"1"),
        site.directory("d", site.file("x", b"2")),
        site.file("fine", b"3"),
    )
    (site.restored / "a").mkdir(parents=True)
    (site.restored / "d").write_text("a file")
    report = await site.restore(_ALL, overwrite=Overwrite.ALWAYS)
    failed = {failure.path.decode(): failure.error for failure in report.failed}
    assert set(failed) == {f"{VOLUME}/a", f"{VOLUME}/d"}
    assert all("aside" in error for error in failed.values())
    assert (site.restored / "fine").read_bytes() == b"3"
    assert (site.restored / "d").read_text() == "a file"
    assert report.as_json()["failed"] == [
        {"path": path, "error": error} for path, error in failed.items()
    ]


async def test_hard_links_of_one_file(site: Site) -> None:
    """Hard links are restored as such; equal inodes with other content are not linked."""
    one = {"inode": 7, "device_id": 1, "links": 3}
    site.volume(
        site.file("a", b"same", **one),
        site.directory("d", site.file("b", b"same", **one)),
        site.file("c", b"same", **one),
        site.file("other", b"else", **one),
        site.file("single", b"same", inode=7, device_id=1),
    )
    report = await site.restore(_ALL)
    assert (report.files, report.linked, report.bytes) == (5, 2, 12)
    inodes = {name: (site.restored / name).stat().st_ino for name in names(site.restored)}
    assert inodes["a"] == inodes["d/b"] == inodes["c"]
    assert len({inodes["a"], inodes["other"], inodes["single"]}) == 3


async def test_hard_link_to_a_file_that_was_kept(site: Site) -> None:
    """If the first name exists and is kept, the others are linked to each other only."""
    one = {"inode": 7, "device_id": 1, "links": 3}
    site.volume(*(site.file(name, b"same", **one) for name in "abc"))
    site.restored.mkdir(parents=True)
    (site.restored / "a").write_text("live")
    await site.restore(_ALL)
    assert (site.restored / "a").read_text() == "live"
    assert (site.restored / "b").samefile(site.restored / "c")
    assert (site.restored / "b").read_text() == "same"


async def test_hard_link_whose_first_name_fails(site: Site) -> None:
    """If the first name cannot be written, the others are linked to the next one."""
    one = {"inode": 7, "device_id": 1, "links": 3}
    site.volume(
        site.directory("1", site.file("a", b"same", **one)),
        site.directory("2", site.file("b", b"same", **one)),
        site.directory("3", site.file("c", b"same", **one)),
    )

    def obstruct() -> None:
        (site.restored).mkdir(parents=True)
        (site.restored / "1").write_text("in the way")

    report = await site.restore(_ALL, between=obstruct)
    assert len(report.failed) == 1
    assert (site.restored / "2/b").samefile(site.restored / "3/c")


async def test_one_batch_in_many_directories(site: Site, tmp_path: Path) -> None:
    """A batch covers more directories than descriptors are cached: files, symlinks, hard links."""
    directories = 3 * CACHED_DIRECTORIES
    symlink = {"linktarget": "target", "links": 2, "inode": 9, "device_id": 1}
    shared = {"links": directories + 1, "inode": 7, "device_id": 1}
    site.volume(
        site.node("0", "symlink", 1 << 27 | 0o777, **symlink),
        site.file("1", b"shared", **shared),
        *(
            site.directory(
                f"d{number:02}",
                site.file("file", b"%d" % number),
                site.file("shared", b"shared", **shared),
                site.node("link", "symlink", 1 << 27 | 0o777, linktarget=f"{number}"),
                site.node("fifo", "fifo", 1 << 25 | 0o600),
            )
            for number in range(directories)
        ),
        site.node("e", "symlink", 1 << 27 | 0o777, **symlink),
    )
    view = await site.view()
    planned = await site.plan(_ALL, view=view)
    with Journal(tmp_path / "journals", site.target) as journal:
        journal.begin({})
        report = await execute(view, planned, None, journal)
    assert (report.failed, report.warnings) == ([], [])
    for number in range(directories):
        directory = site.restored / f"d{number:02}"
        assert (directory / "file").read_text() == f"{number}"
        assert os.readlink(directory / "link") == f"{number}"
        assert (directory / "fifo").is_fifo()
        assert (directory / "shared").samefile(site.restored / "1")
    assert (site.restored / "0").lstat().st_ino == (site.restored / "e").lstat().st_ino


async def test_zeros_become_holes(site: Site) -> None:
    """A file with mostly zeros uses little disk space, with the right content and size."""
    zeros = bytes(1 << 20)
    site.volume(
        site.file("middle", b"start" + zeros, zeros + b"end"),
        site.file("only", zeros, zeros, size=len(zeros) * 2),
    )
    report = await site.restore(_ALL)
    middle, only = site.restored / "middle", site.restored / "only"
    assert middle.read_bytes() == b"start" + zeros + zeros + b"end"
    assert only.stat().st_size == 2 << 20
    assert only.stat().st_blocks == 0
    assert middle.stat().st_blocks * 512 <= 256 << 10
    assert report.bytes == (4 << 20) + 8


async def test_large_file_in_many_blobs(site: Site) -> None:
    """A file written in steps is complete, and progress is reported in between."""
    blobs = [bytes([number]) * (200_000 + number) for number in range(1, 11)]
    site.volume(site.file("large", *blobs), site.file("small", b"1"))
    told: list[Progress] = []
    report = await site.restore(_ALL, on_progress=told.append)
    assert (site.restored / "large").read_bytes() == b"".join(blobs)
    assert report.bytes == sum(map(len, blobs)) + 1
    assert told == sorted(told)
    assert told[-1] == Progress(2, report.bytes, 2, report.bytes)
    assert len({progress.bytes for progress in told}) > 2


async def test_size_is_what_the_blobs_hold(site: Site) -> None:
    """If the size in the node is wrong, the file is restored from its blobs."""
    site.volume(site.file("a", b"12345", size=3), site.file("b", b"12345", size=300_000))
    report = await site.restore(_ALL)
    assert (report.bytes, report.failed) == (10, [])
    assert {(site.restored / name).read_bytes() for name in "ab"} == {b"12345"}


async def test_sockets_are_skipped(site: Site) -> None:
    """A socket is skipped with a warning."""
    site.volume(site.node("socket", "socket", 1 << 24 | 0o600), site.file("a", b"1"))
    report = await site.restore(_ALL)
    assert (report.files, report.skipped, report.exit_code) == (1, 1, 0)
    assert "sockets" in report.warnings[0]


async def test_very_deep_directories(memory_site: Site) -> None:
    """The depth does not affect open file descriptors or recursion."""
    node = memory_site.file("bottom", b"1")
    for _ in range(300):
        node = memory_site.directory("d", node)
    memory_site.volume(node)
    view = await memory_site.view()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        report = await execute(view, await memory_site.plan(_ALL, view=view))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (report.files, report.failed) == (1, [])
    assert len(list(memory_site.restored.rglob("*"))) == 301


async def test_backup_json_is_restored_as_a_file(site: Site) -> None:
    """A generated file can be restored."""
    site.volume(site.file("a", b"1"))
    await site.restore(f"/{BACKUP}")
    assert f'"id": "{BACKUP}"' in (site.target / "backup.json").read_text()
    assert stat.S_IMODE((site.target / "backup.json").stat().st_mode) == 0o644


async def test_a_far_repository_takes_few_requests(memory_site: Site) -> None:
    """Small files that are adjacent in packs are read with few requests."""
    noise = random.Random(3)
    content = {f"f{n:03}": noise.randbytes(3000) for n in range(300)}
    memory_site.volume(*(memory_site.file(name, data) for name, data in content.items()))
    view = await memory_site.view()
    planned = await memory_site.plan(_ALL, view=view)
    memory_site.repo.storage.reads.clear()
    report = await execute(view, planned)
    assert (report.files, report.failed) == (300, [])
    assert all((memory_site.restored / name).read_bytes() == data for name, data in content.items())
    assert len(memory_site.repo.storage.reads) < 30
