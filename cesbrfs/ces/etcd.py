"""Client for the registry of CES: etcd with its v2 keys API.

With several endpoints, requests go to the one that responded last, and fail over to the others.
Failed requests are retried if they are idempotent. After a failed compare-and-set the key is read
again to find out whether the request was applied. Connections are not kept alive, so there is
nothing to close.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote, urlsplit

import httpx2
import trio

from cesbrfs.ces.registry import (
    delete_directory_error,
    join_key,
    read_directory_error,
    root_key_error,
    set_below_value_error,
    set_directory_error,
    split_key,
)
from cesbrfs.errors import RegistryError, RegistryUnreachableError, UsageError
from cesbrfs.util.secret import redact

_DEFAULT_PORT: Final = 4001  # as in CES; etcd's own default is 2379
_CONNECT_SECONDS: Final = 2.0
_RETRY_DELAY_SECONDS: Final = 0.3
"""Delay in seconds before all endpoints are tried again; etcd elects a leader in that time."""
_MAX_ATTEMPTS: Final = 2
_WATCH_SECONDS: Final = 60.0
"""Seconds after which a watch request is sent again: a dead connection reports no error."""

# https://etcd.io/docs/v2.3/errorcode
_NO_KEY: Final = 100
_COMPARE_FAILED: Final = 101
_IS_DIRECTORY: Final = 102
_BELOW_VALUE: Final = 104
_EXISTS: Final = 105
_EVENTS_CLEARED: Final = 401
_HTTP_SERVER_ERROR: Final = 500
_HTTP_UNAUTHORIZED: Final = 401


@dataclass(frozen=True, slots=True)
class _Endpoint:
    url: str
    login: tuple[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Response:
    """A response of etcd: a `node`, or the `code` and text of an error."""

    node: Mapping[str, object]
    index: int
    code: int = 0
    text: str = ""

    @property
    def is_directory(self) -> bool:
        return bool(self.node.get("dir"))

    @property
    def value(self) -> str:
        return str(self.node.get("value", ""))


class _UnavailableError(Exception):
    """The endpoint is temporarily unavailable; the text is the reason."""


class EtcdRegistry:
    """The registry at `address`: one URL, or several of one etcd cluster, separated by commas.

    The default port is 4001. `seconds` is the request timeout. Methods raise
    RegistryUnreachableError if no endpoint responds.
    """

    def __init__(self, address: str, *, seconds: float = 5.0) -> None:
        self._endpoints = [_endpoint(url.strip(), address) for url in address.split(",")]
        self._address = redact(address)
        self._seconds = seconds
        self._unavailable = False  # if true, requests are not retried
        self._client = httpx2.AsyncClient(
            limits=httpx2.Limits(max_keepalive_connections=0),
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
            trust_env=False,  # there is no proxy between an instance and its registry
            verify=any(endpoint.url.startswith("https:") for endpoint in self._endpoints),
        )

    @property
    def address(self) -> str:
        """The URLs, without passwords."""
        return self._address

    async def get(self, key: str) -> str | None:
        """Return the value of `key`; RegistryError for a directory."""
        parts = _split_value_key(key)
        response = await self._request("GET", parts)
        if response.code in {_NO_KEY, _BELOW_VALUE}:
            return None
        self._raise_for_error(response, "read", parts)
        if response.is_directory:
            raise read_directory_error(parts)
        return response.value

    async def read(self, prefix: str) -> dict[str, str]:
        """Return all keys at and below `prefix`, in one request."""
        return (await self._read(split_key(prefix)))[0]

    async def children(self, prefix: str) -> list[str]:
        """Return the names in `prefix`; empty for a value and for a missing key."""
        parts = split_key(prefix)
        response = await self._request("GET", parts)
        if response.code in {_NO_KEY, _BELOW_VALUE}:
            return []
        self._raise_for_error(response, "list", parts)
        return sorted(str(node["key"]).rpartition("/")[2] for node in _nodes(response.node))

    async def set(self, key: str, value: str) -> None:
        """Set `key` to `value`; RegistryError if it is a directory."""
        parts = _split_value_key(key)
        response = await self._request("PUT", parts, value=value)
        self._raise_for_error(response, "set", parts)

    async def delete(self, key: str) -> None:
        """Delete `key` and its empty parent directories; RegistryError for a directory."""
        parts = split_key(key)
        if not parts:
            raise delete_directory_error(parts)
        response = await self._request("DELETE", parts)
        await self._finish_delete(response, parts)

    async def compare_and_set(self, key: str, value: str | None, previous: str | None) -> bool:
        """Set `key` if its value is `previous`, with ``prevIndex`` (etcd's modifiedIndex)."""
        parts = _split_value_key(key)
        failed = 0
        while True:
            current = await self._request("GET", parts)
            now, number = None, None
            if current.code not in {_NO_KEY, _BELOW_VALUE}:
                self._raise_for_error(current, "read", parts)
                if current.is_directory:
                    raise read_directory_error(parts)
                now, number = current.value, str(current.node["modifiedIndex"])
            if now != previous:
                return bool(failed) and now == value  # the failed request was applied
            if value == previous is None:
                return True
            method = "DELETE" if value is None else "PUT"
            compare = {"prevIndex": number} if number else {"prevExist": "false"}
            endpoint = self._endpoints[0]
            try:
                response = await self._send(endpoint, method, parts, compare, value=value)
            except _UnavailableError as error:
                failed += 1
                self._move_to_end(endpoint)
                if failed > len(self._endpoints):
                    raise self._unreachable(str(error)) from None
                continue
            if response.code in {_COMPARE_FAILED, _EXISTS, _NO_KEY}:
                continue  # another client changed it in between
            if value is None:
                await self._finish_delete(response, parts)
            else:
                self._raise_for_error(response, "set", parts)
            return True

    async def watch(self, prefix: str) -> AsyncGenerator[dict[str, str], None]:
        """Yield the result of `read` now and after each change, by long polling."""
        parts = split_key(prefix)
        last = None
        while True:
            values, index = await self._read(parts)
            if values != last:
                yield dict(values)
            last = values
            await self._wait_for_change(index, parts)

    async def _read(self, parts: tuple[str, ...]) -> tuple[dict[str, str], int]:
        """Return all keys at and below `parts`, and the current etcd index."""
        response = await self._request("GET", parts, {"recursive": "true", "sorted": "true"})
        if response.code in {_NO_KEY, _BELOW_VALUE}:
            return {}, response.index
        self._raise_for_error(response, "read", parts)
        values: dict[str, str] = {}
        pending = [response.node]
        while pending:
            node = pending.pop()
            if node.get("dir"):
                pending.extend(_nodes(node))
            else:
                values[str(node["key"])] = str(node.get("value", ""))
        return dict(sorted(values.items())), response.index

    async def _wait_for_change(self, index: int, parts: tuple[str, ...]) -> None:
        query = {"wait": "true", "recursive": "true", "waitIndex": str(index + 1)}
        with trio.move_on_after(_WATCH_SECONDS):
            response = await self._request("GET", parts, query, long_poll=True)
            if response.code != _EVENTS_CLEARED:  # more changes than etcd's history of 1000
                self._raise_for_error(response, "watch", parts)

    async def _finish_delete(self, response: _Response, parts: tuple[str, ...]) -> None:
        if response.code in {_NO_KEY, _BELOW_VALUE}:
            return
        self._raise_for_error(response, "delete", parts)
        # As in FileRegistry, empty directories are removed. etcd rejects one that is not empty.
        for length in range(len(parts) - 1, 0, -1):
            with suppress(RegistryError):  # the key itself has been deleted
                response = await self._request("DELETE", parts[:length], {"dir": "true"})
                if not response.code:
                    continue
            break

    def _raise_for_error(self, response: _Response, verb: str, parts: tuple[str, ...]) -> None:
        """Raise RegistryError if `response` is an error."""
        if not response.code:
            return
        if response.code == _IS_DIRECTORY:
            raise delete_directory_error(parts) if verb == "delete" else set_directory_error(parts)
        if response.code == _BELOW_VALUE:
            raise set_below_value_error(parts)
        raise RegistryError(
            f"Cannot {verb} the registry key {join_key(parts)} in {self.address}: {response.text} "
            f"(etcd error {response.code}). Check the state of etcd."
        )

    async def _request(
        self,
        method: str,
        parts: tuple[str, ...],
        query: Mapping[str, str] | None = None,
        *,
        value: str | None = None,
        long_poll: bool = False,
    ) -> _Response:
        """Send a request to one endpoint after the other until one responds, with one retry."""
        problem = ""
        for number in range(1 if self._unavailable else _MAX_ATTEMPTS):
            if number:
                await trio.sleep(_RETRY_DELAY_SECONDS)
            for endpoint in tuple(self._endpoints):
                try:
                    response = await self._send(
                        endpoint, method, parts, query, value=value, long_poll=long_poll
                    )
                except _UnavailableError as error:
                    problem = str(error)
                    self._move_to_end(endpoint)
                else:
                    self._unavailable = False
                    return response
        raise self._unreachable(problem)

    def _move_to_end(self, endpoint: _Endpoint) -> None:
        self._endpoints.remove(endpoint)
        self._endpoints.append(endpoint)

    def _unreachable(self, problem: str) -> RegistryUnreachableError:
        self._unavailable = True
        return RegistryUnreachableError(
            f"Cannot connect to the registry {self.address}: {problem}. Check that etcd is running"
            " there, or pass another address with --registry."
        )

    async def _send(
        self,
        endpoint: _Endpoint,
        method: str,
        parts: tuple[str, ...],
        query: Mapping[str, str] | None,
        *,
        value: str | None,
        long_poll: bool = False,
    ) -> _Response:
        """Send one request to `endpoint`; _UnavailableError for a transient failure."""
        path = "".join("/" + quote(part, safe="") for part in parts) or "/"
        try:
            with trio.fail_after(math.inf if long_poll else self._seconds):
                http = await self._client.request(
                    method,
                    f"{endpoint.url}/v2/keys{path}",
                    params=query,
                    data=None if value is None else {"value": value},
                    auth=endpoint.login,
                )
        except trio.TooSlowError:
            raise _UnavailableError(f"no response within {self._seconds:g} s") from None
        except httpx2.ConnectTimeout:
            raise _UnavailableError(f"no connection within {_CONNECT_SECONDS:g} s") from None
        except httpx2.TransportError as error:
            raise _UnavailableError(str(error) or type(error).__name__) from None
        if not http.content:
            raise _UnavailableError("connection closed")
        if http.status_code == _HTTP_UNAUTHORIZED:
            raise RegistryError(
                f"Access to the registry {self.address} denied (HTTP {http.status_code}). Add user"
                " and password to its address: http://USER:PASSWORD@HOST:PORT."
            )
        try:
            body = json.loads(http.content)
            index = int(http.headers["x-etcd-index"])
            response = _Response(
                body.get("node", {}), index, body.get("errorCode", 0), body.get("message", "")
            )
        except (ValueError, KeyError, AttributeError, RecursionError):
            if http.status_code >= _HTTP_SERVER_ERROR:
                raise _UnavailableError(f"HTTP {http.status_code}") from None
            raise RegistryError(
                f"Unexpected response from {self.address}: not the v2 keys API of etcd. Correct the"
                " address, or start etcd with --enable-v2."
            ) from None
        if http.status_code >= _HTTP_SERVER_ERROR:
            raise _UnavailableError(f"{response.text}, HTTP {http.status_code}")
        return response


def _endpoint(url: str, address: str) -> _Endpoint:
    try:
        split = urlsplit(url)
        host, port = split.hostname, split.port or _DEFAULT_PORT
    except ValueError:
        host = None
    if not host or split.scheme not in {"http", "https"} or split.path.strip("/") or split.query:
        raise UsageError(
            f"Invalid registry address {redact(address)}. Write http://HOST:PORT, several separated"
            " by commas, or the directory of a file registry."
        )
    if ":" in host:
        host = f"[{host}]"
    login = None
    if split.username is not None:
        login = (unquote(split.username), unquote(split.password or ""))
    return _Endpoint(f"{split.scheme}://{host}:{port}", login)


def _split_value_key(key: str) -> tuple[str, ...]:
    """Split `key` into its parts; RegistryError for the root."""
    parts = split_key(key)
    if not parts:
        raise root_key_error(key)
    return parts


def _nodes(node: Mapping[str, object]) -> list[dict[str, object]]:
    nodes = node.get("nodes")
    return nodes if isinstance(nodes, list) else []
