"""Common behaviour of S3 and REST on real servers: reads and errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Final
from urllib.parse import quote

import pytest
import trio

from cesbrfs.errors import (
    CesbrError,
    FileMissingError,
    RepositoryTimedOutError,
    RepositoryUnreachableError,
    StorageError,
)
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage import FileType, Storage
from cesbrfs.repo.storage.rest import RestStorage
from cesbrfs.repo.storage.s3.storage import S3Storage
from cesbrfs.util.secret import Secret
from tests.support.counting import cancel_many, descriptors, tasks
from tests.support.filled import FILES, KEY, NAMES, ODD, PACK, check_all, fill
from tests.support.http_server import serving
from tests.support.older import older
from tests.support.processes import free_ports
from tests.support.proxy import Fault, Proxy, proxying
from tests.support.rest import RestServer
from tests.support.seaweed import BUCKET, SeaweedFS

_RANGE: Final = 500_000


@dataclass(frozen=True)
class Served:
    """A server with the files of `filled`, its address and its directory."""

    scheme: str
    port: int
    environment: Mapping[str, str]

    @property
    def kind(self) -> str:
        """``s3`` or ``rest``."""
        return self.scheme.partition(":")[0]

    def storage(
        self,
        *,
        scheme: str = "",
        host: str = "127.0.0.1",
        port: int = 0,
        place: str = quote(ODD),
        patience: float = 20.0,
    ) -> Storage:
        """Return a storage for those files, with changed options."""
        bucket = f"{BUCKET}/" if self.kind == "s3" else ""
        address = f"{scheme or self.scheme}://{host}:{port or self.port}/{bucket}{place}"
        access = Access(address, KEY, {}, self.environment)
        if self.kind == "s3":
            return S3Storage.from_access(access, timeout=patience)
        return RestStorage.from_access(access, timeout=patience)


def _s3(server: SeaweedFS, *, tls: bool = False) -> Served:
    for name, data in FILES.items():
        server.put(BUCKET, f"{ODD}/{name}", data)
    url = server.tls_url if tls else server.url
    scheme, _, port = url.rpartition(":")
    return Served(scheme.partition("//")[0][:-1], int(port), server.environment)


def _rest(server: RestServer) -> Served:
    fill(server.root)
    scheme = server.url.partition("//")[0][:-1]
    return Served(scheme, server.port, server.environment)


_SERVERS: Final = {
    "s3": "seaweed",
    "s3 tls": "seaweed",
    "rclone": "rest_server",
    "rclone tls": "rest_tls_server",
    "rest-server": "own_rest_server",
}


def _served(request: pytest.FixtureRequest) -> Served:
    kind: str = request.param
    server = request.getfixturevalue(_SERVERS[kind])
    return _s3(server, tls=kind.endswith("tls")) if kind.startswith("s3") else _rest(server)


@pytest.fixture(scope="module", params=_SERVERS)
def served(request: pytest.FixtureRequest) -> Served:
    """Each server, with and without TLS."""
    return _served(request)


@pytest.fixture(scope="module", params=[kind for kind in _SERVERS if "tls" not in kind])
def plain(request: pytest.FixtureRequest) -> Served:
    """Each server without TLS."""
    return _served(request)


@pytest.fixture
def proxy(plain: Served) -> Iterator[Proxy]:
    """A proxy between the storage and the server."""
    with proxying(("127.0.0.1", plain.port)) as made:
        yield made


async def test_listing_and_reading(served: Served) -> None:
    """Files are listed with sizes and read completely or in part; reads past the end fail."""
    storage = served.storage()
    await check_all(storage)
    await storage.aclose()


async def test_no_such_directory(served: Served) -> None:
    """The listing is empty and config is missing; callers decide what that means."""
    storage = served.storage(place="no/such/directory")
    assert list(await storage.list(FileType.KEY)) == []
    with pytest.raises(FileMissingError):
        await storage.read(FileType.CONFIG)
    await storage.aclose()


async def test_the_end_of_a_file_costs_one_request(plain: Served) -> None:
    """A short response is accepted if the server reports the end of the file there."""
    with older(plain.port) as front:
        storage = plain.storage(port=front.port)
        begins = len(PACK) - 1_000
        found = await storage.read(FileType.PACK, NAMES[0], begins, 1 << 20)
        assert found == PACK[begins:]
        assert len(front.asked) == 1
        assert await storage.read(FileType.PACK, NAMES[0], len(PACK), 1 << 20) == b""
        await storage.aclose()


async def test_an_end_that_is_cut_off_is_no_end(plain: Served, proxy: Proxy) -> None:
    """A connection that breaks during the last part is not taken for the end of the file."""
    storage = plain.storage(port=proxy.port)
    begins = len(PACK) - _RANGE
    await trio.to_thread.run_sync(partial(proxy.inject, Fault.TRUNCATE, after=100_000))
    with pytest.raises(RepositoryUnreachableError):
        await storage.read(FileType.PACK, NAMES[0], begins, 1 << 20)
    assert await storage.read(FileType.PACK, NAMES[0], begins, 1 << 20) == PACK[begins:]
    await storage.aclose()


async def test_who_cannot_be_reached(served: Served) -> None:
    """A closed port, an unknown host, TLS to a plain server, plain HTTP to a TLS server."""
    (nobody,) = free_ports(1)
    storages: list[tuple[Storage, type[CesbrError], str]] = [
        (served.storage(port=nobody), RepositoryUnreachableError, "Connection refused"),
        (served.storage(host="no-such-host.invalid"), RepositoryUnreachableError, "Cannot resolve"),
    ]
    if served.scheme.endswith("https"):
        spoken = served.storage(scheme=f"{served.kind}:http")
        storages.append((spoken, StorageError, r"400.*Check the address"))
    else:
        spoken = served.storage(scheme=f"{served.kind}:https")
        storages.append((spoken, RepositoryUnreachableError, "TLS handshake"))
    for storage, kind, sentence in storages:
        with pytest.raises(kind, match=sentence):
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
    plain: Served, proxy: Proxy, fault: Fault, kind: type[CesbrError], after: int
) -> None:
    """Faults before, in the header and in the body; the next request succeeds."""
    storage = plain.storage(port=proxy.port, patience=0.5)
    before = descriptors()
    await trio.to_thread.run_sync(partial(proxy.inject, fault, after=after))
    with pytest.raises(kind) as raised:
        await storage.read(FileType.PACK, NAMES[0], 0, _RANGE)
    assert type(raised.value) is kind
    assert await storage.read(FileType.PACK, NAMES[0], 0, _RANGE) == PACK[:_RANGE]
    await storage.aclose()
    assert descriptors() <= before + 2  # the proxy's side of the successful connection


async def test_cancelled_reads_free_their_connections(served: Served) -> None:
    """3,000 reads are cancelled at random; then 16 of 16 succeed, and no connection leaks."""
    storage = served.storage()
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


class _Endless(BaseHTTPRequestHandler):
    """Responds to everything with a body that never ends."""

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {wanted}/1000000")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(bytes(64 << 10))

    def log_message(self, *_: object) -> None:
        """Do not log requests."""


async def test_a_body_that_never_ends() -> None:
    """It is read up to the size that a file of its kind may have."""
    with serving(_Endless) as port:
        storage = RestStorage.from_access(Access(f"rest:http://127.0.0.1:{port}/", Secret(b"k")))
        try:
            for kind in (FileType.CONFIG, FileType.KEY, FileType.SNAPSHOT):
                with pytest.raises(StorageError, match=r"sent more than .* Check the server"):
                    await storage.read(kind, "ab" * 32)
            with pytest.raises(RepositoryUnreachableError, match="sent more than 100 bytes"):
                await storage.read(FileType.PACK, "ab" * 32, 0, 100)
        finally:
            await storage.aclose()
