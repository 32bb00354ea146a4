"""Reads, errors, cancellation and lost connections with a real SFTP server."""

from __future__ import annotations

import hashlib
import os
import random
import re
import signal
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from cesbrfs.errors import (
    CesbrError,
    DamagedError,
    FileMissingError,
    RepositoryDeniedError,
    RepositoryMissingError,
    RepositoryTimedOutError,
    RepositoryUnreachableError,
    RepositoryUntrustedError,
    UsageError,
)
from cesbrfs.repo.location import Access
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import FileType, Storage, open_storage, read_exactly
from cesbrfs.repo.storage.retry import RetryingStorage
from cesbrfs.repo.storage.sftp import session as sftp_session
from cesbrfs.repo.storage.sftp.storage import SESSIONS, SftpStorage
from cesbrfs.restic import Restic
from cesbrfs.restore import ToDirectory, execute, make_plan, select
from cesbrfs.util.secret import Secret
from cesbrfs.vfs.tree import BackupTree
from tests.sample import oddities
from tests.support.compare import Record, differences, records
from tests.support.proxy import Fault, Proxy, proxying
from tests.support.restic_repo import PASSWORD, create
from tests.support.rights import children, without_rights
from tests.support.sshd import (
    Sshd,
    descendants,
    free_port,
    make_key,
    prepare,
    running,
    signal_sessions,
    trust,
)

KEY = Secret(PASSWORD.encode())
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")
LARGE = 12 << 20


@dataclass(frozen=True)
class Files:
    """Files as in a repository, and their content."""

    directory: Path
    packs: Mapping[str, bytes]
    large: str

    @property
    def small(self) -> list[str]:
        """The names of all packs except the large one."""
        return [name for name in self.packs if name != self.large]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A directory structured like a repository: 260 keys, 24 packs and a large one."""
    directory = tmp_path_factory.mktemp("files") / "repo"
    chance = random.Random(5)
    contents = [chance.randbytes(chance.randrange(1, 600_000)) for _ in range(24)]
    contents.append(chance.randbytes(LARGE))
    packs = {hashlib.sha256(content).hexdigest(): content for content in contents}
    for name, content in packs.items():
        place = directory / "data" / name[:2]
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
        (place / f"{name}-tmp-1").write_bytes(b"")
    (directory / "data" / "notes").mkdir()
    (directory / "keys").mkdir()
    for number in range(260):
        (directory / "keys" / hashlib.sha256(b"%d" % number).hexdigest()).write_bytes(
            b"%d" % number
        )
    (directory / "index").mkdir()
    (directory / "config").write_bytes(b"the config")
    return Files(directory, packs, max(packs, key=lambda name: len(packs[name])))


def open_files(pid: int) -> list[str]:
    """Return the open files of a process."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed between the two calls
            found.append(os.readlink(entry))
    return found


def our_pipes() -> list[str]:
    """Return the open files of this process, without sockets, which belong to the proxy."""
    return sorted(name for name in open_files(os.getpid()) if not name.startswith("socket:"))


def open_packs() -> list[str]:
    """Return the packs that the servers, all descendants of this process, have open."""
    found = [name for pid in descendants(os.getpid()) for name in open_files(pid)]
    return [name for name in found if re.search(r"/data/../[0-9a-f]{64}$", name)]


@asynccontextmanager
async def opened(
    server: Sshd, files: Files, *, port: int | None = None, silence: float = 20.0
) -> AsyncIterator[SftpStorage]:
    """Yield a storage, and check that it leaves nothing behind."""
    pipes, processes = our_pipes(), children()
    tasks = trio.lowlevel.current_statistics().tasks_living
    storage = SftpStorage(
        server.command(port=port).split(), str(files.directory), "sftp:test", timeout=silence
    )
    try:
        yield storage
    finally:
        await storage.aclose()
        assert children() == processes
        assert our_pipes() == pipes
        assert trio.lowlevel.current_statistics().tasks_living <= tasks


@pytest.fixture
async def storage(sshd: Sshd, files: Files) -> AsyncIterator[SftpStorage]:
    """A storage on the shared server."""
    async with opened(sshd, files) as made:
        yield made


@pytest.fixture
def proxy(sshd: Sshd) -> Iterator[Proxy]:
    """A proxy to the server that can inject faults."""
    with proxying(("127.0.0.1", sshd.port)) as made:
        yield made


class TestReading:
    """Listings and reads return the right data."""

    async def test_lists(self, storage: SftpStorage, files: Files) -> None:
        """Every kind with sizes, in directories of several pages; other names are omitted."""
        packs = {file.name: file.size for file in await storage.list(FileType.PACK)}
        assert packs == {name: len(content) for name, content in files.packs.items()}
        keys = await storage.list(FileType.KEY)
        assert {file.name for file in keys} == set(os.listdir(files.directory / "keys"))
        assert sum(file.size for file in keys) == 10 + 90 * 2 + 160 * 3
        assert list(await storage.list(FileType.INDEX)) == []
        assert list(await storage.list(FileType.SNAPSHOT)) == []  # the directory is missing

    async def test_whole_files_and_parts(self, storage: SftpStorage, files: Files) -> None:
        """Sizes below, at and above the maximum of one response."""
        assert await storage.read(FileType.CONFIG) == b"the config"
        chance = random.Random(6)
        for name, content in files.packs.items():
            assert await storage.read(FileType.PACK, name) == content
            start = chance.randrange(len(content))
            for length in (0, 1, chance.randrange(len(content) - start) + 1, len(content) - start):
                found = await storage.read(FileType.PACK, name, start, length)
                assert found == content[start : start + length]
            assert await storage.read(FileType.PACK, name, start) == content[start:]

    async def test_what_is_not_there(self, storage: SftpStorage, files: Files) -> None:
        """A missing file and a truncated one raise different errors."""
        with pytest.raises(FileMissingError, match="a" * 64):
            await storage.read(FileType.PACK, "a" * 64, 0, 10)
        with pytest.raises(FileMissingError):
            await storage.read(FileType.SNAPSHOT, "a" * 64)
        for start, length in ((LARGE - 5, 10), (LARGE, 1), (0, LARGE + 1)):
            with pytest.raises(DamagedError, match="is truncated"):
                await read_exactly(storage, FileType.PACK, files.large, start, length)
        assert await storage.read(FileType.CONFIG) == b"the config"

    async def test_a_directory_in_the_place_of_a_file(
        self, sshd: Sshd, files: Files, tmp_path: Path
    ) -> None:
        """It raises an error, and the connection stays open."""
        (tmp_path / "keys" / ("b" * 64)).mkdir(parents=True)
        (tmp_path / "config").write_bytes(b"x")
        async with opened(sshd, replace(files, directory=tmp_path)) as storage:
            await storage.read(FileType.CONFIG)
            (session,) = storage._sessions
            with pytest.raises(DamagedError, match="not a regular file"):
                await storage.read(FileType.KEY, "b" * 64)
            assert await storage.read(FileType.CONFIG) == b"x"
            assert storage._sessions == [session]

    @pytest.mark.parametrize("what", ["fifo", "socket", "device", "terminal"])
    async def test_a_special_file_in_the_place_of_a_file(
        self, sshd: Sshd, files: Files, tmp_path: Path, what: str
    ) -> None:
        """It raises an error, although the server waits for the writer of a FIFO forever.

        Other reads on the same connection are retried. A file that was listed, or that has caused
        an error, blocks no connection.
        """
        key, pack = tmp_path / "keys" / ("b" * 64), tmp_path / "data/cc" / ("c" * 64)
        for path in (key, pack):
            path.parent.mkdir(parents=True)
            if what in {"fifo", "socket"}:
                os.mknod(path, 0o600 | (stat.S_IFIFO if what == "fifo" else stat.S_IFSOCK))
            else:
                path.symlink_to("/dev/zero" if what == "device" else "/dev/ptmx")
        (tmp_path / "config").write_bytes(b"x")
        async with opened(sshd, replace(files, directory=tmp_path)) as storage:
            retrying = RetryingStorage(storage, 5)

            async def read_config() -> None:
                assert await retrying.read(FileType.CONFIG) == b"x"

            async def fail(kind: FileType, name: str) -> None:
                with pytest.raises(DamagedError, match="not a regular file"):
                    await retrying.read(kind, name, 0, 10)

            with trio.fail_after(15):
                await storage.list(FileType.KEY)
                (first,) = storage._sessions
                await fail(FileType.KEY, key.name)
                await read_config()
                assert storage._sessions == [first]
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fail, FileType.PACK, pack.name)
                    for _ in range(3):
                        nursery.start_soon(read_config)
                await read_config()  # in a new session, unless one of the others has opened it
                (second,) = storage._sessions
                assert second is not first
                await fail(FileType.PACK, pack.name)
                await read_config()
                assert storage._sessions == [second]

    async def test_a_file_that_was_put_back_is_seen(
        self, sshd: Sshd, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A pack is reopened, because a complete one may have replaced a truncated one."""
        name = "c" * 64
        pack = tmp_path / "data/cc" / name
        pack.parent.mkdir(parents=True)
        pack.write_bytes(b"short")
        async with opened(sshd, replace(files, directory=tmp_path)) as storage:
            with pytest.raises(DamagedError):
                await read_exactly(storage, FileType.PACK, name, 0, 10)
            pack.rename(pack.with_suffix(".old"))
            pack.write_bytes(b"long enough")
            assert await storage.read(FileType.PACK, name, 0, 5) == b"short"
            monkeypatch.setattr(sftp_session, "_HANDLE_AGE", 0.0)
            assert await storage.read(FileType.PACK, name, 0, 11) == b"long enough"

    async def test_a_file_that_becomes_shorter(
        self, sshd: Sshd, files: Files, tmp_path: Path
    ) -> None:
        """It is truncated for the reader that has it open; the next reader opens it again."""
        name = "c" * 64
        pack = tmp_path / "data/cc" / name
        pack.parent.mkdir(parents=True)
        pack.write_bytes(b"long enough")
        async with opened(sshd, replace(files, directory=tmp_path)) as storage:
            assert await storage.read(FileType.PACK, name, 0, 4) == b"long"
            os.truncate(pack, 4)
            with pytest.raises(DamagedError, match="is truncated at byte 4"):
                await storage.read(FileType.PACK, name, 0, 11)
            pack.rename(pack.with_suffix(".old"))
            pack.write_bytes(b"put back")
            assert await storage.read(FileType.PACK, name, 0, 8) == b"put back"

    async def test_more_connections_when_one_is_busy(
        self, storage: SftpStorage, files: Files
    ) -> None:
        """One reader uses one connection, many use up to four, and every byte is right."""
        await storage.read(FileType.PACK, files.large, 0, LARGE)
        assert len(storage._sessions) == 1

        async def read(start: int) -> None:
            found = await storage.read(FileType.PACK, files.large, start, LARGE - start)
            assert found == files.packs[files.large][start:]

        for _ in range(4):
            async with trio.open_nursery() as nursery:
                for start in range(12):
                    nursery.start_soon(read, start)
        assert 1 < len(storage._sessions) <= SESSIONS

    async def test_few_files_are_kept_open(self, storage: SftpStorage, files: Files) -> None:
        """Above a limit, the least recently used files are closed."""
        await storage.read(FileType.CONFIG)
        (session,) = storage._sessions
        session.most_handles = 3
        for name in files.small:
            await storage.read(FileType.PACK, name, 0, 1)
        assert len(session._handles) == 3
        await settled(storage)
        assert len(open_packs()) == 3


async def settled(storage: SftpStorage) -> None:
    """Wait until every connection has answered all requests, including cancelled ones."""
    for session in storage._sessions:
        while session._pending:
            with pytest.raises(FileMissingError):
                await session.entries(b"/nowhere")


class TestCancelling:
    """A mount cancels readers frequently."""

    async def test_cancelled_reads_do_no_harm(self, sshd: Sshd, files: Files) -> None:
        """3,000 reads are cancelled at random; then 16 of 16 succeed, and nothing leaks."""
        async with opened(sshd, files) as storage:
            await storage.read(FileType.CONFIG)
            cancelled = await cancel_at_random(storage, files, 3000)
            assert cancelled > 1000
            pipes = our_pipes()
            for number in range(16):
                start = number * 1000
                found = await storage.read(FileType.PACK, files.large, start, 500_000)
                assert found == files.packs[files.large][start : start + 500_000]
            assert our_pipes() == pipes
            await settled(storage)
            assert len(storage._sessions) <= SESSIONS
            for session in storage._sessions:
                assert session.load == 0
                assert not session._followers
                assert all(not handle.users for handle in session._handles.values())
            held = sum(len(session._handles) for session in storage._sessions)
            assert len(open_packs()) == held  # the server has no open file that we do not know of

    async def test_a_connection_outlives_who_wanted_it(
        self, proxy: Proxy, sshd: Sshd, files: Files
    ) -> None:
        """Cancelling readers does not restart a connection that is being established."""
        async with opened(sshd, files, port=proxy.port) as storage:
            while not (storage._sessions and storage._sessions[0].is_ready):
                with trio.move_on_after(0.01):
                    await storage.read(FileType.CONFIG)
            assert await storage.read(FileType.CONFIG) == b"the config"
            assert proxy.accepted == 1

    async def test_closing_while_it_is_being_made(self, sshd: Sshd, files: Files) -> None:
        """No process remains, and waiting readers get an error."""
        async with opened(sshd, files) as storage, trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(RepositoryUnreachableError, match="closed"):
                    await storage.read(FileType.CONFIG)

            for _ in range(3):
                nursery.start_soon(read)
            while not storage._sessions:  # noqa: ASYNC110 - it starts a process
                await trio.sleep(0.001)
            await storage.aclose()
        with pytest.raises(RepositoryUnreachableError, match="closed"):
            await storage.read(FileType.CONFIG)


async def cancel_at_random(storage: Storage, files: Files, count: int) -> int:
    """Start `count` reads and cancel most of them; return the number of cancelled reads."""
    chance = random.Random(7)
    cancelled = 0

    async def one() -> None:
        nonlocal cancelled
        name = chance.choice(files.small if chance.random() < 0.8 else [files.large])
        content = files.packs[name]
        with trio.move_on_after(chance.random() * 0.02) as scope:
            if chance.random() < 0.1:
                await storage.list(FileType.KEY)
            elif chance.random() < 0.1:
                assert await storage.read(FileType.PACK, name) == content
            else:
                start = chance.randrange(len(content))
                end = chance.randint(start, len(content))
                found = await storage.read(FileType.PACK, name, start, end - start)
                assert found == content[start:end]
        cancelled += scope.cancelled_caught

    async def many() -> None:
        for _ in range(count // 20):
            await one()

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(many)
    return cancelled


class TestRefusals:
    """Each reason for a failed connection has its own error."""

    async def refusal(self, command: str) -> CesbrError:
        """Return the error of a read by `command`; a second read must fail with the same error."""
        access = Access("sftp:nas:/repo", KEY, {"sftp.command": command})
        storage = SftpStorage.from_access(access)
        found: list[CesbrError] = []
        for _ in range(2):
            with pytest.raises(CesbrError) as caught:
                await storage.read(FileType.CONFIG)
            assert "sftp:nas:/repo" in caught.value.message
            found.append(caught.value)
        await storage.aclose()
        assert type(found[0]) is type(found[1])
        return found[0]

    async def test_trust(self, tmp_path: Path) -> None:
        """Unknown and changed host keys are not trusted."""
        server = prepare(tmp_path)
        with running(server):
            other = f"-o UserKnownHostsFile={tmp_path}/none"
            unknown = await self.refusal(server.command(other))
            assert type(unknown) is RepositoryUntrustedError
            assert "Log in once" in unknown.message
            make_key(tmp_path / "another")
            trust(server, tmp_path / "another.pub")
            changed = await self.refusal(server.command())
            assert type(changed) is RepositoryUntrustedError
            assert "ssh-keygen -R" in changed.message

    async def test_keys(self, sshd: Sshd, tmp_path: Path) -> None:
        """A rejected key, and one with a passphrase, for which there is no prompt."""
        make_key(tmp_path / "wrong")
        config = tmp_path / "config"
        given = (sshd.directory / "ssh_config").read_text()
        config.write_text(given.replace(f"{sshd.directory}/user\n", f"{tmp_path}/wrong\n"))
        command = f"ssh -F {config} -p {sshd.port} 127.0.0.1 -s sftp"
        denied = await self.refusal(command)
        assert type(denied) is RepositoryDeniedError
        assert "publickey" in denied.message
        (tmp_path / "wrong").unlink()
        (tmp_path / "wrong.pub").unlink()
        make_key(tmp_path / "wrong", passphrase="secret")
        assert type(await self.refusal(command)) is RepositoryDeniedError

    async def test_addresses(self, sshd: Sshd) -> None:
        """A closed port; an unknown host."""
        refused = await self.refusal(sshd.command(port=free_port()))
        assert type(refused) is RepositoryUnreachableError
        assert "Connection refused" in refused.message
        unknown = await self.refusal("ssh host.invalid -s sftp")
        assert type(unknown) is RepositoryUnreachableError
        assert "host.invalid" in unknown.message

    async def test_commands(self, sshd: Sshd) -> None:
        """A missing program, a file that is not a program, a bad option, text instead of SFTP."""
        missing = await self.refusal("/nowhere/ssh host -s sftp")
        assert type(missing) is UsageError
        assert "/nowhere/ssh" in missing.message
        option = await self.refusal(sshd.command("-o NoSuchOption=1"))
        assert type(option) is UsageError
        assert "nosuchoption" in option.message
        assert "'Welcome aboard'" in (await self.refusal("echo Welcome aboard")).message
        assert type(await self.refusal("true")) is RepositoryUnreachableError
        subsystem = await self.refusal(sshd.command().removesuffix("sftp") + "nosuch")
        assert type(subsystem) is RepositoryDeniedError
        assert "SFTP is not enabled" in subsystem.message

    async def test_silence(self, proxy: Proxy, sshd: Sshd, files: Files) -> None:
        """A server that accepts the connection and sends nothing times out."""
        await trio.to_thread.run_sync(proxy.inject, Fault.STALL)
        async with opened(sshd, files, port=proxy.port, silence=0.5) as storage:
            with pytest.raises(RepositoryTimedOutError, match=r"0\.5 s"):
                await storage.read(FileType.CONFIG)

    async def test_permissions(self, files: Files) -> None:
        """A file that the user may not read is denied, not missing."""
        server = next((path for path in SFTP_SERVERS if os.access(path, os.X_OK)), None)
        if server is None:
            pytest.skip("no sftp-server at its usual places")
        access = Access(f"sftp:nas:{files.directory}", KEY, {"sftp.command": server})
        mode = files.directory.stat().st_mode
        files.directory.chmod(0)
        try:
            with without_rights():
                storage = SftpStorage.from_access(access)
                for _ in range(2):
                    with pytest.raises(RepositoryDeniedError, match="Permission denied"):
                        await storage.read(FileType.CONFIG)
                    with pytest.raises(RepositoryDeniedError, match="Permission denied"):
                        await storage.list(FileType.KEY)
                await storage.aclose()
        finally:
            files.directory.chmod(mode)


class TestLosing:
    """Lost connections are replaced with the next request."""

    async def test_a_server_that_is_killed(self, tmp_path: Path, files: Files) -> None:
        """Pending reads get an error, later ones succeed."""
        server = prepare(tmp_path)
        with running(server) as process, proxying(("127.0.0.1", server.port)) as proxy:
            async with opened(server, files, port=proxy.port) as storage:
                await storage.read(FileType.CONFIG)
                proxy.rate = 1 << 20
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._lose, storage, files)
                    before = proxy.answered
                    while proxy.answered < before + 500_000:  # noqa: ASYNC110 - another thread's
                        await trio.sleep(0.005)
                    assert signal_sessions(process, signal.SIGKILL)
                proxy.rate = float("inf")
                await self._reads(storage, files)
                assert proxy.accepted == 2

    async def test_a_lost_connection_that_nobody_used(self, tmp_path: Path, files: Files) -> None:
        """An idle lost connection is replaced without an error."""
        server = prepare(tmp_path)
        with running(server) as process:
            async with opened(server, files) as storage:
                await storage.read(FileType.CONFIG)
                (first,) = storage._sessions
                assert signal_sessions(process, signal.SIGKILL)
                while not first.is_over:
                    first.look()
                    await trio.sleep(0.005)
                assert await storage.read(FileType.CONFIG) == b"the config"
                assert storage._sessions != [first]

    async def test_a_server_that_hangs(self, tmp_path: Path, files: Files) -> None:
        """A stopped server times out a read; once it is resumed, reads succeed again."""
        server = prepare(tmp_path)
        with running(server) as process:
            async with opened(server, files) as storage:
                await storage.read(FileType.CONFIG)
                storage._sessions[0]._timeout = 0.5
                assert signal_sessions(process, signal.SIGSTOP)
                with pytest.raises(RepositoryTimedOutError, match=r"0\.5 s"):
                    await storage.read(FileType.PACK, files.large, 0, LARGE)
                assert signal_sessions(process, signal.SIGCONT)
                await self._reads(storage, files)

    @pytest.mark.parametrize("fault", [Fault.RESET, Fault.TRUNCATE, Fault.CORRUPT, Fault.STALL])
    async def test_faults_of_the_line(
        self, fault: Fault, proxy: Proxy, sshd: Sshd, files: Files
    ) -> None:
        """A fault during a response: an error in time, never wrong bytes; the next read works."""
        async with opened(sshd, files, port=proxy.port) as storage:
            await storage.read(FileType.CONFIG)
            storage._sessions[0]._timeout = 0.5
            await trio.to_thread.run_sync(partial(proxy.inject, fault, after=300_000))
            await self._lose(storage, files)
            await self._reads(storage, files)
            assert proxy.accepted == 2

    async def test_many_readers_need_one_new_connection(
        self, proxy: Proxy, sshd: Sshd, files: Files
    ) -> None:
        """Twenty readers that retry after a lost connection share the next one."""
        async with opened(sshd, files, port=proxy.port) as storage:
            await storage.read(FileType.CONFIG)
            await trio.to_thread.run_sync(proxy.hold)
            failed = 0
            admitted = trio.Event()

            async def read(name: str) -> None:
                nonlocal failed
                with pytest.raises(RepositoryUnreachableError):
                    await storage.read(FileType.PACK, name, 0, 1)
                failed += 1
                await admitted.wait()
                assert await storage.read(FileType.PACK, name, 0, 1) == files.packs[name][:1]

            async with trio.open_nursery() as nursery:
                for name in files.small[:20]:
                    nursery.start_soon(read, name)
                await trio.testing.wait_all_tasks_blocked()
                await trio.to_thread.run_sync(proxy.refuse)
                await trio.to_thread.run_sync(proxy.heal)
                await trio.to_thread.run_sync(proxy.admit)
                admitted.set()
            assert failed == 20
            assert proxy.accepted == 2

    async def test_no_more_connections_than_the_server_takes(
        self, proxy: Proxy, sshd: Sshd, files: Files
    ) -> None:
        """If the server refuses another connection, reads use the existing ones."""
        async with opened(sshd, files, port=proxy.port) as storage:
            await storage.read(FileType.CONFIG)
            storage._command = sshd.command(port=free_port()).split()

            async def read(_number: int) -> None:
                found = await storage.read(FileType.PACK, files.large, 0, LARGE)
                assert found == files.packs[files.large]

            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    for number in range(6):
                        nursery.start_soon(read, number)
            assert len([s for s in storage._sessions if s.is_ready]) == 1

    async def _lose(self, storage: SftpStorage, files: Files) -> None:
        with pytest.raises(RepositoryUnreachableError):
            await storage.read(FileType.PACK, files.large, 0, LARGE)

    async def _reads(self, storage: SftpStorage, files: Files) -> None:
        found = await storage.read(FileType.PACK, files.large, 0, 2 << 20)
        assert found == files.packs[files.large][: 2 << 20]


def comparable(top: Path) -> dict[bytes, Record]:
    """Describe the tree `top`, without hard links of symlinks, which restic ignores."""
    return {
        path: record if stat.S_ISREG(record.mode) else replace(record, twins=frozenset())
        for path, record in records(str(top)).items()
    }


class TestRepositories:
    """The layers above the storage, compared with restic."""

    async def test_what_is_restored_equals_restic(
        self, sshd: Sshd, restic_binary: Path, tmp_path: Path
    ) -> None:
        """Content and all attributes, read over SFTP by our reader and by restic."""
        files = tmp_path / "files"
        oddities.plant(files, "tiny")
        (files / "large").write_bytes(random.Random(1).randbytes(3 << 20))
        repo = create(restic_binary, tmp_path / "repo")
        remote = ("-r", sshd.url(repo.directory), "-o", f"sftp.command={sshd.command()}")
        repo.run(*remote, "backup", "--tag", "B1", files)
        repo.run(*remote, "restore", "latest", "--target", tmp_path / "theirs")

        storage = open_storage(Access(sshd.url(repo.directory), KEY, sshd.options))
        repository = await Repository.open(storage, KEY)
        view = BackupTree(repository)
        selection = select([await view.resolve("/B1")])
        report = await execute(
            view, await make_plan(view, selection, ToDirectory(tmp_path / "ours"))
        )
        await repository.aclose()
        assert not report.failed
        (ours,) = (tmp_path / "ours").rglob("large")
        (theirs,) = (tmp_path / "theirs").rglob("large")
        assert not differences(comparable(ours.parent), comparable(theirs.parent))

    async def test_a_missing_repository_and_one_that_is_denied(
        self, sshd: Sshd, tmp_path: Path
    ) -> None:
        """Only an absent repository counts as missing."""
        access = Access(sshd.url(tmp_path / "none"), KEY, sshd.options)
        storage = open_storage(access)
        with pytest.raises(RepositoryMissingError):
            await Repository.open(storage, KEY)
        await storage.aclose()

    async def test_what_ssh_said_is_told_where_restic_has_not_heard_it(
        self, sshd: Sshd, restic_binary: Path, tmp_path: Path
    ) -> None:
        """The reason from ssh is reported even if restic exits before its ssh prints it."""
        quiet = tmp_path / "ssh"
        command = sshd.command(port=free_port())
        quiet.write_text(f"#!/bin/sh\nmkdir {tmp_path}/once 2>&- && exec 2>&-\nexec {command}\n")
        quiet.chmod(0o755)
        access = Access(sshd.url(tmp_path / "repo"), KEY, {"sftp.command": str(quiet)})
        restic = await Restic.open(access, binary=str(restic_binary))
        with pytest.raises(RepositoryUnreachableError, match="Connection refused"):
            await restic.probe()
        assert (tmp_path / "once").exists()

    async def test_arguments_for_ssh(self, sshd: Sshd, restic_binary: Path, tmp_path: Path) -> None:
        """One setting works for us and every restic, even those without that option."""
        repo = create(restic_binary, tmp_path / "repo")
        url = f"sftp://127.0.0.1:{sshd.port}/{repo.directory}"
        access = Access(url, KEY, {"sftp.args": f'-F "{sshd.directory}/ssh_config"'})
        storage = open_storage(access)
        ours = await Repository.open(storage, KEY)
        restic = await Restic.open(access, binary=str(restic_binary))
        assert await restic.probe() == ours.id
        await ours.aclose()
