"""Signatures, compared with the examples in the documentation of AWS."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cesbrfs.repo.storage.s3.sigv4 import (
    EMPTY_HASH,
    Credentials,
    authorization,
    encoded,
    query_of,
    signed_headers,
)
from cesbrfs.util.secret import Secret

SECRET = Secret(b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
OF_S3 = Credentials("AKIAIOSFODNN7EXAMPLE", SECRET)
HOST = "examplebucket.s3.amazonaws.com"
THEN = datetime(2013, 5, 24, tzinfo=UTC)


def signature_of(header: str) -> str:
    return header.rpartition("Signature=")[2]


def test_getting_an_object_in_part() -> None:
    """The example "GET Object" of Amazon S3, with a signed range: the header is identical."""
    headers = {
        "Host": HOST,
        "Range": "bytes=0-9",
        "x-amz-content-sha256": EMPTY_HASH,
        "x-amz-date": "20130524T000000Z",
    }
    assert authorization(
        "GET", "/test.txt", "", headers, EMPTY_HASH, OF_S3, region="us-east-1", service="s3"
    ) == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


@pytest.mark.parametrize(
    ("parameters", "signature"),
    [
        (
            [("prefix", "J"), ("max-keys", "2")],
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
        ([("lifecycle", "")], "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
    ],
)
def test_listing_a_bucket(parameters: list[tuple[str, str]], signature: str) -> None:
    """The examples "GET Bucket (List Objects)" and "GET Bucket Lifecycle" of Amazon S3."""
    headers = signed_headers(
        "GET", HOST, "/", query_of(parameters), OF_S3, region="us-east-1", now=THEN
    )
    assert signature_of(headers["authorization"]) == signature


@pytest.mark.parametrize(
    ("query", "signature"),
    [
        ([], "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        (
            [("Param2", "value2"), ("Param1", "value1")],
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
    ],
)
def test_the_suite_of_version_4(query: list[tuple[str, str]], signature: str) -> None:
    """The test suite's get-vanilla and get-vanilla-query-order-key-case."""
    credentials = Credentials("AKIDEXAMPLE", Secret(b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"))
    header = authorization(
        "GET",
        "/",
        query_of(query),
        {"Host": "example.amazonaws.com", "X-Amz-Date": "20150830T123600Z"},
        EMPTY_HASH,
        credentials,
        region="us-east-1",
        service="service",
    )
    assert signature_of(header) == signature


def test_a_session_token_is_signed() -> None:
    """The token of temporary credentials is sent and signed; no repr shows it."""
    credentials = Credentials("id", SECRET, Secret(b"a-token"))
    headers = signed_headers("GET", HOST, "/", "", credentials, region="eu", now=THEN)
    assert headers["x-amz-security-token"] == "a-token"
    assert ";x-amz-security-token," in headers["authorization"]
    assert "token" not in repr(credentials).replace("token=", "")
    assert "wJal" not in repr(credentials)


def test_encoding() -> None:
    """Only the unreserved characters of AWS, and slashes of a path, are not encoded."""
    assert encoded("a b+c/ü~-._*") == "a%20b%2Bc%2F%C3%BC~-._%2A"
    assert encoded("/a b/c", safe="/") == "/a%20b/c"
