"""Repositories on a real S3 server: reads and errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
import trio

from cesbrfs.errors import (
    BucketMissingError,
    CesbrError,
    FileMissingError,
    RepositoryDeniedError,
    RepositoryUntrustedError,
    UsageError,
)
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage import FileType
from cesbrfs.repo.storage.s3.storage import S3Storage
from tests.support.counting import descriptors
from tests.support.filled import FILES, KEY, NAMES, ODD, PACK, check_all
from tests.support.proxy import Proxy, proxying
from tests.support.seaweed import BUCKET, KEY_ID, OTHER_BUCKET, SECRET, SeaweedFS

PREFIX = f"below/{ODD}"


def storage_of(
    url: str,
    environment: Mapping[str, str],
    options: Mapping[str, str] | None = None,
    *,
    patience: float = 20.0,
) -> S3Storage:
    return S3Storage.from_access(Access(url, KEY, options or {}, environment), timeout=patience)


@pytest.fixture(scope="module")
def filled(seaweed: SeaweedFS) -> SeaweedFS:
    """The server with files of a repository under an unusual prefix, and other files."""
    for name, data in {
        **FILES,
        f"keys/deeper/{NAMES[2]}": b"not here",
        f"data/{NAMES[1]}": b"not here",
    }.items():
        seaweed.put(BUCKET, f"{PREFIX}/{name}", data)
    seaweed.put(BUCKET, "config", b"at the root")
    return seaweed


@pytest.fixture
def proxy(filled: SeaweedFS) -> Iterator[Proxy]:
    """A proxy between the storage and the server."""
    with proxying(("127.0.0.1", filled.port)) as made:
        yield made


def through(proxy: Proxy) -> str:
    return f"s3:http://127.0.0.1:{proxy.port}/{BUCKET}/{quote(PREFIX)}"


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("old", ["false", "true"], ids=["ListObjectsV2", "ListObjects"])
async def test_listing_and_reading(filled: SeaweedFS, tls: bool, old: str) -> None:
    """Files with restic's names are listed with sizes, and read completely or in part."""
    url = f"{filled.tls_url if tls else filled.url}/{BUCKET}/{quote(PREFIX)}"
    storage = storage_of(url, filled.environment, {"s3.list-objects-v1": old})
    await check_all(storage)
    await storage.aclose()


async def test_a_repository_may_be_the_whole_bucket(filled: SeaweedFS) -> None:
    """An address may have no prefix."""
    storage = storage_of(f"{filled.url}/{BUCKET}", filled.environment)
    assert await storage.read(FileType.CONFIG) == b"at the root"
    assert list(await storage.list(FileType.PACK)) == []
    await storage.aclose()


@pytest.mark.parametrize("old", ["false", "true"], ids=["ListObjectsV2", "ListObjects"])
async def test_long_listings_come_in_pages(filled: SeaweedFS, old: str) -> None:
    """A page has a thousand names; none is lost or repeated at a page boundary."""
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


async def test_credentials_from_the_file(filled: SeaweedFS, isolated_env: Path) -> None:
    """A profile of the AWS file is used if the environment has no credentials."""
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
    elsewhere.write_text(f"{SECRET}\n")
    storage = storage_of(url, named)
    with pytest.raises(UsageError, match="INI") as raised:
        await storage.read(FileType.CONFIG)
    assert SECRET not in raised.value.message
    await storage.aclose()


TROUBLES: dict[str, tuple[str, dict[str, str], type[CesbrError], str]] = {
    "no such file": (f"{BUCKET}/nothing", {}, FileMissingError, "does not exist"),
    "no such bucket": (
        "no-bucket/x",
        {},
        BucketMissingError,
        "The bucket of .*no-bucket.* does not exist",
    ),
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
        "Permission denied",
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_what_the_server_refuses(filled: SeaweedFS, trouble: str) -> None:
    """Each refusal has its own error, the same for reads and listings except for the file name."""
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
    """If the options request it; this server does not allow anonymous readers."""
    storage = storage_of(f"{filled.url}/{BUCKET}", {}, {"s3.unsafe-anonymous-auth": "true"})
    with pytest.raises(RepositoryDeniedError, match="Permission denied"):
        await storage.read(FileType.CONFIG)
    await storage.aclose()


async def test_whom_to_trust(filled: SeaweedFS) -> None:
    """The server's certificate is signed neither by a system CA nor by another one."""
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


async def test_a_slow_answer_is_waited_for(filled: SeaweedFS) -> None:
    """The timeout applies to silence: a slow response that makes progress succeeds."""
    with proxying(("127.0.0.1", filled.port), rate=400_000) as proxy:
        storage = storage_of(through(proxy), filled.environment, patience=0.6)
        begun = trio.current_time()
        assert await storage.read(FileType.PACK, NAMES[0]) == PACK
        assert trio.current_time() - begun > 1.2
        await storage.aclose()


async def test_no_more_connections_than_allowed(filled: SeaweedFS, proxy: Proxy) -> None:
    """Readers beyond the limit wait, and their timeout starts afterwards."""
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
    assert most - before <= 2 * 3  # ours, and both ends of the proxy, which runs in this process
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
    """The error names the invalid option and the valid values."""
    with pytest.raises(UsageError, match=sentence):
        storage_of(
            "s3:http://127.0.0.1/bucket",
            {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
            options,
        )


async def test_credentials_for_another_bucket(filled: SeaweedFS) -> None:
    """Credentials for one bucket work, even if they are denied access to others."""
    storage = storage_of(f"{filled.url}/{OTHER_BUCKET}", filled.of_another)
    with pytest.raises(FileMissingError):
        await storage.read(FileType.CONFIG)
    assert list(await storage.list(FileType.KEY)) == []
    await storage.aclose()
