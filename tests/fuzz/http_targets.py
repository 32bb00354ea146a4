"""Fuzz targets for what servers send: HTTP responses, and listings in XML and JSON."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from typing import Final, cast

import httpcore2
import httpx2
import trio

from cesbrfs.errors import CesbrError
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage import FileType
from cesbrfs.repo.storage.base import SIZE_MAX, FileInfo, is_file_name
from cesbrfs.repo.storage.http.client import Answer, HttpClient
from cesbrfs.repo.storage.rest import RestStorage
from cesbrfs.repo.storage.s3.storage import S3Storage, _error_fields
from cesbrfs.util.secret import Secret

_CREDENTIALS: Final = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
_NAME: Final = "00" * 32
_LENGTH: Final = 10
_V2: Final = "application/vnd.x.restic.rest.v2"

Storage = RestStorage | S3Storage


@functools.cache
def _rest() -> RestStorage:
    return RestStorage.from_access(Access("rest:http://host/", Secret(b"key")))


@functools.cache
def _s3(old: str = "false") -> S3Storage:
    options = {"s3.list-objects-v1": old}
    access = Access("s3:http://host/bucket/repo", Secret(b"key"), options, _CREDENTIALS)
    return S3Storage.from_access(access)


async def _list(storage: Storage, kind: FileType) -> None:
    _check_listing(await storage.list(kind))


def _check_listing(files: object) -> None:
    for file in cast("list[FileInfo]", files):
        assert is_file_name(file.name)
        assert file.size >= 0


async def _whole(storage: Storage) -> None:
    assert len(await storage.read(FileType.CONFIG)) <= SIZE_MAX[FileType.CONFIG]


async def _part(storage: Storage) -> None:
    assert len(await storage.read(FileType.PACK, _NAME, 5, _LENGTH)) <= _LENGTH


async def _rest_of(storage: Storage) -> None:
    await storage.read(FileType.PACK, _NAME, 5)


_ACTIONS: Final[list[Callable[[Storage], Awaitable[None]]]] = [
    lambda storage: _list(storage, FileType.KEY),
    _whole,
    _part,
    _rest_of,
]


def fuzz_http(data: bytes) -> None:
    """Responses: any bytes of a server give the file's data, a listing, or an error of ours.

    The first byte selects the storage and the request; a line ``--`` separates two responses.
    """
    number = data[0] if data else 0
    storage: Storage = _rest()
    if number & 4:
        storage = _s3()
        storage._region = "us-east-1"  # which a response may have changed
    trio.run(_http, storage, _ACTIONS[number & 3], data[1:].split(b"\n--\n"))


async def _http(
    storage: Storage, act: Callable[[Storage], Awaitable[None]], responses: list[bytes]
) -> None:
    client: HttpClient = storage._client
    transport = cast("httpx2.AsyncHTTPTransport", client._client._transport)
    pool = httpcore2.AsyncConnectionPool(network_backend=_Backend(responses))
    transport._pool = pool
    async with pool:
        with contextlib.suppress(CesbrError):
            await act(storage)
        difference = client.clock_difference
        assert difference is None or isinstance(difference, float)


class _Backend(httpcore2.AsyncMockBackend):
    """Each connection receives the next response; the last one is repeated."""

    def __init__(self, responses: list[bytes]) -> None:
        super().__init__([])
        self._responses = responses

    async def connect_tcp(self, *_: object, **__: object) -> httpcore2.AsyncNetworkStream:
        await trio.lowlevel.checkpoint()
        response = self._responses.pop(0) if len(self._responses) > 1 else self._responses[0]
        return httpcore2.AsyncMockStream([response])


def fuzz_listing(data: bytes) -> None:
    """Listings of S3, in both versions, and of REST, in both; and the errors of S3 in XML."""
    trio.run(_listing, data)


async def _listing(data: bytes) -> None:
    for old in ("false", "true"):
        s3 = copy(_s3(old))
        s3._client = _Client(data, {})  # type: ignore[misc, assignment]
        with contextlib.suppress(CesbrError):
            await _list(s3, FileType.PACK)
        with contextlib.suppress(CesbrError):
            await s3.other_entry()
    rest = copy(_rest())
    for content_type in (_V2, "application/json"):
        rest._client = _Client(data, {"content-type": content_type})  # type: ignore[misc, assignment]
        with contextlib.suppress(CesbrError):
            await _list(rest, FileType.KEY)
    code, message, region = _error_fields(Answer(400, {}, data))
    (code + message + region).encode()


class _Client:
    """Returns the same body for each request."""

    def __init__(self, body: bytes, headers: Mapping[str, str]) -> None:
        self._body = body
        self._headers = headers

    async def whole(self, *_: object, method: str = "GET", **__: object) -> Answer:
        await trio.lowlevel.checkpoint()
        if method == "HEAD":  # a size that depends on nothing
            return Answer(200, {"content-length": "100"}, b"")
        return Answer(200, self._headers, self._body)
