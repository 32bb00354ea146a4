"""Repositories on a real S3 server: what is read, and what each trouble is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
import trio

from cesbrfs.access import Access, Secret
from cesbrfs.errors import (
    BucketMissingError,
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
from cesbrfs.repo.storage.s3 import S3Storage
from tests.remote.counting import cancel_many, descriptors, tasks
from tests.remote.processes import free_ports
from tests.remote.proxy import Fault, Proxy, proxying
from tests.remote.seaweed import BUCKET, KEY_ID, OTHER_BUCKET, SECRET, SeaweedFS

KEY = Secret(b"key")
ODD = "a b+c/ü%41&=~"
NAMES = [f"{number:064x}" for number in range(3)]
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
PACK = bytes(range(256)) * 4096


def storage_of(
    url: str,
    environment: Mapping[str, str],
    options: Mapping[str, str] | None = None,
    *,
    patience: float = 20.0,
) -> S3Storage:
    return S3Storage.of(Access(url, KEY, options or {}, environment), patience=patience)


@pytest.fixture(scope="module")
def filled(seaweed: SeaweedFS) -> SeaweedFS:
    """The server with a few files of a repository in a folder of an odd name, and others."""
    for name, data in {
        "config": b"0123456789",
        f"keys/{NAMES[0]}": b"one",
        f"keys/{NAMES[1]}": b"",
        f"keys/{NAMES[0]}-tmp-1": b"temporary",
        f"keys/deeper/{NAMES[2]}": b"not here",
        f"data/00/{NAMES[0]}": PACK,
        f"data/{NAMES[1]}": b"not here",
    }.items():
        seaweed.put(BUCKET, f"{ODD}/{name}", data)
    seaweed.put(BUCKET, "config", b"at the root")
    return seaweed


@pytest.fixture
def proxy(filled: SeaweedFS) -> Iterator[Proxy]:
    """What stands between us and the server."""
    with proxying(("127.0.0.1", filled.port)) as made:
        yield made


def secured(url: str) -> str:
    return url.replace("http:", "https:")


def plain(url: str) -> str:
    return url.replace("https:", "http:")


def through(proxy: Proxy) -> str:
    return f"s3:http://127.0.0.1:{proxy.port}/{BUCKET}/{quote(ODD)}"


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("old", ["false", "true"], ids=["ListObjectsV2", "ListObjects"])
async def test_listing_and_reading(filled: SeaweedFS, tls: bool, old: str) -> None:
    """Files of restic's names are listed with their sizes, and read whole or in part."""
    url = f"{filled.tls_url if tls else filled.url}/{BUCKET}/{quote(ODD)}"
    storage = storage_of(url, filled.environment, {"s3.list-objects-v1": old})
    assert list(await storage.list(FileType.KEY)) == [FileInfo(NAMES[0], 3), FileInfo(NAMES[1], 0)]
    assert list(await storage.list(FileType.PACK)) == [FileInfo(NAMES[0], len(PACK))]
    assert list(await storage.list(FileType.SNAPSHOT)) == []
    assert await storage.read(FileType.CONFIG) == b"0123456789"
    assert await storage.read(FileType.CONFIG, "", 3, 4) == b"3456"
    assert await storage.read(FileType.CONFIG, "", 8) == b"89"
    assert await storage.read(FileType.CONFIG, "", 9, 1) == b"9"
    assert await storage.read(FileType.PACK, NAMES[0]) == PACK
    assert await storage.read(FileType.PACK, NAMES[0], 1, 999_999) == PACK[1:1_000_000]
    assert await storage.read(FileType.KEY, NAMES[1]) == b""
    await storage.aclose()


async def test_a_repository_may_be_the_whole_bucket(filled: SeaweedFS) -> None:
    """An address without a prefix."""
    storage = storage_of(f"{filled.url}/{BUCKET}", filled.environment)
    assert await storage.read(FileType.CONFIG) == b"at the root"
    assert list(await storage.list(FileType.PACK)) == []
    await storage.aclose()


@pytest.mark.parametrize("old", ["false", "true"], ids=["ListObjectsV2", "ListObjects"])
async def test_long_listings_come_in_pages(filled: SeaweedFS, old: str) -> None:
    """A server lists a thousand names at once; none is lost or told twice at the seam."""
    wanted = {f"{number:064x}" for number in range(1_203)}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: filled.put(BUCKET, f"long/index/{name}", b"x"), wanted))
    storage = storage_of(
        f"{filled.url}/{BUCKET}/long", filled.environment, {"s3.list-objects-v1": old}
    )
    found = [file.name for file in await storage.list(FileType.INDEX)]
    assert len(found) == len(wanted)
    assert set(found) == wanted
    await storage.aclose()


async def test_what_is_beyond_the_end_is_damaged(filled: SeaweedFS) -> None:
    """A file shorter than the index says is no trouble of the network."""
    storage = storage_of(f"{filled.url}/{BUCKET}/{quote(ODD)}", filled.environment)
    for offset, length in ((0, 11), (5, 6), (10, 1), (10, None), (500, 10)):
        with pytest.raises(DamagedError, match="ends before"):
            await storage.read(FileType.CONFIG, "", offset, length)
    await storage.aclose()


async def test_credentials_from_the_file(filled: SeaweedFS, isolated_env: Path) -> None:
    """Of a profile of AWS's file, where the environment has none; it may be named."""
    file = isolated_env / ".aws/credentials"
    file.parent.mkdir(parents=True)
    file.write_text(
        "[default]\naws_access_key_id = nobody\naws_secret_access_key = nothing\n"
        f"[backup]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET}\n"
    )
    url = f"{filled.url}/{BUCKET}"
    storage = storage_of(url, {"AWS_PROFILE": "backup"})
    assert await storage.read(FileType.CONFIG) == b"at the root"
    await storage.aclose()
    storage = storage_of(url, {})
    with pytest.raises(RepositoryDeniedError, match="wrong"):
        await storage.read(FileType.CONFIG)
    await storage.aclose()
    elsewhere = file.rename(isolated_env / "elsewhere")
    named = {"AWS_SHARED_CREDENTIALS_FILE": str(elsewhere), "AWS_PROFILE": "backup"}
    storage = storage_of(url, named)
    assert await storage.read(FileType.CONFIG) == b"at the root"
    await storage.aclose()
    storage = storage_of(url, {})
    with pytest.raises(RepositoryDeniedError, match=r"no credentials .* AWS_ACCESS_KEY_ID"):
        await storage.read(FileType.CONFIG)
    await storage.aclose()
    elsewhere.write_text(f"{SECRET}\n")
    storage = storage_of(url, named)
    with pytest.raises(UsageError, match="INI") as raised:
        await storage.read(FileType.CONFIG)
    assert SECRET not in raised.value.message
    await storage.aclose()


TROUBLES: dict[str, tuple[str, dict[str, str], type[CesbrError], str]] = {
    "no such file": (f"{BUCKET}/nothing", {}, FileMissingError, "does not exist"),
    "no such bucket": ("no-bucket/x", {}, BucketMissingError, "no bucket 'no-bucket'"),
    "wrong secret": (
        BUCKET,
        {"AWS_SECRET_ACCESS_KEY": "wrong"},
        RepositoryDeniedError,
        "credentials .* are wrong .*Signature",
    ),
    "wrong key id": (
        BUCKET,
        {"AWS_ACCESS_KEY_ID": "wrong"},
        RepositoryDeniedError,
        "credentials .* are wrong .*InvalidAccessKeyId",
    ),
    "no permission": (
        BUCKET,
        {"AWS_ACCESS_KEY_ID": "another-key-id", "AWS_SECRET_ACCESS_KEY": "another-secret"},
        RepositoryDeniedError,
        "no permission",
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_what_the_server_refuses(filled: SeaweedFS, trouble: str) -> None:
    """Each has its own error; the same sentence for a read and for a listing, but for a file."""
    place, environment, kind, sentence = TROUBLES[trouble]
    storage = storage_of(f"{filled.url}/{place}", {**filled.environment, **environment})
    with pytest.raises(kind, match=sentence) as raised:
        await storage.read(FileType.CONFIG)
    assert type(raised.value) is kind
    assert SECRET not in raised.value.message
    if kind is not FileMissingError:
        with pytest.raises(kind, match=sentence):
            await storage.list(FileType.KEY)
    await storage.aclose()


async def test_anonymous_requests_are_not_signed(filled: SeaweedFS) -> None:
    """Where the options ask for it; this server knows no anonymous readers."""
    storage = storage_of(f"{filled.url}/{BUCKET}", {}, {"s3.unsafe-anonymous-auth": "true"})
    with pytest.raises(RepositoryDeniedError, match="no permission"):
        await storage.read(FileType.CONFIG)
    await storage.aclose()


async def test_whom_to_trust(filled: SeaweedFS) -> None:
    """Neither the system's authorities nor another one vouch for the server."""
    url = f"{filled.tls_url}/{BUCKET}"
    environment = filled.environment
    for authority in ("", str(filled.certificates.other)):
        storage = storage_of(url, environment | {"RESTIC_CACERT": authority})
        with pytest.raises(RepositoryUntrustedError, match="RESTIC_CACERT"):
            await storage.read(FileType.CONFIG)
        await storage.aclose()
    both = f"{filled.certificates.other},{filled.certificates.authority}"
    storage = storage_of(url, environment | {"RESTIC_CACERT": both})
    assert await storage.read(FileType.CONFIG) == b"at the root"
    await storage.aclose()
    storage = storage_of(url.replace("127.0.0.1", "localhost"), environment)
    with pytest.raises(RepositoryUntrustedError, match=r"[Hh]ostname mismatch"):
        await storage.read(FileType.CONFIG)
    await storage.aclose()
    for wrong in ("/nowhere", str(filled.certificates.server_key)):
        with pytest.raises(UsageError, match="RESTIC_CACERT"):
            storage_of(url, environment | {"RESTIC_CACERT": wrong})


async def test_who_cannot_be_reached(filled: SeaweedFS) -> None:
    """A port without a server, a host without a name, TLS where there is none."""
    (port,) = free_ports(1)
    for url, kind, sentence in (
        (f"s3:http://127.0.0.1:{port}/bucket", RepositoryUnreachableError, "Connection refused"),
        ("s3:http://no-such-host.invalid/bucket", RepositoryUnreachableError, "is not known"),
        (f"{secured(filled.url)}/bucket", RepositoryUnreachableError, "does not speak TLS"),
        (f"{plain(filled.tls_url)}/bucket", StorageError, r"400.*check the address"),
    ):
        storage = storage_of(url, filled.environment)
        with pytest.raises(kind, match=sentence):
            await storage.read(FileType.CONFIG)
        await storage.aclose()


@pytest.mark.parametrize("after", [0, 300, 5_000])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.RESET, RepositoryUnreachableError),
        (Fault.TRUNCATE, RepositoryUnreachableError),
        (Fault.STALL, RepositoryTimedOutError),
    ],
)
async def test_faults_of_the_network(
    filled: SeaweedFS, proxy: Proxy, fault: Fault, kind: type[CesbrError], after: int
) -> None:
    """Before the answer, within its head, within its body; the next request gets all of it."""
    storage = storage_of(through(proxy), filled.environment, patience=1.0)
    before = descriptors()
    await trio.to_thread.run_sync(partial(proxy.inject, fault, after=after))
    with pytest.raises(kind) as raised:
        await storage.read(FileType.PACK, NAMES[0], 0, 500_000)
    assert type(raised.value) is kind
    assert await storage.read(FileType.PACK, NAMES[0], 0, 500_000) == PACK[:500_000]
    await storage.aclose()
    assert descriptors() <= before + 2  # the proxy's end of the connection that went well


async def test_a_slow_answer_is_waited_for(filled: SeaweedFS) -> None:
    """The deadline is for silence: what takes longer than it, but comes, arrives."""
    with proxying(("127.0.0.1", filled.port), rate=400_000) as proxy:
        storage = storage_of(through(proxy), filled.environment, patience=0.6)
        begun = trio.current_time()
        assert await storage.read(FileType.PACK, NAMES[0]) == PACK
        assert trio.current_time() - begun > 1.2
        await storage.aclose()


async def test_cancelled_reads_free_their_connections(filled: SeaweedFS) -> None:
    """3,000 reads cancelled at any moment; then 16 of 16 succeed, and nothing is left behind."""
    url = f"{filled.url}/{BUCKET}/{quote(ODD)}"
    storage = storage_of(url, filled.environment)
    await storage.read(FileType.CONFIG)
    living, opened = tasks(), descriptors()

    async def read() -> bytes:
        return await storage.read(FileType.PACK, NAMES[0], 0, 200_000)

    quick = await cancel_many(read, times=3_000, at_once=24, longest=0.03)
    assert quick < 2_500, "most of them are cancelled"
    assert tasks() == living
    assert descriptors() <= opened + 16
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(read)
    assert tasks() == living
    await storage.aclose()
    assert descriptors() <= opened - 1


async def test_no_more_connections_than_allowed(filled: SeaweedFS, proxy: Proxy) -> None:
    """The option bounds them; readers beyond it wait, and their deadline begins afterwards."""
    options = {"s3.connections": "2"}
    storage = storage_of(through(proxy), filled.environment, options, patience=1.0)
    before = descriptors()
    most = 0

    async def read() -> None:
        nonlocal most
        await storage.read(FileType.PACK, NAMES[0])
        most = max(most, descriptors())

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(read)
    assert most - before <= 2 * 3  # ours, and both ends of the proxy, which is in this process
    await storage.aclose()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"s3.bucket-lookup": "any"}, "auto, dns or path"),
        ({"s3.connections": "0"}, "number from 1"),
        ({"s3.list-objects-v1": "perhaps"}, "true or false"),
    ],
)
def test_options_that_cannot_be(options: dict[str, str], sentence: str) -> None:
    """They are named, with what to say."""
    with pytest.raises(UsageError, match=sentence):
        storage_of(
            "s3:http://127.0.0.1/bucket",
            {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
            options,
        )


async def test_credentials_for_another_bucket(filled: SeaweedFS) -> None:
    """Who may not read one bucket may read another."""
    storage = storage_of(f"{filled.url}/{OTHER_BUCKET}", filled.of_another)
    with pytest.raises(FileMissingError):
        await storage.read(FileType.CONFIG)
    assert list(await storage.list(FileType.KEY)) == []
    await storage.aclose()
