"""The restic driver with real restics, the oldest supported and a recent one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from cesbrfs.errors import (
    CesbrError,
    NotFoundError,
    RepositoryDeniedError,
    RepositoryLockedError,
    RepositoryMissingError,
    RepositoryUnreachableError,
    ResticError,
    UsageError,
    WrongKeyError,
)
from cesbrfs.repo.format.crypto import seal_record
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.repo.format.timestamps import format_time
from cesbrfs.repo.location import Access
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import open_storage
from cesbrfs.restic import Event, Restic, Status, Summary, Version, find_restic, read_version
from cesbrfs.util.secret import Secret
from tests.support.restic_repo import PASSWORD, create
from tests.support.rights import children, for_everyone, give_away, open_directory, without_rights

KEY = Secret(PASSWORD.encode())
WRONG_KEY = Secret(b"another key")


@pytest.fixture
def empty_repository(restic_binary: Path, tmp_path: Path) -> Path:
    """An initialised repository without snapshots, which the test may damage."""
    return create(restic_binary, tmp_path / "repository").directory


@pytest.fixture
async def restic(restic_binary: Path, empty_repository: Path) -> Restic:
    """Each version of restic with an empty repository."""
    return await Restic.open(Access(str(empty_repository), KEY), binary=str(restic_binary))


async def snapshots(restic: Restic) -> list[Snapshot]:
    repository = await Repository.open(open_storage(restic.access), restic.access.key)
    try:
        return await repository.snapshots()
    finally:
        await repository.aclose()


def write_files(directory: Path, names: Iterable[bytes]) -> list[bytes]:
    """Create a file for each name and return the paths."""
    directory.mkdir(exist_ok=True)
    paths = [os.path.join(os.fsencode(directory), name) for name in names]
    for path in paths:
        Path(os.fsdecode(path)).write_bytes(b"x")
    return paths


def unreadable(top: Path, names: Iterable[bytes]) -> Path:
    """Return a directory with a readable file and unreadable files and directories."""
    top.mkdir()
    (top / "readable").write_bytes(b"x")
    for name in names:
        path = top / os.fsdecode(name)
        if name.endswith(b"/"):
            path.mkdir()
        else:
            path.write_bytes(b"y")
        path.chmod(0)
    return top


def endless(directory: Path) -> Path:
    """Return a sparse file that takes hours to back up."""
    (directory / "endless").touch()
    os.truncate(directory / "endless", 1 << 40)
    return directory / "endless"


def packs(restic: Restic) -> list[Path]:
    return [path for path in Path(restic.access.url, "data").glob("*/*") if path.is_file()]


def spoil(path: Path) -> None:
    """Overwrite four bytes in the middle of a file."""
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\0\0\0\0")


def locks(restic: Restic) -> list[str]:
    return os.listdir(Path(restic.access.url, "locks"))


class TestProgram:
    """Finding the restic program."""

    async def test_it_is_found_and_says_its_version(self, restic_binary: Path) -> None:
        """By path; old and new versions are distinguished."""
        found = await find_restic(str(restic_binary))
        assert found == restic_binary
        assert (await read_version(found)) >= Version(0, 14)

    async def test_the_setting_may_be_a_name_or_be_missing(
        self, restic_old: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In both cases the program is looked up in PATH."""
        monkeypatch.setenv("PATH", str(restic_old.parent))
        assert await find_restic() == restic_old
        assert await find_restic(restic_old.name) == restic_old

    async def test_none_at_all_says_how_to_get_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without restic the error suggests what to install; with a wrong setting, what to set."""
        monkeypatch.setenv("PATH", "/nonexistent")
        with pytest.raises(ResticError, match="install"):
            await find_restic()
        with pytest.raises(ResticError, match="/no/restic is not an executable program"):
            await find_restic("/no/restic")

    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            ("echo restic 0.13.1 compiled with go1.18", "Install restic 0.14.0"),
            ("echo borg 2.0", "Unexpected output"),
            ("exit 7", "exit code 7"),
        ],
    )
    async def test_others_are_refused(self, tmp_path: Path, answer: str, told: str) -> None:
        """Too old a restic, another program, and a broken one are refused."""
        program = tmp_path / "restic"
        program.write_text(f"#!/bin/sh\n{answer}\n")
        program.chmod(0o755)
        with pytest.raises(ResticError, match=told):
            await Restic.open(Access("/x", KEY), binary=str(program))


class TestKey:
    """The key is passed byte for byte, and is not leaked."""

    @pytest.mark.parametrize("key", [b" pw\n", b"two\nlines\xff"], ids=["environment", "pipe"])
    async def test_any_key_is_used_exactly(
        self, restic_binary: Path, tmp_path: Path, key: bytes
    ) -> None:
        """Our reader, which derives the key from these bytes, opens a repository of restic."""
        access = Access(str(tmp_path / "new"), Secret(key))
        restic = await Restic.open(access, binary=str(restic_binary))
        await restic.init()
        made = await restic.probe()
        repository = await Repository.open(open_storage(access), access.key)
        assert repository.id == made
        await repository.aclose()

    async def test_neither_key_nor_address_are_in_the_command_line(
        self, restic: Restic, tmp_path: Path
    ) -> None:
        """Any local user can read it; the key is not in the environment either."""
        seen: list[bytes] = []
        environ: list[bytes] = []
        with trio.CancelScope() as scope:

            def look(event: Event) -> None:
                for pid in children():
                    seen.append(Path(f"/proc/{pid}/cmdline").read_bytes())
                    environ.append(Path(f"/proc/{pid}/environ").read_bytes())
                scope.cancel()

            await restic.backup([endless(tmp_path)], tags=["t"], on_event=look)
        assert any(b"backup" in line for line in seen)
        assert all(KEY.value not in line for line in seen + environ)
        assert all(restic.access.url.encode() not in line for line in seen)
        assert KEY.value.decode() not in repr(restic)


class TestBackup:
    """Snapshots of paths and of bytes in memory."""

    async def test_it_saves_what_it_was_given(self, restic: Restic, tmp_path: Path) -> None:
        """Tags, host and paths are recorded, totals are returned, and progress is reported."""
        (tmp_path / "s").mkdir()
        (tmp_path / "s/file").write_bytes(b"content")
        events: list[Event] = []
        summary = await restic.backup(
            [tmp_path / "s"],
            tags=["an-id", "kind=volumes"],
            host="the-host",
            time="2026-11-22 21:30:00",
            on_event=events.append,
        )
        (snapshot,) = await snapshots(restic)
        assert snapshot.id.startswith(summary.snapshot_id)
        assert snapshot.tags == ("an-id", "kind=volumes")
        assert snapshot.hostname == "the-host"
        assert (summary.errors, summary.partial) == ((), False)
        assert summary.totals.files_new == 1
        assert summary.totals.total_bytes_processed == 7
        assert isinstance(events[-1], Summary)
        assert locks(restic) == []

    async def test_paths_are_literal_bytes_of_any_number(
        self, restic: Restic, tmp_path: Path
    ) -> None:
        """Patterns, newlines, dashes, invalid UTF-8, and more paths than fit in a command line."""
        names = [b"*", b"-x", b"new\nline", b"$HOME", b"\xff\xfe", b" ", b"#c", b"[1]"]
        names += [b"%0200d" % number for number in range(1000)]
        paths = write_files(tmp_path / "many", names)
        write_files(tmp_path / "many", [b"unwanted"])
        summary = await restic.backup(paths, tags=["t"])
        assert summary.errors == ()
        assert summary.totals.files_new == len(names)
        (snapshot,) = await snapshots(restic)
        assert len(snapshot.paths) == len(names)

    async def test_excluded_paths_are_literal(self, restic: Restic, tmp_path: Path) -> None:
        """``WR[1]`` excludes only that file and not ``WR1``."""
        for name in ("WR[1]", "WR1", "a*", "ab"):
            (tmp_path / "s" / name).mkdir(parents=True)
            (tmp_path / "s" / name / "file").touch()
        skipped = [tmp_path / "s/WR[1]", tmp_path / "s/a*"]
        summary = await restic.backup([tmp_path / "s"], tags=["t"], exclude=skipped)
        assert summary.totals.files_new == 2

    async def test_bytes_in_memory_become_a_file(self, restic: Restic) -> None:
        """A document is saved without a temporary file, and the snapshot contains its path."""
        content = os.urandom(3 << 20)
        summary = await restic.backup(stdin=("manifest.json", content), tags=["t"], host="h")
        (snapshot,) = await snapshots(restic)
        assert list(snapshot.paths) == ["/manifest.json"]
        assert summary.totals.total_bytes_processed == len(content)
        dumped = await trio.run_process(
            [restic.binary, "-r", restic.access.url, "dump", "latest", "manifest.json"],
            env={**os.environ, "RESTIC_PASSWORD": KEY.value.decode()},
            capture_stdout=True,
        )
        assert dumped.stdout == content

    async def test_a_dry_run_saves_nothing(self, restic: Restic, tmp_path: Path) -> None:
        """It returns totals but no snapshot, although restic prints an ID."""
        (tmp_path / "file").write_bytes(b"content")
        summary = await restic.backup([tmp_path / "file"], tags=["t"], dry_run=True)
        assert (summary.snapshot_id, summary.totals.files_new) == ("", 1)
        assert await snapshots(restic) == []

    async def test_a_missing_path_is_an_error_of_the_result(
        self, restic: Restic, tmp_path: Path
    ) -> None:
        """Old restics report success for a missing path and print nothing in JSON."""
        (tmp_path / "file").touch()
        gone = os.fsencode(tmp_path / "gone\xff")
        summary = await restic.backup([tmp_path / "file", gone], tags=["t"])
        assert summary.partial
        assert [(error.path, error.message) for error in summary.errors] == [
            (gone, "does not exist")
        ]
        assert len(await snapshots(restic)) == 1

    async def test_nothing_to_save_is_an_error(self, restic: Restic, tmp_path: Path) -> None:
        """All paths missing, no paths, or a stdin name that some versions reject."""
        with pytest.raises(NotFoundError, match="gone"):
            await restic.backup([tmp_path / "gone"], tags=["t"])
        with pytest.raises(UsageError, match="no path"):
            await restic.backup([], tags=["t"])
        with pytest.raises(UsageError, match="file name without directories"):
            await restic.backup(stdin=("a/b", b""), tags=["t"])
        assert await snapshots(restic) == []

    async def test_what_cannot_be_read_is_named_by_its_true_bytes(
        self, restic_binary: Path, empty_repository: Path
    ) -> None:
        """The rest is saved; each unreadable path is listed once, with a reason."""
        names = [b"file", b"b\xff\xc3d", b"directory/", b"f\xe2\x82/"]
        with open_directory() as directory:
            source = unreadable(directory / "s", names)
            repository = shutil.move(empty_repository, directory / "repository")
            give_away(directory)
            binary = for_everyone(restic_binary, directory)
            with without_rights():
                restic = await Restic.open(Access(str(repository), KEY), binary=str(binary))
                summary = await restic.backup([source], tags=["t"])
        assert summary.partial
        assert summary.totals.files_new == 1
        assert len(summary.snapshot_id) >= 8
        found = {error.path: error.message for error in summary.errors}
        assert set(found) == {
            os.path.join(os.fsencode(source), name.rstrip(b"/")) for name in names
        }
        assert all("permission denied" in message for message in found.values())


class TestStopping:
    """A cancelled call leaves no process and no lock."""

    async def test_cancelling_a_backup(self, restic: Restic, tmp_path: Path) -> None:
        """Cancelled while restic holds its lock: both the lock and the process are removed."""
        held: list[str] = []
        with trio.CancelScope() as scope:

            def stop_at_work(event: Event) -> None:
                if isinstance(event, Status) and event.bytes_done:
                    held.extend(locks(restic))
                    scope.cancel()

            await restic.backup([endless(tmp_path)], tags=["t"], on_event=stop_at_work)
        assert scope.cancelled_caught
        assert len(held) == 1
        assert locks(restic) == []
        assert children() == []
        assert await snapshots(restic) == []
        assert (await restic.check()).ok

    async def test_cancelling_an_initialisation_leaves_none_half_done(
        self, restic_binary: Path, tmp_path: Path
    ) -> None:
        """A key without a config would count as damaged permanently."""
        access = Access(str(tmp_path / "new"), KEY)
        restic = await Restic.open(access, binary=str(restic_binary))
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(restic.init)
                while not children():  # noqa: ASYNC110 - a process cannot set an event
                    await trio.sleep(0.001)
                scope.cancel()
        assert children() == []
        assert await restic.probe()

    async def test_a_storage_that_hangs_is_given_up(self, restic_binary: Path) -> None:
        """The error names the repository, and no child process of restic remains."""
        access = Access("sftp:host:/x", KEY, {"sftp.command": "sh -c 'cat >/dev/null'"})
        binary = await find_restic(str(restic_binary))
        restic = Restic(binary, await read_version(binary), access, silence=1.0, grace=0.5)
        with pytest.raises(
            RepositoryUnreachableError, match=r"server of sftp:host:/x timed out: .* no progress"
        ):
            await restic.backup(stdin=("x", b""), tags=["t"])
        assert children() == []


class TestLocks:
    """Locks that are held, and stale ones."""

    async def test_a_held_lock_is_told_and_a_dead_one_removed(
        self, restic: Restic, tmp_path: Path
    ) -> None:
        """`check` conflicts with the lock of a backup; a killed backup's lock is removable."""
        process = await trio.lowlevel.open_process(
            [restic.binary, "backup", "--json", "-r", restic.access.url, endless(tmp_path)],
            env={
                **os.environ,
                "RESTIC_PASSWORD": KEY.value.decode(),
                "RESTIC_PROGRESS_FPS": "10",
            },
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            # A lock that is just being created can still lose against that of `check`.
            assert b'"status"' in await process.stdout.receive_some()
            assert locks(restic)
            with pytest.raises(RepositoryLockedError, match=rf"PID {process.pid} on"):
                await restic.check()
            await restic.unlock()
            assert len(locks(restic)) == 1, "a lock that is held stays"
        finally:
            process.kill()
            await process.wait()
        await restic.unlock()
        assert locks(restic) == []

    async def test_the_lock_of_another_process_stays(self, restic: Restic, tmp_path: Path) -> None:
        """Its PID may mean nothing here, as in a container with the same host name.

        A cancelled command removes only its own lock.
        """
        repository = await Repository.open(open_storage(restic.access), KEY)
        dead = await trio.lowlevel.open_process(["true"])
        await dead.wait()
        content = {
            "time": format_time(time.time_ns()),
            "exclusive": False,
            "hostname": socket.gethostname(),
            "username": "root",
            "pid": dead.pid,
        }
        raw = seal_record(repository._keys, json.dumps(content).encode(), os.urandom(16))
        await repository.aclose()
        other = hashlib.sha256(raw).hexdigest()
        (Path(restic.access.url, "locks") / other).write_bytes(raw)
        with trio.CancelScope() as scope:

            def stop_at_work(event: Event) -> None:
                if isinstance(event, Status) and event.bytes_done:
                    scope.cancel()

            await restic.backup([endless(tmp_path)], tags=["t"], on_event=stop_at_work)
        assert scope.cancelled_caught
        assert locks(restic) == [other]

    async def test_an_unreadable_lock_is_named(self, restic_new: Path, tmp_path: Path) -> None:
        """Newer restics fail on it after half a minute; the hint suggests what helps."""
        content = os.urandom(100)
        async with trio.open_nursery() as nursery:
            for name in (hashlib.sha256(content).hexdigest(), "ab" * 32):
                nursery.start_soon(self._unreadable, restic_new, tmp_path / name, content)

    @staticmethod
    async def _unreadable(binary: Path, directory: Path, content: bytes) -> None:
        access = create(binary, directory).access
        restic = await Restic.open(access, binary=str(binary))
        (directory / "locks" / directory.name).write_bytes(content)
        with pytest.raises(RepositoryLockedError, match="unreadable lock file") as caught:
            await restic.check()
        assert "cesbr unlock --remove-all" in caught.value.message
        await restic.unlock(remove_all=True)
        assert (await restic.check()).ok

    async def test_all_locks_can_be_removed(self, restic: Restic) -> None:
        """Even those of another machine, which cannot be checked."""
        (Path(restic.access.url, "locks") / ("ab" * 32)).write_bytes(b"not even a lock")
        await restic.unlock(remove_all=True)
        assert locks(restic) == []


class TestCheck:
    """Findings of `check`."""

    async def test_damage_is_reported_not_raised(self, restic: Restic, tmp_path: Path) -> None:
        """An intact repository, a flipped byte found only by reading the data, a missing pack."""
        (tmp_path / "file").write_bytes(os.urandom(5000))
        await restic.backup([tmp_path / "file"], tags=["t"])
        lines: list[str] = []
        report = await restic.check(read_data=True, on_line=lines.append)
        assert report.ok
        assert any("no errors were found" in line for line in lines)
        pack = max(packs(restic), key=lambda path: path.stat().st_size)
        spoil(pack)
        assert (await restic.check()).ok
        (error, *_) = (await restic.check(read_data_subset="1/1")).errors
        assert pack.name[:8] in error
        pack.unlink()
        assert any(pack.name in error for error in (await restic.check()).errors)

    async def test_a_wrong_key_is_no_report(
        self, restic_binary: Path, empty_repository: Path
    ) -> None:
        """An error that prevents the check is raised."""
        access = Access(str(empty_repository), WRONG_KEY)
        restic = await Restic.open(access, binary=str(restic_binary))
        with pytest.raises(WrongKeyError, match=str(empty_repository)):
            await restic.check()


_S3_DENIED = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>No</Message></Error>'


@asynccontextmanager
async def answering(status: str, body: bytes = b"") -> AsyncIterator[str]:
    """Serve `status` for every HTTP request; yield host and port."""

    async def serve(stream: trio.SocketStream) -> None:
        asked = b""
        async for data in stream:
            asked += data
            while b"\r\n\r\n" in asked:
                head, _, asked = asked.partition(b"\r\n\r\n")
                size = len(body)
                answer = f"HTTP/1.1 {status}\r\nContent-Length: {size}\r\n\r\n".encode()
                await stream.send_all(answer + (b"" if head.startswith(b"HEAD") else body))

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


class TestStorages:
    """Errors of remote repositories: only "not found" means missing."""

    @pytest.mark.parametrize(
        ("url", "status", "kind"),
        [
            ("rest:http://u:topsecret@{}/", "404 Not Found", RepositoryMissingError),
            ("rest:http://u:topsecret@{}/", "401 Unauthorized", RepositoryDeniedError),
            ("rest:http://u:topsecret@{}/", "403 Forbidden", RepositoryDeniedError),
            ("s3:http://{}/bucket", "404 Not Found", RepositoryMissingError),
            ("s3:http://{}/bucket", "403 Forbidden", RepositoryDeniedError),
        ],
    )
    async def test_answers_of_http(
        self, restic_binary: Path, url: str, status: str, kind: type[CesbrError]
    ) -> None:
        """By exit code or by text; the message omits the password of the address."""
        environ = {
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "topsecret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        async with answering(status, _S3_DENIED if "403" in status else b"") as place:
            access = Access(url.format(place), KEY, environment=environ)
            restic = await Restic.open(access, binary=str(restic_binary))
            with pytest.raises(CesbrError) as raised:
                await restic.probe()
        assert raised.type is kind
        assert place in raised.value.message
        assert "topsecret" not in raised.value.message

    async def test_nobody_answers(self, restic_binary: Path) -> None:
        """A closed port is reported within seconds; restic itself would retry for 15 minutes."""
        access = Access("rest:http://127.0.0.1:1/", KEY)
        restic = await Restic.open(access, binary=str(restic_binary))
        with pytest.raises(RepositoryUnreachableError, match="Connection refused"):
            await restic.probe()
        assert children() == []
