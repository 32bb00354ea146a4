"""Repositories on real REST servers, and through rclone: what is read, what trouble is called."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
import trio

from cesbrfs.access import Access, Secret
from cesbrfs.errors import (
    CesbrError,
    DamagedError,
    FileMissingError,
    RepositoryDeniedError,
    RepositoryTimedOutError,
    RepositoryUnreachableError,
    RepositoryUntrustedError,
    StorageError,
    UsageError,
)
from cesbrfs.repo.storage import FileInfo, FileType
from cesbrfs.repo.storage.rclone import RcloneStorage, command_of
from cesbrfs.repo.storage.rest import RestStorage
from tests.remote.counting import cancel_many, descriptors, tasks
from tests.remote.older import older
from tests.remote.processes import free_ports
from tests.remote.proxy import Fault, Proxy, proxying
from tests.remote.rest import PASSWORD, USER, RestServer, serving

KEY = Secret(b"key")
ODD = "a b+cü%41&=~"
NAMES = [f"{number:064x}" for number in range(2)]
PACK = bytes(range(256)) * 4096


def fill(root: Path) -> None:
    """Put a few files of a repository into a folder of an odd name."""
    for name, data in {
        "config": b"0123456789",
        f"keys/{NAMES[0]}": b"one",
        f"keys/{NAMES[1]}": b"",
        f"keys/{NAMES[0]}-tmp-1": b"temporary",
        f"data/00/{NAMES[0]}": PACK,
    }.items():
        path = root / ODD / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


REST_SERVER = shutil.which("rest-server") or shutil.which("restic-rest-server")
"""restic's own, where it is installed: Debian 12 has none, so rclone stands for it."""


@pytest.fixture(scope="module", params=["http", "https", *(["rest-server"] if REST_SERVER else [])])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RestServer]:
    """Rclone without TLS, rclone with it, which asks for a certificate, and restic's own server."""
    if request.param == "rest-server":
        assert REST_SERVER
        with serving(Path(REST_SERVER), tmp_path_factory.mktemp("rest-server")) as server:
            fill(server.root)
            yield server
    else:
        name = "rest_server" if request.param == "http" else "rest_tls_server"
        shared: RestServer = request.getfixturevalue(name)
        fill(shared.root)
        yield shared


@pytest.fixture
def server(rest_server: RestServer) -> RestServer:
    """Rclone without TLS, filled."""
    fill(rest_server.root)
    return rest_server


@pytest.fixture
def proxy(server: RestServer) -> Iterator[Proxy]:
    """What stands between us and the server."""
    with proxying(("127.0.0.1", server.port)) as made:
        yield made


def storage_of(
    url: str, environment: Mapping[str, str], *, patience: float = 20.0, place: str = quote(ODD)
) -> RestStorage:
    return RestStorage.of(Access(f"{url}/{place}", KEY, {}, environment), patience=patience)


def through(proxy: Proxy) -> str:
    return f"rest:http://127.0.0.1:{proxy.port}"


async def check_all(storage: RestStorage | RcloneStorage) -> None:
    """Read the files of `fill` in each way."""
    listed = sorted(await storage.list(FileType.KEY))
    assert listed == [FileInfo(NAMES[0], 3), FileInfo(NAMES[1], 0)]
    assert list(await storage.list(FileType.PACK)) == [FileInfo(NAMES[0], len(PACK))]
    assert list(await storage.list(FileType.SNAPSHOT)) == []
    assert await storage.read(FileType.CONFIG) == b"0123456789"
    assert await storage.read(FileType.CONFIG, "", 3, 4) == b"3456"
    assert await storage.read(FileType.CONFIG, "", 8) == b"89"
    assert await storage.read(FileType.PACK, NAMES[0]) == PACK
    assert await storage.read(FileType.PACK, NAMES[0], 1, 999_999) == PACK[1:1_000_000]
    assert await storage.read(FileType.KEY, NAMES[1]) == b""
    for offset, length in ((0, 11), (5, 6), (10, 1), (10, None), (500, 10)):
        with pytest.raises(DamagedError, match="ends before"):
            await storage.read(FileType.CONFIG, "", offset, length)
    with pytest.raises(FileMissingError):
        await storage.read(FileType.SNAPSHOT, NAMES[0])


async def test_listing_and_reading(filled: RestServer) -> None:
    """Files are listed with their sizes, and read whole or in part; what is beyond is damaged."""
    storage = storage_of(filled.url, filled.environment)
    await check_all(storage)
    await storage.aclose()


async def test_listings_without_sizes(server: RestServer) -> None:
    """A server of the protocol's first version lists names alone: each file is asked for its size.

    What vanishes between the two is left out.
    """
    with older(server.port) as front:
        storage = storage_of(f"rest:http://127.0.0.1:{front.port}", server.environment)
        await check_all(storage)
        asked = [line for line in front.asked if line.startswith("HEAD ")]
        assert sorted(line.rpartition("/")[2] for line in asked) == sorted([*NAMES, NAMES[0]])
        front.gone.append("f" * 64)
        assert len(await storage.list(FileType.KEY)) == len(NAMES)
        await storage.aclose()


async def test_no_such_folder(server: RestServer) -> None:
    """Nothing is listed, and config is missing: what that means is for others to say."""
    storage = storage_of(server.url, server.environment, place="no/such/folder")
    assert list(await storage.list(FileType.KEY)) == []
    with pytest.raises(FileMissingError):
        await storage.read(FileType.CONFIG)
    await storage.aclose()


async def test_whose_credentials_count(server: RestServer) -> None:
    """Those of the address, else those of the environment; wrong and missing ones are refused."""
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
    """The server's must be vouched for, ours be one that the server trusts."""
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


async def test_who_cannot_be_reached(server: RestServer) -> None:
    """A port without a server, a host without a name, TLS where there is none."""
    (port,) = free_ports(1)
    for url, sentence in (
        (f"rest:http://127.0.0.1:{port}", "Connection refused"),
        ("rest:http://no-such-host.invalid", "is not known"),
        (server.url.replace("http:", "https:"), "does not speak TLS"),
    ):
        storage = storage_of(url, server.environment)
        with pytest.raises(RepositoryUnreachableError, match=sentence):
            await storage.read(FileType.CONFIG)
        await storage.aclose()


@pytest.mark.parametrize("after", [0, 100, 5_000])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.RESET, RepositoryUnreachableError),
        (Fault.TRUNCATE, RepositoryUnreachableError),
        (Fault.STALL, RepositoryTimedOutError),
    ],
)
async def test_faults_of_the_network(
    server: RestServer, proxy: Proxy, fault: Fault, kind: type[CesbrError], after: int
) -> None:
    """Before the answer, within its head, within its body; the next request gets all of it."""
    storage = storage_of(through(proxy), server.environment, patience=0.5)
    await trio.to_thread.run_sync(partial(proxy.inject, fault, after=after))
    with pytest.raises(kind) as raised:
        await storage.read(FileType.PACK, NAMES[0])
    assert type(raised.value) is kind
    assert await storage.read(FileType.PACK, NAMES[0]) == PACK
    await storage.aclose()


async def test_cancelled_reads_free_their_connections(filled: RestServer) -> None:
    """3,000 reads cancelled at any moment; then 16 of 16 succeed, and nothing is left behind."""
    storage = storage_of(filled.url, filled.environment)
    await storage.read(FileType.CONFIG)
    living, opened = tasks(), descriptors()

    async def read() -> bytes:
        return await storage.read(FileType.PACK, NAMES[0], 0, 200_000)

    quick = await cancel_many(read, times=3_000, at_once=24, longest=0.03)
    assert quick < 2_700, "many of them are cancelled"
    assert tasks() == living
    assert descriptors() <= opened + 16
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(read)
    assert tasks() == living
    await storage.aclose()
    assert descriptors() <= opened - 1


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
    """The child starts with the first request, serves all, and ends with the storage."""
    fill(tmp_path)
    before = descriptors()
    storage = RcloneStorage.of(rclone_access(tmp_path / ODD, program=str(rclone)))
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
    """Its port is open to every user of this machine: it asks for a password."""
    fill(tmp_path)
    storage = RcloneStorage.of(rclone_access(tmp_path / ODD))
    await storage.read(FileType.CONFIG)
    line = command_line(storage.pid)
    address = line[line.index(b"--addr") + 1].decode()
    stranger = storage_of(f"rest:http://{address}", {}, place="")
    with pytest.raises(RepositoryDeniedError):
        await stranger.read(FileType.CONFIG)
    await stranger.aclose()
    await storage.aclose()


async def test_one_start_for_many_and_another_after_a_crash(rclone: Path, tmp_path: Path) -> None:
    """Waiting readers share the child; when it is killed, the next request starts another."""
    fill(tmp_path)
    storage = RcloneStorage.of(rclone_access(tmp_path / ODD))
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
    """Whoever waited for the child goes, and takes it along; the next one starts it."""
    fill(tmp_path)
    storage = RcloneStorage.of(rclone_access(tmp_path / ODD))
    before = descriptors()
    with trio.move_on_after(0.03) as waiting:
        await storage.read(FileType.CONFIG)
    assert waiting.cancelled_caught
    assert storage.pid is None
    assert descriptors() == before
    assert await storage.read(FileType.CONFIG) == b"0123456789"
    await storage.aclose()


async def test_an_rclone_that_does_not_serve(rclone: Path, tmp_path: Path) -> None:
    """It says why; a program that never begins is not waited for without end."""
    storage = RcloneStorage.of(rclone_access("no-such-remote:x"))
    with pytest.raises(StorageError, match="didn't find section in config file"):
        await storage.read(FileType.CONFIG)
    await storage.aclose()
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    storage = RcloneStorage.of(rclone_access("x:", program=str(slow)), patience=0.3)
    with pytest.raises(RepositoryTimedOutError):
        await storage.read(FileType.CONFIG)
    assert storage.pid is None
    await storage.aclose()


def test_the_options_of_rclone(rclone: Path, tmp_path: Path) -> None:
    """restic's, for both: --stdio is restic's alone; what cannot be used is named."""
    program = tmp_path / "my rclone"
    program.symlink_to(rclone)
    made = command_of(
        rclone_access("x:y", program=f"'{program}' -v", args="serve restic --stdio --fast-list")
    )
    assert made[-6:] == [str(program), "-v", "serve", "restic", "--fast-list", "x:y"]
    for options, sentence in (
        ({"program": "/no/rclone"}, "/no/rclone is not installed"),
        ({"program": ""}, "rclone.program is empty"),
        ({"args": "'"}, "rclone.args cannot be taken apart"),
    ):
        with pytest.raises(UsageError, match=sentence):
            command_of(rclone_access("x:y", **options))
