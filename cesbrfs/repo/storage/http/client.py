"""HTTP client of a storage: limited connections, a timeout per request, verified responses.

It makes one attempt per request and translates failures into this project's errors. The storage
translates error responses, because their format depends on the kind of server.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn, Protocol
from urllib.parse import urlsplit

import httpcore2
import httpx2
import trio

from cesbrfs.errors import (
    NO_RESPONSE,
    UNKNOWN_HOST,
    UNREACHABLE,
    CesbrError,
    RepositoryDeniedError,
    RepositoryTimedOutError,
    RepositoryUnreachableError,
    RepositoryUntrustedError,
    StorageError,
    UsageError,
)
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage.http.proxies import Proxy, is_loopback_host, proxy_for
from cesbrfs.repo.storage.http.tls import trusting
from cesbrfs.util.secret import redact

TIMEOUT_SECONDS: Final = 20.0
"""Timeout in seconds: to connect and get a response, and between two parts of its body."""
LISTING_MAX: Final = 256 << 20
"""Maximum bytes of a listing: those of about two million packs."""
CONNECTIONS: Final = 16
"""Default number of connections; restic's is 5, but it has no interactive readers."""

# Bytes per read of a socket. With the default of 64 KiB, the overhead of the reads takes most of
# the time of a large response.
httpcore2.AsyncHTTP11Connection.READ_NUM_BYTES = 256 << 10

_SLOWEST: Final = 8 << 10
"""Minimum throughput in bytes per second, so that a trickle of bytes does not block a reader."""
_ERROR_BYTES: Final = 64 << 10
_ERROR_MAX: Final = 1 << 20
"""Bytes that are read of the body of an error response."""
_TARGET_CHARACTERS: Final = 300
"""Maximum number of characters of a redirect target in a message."""
_IDLE: Final = 60.0
"""Seconds until an idle connection is closed."""

_OK: Final = 200
_PARTIAL: Final = 206
_UNSATISFIABLE: Final = 416
_TIMEOUTS: Final = (408, 504)
_TOO_MANY: Final = 429
_REDIRECTS: Final = range(300, 400)
_SERVER_ERROR: Final = 500

_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_WANTS_CERTIFICATE: Final = re.compile(
    "CERTIFICATE_REQUIRED|ALERT_(BAD|UNKNOWN|UNSUPPORTED|EXPIRED|REVOKED)_(CERTIFICATE|CA)"
    "|ALERT_CERTIFICATE|ALERT_ACCESS_DENIED"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response. The names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def number_in(text: str) -> int | None:
    """Return the number that a server sent; None if it is not one of up to 18 ASCII digits."""
    return int(text) if _NUMBER.fullmatch(text) else None


def other_refusal(answer: Answer, display_url: str, what: str, reason: str) -> CesbrError:
    """Return the error for a response that concerns neither credentials nor a missing file."""
    if answer.status in _TIMEOUTS:
        return RepositoryTimedOutError(
            f"The server of {display_url} reported a timeout ({reason}). Try again."
        )
    if answer.status == _TOO_MANY or answer.status >= _SERVER_ERROR:
        return RepositoryUnreachableError(
            f"The server of {display_url} cannot serve {what} now ({reason}). Try again."
        )
    if answer.status in _REDIRECTS:
        return StorageError(
            f"The server of {display_url} redirects {what} to {_redirected_to(answer)} ({reason})."
            " Redirects are not followed; set the repository's address to the new one."
        )
    return StorageError(
        f"The server of {display_url} refused the request for {what} ({reason}). Check the address"
        " and the options."
    )


def _redirected_to(answer: Answer) -> str:
    """Return the target of a redirect, escaped, without passwords and its query."""
    location = answer.headers.get("location", "")
    return (
        repr(redact(location.partition("?")[0])[:_TARGET_CHARACTERS])
        if location
        else "an unspecified address"
    )


class Refusal(Protocol):
    """Returns the error for an unsuccessful response about the file or directory `what`."""

    def __call__(self, answer: Answer, what: str) -> CesbrError:
        """Return the error."""


class HttpClient:
    """Sends requests to one server, for the repository of `access`.

    `url` is any URL of the server, which selects TLS and the proxy. `socket` is the path of its
    Unix socket; "" for a server on the network. `timeout` is in seconds. There is no connection
    before the first request.
    """

    def __init__(
        self,
        access: Access,
        url: str,
        *,
        connections: int,
        timeout: float = TIMEOUT_SECONDS,
        socket: str = "",
    ) -> None:
        self._display_url: Final = access.display_url
        self._timeout: Final = timeout
        self._last_date = (0.0, "")
        self._slots: Final = trio.Semaphore(connections)
        # `_slots` limits the connections, so that the timeout of a request begins when it has one.
        limits = httpx2.Limits(
            max_connections=None,
            max_keepalive_connections=connections,
            keepalive_expiry=_IDLE,
        )
        # Loading CA certificates takes 20 ms and is useless without TLS.
        no_certificates = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context = trusting(access) if url.startswith("https:") else no_certificates
        proxy = None if socket else proxy_for(url, os.environ)
        try:
            self._client: Final = httpx2.AsyncClient(
                verify=context,
                limits=limits,
                transport=httpx2.AsyncHTTPTransport(uds=socket, limits=limits) if socket else None,
                timeout=None,  # `_answer` sets the deadlines
                proxy=proxy.url if proxy else None,
                trust_env=False,  # its rules for proxies are not restic's
            )
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            if proxy is None:
                raise
            # The error may contain the password in the address, so it is not quoted.
            raise UsageError(
                f"The proxy in {proxy.variable} cannot be used for {self._display_url}:"
                f" {_why_no_proxy(proxy, error)}. Correct it, or add the host to NO_PROXY."
            ) from None

    @property
    def clock_difference(self) -> float | None:
        """Seconds by which the server's clock was ahead in the last response; None if unknown."""
        from email.utils import parsedate_to_datetime

        received, date = self._last_date
        try:
            return parsedate_to_datetime(date).timestamp() - received
        except (ValueError, OverflowError):
            return None

    async def aclose(self) -> None:
        """Close all connections."""
        with trio.CancelScope(shield=True):
            await self._client.aclose()

    async def whole(
        self,
        url: str,
        headers: Mapping[str, str],
        refusal: Refusal,
        what: str,
        *,
        method: str = "GET",
        size_max: int = LISTING_MAX,
    ) -> Answer:
        """Return a successful response with its complete body.

        Raises StorageError if the body has more than `size_max` bytes.
        """
        async with self._answer(method, url, headers) as (response, read_body):
            if response.status_code != _OK:
                raise refusal(await _error(response, read_body), what)
            too_large = StorageError(
                f"The server of {self._display_url} sent more than {size_max:,} bytes for {what},"
                " which is not possible in a repository. Check the server."
            )
            parts = [chunk async for chunk in read_body(size_max, too_large)]
            return Answer(response.status_code, response.headers, b"".join(parts))

    async def part(  # noqa: PLR0917 - the parameters of `whole`, and a range
        self,
        url: str,
        headers: Mapping[str, str],
        refusal: Refusal,
        what: str,
        offset: int,
        length: int | None,
        *,
        size_max: int,
    ) -> bytes:
        """Return up to `length` bytes of a file from `offset`, fewer only at its end.

        A file that is read completely may have up to `size_max` bytes.
        """
        if length is None and not offset:
            return (await self.whole(url, headers, refusal, what, size_max=size_max)).body
        if length == 0:
            return b""
        last = "" if length is None else offset + length - 1
        range_headers = {**headers, "range": f"bytes={offset}-{last}"}
        async with self._answer("GET", url, range_headers) as (response, read_body):
            if response.status_code == _UNSATISFIABLE:
                return b""
            if response.status_code == _OK:
                raise StorageError(
                    f"The server of {self._display_url} does not support range requests, which are"
                    f" required to read {what}."
                )
            if response.status_code != _PARTIAL:
                raise refusal(await _error(response, read_body), what)
            wanted = self._wanted(response, what, offset, length)
            too_large = RepositoryUnreachableError(
                f"The server of {self._display_url} sent more than {wanted} bytes of {what}. Try"
                " again."
            )
            parts = [chunk async for chunk in read_body(wanted, too_large)]
            count = sum(map(len, parts))
            if count != wanted:
                raise RepositoryUnreachableError(
                    f"The server of {self._display_url} sent {count} of {wanted} bytes of {what}."
                    " Try again."
                )
            return b"".join(parts)

    def _wanted(self, response: httpx2.Response, what: str, offset: int, length: int | None) -> int:
        """Return how many bytes the response must have, according to its Content-Range.

        Some servers respond to a range beyond the end of a file with another range.
        """
        content_range = response.headers.get("content-range", "")
        match = _CONTENT_RANGE.fullmatch(content_range)
        if match and match[3] != "*":
            total = int(match[3])
            if offset >= total:
                return 0
            wanted = total - offset if length is None else min(length, total - offset)
            if (int(match[1]), int(match[2])) == (offset, offset + wanted - 1):
                return wanted
        raise RepositoryUnreachableError(
            f"The server of {self._display_url} sent the wrong range {content_range[:80]!r} of"
            f" {what}. Try again."
        )

    @contextlib.asynccontextmanager
    async def _answer(
        self, method: str, url: str, headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[httpx2.Response, _BodyReader]]:
        """Send a request; yield the response and a reader of its body."""
        opened: list[httpcore2.AsyncNetworkStream] = []
        request = self._client.build_request(
            method,
            url,
            headers={"accept-encoding": "identity", **headers},
            extensions={"trace": partial(_note_opened, opened)},
        )
        async with self._slots:
            with trio.CancelScope(deadline=trio.current_time() + self._timeout) as scope:
                read_body = _BodyReader(scope, self._timeout)
                with self._translated():
                    async with _closed_when_failed(opened):
                        response = await self._client.send(request, stream=True)
                    read_body.response = response
                    self._last_date = (time.time(), response.headers.get("date", ""))
                    try:
                        yield response, read_body
                    finally:
                        # This never blocks: a response that was not read closes its connection.
                        with trio.CancelScope(shield=True):
                            await response.aclose()
        if scope.cancelled_caught:
            if read_body.error is not None:
                raise read_body.error
            raise RepositoryTimedOutError(
                NO_RESPONSE.format(display_url=self._display_url, seconds=self._timeout)
            )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            self._raise(error)

    def _raise(self, error: Exception) -> NoReturn:
        """Raise the storage error for `error`, a failure below HTTP."""
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise RepositoryUntrustedError(
                    f"Certificate verification failed for {self._display_url}:"
                    f" {cause.verify_message.rstrip('.')}. Set RESTIC_CACERT to the CA certificate"
                    " of the server."
                ) from error
            if isinstance(cause, ssl.SSLError):
                self._raise_tls(cause, error)
            if isinstance(cause, socket.gaierror):
                raise RepositoryUnreachableError(
                    UNKNOWN_HOST.format(display_url=self._display_url, reason=cause.strerror)
                ) from error
            if isinstance(cause, OSError) and cause.errno is not None:
                why = os.strerror(cause.errno)
                raise RepositoryUnreachableError(
                    UNREACHABLE.format(display_url=self._display_url, reason=why)
                ) from error
        raise RepositoryUnreachableError(
            f"Connection to the server of {self._display_url} lost:"
            f" {str(error).rstrip('.') or 'no reason given'}. Try again."
        ) from error

    def _raise_tls(self, cause: ssl.SSLError, error: Exception) -> NoReturn:
        reason = cause.reason or "no reason given"
        if _WANTS_CERTIFICATE.search(reason):
            raise RepositoryDeniedError(
                f"The server of {self._display_url} requires a client certificate that it trusts"
                f" ({reason}). Set RESTIC_TLS_CLIENT_CERT to its file."
            ) from error
        raise RepositoryUnreachableError(
            f"TLS handshake with the server of {self._display_url} failed: {reason}. Check whether"
            " the address is http or https."
        ) from error


class _BodyReader:
    """Reads the body of a response; each part received extends the deadline of `scope`."""

    def __init__(self, scope: trio.CancelScope, timeout: float) -> None:
        self.response: httpx2.Response | None = None
        self.error: CesbrError | None = None
        """Set if the body was too large; the scope is cancelled then."""
        self._scope = scope
        self._timeout = timeout
        self._begun = trio.current_time()

    async def __call__(self, size_max: int, too_large: CesbrError) -> AsyncIterator[bytes]:
        """Yield the parts of the body as they arrive.

        If there are more than `size_max` bytes, `too_large` becomes the error of the request. An
        exception here would leave the generators of the HTTP library unfinished, which a
        cancellation does not.
        """
        assert self.response is not None, "there is an answer before its body"
        received = 0
        async for chunk in self.response.aiter_raw():
            received += len(chunk)
            if received > size_max:
                self.error = too_large
                self._scope.cancel()  # ends the next step of this loop
                continue
            now = trio.current_time()
            slowest = self._begun + self._timeout + received / _SLOWEST
            self._scope.deadline = min(now + self._timeout, slowest)
            yield chunk


async def _note_opened(
    opened: list[httpcore2.AsyncNetworkStream], event: str, info: Mapping[str, Any]
) -> None:
    """Record the connection that a request opens, from httpcore2's trace events."""
    if event in ("connection.connect_tcp.complete", "connection.connect_unix_socket.complete"):
        opened.append(info["return_value"])


@contextlib.asynccontextmanager
async def _closed_when_failed(
    opened: Sequence[httpcore2.AsyncNetworkStream],
) -> AsyncIterator[None]:
    """Close the connections of a failed request: httpcore2 leaks them in a TLS handshake."""
    try:
        yield
    except BaseException:
        with trio.CancelScope(shield=True):
            for stream in opened:
                await stream.aclose()
        raise


async def _error(response: httpx2.Response, read_body: _BodyReader) -> Answer:
    """Return an unsuccessful response with the beginning of its body.

    The status is known even if the body is cut off: rclone promises the length of a removed file.
    """
    body = bytearray()
    too_large = RepositoryUnreachableError(
        f"The server responded with HTTP {response.status_code} and an explanation of more than"
        f" {_ERROR_MAX:,} bytes. Check the server."
    )
    with contextlib.suppress(httpx2.HTTPError, httpx2.StreamError):
        async for chunk in read_body(_ERROR_MAX, too_large):
            if len(body) < _ERROR_BYTES:
                body += chunk
    return Answer(response.status_code, response.headers, bytes(body[:_ERROR_BYTES]))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the causes of `error` and then `error` itself, innermost first."""
    if error is None:
        return
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
    yield from _causes(error.__cause__ or error.__context__)
    yield error


def _why_no_proxy(proxy: Proxy, error: Exception) -> str:
    if isinstance(error, ImportError):
        return "SOCKS requires the Python package socksio"
    scheme = urlsplit(proxy.url).scheme
    return f"{scheme!r} is not a valid address or scheme (http, https, socks5, socks5h)"


def is_loopback(url: str) -> bool:
    """Return whether the host of `url` is localhost or a loopback address."""
    return is_loopback_host(urlsplit(url).hostname or "")
