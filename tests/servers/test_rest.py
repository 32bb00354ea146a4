"""Repositories on real REST servers and through rclone: reads and errors."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pytest
import trio

from cesbrfs.errors import (
    RepositoryDeniedError,
    RepositoryTimedOutError,
    RepositoryUnreachableError,
    RepositoryUntrustedError,
    StorageError,
    UsageError,
)
from cesbrfs.readiness import State, by_reader, by_restic
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage import FileType
from cesbrfs.repo.storage.rclone import RcloneStorage, command_of
from cesbrfs.repo.storage.rest import RestStorage
from cesbrfs.restic import Restic
from tests.support.counting import descriptors
from tests.support.filled import KEY, NAMES, ODD, check_all, fill
from tests.support.older import older
from tests.support.processes import start
from tests.support.rest import PASSWORD, USER, RestServer
from tests.support.restic_repo import create


@pytest.fixture
def server(rest_server: RestServer) -> RestServer:
    """An rclone server without TLS that stores the files."""
    fill(rest_server.root)
    return rest_server


def storage_of(
    url: str, environment: Mapping[str, str], *, patience: float = 20.0, place: str = quote(ODD)
) -> RestStorage:
    return RestStorage.from_access(Access(f"{url}/{place}", KEY, {}, environment), timeout=patience)


async def test_listings_without_sizes(server: RestServer) -> None:
    """Version 1 of the protocol lists names only, so the size of each file is requested.

    Files that disappear between the two requests are omitted.
    """
    with older(server.port) as front:
        storage = storage_of(f"rest:http://127.0.0.1:{front.port}", server.environment)
        await check_all(storage)
        asked = [line for line in front.asked if line.startswith("HEAD ")]
        assert sorted(line.rpartition("/")[2] for line in asked) == sorted([*NAMES[:2], NAMES[0]])
        front.gone.append("f" * 64)
        assert len(await storage.list(FileType.KEY)) == 2
        await storage.aclose()


async def test_whose_credentials_count(server: RestServer) -> None:
    """Those in the address, else the environment; wrong and missing ones are rejected."""
    inside = f"{USER}:{quote(PASSWORD, safe='')}"
    for own, environment, sentence in (
        (inside, {}, ""),
        (inside, {"RESTIC_REST_USERNAME": "x", "RESTIC_REST_PASSWORD": "y"}, ""),
        ("", server.environment, ""),
        (f"{USER}:wrong", server.environment, "are wrong"),
        ("", server.environment | {"RESTIC_REST_PASSWORD": "wrong"}, "are wrong"),
        ("", {}, "are missing"),
    ):
        url = server.url.replace("//", f"//{own}@") if own else server.url
        storage = storage_of(url, environment)
        if not sentence:
            assert await storage.read(FileType.CONFIG) == b"0123456789"
        else:
            for attempt in (storage.read(FileType.CONFIG), storage.list(FileType.KEY)):
                with pytest.raises(RepositoryDeniedError, match=sentence) as raised:
                    await attempt
                assert PASSWORD not in raised.value.message
                assert "wrong@" not in raised.value.message
        assert PASSWORD not in repr(storage)
        await storage.aclose()


async def test_certificates(rest_tls_server: RestServer) -> None:
    """The server needs a trusted certificate, and checks the client's."""
    environment, certificates = rest_tls_server.environment, rest_tls_server.certificates
    assert certificates
    for changed, kind, sentence in (
        ({"RESTIC_CACERT": ""}, RepositoryUntrustedError, "RESTIC_CACERT"),
        ({"RESTIC_CACERT": str(certificates.other)}, RepositoryUntrustedError, "RESTIC_CACERT"),
        ({"RESTIC_TLS_CLIENT_CERT": ""}, RepositoryDeniedError, "RESTIC_TLS_CLIENT_CERT"),
        (
            {"RESTIC_TLS_CLIENT_CERT": str(certificates.stranger)},
            RepositoryDeniedError,
            "RESTIC_TLS_CLIENT_CERT",
        ),
    ):
        storage = storage_of(rest_tls_server.url, environment | changed)
        with pytest.raises(kind, match=sentence):
            await storage.read(FileType.CONFIG)
        await storage.aclose()
    with pytest.raises(UsageError, match="RESTIC_TLS_CLIENT_CERT"):
        storage_of(rest_tls_server.url, environment | {"RESTIC_TLS_CLIENT_CERT": "/nowhere"})


async def test_behind_a_socket(
    rest_server_program: Path, restic_old: Path, restic_new: Path, tmp_path: Path
) -> None:
    """A Unix socket; restic supports these since 0.17, and an older one is reported."""
    fill(tmp_path)
    path = tmp_path / "server.socket"
    place = f"rest:http+unix://{path}:/"
    storage = storage_of(place[:-1], {})
    with pytest.raises(RepositoryUnreachableError, match=r"cannot be reached: No such file"):
        await storage.read(FileType.CONFIG)
    command: list[str | Path] = [rest_server_program]
    command += ["--listen", f"unix:{path}", "--path", tmp_path, "--no-auth"]
    process = start(command, tmp_path / "log", path.exists)
    try:
        await check_all(storage)
        repo = create(restic_old, tmp_path / "repository")
        access = Access(f"{place}repository", repo.access.key)
        assert (await by_reader(access)).state is State.READY
        restic = await Restic.open(access, binary=str(restic_new))
        assert (await by_restic(restic)).state is State.READY
    finally:
        process.kill()
        process.wait()
    with pytest.raises(RepositoryUnreachableError):
        await storage.read(FileType.CONFIG)
    await storage.aclose()
    with pytest.raises(UsageError, match=r"restic 0\.14\.0 does not support .* 0\.17\.0 or newer"):
        await Restic.open(access, binary=str(restic_old))


# Through rclone


def rclone_access(place: object, **options: str) -> Access:
    named = {f"rclone.{name}": value for name, value in options.items()}
    return Access(f"rclone:{place}", KEY, named)


def command_line(pid: int | None) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def wait_for_end(pid: int) -> None:
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


async def test_through_rclone(rclone: Path, tmp_path: Path) -> None:
    """The child process starts with the first request and ends with the storage."""
    fill(tmp_path)
    before = descriptors()
    storage = RcloneStorage.from_access(rclone_access(tmp_path / ODD, program=str(rclone)))
    assert not storage.pid
    await check_all(storage)
    pid = storage.pid
    assert pid is not None
    line = command_line(pid)
    assert b"--stdio" not in line
    assert not [part for part in line if b"pass" in part.lower()]
    await storage.aclose()
    assert not is_running(pid)
    assert descriptors() == before


async def test_nobody_else_reads_from_our_rclone(rclone: Path, tmp_path: Path) -> None:
    """Any local user can connect to its port, so it requires a password."""
    fill(tmp_path)
    storage = RcloneStorage.from_access(rclone_access(tmp_path / ODD))
    await storage.read(FileType.CONFIG)
    line = command_line(storage.pid)
    address = line[line.index(b"--addr") + 1].decode()
    stranger = storage_of(f"rest:http://{address}", {}, place="")
    with pytest.raises(RepositoryDeniedError):
        await stranger.read(FileType.CONFIG)
    await stranger.aclose()
    await storage.aclose()


async def test_one_start_for_many_and_another_after_a_crash(rclone: Path, tmp_path: Path) -> None:
    """Concurrent readers share the child; after a crash the next request restarts it."""
    fill(tmp_path)
    storage = RcloneStorage.from_access(rclone_access(tmp_path / ODD))
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(storage.read, FileType.CONFIG)
    first = storage.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_for_end(first)
    assert await storage.read(FileType.CONFIG) == b"0123456789"
    assert storage.pid not in (None, first)
    await storage.aclose()


async def test_a_cancelled_start_leaves_no_child(rclone: Path, tmp_path: Path) -> None:
    """Cancelling the wait ends the child; the next request starts it again."""
    fill(tmp_path)
    storage = RcloneStorage.from_access(rclone_access(tmp_path / ODD))
    before = descriptors()
    with trio.move_on_after(0.03) as waiting:
        await storage.read(FileType.CONFIG)
    assert waiting.cancelled_caught
    assert storage.pid is None
    assert descriptors() == before
    assert await storage.read(FileType.CONFIG) == b"0123456789"
    await storage.aclose()


async def test_an_rclone_that_does_not_serve(rclone: Path, tmp_path: Path) -> None:
    """The reason is reported; a program that never becomes ready times out."""
    storage = RcloneStorage.from_access(rclone_access("no-such-remote:x"))
    with pytest.raises(StorageError, match="didn't find section in config file"):
        await storage.read(FileType.CONFIG)
    await storage.aclose()
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    access = rclone_access("x:", program=str(slow))
    storage = RcloneStorage(access, command_of(access), timeout=0.3)
    with pytest.raises(RepositoryTimedOutError):
        await storage.read(FileType.CONFIG)
    assert storage.pid is None
    await storage.aclose()


def test_the_options_of_rclone(rclone: Path, tmp_path: Path) -> None:
    """Our rclone gets the options set for restic, without --stdio; invalid ones are reported."""
    program = tmp_path / "my rclone"
    program.symlink_to(rclone)
    made = command_of(
        rclone_access("x:y", program=f"'{program}' -v", args="serve restic --stdio --fast-list")
    )
    assert made[-6:] == [str(program), "-v", "serve", "restic", "--fast-list", "x:y"]
    for options, sentence in (
        ({"program": "/no/rclone"}, "/no/rclone is required"),
        ({"program": ""}, "rclone.program is empty"),
        ({"args": "'"}, "rclone.args: No closing"),
    ):
        with pytest.raises(UsageError, match=sentence):
            command_of(rclone_access("x:y", **options))
