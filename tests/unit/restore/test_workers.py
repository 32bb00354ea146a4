"""Worker processes of a restore: death, damaged content, secrets, cancellation."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio

from cesbrfs.repo.format.pack import BlobType
from cesbrfs.repo.storage import FileType
from cesbrfs.restore import Progress, RestoreReport, ToDirectory, execute, make_plan, select
from cesbrfs.restore.journal import Journal
from cesbrfs.restore.worker_pool import WorkerDiedError, WorkerProcess, worker_count
from cesbrfs.restore.worker_protocol import Reply, Request
from tests.support.restore_site import BACKUP, VOLUME, WRITERS, Site, names

_ALL = f"/{BACKUP}/{VOLUME}"
_LOCAL = WRITERS[2]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A local repository that is restored by worker processes."""
    return Site.by_writers(_LOCAL, tmp_path, monkeypatch)


async def _restore(site: Site, journals: Path | None = None) -> RestoreReport:
    view = await site.view()
    selection = select([await view.resolve(_ALL)])
    planned = await make_plan(view, selection, ToDirectory(site.target))
    if journals is None:
        return await execute(view, planned)
    with Journal(journals, site.target) as journal:
        journal.begin({"repository": "r"})
        return await execute(view, planned, None, journal)


def _fill(site: Site) -> int:
    """Back up small files, hard links and a large file; return the number of names."""
    linked = {"links": 2, "inode": 7, "device_id": 1}
    site.volume(
        *(site.file(f"{n:03}", b"content %d" % n) for n in range(300)),
        site.file("x linked", b"twice", **linked),
        site.file("y linked", b"twice", **linked),
        site.file("z large", *(bytes([n]) * 200_000 for n in range(1, 11))),
    )
    return 303


def _check(site: Site) -> None:
    for n in range(300):
        assert (site.restored / f"{n:03}").read_bytes() == b"content %d" % n
    assert (site.restored / "x linked").samefile(site.restored / "y linked")
    expected = b"".join(bytes([n]) * 200_000 for n in range(1, 11))
    assert (site.restored / "z large").read_bytes() == expected
    assert not list(site.target.rglob(".cesbr-*"))


@pytest.mark.parametrize(
    ("replied", "journal"),
    [(False, False), (False, True), (True, True)],
    ids=["before it writes, no journal", "before it writes", "before it replies"],
)
@pytest.mark.parametrize("dead", [1, 2])
async def test_a_killed_worker_loses_nothing(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    replied: bool,
    journal: bool,
    dead: int,
) -> None:
    """All files are restored, and the report names the death."""
    files = _fill(site)
    request = WorkerProcess.request
    killed: set[int] = set()

    async def kill(self: WorkerProcess, message: Request) -> Reply:
        if len(killed) >= dead or self.is_dead:
            return await request(self, message)
        killed.add(id(self))
        if replied:
            await request(self, message)
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        if replied:
            self.is_dead = True
            raise WorkerDiedError
        return await request(self, message)

    monkeypatch.setattr(WorkerProcess, "request", kill)
    report = await _restore(site, tmp_path / "journals" if journal else None)
    assert len(killed) == dead
    assert (report.files, report.failed) == (files, [])
    assert any("worker process" in warning for warning in report.warnings)
    _check(site)


async def test_a_killed_worker_of_a_remote_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads write its files; no temporary file stays, and the report names the death."""
    site = Site.by_writers(WRITERS[1], tmp_path, monkeypatch)
    files = _fill(site)
    request = WorkerProcess.request
    killed: list[WorkerProcess] = []

    async def kill(self: WorkerProcess, message: Request) -> Reply:
        if not killed:
            killed.append(self)
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()
        return await request(self, message)

    monkeypatch.setattr(WorkerProcess, "request", kill)
    report = await _restore(site)
    assert (report.files, report.failed) == (files, [])
    assert any("worker process" in warning for warning in report.warnings)
    _check(site)


async def test_damaged_content_is_reported_as_without_workers(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged blob, a missing blob and a missing pack: same messages, same files."""
    blob = site.repo.blob(BlobType.DATA, b"broken")
    pack, entries = site.repo.pack(blob)
    site.repo.index((pack, entries))
    raw = bytearray(site.repo.storage.files[FileType.PACK, pack])
    raw[20] ^= 1
    site.repo.storage.files[FileType.PACK, pack] = bytes(raw)
    broken = site.file("broken", b"")
    broken |= {"content": [blob.id.hex()], "size": 6}
    missing = site.file("missing", b"1")
    missing["content"] = ["aa" * 32]
    large = site.file("large", *(bytes([n]) * 200_000 for n in range(1, 7)))
    large["content"].append(blob.id.hex())
    site.volume(broken, missing, large, site.file("fine", b"3"))
    by_workers = await _restore(site)
    assert names(site.restored) == {"fine"}
    monkeypatch.undo()
    threads = Site(tmp_path / "other", site.repo, site.local)
    by_threads = await _restore(threads)
    assert sorted(by_workers.failed) == sorted(by_threads.failed)
    assert len(by_workers.failed) == 3


async def test_a_copy_of_a_damaged_blob_is_used(site: Site) -> None:
    """If the first pack with a blob is damaged, its copy in another pack is restored."""
    blob = site.repo.blob(BlobType.DATA, b"stored twice")
    for damaged in (True, False):
        pack, entries = site.repo.pack(blob, site.repo.blob(BlobType.DATA, b"%d" % damaged))
        site.repo.index((pack, entries))
        if damaged:
            raw = bytearray(site.repo.storage.files[FileType.PACK, pack])
            raw[20] ^= 1
            site.repo.storage.files[FileType.PACK, pack] = bytes(raw)
    file = site.file("file", b"")
    file |= {"content": [blob.id.hex()], "size": 12}
    site.volume(file)
    report = await _restore(site)
    assert report.failed == []
    assert (site.restored / "file").read_bytes() == b"stored twice"


async def test_no_secret_in_arguments_and_environment(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The master key reaches a worker through a socket only."""
    _fill(site)
    monkeypatch.setenv("RESTIC_PASSWORD", "a password")
    seen: dict[int, bytes] = {}
    request = WorkerProcess.request

    async def look(self: WorkerProcess, message: Request) -> Reply:
        reply = await request(self, message)
        directory = Path(f"/proc/{self._process.pid}")
        seen[self._process.pid] = b"".join(
            (directory / name).read_bytes() for name in ("cmdline", "environ")
        )
        return reply

    monkeypatch.setattr(WorkerProcess, "request", look)
    await _restore(site)
    keys = (await site.view()).repository.keys
    assert seen
    for text in seen.values():
        assert b"cesbrfs.restore.worker" in text
        assert b"PATH=" in text
        assert b"a password" not in text
        for secret in (keys.encrypt, keys.mac_k, keys.mac_r):
            assert secret not in text
            assert secret.hex().encode() not in text


async def test_workers_end_when_the_restore_is_cancelled(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their last files are complete, and no process is left."""
    _fill(site)
    processes: list[trio.Process] = []
    set_up = WorkerProcess.set_up

    async def note(self: WorkerProcess, setup: object) -> None:
        processes.append(self._process)
        await set_up(self, setup)  # type: ignore[arg-type]

    monkeypatch.setattr(WorkerProcess, "set_up", note)
    with trio.CancelScope() as scope:

        def stop(_: Progress) -> None:
            scope.cancel()

        await site.restore(_ALL, on_progress=stop)
    assert scope.cancelled_caught
    assert processes
    assert all(process.returncode == 0 for process in processes)
    assert not list(site.target.rglob(".cesbr-*"))


@pytest.mark.parametrize(
    ("files", "size", "limit", "expected"),
    [(999, 0, 8, 0), (1000, 0, 8, 1), (70_000, 0, 8, 8), (1, 1 << 30, 4, 4), (70_000, 0, 0, 0)],
)
def test_few_files_need_no_worker(files: int, size: int, limit: int, expected: int) -> None:
    """A process is started only if there is enough to do; the setting is the limit."""
    assert worker_count(files, size, limit) == expected
