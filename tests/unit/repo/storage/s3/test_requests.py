"""Addresses and signing regions of S3 requests that cannot be tested on a local server."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import trio

from cesbrfs.errors import (
    CesbrError,
    FileMissingError,
    RepositoryDeniedError,
    RepositoryTimedOutError,
    RepositoryUnreachableError,
    StorageError,
)
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage import FileType
from cesbrfs.repo.storage.http.client import Answer
from cesbrfs.repo.storage.s3.sigv4 import Credentials
from cesbrfs.repo.storage.s3.storage import S3Storage, _OtherRegionError
from cesbrfs.util.secret import Secret

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}


def storage_of(
    place: str, environment: dict[str, str] | None = None, options: Mapping[str, str] = {}
) -> S3Storage:
    named = {f"s3.{name.replace('_', '-')}": value for name, value in options.items()}
    return S3Storage.from_access(
        Access(f"s3:{place}", Secret(b"key"), named, CREDENTIALS | (environment or {}))
    )


@pytest.mark.parametrize(
    ("place", "options", "url"),
    [
        ("https://host:9000/bucket", {}, "https://host:9000/bucket/config"),
        ("http://host/bucket/a%20b", {}, "http://host/bucket/a%20b/config"),
        ("host/bucket", {"bucket_lookup": "dns"}, "https://bucket.host/config"),
        ("s3.eu-west-1.amazonaws.com/bucket", {},
         "https://bucket.s3.eu-west-1.amazonaws.com/config"),
        ("s3.amazonaws.com/bucket", {"region": "eu-west-1"},
         "https://bucket.s3.dualstack.eu-west-1.amazonaws.com/config"),
        ("s3.amazonaws.com/bucket", {"region": "eu-west-1", "bucket_lookup": "path"},
         "https://s3.dualstack.eu-west-1.amazonaws.com/bucket/config"),
        ("s3.eu-west-1.amazonaws.com/my.bucket", {},
         "https://s3.eu-west-1.amazonaws.com/my.bucket/config"),
        ("storage.googleapis.com/bucket", {}, "https://bucket.storage.googleapis.com/config"),
        ("notamazonaws.com/bucket", {}, "https://notamazonaws.com/bucket/config"),
    ],
)  # fmt: skip
def test_where_a_bucket_is(place: str, options: dict[str, str], url: str) -> None:
    """In the host name for large providers, in the path otherwise, or as configured."""
    storage = storage_of(place, options=options)
    key = "a b/config" if "%20" in place else "config"
    assert storage._request(key, "", None)[0] == url


@pytest.mark.parametrize(
    ("place", "environment", "options", "region"),
    [
        ("host/bucket", {}, {}, "us-east-1"),
        ("host/bucket", {"AWS_DEFAULT_REGION": "eu-west-3"}, {}, "eu-west-3"),
        ("host/bucket", {"AWS_DEFAULT_REGION": "x"}, {"region": "eu-west-3"}, "eu-west-3"),
        ("s3.eu-west-3.amazonaws.com/bucket", {}, {}, "eu-west-3"),
        ("s3-eu-west-3.amazonaws.com/bucket", {}, {}, "eu-west-3"),
        ("s3.dualstack.eu-west-3.amazonaws.com/bucket", {}, {}, "eu-west-3"),
        ("s3.cn-north-1.amazonaws.com.cn/bucket", {}, {}, "cn-north-1"),
        ("s3.amazonaws.com/bucket", {}, {}, "us-east-1"),
    ],
)
def test_regions(
    place: str, environment: dict[str, str], options: dict[str, str], region: str
) -> None:
    """The option, the environment, the host name, and the default."""
    signer = Credentials("id", Secret(b"secret"))
    headers = storage_of(place, environment, options)._request("config", "", signer)[1]
    assert f"/{region}/s3/aws4_request" in headers["authorization"]


def error(status: int, code: str, more: str = "") -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m.</Message>{more}</Error>"
    return Answer(status, {}, body.encode())


def test_the_region_that_the_server_names() -> None:
    """It is used if no region is configured; otherwise the refusal is an error."""
    malformed = error(400, "AuthorizationHeaderMalformed", "<Region>eu-west-3</Region>")
    redirect = Answer(301, {"x-amz-bucket-region": "eu-west-3"}, b"")
    for answer in (malformed, redirect):
        found = storage_of("s3.amazonaws.com/bucket")._refusal(answer, "config")
        assert isinstance(found, _OtherRegionError)
        assert found.region == "eu-west-3"
    said = storage_of("s3.amazonaws.com/bucket", options={"region": "eu-west-1"})
    assert isinstance(said._refusal(malformed, "config"), RepositoryDeniedError)
    assert isinstance(said._refusal(redirect, "config"), StorageError)


@pytest.mark.parametrize(
    "region", ["other.example/", "other.example#", "a\nb: c", "eu-w\u079best", "x" * 65]
)
def test_a_region_that_is_none(region: str) -> None:
    """It never becomes a part of the host name or a header: the refusal is an error."""
    malformed = error(400, "AuthorizationHeaderMalformed", f"<Region>{region}</Region>")
    redirect = Answer(301, {"x-amz-bucket-region": region}, b"")
    storage = storage_of("s3.amazonaws.com/bucket")
    assert isinstance(storage._refusal(malformed, "config"), RepositoryDeniedError)
    assert type(storage._refusal(redirect, "config")) is StorageError


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error(404, "NoSuchKey"), FileMissingError),
        (Answer(404, {}, b""), FileMissingError),
        (error(403, "RequestTimeTooSkewed"), RepositoryDeniedError),
        (error(400, "ExpiredToken"), RepositoryDeniedError),
        (Answer(401, {}, b"no XML"), RepositoryDeniedError),
        (Answer(403, {}, b""), RepositoryDeniedError),
        (error(503, "SlowDown"), RepositoryUnreachableError),
        (error(400, "RequestTimeout"), RepositoryUnreachableError),
        (Answer(429, {}, b""), RepositoryUnreachableError),
        (Answer(500, {}, b""), RepositoryUnreachableError),
        (Answer(504, {}, b""), RepositoryTimedOutError),
        (error(400, "InvalidArgument"), StorageError),
    ],
)
def test_what_answers_mean(answer: Answer, kind: type[CesbrError]) -> None:
    """Temporary errors are "unreachable"; the error code has precedence over the status."""
    assert type(storage_of("host/bucket")._refusal(answer, "config")) is kind


async def test_a_listing_with_sizes_that_are_none() -> None:
    """It is reported as an invalid response, without any other exception."""
    made = storage_of("https://server/bucket/repo")
    name = f"<Key>repo/keys/{'a' * 64}</Key>"
    for size in ("<Size>many</Size>", "<Size>-1</Size>", ""):
        text = f"<Listing><Contents>{name}{size}</Contents></Listing>"

        async def page(*_: object, text: str = text) -> Answer:
            await trio.lowlevel.checkpoint()
            return Answer(200, {}, text.encode())

        made._page = page  # type: ignore[method-assign, assignment]
        with pytest.raises(RepositoryUnreachableError, match="not S3"):
            await made.list(FileType.KEY)


async def test_a_listing_that_never_ends() -> None:
    """A server that returns the same token again, or none, is not asked forever."""
    for old, token in (
        ("false", ""),
        ("false", "<NextContinuationToken>same</NextContinuationToken>"),
        ("true", ""),
        ("true", "<NextMarker>same</NextMarker>"),
    ):
        made = storage_of("https://server/bucket/repo", options={"list_objects_v1": old})
        asked = 0
        text = f"<Listing><IsTruncated>true</IsTruncated>{token}</Listing>"

        async def page(*_: object, text: str = text) -> Answer:
            nonlocal asked
            asked += 1
            await trio.lowlevel.checkpoint()
            return Answer(200, {}, text.encode())

        made._page = page  # type: ignore[method-assign, assignment]
        with pytest.raises(RepositoryUnreachableError, match="without a continuation token"):
            await made.list(FileType.KEY)
        assert asked == (2 if token else 1)


async def test_a_bucket_in_another_region() -> None:
    """The request is signed again for the region that the server names, once."""
    made = storage_of("s3.amazonaws.com/bucket")
    regions: list[str] = []

    async def whole(url: str, headers: dict[str, str], refusal: object, what: str) -> Answer:
        await trio.lowlevel.checkpoint()
        assert callable(refusal)
        assert f"/{made._region}/s3/" in headers["authorization"]
        assert f"s3.dualstack.{made._region}.amazonaws.com" in url
        regions.append(made._region)
        if len(regions) == 1:
            raise refusal(Answer(301, {"x-amz-bucket-region": "eu-west-3"}, b""), what)
        return Answer(200, {}, b"<Listing/>")

    made._client.whole = whole  # type: ignore[method-assign, assignment]
    assert await made.list(FileType.KEY) == []
    assert await made.list(FileType.KEY) == []
    assert regions == ["us-east-1", "eu-west-3", "eu-west-3"]
