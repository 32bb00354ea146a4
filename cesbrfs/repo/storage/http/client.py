"""One HTTP client for a storage: few connections, a deadline on every request, checked answers.

It makes one attempt and says in our errors what went wrong.  What a status above 299 means is for
the storage to say, which knows its server's words.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NoReturn, Protocol
from urllib.parse import urlsplit

import httpcore2
import httpx2
import trio

from cesbrfs.errors import (
    CesbrError,
    DamagedError,
    RepositoryDeniedError,
    RepositoryTimedOutError,
    RepositoryUnreachableError,
    RepositoryUntrustedError,
    StorageError,
    UsageError,
)
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage.base import ShortReadError
from cesbrfs.repo.storage.http.proxies import Proxy, is_loopback_host, proxy_for
from cesbrfs.repo.storage.http.tls import trusting
from cesbrfs.util.secret import redact

TIMEOUT_SECONDS: Final = 20.0
"""Seconds that a server may keep silent, from the connection's first byte to the answer's last."""
CONNECTIONS: Final = 16
"""Connections at most; restic's own default is 5, and it has no reader that waits."""

# What is taken from a connection at a time: with the 64 KiB that it is by default, most of the time
# of a large answer goes into asking for the next part.
httpcore2.AsyncHTTP11Connection.READ_NUM_BYTES = 256 << 10

_SLOWEST: Final = 8 << 10
"""Bytes a second that an answer needs at least, lest one byte now and then keeps a reader."""
_TOLD: Final = 64 << 10
"""Bytes of an error's text that are read."""
_SHOWN: Final = 300
"""Characters of an address that a server names which go into a message."""
_IDLE: Final = 60.0
"""Seconds that a connection is kept for another request."""

_OK: Final = 200
_PARTIAL: Final = 206
_UNSATISFIABLE: Final = 416
_TIMEOUTS: Final = (408, 504)
_TOO_MANY: Final = 429
_REDIRECTS: Final = range(300, 400)
_SERVER_ERROR: Final = 500

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_WANTS_CERTIFICATE: Final = re.compile(
    "CERTIFICATE_REQUIRED|ALERT_(BAD|UNKNOWN|UNSUPPORTED|EXPIRED|REVOKED)_(CERTIFICATE|CA)"
    "|ALERT_CERTIFICATE|ALERT_ACCESS_DENIED"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said.  The names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def other_refusal(answer: Answer, display_url: str, what: str, reason: str) -> CesbrError:
    """Return what an answer means that is about neither credentials nor a missing file."""
    if answer.status in _TIMEOUTS:
        return RepositoryTimedOutError(
            f"The server of {display_url} says that it took too long ({reason}); try again."
        )
    if answer.status == _TOO_MANY or answer.status >= _SERVER_ERROR:
        return RepositoryUnreachableError(
            f"The server of {display_url} cannot serve {what} now ({reason}); try again."
        )
    if answer.status in _REDIRECTS:
        return StorageError(
            f"The server of {display_url} redirects {what} to {_redirected_to(answer)}"
            f" ({reason}), which is not followed. Write the repository's address there."
        )
    return StorageError(
        f"The server of {display_url} does not give {what} ({reason}); check the address and the"
        " options."
    )


def _redirected_to(answer: Answer) -> str:
    """Return the address that a redirect names, escaped, without what may be a secret in it."""
    location = answer.headers.get("location", "")
    return repr(redact(location.partition("?")[0])[:_SHOWN]) if location else "an unnamed address"


class Refusal(Protocol):
    """Returns the error for an unsuccessful response about the file or directory `what`."""

    def __call__(self, answer: Answer, what: str) -> CesbrError:
        """Return the error."""


class HttpClient:
    """Requests to one server, for the repository of `access`.

    `url` is one of its URLs, `socket` the path of the one it listens on ("": on the network),
    `timeout` is in seconds.  Nothing is contacted before the first request.
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
        self._slots: Final = trio.Semaphore(connections)
        # Ours is the bound that waits: a reader's deadline starts when it has its connection.
        limits = httpx2.Limits(
            max_connections=None,
            max_keepalive_connections=connections,
            keepalive_expiry=_IDLE,
        )
        # Without TLS nobody need be trusted, and loading whom to takes 20 ms.
        nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context = trusting(access) if url.startswith("https:") else nobody
        proxy = None if socket else proxy_for(url, os.environ)
        try:
            self._client: Final = httpx2.AsyncClient(
                verify=context,
                limits=limits,
                transport=httpx2.AsyncHTTPTransport(uds=socket, limits=limits) if socket else None,
                timeout=None,  # the deadlines are ours
                proxy=proxy.url if proxy else None,
                trust_env=False,  # its rules for proxies are not restic's
            )
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            if proxy is None:
                raise
            # Not the error's own words: they may repeat the password in the address.
            raise UsageError(
                f"The proxy in {proxy.variable} cannot be used for {self._display_url}:"
                f" {_why_no_proxy(proxy, error)}. Correct it, or add the host to NO_PROXY."
            ) from None

    async def aclose(self) -> None:
        """Close all connections."""
        with trio.CancelScope(shield=True):
            await self._client.aclose()

    async def whole(
        self, url: str, headers: Mapping[str, str], refusal: Refusal, what: str, method: str = "GET"
    ) -> Answer:
        """Return a successful answer with all of its body."""
        async with self._answer(method, url, headers) as (response, taken):
            if response.status_code != _OK:
                raise refusal(await _error(response, taken), what)
            parts = [chunk async for chunk in taken()]
            return Answer(response.status_code, response.headers, b"".join(parts))

    async def part(  # noqa: PLR0917 - as `whole`, and which part
        self,
        url: str,
        headers: Mapping[str, str],
        refusal: Refusal,
        what: str,
        offset: int,
        length: int | None,
    ) -> bytes:
        """Return `length` bytes from `offset` of a file, or all from there on.

        Raises DamagedError where the file ends before: EndsEarlyError with what there is.
        """
        if length is None and not offset:
            return (await self.whole(url, headers, refusal, what)).body
        if length == 0:
            return b""
        last = "" if length is None else offset + length - 1
        asked = {**headers, "range": f"bytes={offset}-{last}"}
        async with self._answer("GET", url, asked) as (response, taken):
            if response.status_code == _UNSATISFIABLE:
                raise _too_short(what)
            if response.status_code == _OK:
                raise StorageError(
                    f"The server of {self._display_url} sends all of {what} where a part was"
                    " asked for; a repository needs a server that knows ranges."
                )
            if response.status_code != _PARTIAL:
                raise refusal(await _error(response, taken), what)
            wanted = self._wanted(response, what, offset, length)
            parts: list[bytes] = []
            count = 0
            async for chunk in taken():
                parts.append(chunk)
                count += len(chunk)
                if count > wanted:
                    break
            if count != wanted:
                raise RepositoryUnreachableError(
                    f"The server of {self._display_url} sent {count} of {wanted} bytes of {what};"
                    " try again."
                )
            body = b"".join(parts)
            if length is not None and wanted < length:
                raise ShortReadError(_too_short(what).message, body)
            return body

    def _wanted(self, response: httpx2.Response, what: str, offset: int, length: int | None) -> int:
        """Return how many bytes the response must have, according to its Content-Range.

        Some servers answer a range beyond the end with another range.
        """
        said = response.headers.get("content-range", "")
        found = _CONTENT_RANGE.fullmatch(said)
        if found and found[3] != "*":
            total = int(found[3])
            if offset >= total:
                raise _too_short(what)
            wanted = total - offset if length is None else min(length, total - offset)
            if (int(found[1]), int(found[2])) == (offset, offset + wanted - 1):
                return wanted
        raise RepositoryUnreachableError(
            f"The server of {self._display_url} answered with the range {said[:80]!r} of {what},"
            " which was not asked for; try again."
        )

    @contextlib.asynccontextmanager
    async def _answer(
        self, method: str, url: str, headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[httpx2.Response, _Taken]]:
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
                taken = _Taken(scope, self._timeout)
                with self._translated():
                    async with _closed_when_failed(opened):
                        response = await self._client.send(request, stream=True)
                    taken.response = response
                    try:
                        yield response, taken
                    finally:
                        # Closing waits for nothing: an answer not yet read ends its connection.
                        with trio.CancelScope(shield=True):
                            await response.aclose()
        if scope.cancelled_caught:
            raise RepositoryTimedOutError(
                f"The server of {self._display_url} did not answer within {self._timeout:.0f} s;"
                " check the address and the connection."
            )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            self._raise(error)

    def _raise(self, error: Exception) -> NoReturn:
        """Raise what `error`, a failure below HTTP, means."""
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise RepositoryUntrustedError(
                    f"The server of {self._display_url} cannot be trusted: its certificate does not"
                    f" prove who it is ({cause.verify_message.rstrip('.')}); if it is the right"
                    " server, name the certificate of its authority in RESTIC_CACERT."
                ) from error
            if isinstance(cause, ssl.SSLError):
                self._raise_tls(cause, error)
            if isinstance(cause, socket.gaierror):
                raise RepositoryUnreachableError(
                    f"The host of {self._display_url} is not known ({cause.strerror}); check the"
                    " address and the name server."
                ) from error
            if isinstance(cause, OSError) and cause.errno is not None:
                why = os.strerror(cause.errno)
                raise RepositoryUnreachableError(
                    f"The server of {self._display_url} cannot be reached ({why}); check the"
                    " address and whether it runs."
                ) from error
        raise RepositoryUnreachableError(
            f"The server of {self._display_url} broke off"
            f" ({str(error).rstrip('.') or 'no reason'}); try again."
        ) from error

    def _raise_tls(self, cause: ssl.SSLError, error: Exception) -> NoReturn:
        reason = cause.reason or "no reason given"
        if _WANTS_CERTIFICATE.search(reason):
            raise RepositoryDeniedError(
                f"The server of {self._display_url} asks for a client certificate that it trusts"
                f" ({reason}); set RESTIC_TLS_CLIENT_CERT to its file."
            ) from error
        raise RepositoryUnreachableError(
            f"The server of {self._display_url} does not speak TLS as this machine does ({reason});"
            " check the address: is it http, not https?"
        ) from error


class _Taken:
    """Takes an answer's body; every part that comes puts the deadline of `scope` off."""

    def __init__(self, scope: trio.CancelScope, timeout: float) -> None:
        self.response: httpx2.Response | None = None
        self._scope = scope
        self._timeout = timeout
        self._begun = trio.current_time()

    async def __call__(self) -> AsyncIterator[bytes]:
        """Give the parts of the body as they come."""
        assert self.response is not None, "there is an answer before its body"
        received = 0
        async for chunk in self.response.aiter_raw():
            received += len(chunk)
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
    """Close the connection of a request that fails: httpcore2 forgets it in a TLS handshake."""
    try:
        yield
    except BaseException:
        with trio.CancelScope(shield=True):
            for stream in opened:
                await stream.aclose()
        raise


async def _error(response: httpx2.Response, taken: _Taken) -> Answer:
    """Return an answer that is no success, with the beginning of its body."""
    body = bytearray()
    async for chunk in taken():
        body += chunk
        if len(body) > _TOLD:
            break
    return Answer(response.status_code, response.headers, bytes(body[:_TOLD]))


def _too_short(what: str) -> DamagedError:
    return DamagedError(f"{what} ends before its content does.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Give what led to `error`, the innermost first."""
    if error is None:
        return
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
    yield from _causes(error.__cause__ or error.__context__)
    yield error


def _why_no_proxy(proxy: Proxy, error: Exception) -> str:
    if isinstance(error, ImportError):
        return "SOCKS needs the Python package socksio"
    scheme = urlsplit(proxy.url).scheme
    return f"{scheme!r} is not a valid address or scheme (http, https, socks5, socks5h)"


def is_loopback(url: str) -> bool:
    """Return whether the host is this machine."""
    return is_loopback_host(urlsplit(url).hostname or "")
