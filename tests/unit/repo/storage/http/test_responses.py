"""Responses that no server of ours sends are errors of the storage, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

import pytest

from cesbrfs.errors import FileMissingError, RepositoryUnreachableError
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage import FileType
from cesbrfs.repo.storage.http.client import number_in
from cesbrfs.repo.storage.rest import RestStorage
from cesbrfs.repo.storage.s3.storage import S3Storage
from cesbrfs.util.secret import Secret
from tests.support.http_server import serving

_NAME = "0" * 64
_V2 = "application/vnd.x.restic.rest.v2"
_NESTED = b"[" * 100_000
_HUGE = b"9" * 5000

Storage = RestStorage | S3Storage


def _rest(port: int) -> Storage:
    return RestStorage.from_access(Access(f"rest:http://127.0.0.1:{port}/", Secret(b"key")))


def _s3(port: int) -> Storage:
    keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
    return S3Storage.from_access(
        Access(f"s3:http://127.0.0.1:{port}/bucket/repo", Secret(b"key"), {}, keys)
    )


def _listing(size: bytes) -> bytes:
    key = f"<Key>repo/keys/{_NAME}</Key>".encode()
    return b"<List><Contents>" + key + b"<Size>" + size + b"</Size></Contents></List>"


@pytest.mark.parametrize(
    ("connect", "content_type", "body"),
    [
        (_rest, "", b'["\xff"]'),
        (_rest, "", _NESTED),
        (_rest, _V2, b'[{"name":"' + _NAME.encode() + b'","size":1,"x":' + _NESTED),
        (_rest, _V2, b'[{"name":"' + _NAME.encode() + b'","size":-1}]'),
        (_s3, "", _listing(_HUGE)),
        (_s3, "", _listing("²".encode())),
        (_s3, "", b"<?xml version='1.0' encoding='utf-7'?><List/>"),
        (_s3, "", b"<?xml version='1.0' encoding='unknown'?><List/>"),
    ],
)
async def test_listings(connect: Callable[[int], Storage], content_type: str, body: bytes) -> None:
    """The error is that the server is not what the address promises."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as port:
        storage = connect(port)
        with pytest.raises(RepositoryUnreachableError, match="Check the address"):
            await storage.list(FileType.KEY)
        await storage.aclose()


@pytest.mark.parametrize("connect", [_rest, _s3])
async def test_a_status_with_half_a_body(connect: Callable[[int], Storage]) -> None:
    """Rclone answers so after a file was removed behind its back."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("Content-Length", "10000")
            self.end_headers()
            self.wfile.write(b"Not Found\n")
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as port:
        storage = connect(port)
        with pytest.raises(FileMissingError):
            await storage.read(FileType.PACK, _NAME, 5, 10)
        await storage.aclose()


@pytest.mark.parametrize("total", ["9" * 5000, "1²"])
async def test_headers(total: str) -> None:
    """So are ranges, and an impossible date is no date."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(206)
            self.send_header("Date", "Mon, 01 Jan 99999999999 00:00:00 GMT")
            self.send_header("Content-Range", f"bytes 5-14/{total}")
            self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(bytes(10))

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as port:
        storage = _rest(port)
        with pytest.raises(RepositoryUnreachableError, match="wrong range"):
            await storage.read(FileType.PACK, _NAME, 5, 10)
        assert storage.clock_difference is None
        await storage.aclose()


@pytest.mark.parametrize("text", ["", "-1", "+1", " 1", "1_0", "²", "9" * 19, "1e3"])
def test_numbers(text: str) -> None:
    """Only ASCII digits are numbers, and only as many as a file may need."""
    assert number_in(text) is None
    assert number_in("0155") == 155
