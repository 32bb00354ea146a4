"""The registry that CES has: an etcd, spoken to by its v2 keys API.

Of several endpoints the one that answered last is asked first, and the others when it fails.  A
request that failed is repeated where that is safe: reading and setting are, and what compares
before it sets looks whether the request that failed has done it.  Connections are not kept, so
there is nothing to close.
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
    below_a_value,
    folder_in_the_way,
    join,
    not_a_value,
    not_one_key,
    parts_of,
    whole_registry,
)
from cesbrfs.errors import RegistryError, RegistryUnreachableError, UsageError
from cesbrfs.util.secret import redact

_DEFAULT_PORT: Final = 4001  # where CES has it
_CONNECT_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 0.3
"""Between two rounds through all endpoints, as a new leader is elected within that time."""
_ROUNDS: Final = 2
_POLL_SECONDS: Final = 60.0
"""How long to wait for a change before asking anew, as a dead connection tells nothing."""

# https://etcd.io/docs/v2.3/errorcode
_NO_KEY: Final = 100
_COMPARE_FAILED: Final = 101
_IS_FOLDER: Final = 102
_BELOW_VALUE: Final = 104
_EXISTS: Final = 105
_HISTORY_GONE: Final = 401
_SERVER_ERROR: Final = 500
_DENIED: Final = 401


@dataclass(frozen=True, slots=True)
class _Endpoint:
    url: str
    login: tuple[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What etcd said: a `node`, or the `code` of an error and its text."""

    node: Mapping[str, object]
    index: int
    code: int = 0
    text: str = ""

    @property
    def is_folder(self) -> bool:
        return bool(self.node.get("dir"))

    @property
    def value(self) -> str:
        return str(self.node.get("value", ""))


class _AgainError(Exception):
    """This endpoint cannot answer now; the text says why."""


class EtcdRegistry:
    """The registry at `address`: one URL, or several of one etcd with commas between them.

    A URL without a port means CES's own, 4001.  An endpoint may take `seconds` for an answer; when
    none gives one, that is RegistryUnreachableError.
    """

    def __init__(self, address: str, *, seconds: float = 5.0) -> None:
        self._endpoints = [_endpoint(url.strip(), address) for url in address.split(",")]
        self._address = redact(address)
        self._seconds = seconds
        self._away = False  # then it is not waited for again and again
        self._client = httpx2.AsyncClient(
            limits=httpx2.Limits(max_keepalive_connections=0),
            timeout=httpx2.Timeout(None, connect=_CONNECT_SECONDS),
            trust_env=False,  # no proxy lies between an instance and its registry
            verify=any(endpoint.url.startswith("https:") for endpoint in self._endpoints),
        )

    @property
    def address(self) -> str:
        """The URLs, without a password."""
        return self._address

    async def get(self, key: str) -> str | None:
        """Return the value of `key`; RegistryError for a folder."""
        parts = _one(key)
        answer = await self._ask("GET", parts)
        if answer.code in {_NO_KEY, _BELOW_VALUE}:
            return None
        self._must_be_right(answer, "read", parts)
        if answer.is_folder:
            raise not_a_value(parts)
        return answer.value

    async def read(self, prefix: str) -> dict[str, str]:
        """Return all keys at and below `prefix`, in one request."""
        return (await self._read(parts_of(prefix)))[0]

    async def children(self, prefix: str) -> list[str]:
        """Return the names right below `prefix`; none for a value and for what does not exist."""
        parts = parts_of(prefix)
        answer = await self._ask("GET", parts)
        if answer.code in {_NO_KEY, _BELOW_VALUE}:
            return []
        self._must_be_right(answer, "list", parts)
        return sorted(str(node["key"]).rpartition("/")[2] for node in _nodes(answer.node))

    async def set(self, key: str, value: str) -> None:
        """Give `key` a value; RegistryError when a folder is in the way."""
        parts = _one(key)
        answer = await self._ask("PUT", parts, value=value)
        self._must_be_right(answer, "set", parts)

    async def delete(self, key: str) -> None:
        """Remove `key` and the folders that it leaves empty; RegistryError for a folder of keys."""
        parts = parts_of(key)
        if not parts:
            raise not_one_key(parts)
        answer = await self._ask("DELETE", parts)
        await self._deleted(answer, parts)

    async def replace(self, key: str, value: str | None, previous: str | None) -> bool:
        """Compare and set, by the number that etcd gives to each change of a key."""
        parts = _one(key)
        unanswered = 0
        while True:
            found = await self._ask("GET", parts)
            now, number = None, None
            if found.code not in {_NO_KEY, _BELOW_VALUE}:
                self._must_be_right(found, "read", parts)
                if found.is_folder:
                    raise not_a_value(parts)
                now, number = found.value, str(found.node["modifiedIndex"])
            if now != previous:
                return bool(unanswered) and now == value  # that request did its work
            if value == previous is None:
                return True
            method = "DELETE" if value is None else "PUT"
            compare = {"prevIndex": number} if number else {"prevExist": "false"}
            endpoint = self._endpoints[0]
            try:
                answer = await self._once(endpoint, method, parts, compare, value=value)
            except _AgainError as error:
                unanswered += 1
                self._put_last(endpoint)
                if unanswered > len(self._endpoints):
                    raise self._unreachable(str(error)) from None
                continue
            if answer.code in {_COMPARE_FAILED, _EXISTS, _NO_KEY}:
                continue  # somebody else was quicker
            if value is None:
                await self._deleted(answer, parts)
            else:
                self._must_be_right(answer, "set", parts)
            return True

    async def watch(self, prefix: str) -> AsyncGenerator[dict[str, str], None]:
        """Yield what `read` returns, now and after each change, of which etcd itself tells."""
        parts = parts_of(prefix)
        last = None
        while True:
            values, index = await self._read(parts)
            if values != last:
                yield dict(values)
            last = values
            await self._change_after(index, parts)

    async def _read(self, parts: tuple[str, ...]) -> tuple[dict[str, str], int]:
        """Return all keys at and below `parts`, and the number of the last change to anything."""
        answer = await self._ask("GET", parts, {"recursive": "true", "sorted": "true"})
        if answer.code in {_NO_KEY, _BELOW_VALUE}:
            return {}, answer.index
        self._must_be_right(answer, "read", parts)
        found: dict[str, str] = {}
        waiting = [answer.node]
        while waiting:
            node = waiting.pop()
            if node.get("dir"):
                waiting.extend(_nodes(node))
            else:
                found[str(node["key"])] = str(node.get("value", ""))
        return dict(sorted(found.items())), answer.index

    async def _change_after(self, index: int, parts: tuple[str, ...]) -> None:
        waiting = {"wait": "true", "recursive": "true", "waitIndex": str(index + 1)}
        with trio.move_on_after(_POLL_SECONDS):
            answer = await self._ask("GET", parts, waiting, patient=True)
            if answer.code != _HISTORY_GONE:  # then there were many changes
                self._must_be_right(answer, "watch", parts)

    async def _deleted(self, answer: _Answer, parts: tuple[str, ...]) -> None:
        if answer.code in {_NO_KEY, _BELOW_VALUE}:
            return
        self._must_be_right(answer, "delete", parts)
        # As in the file registry, an emptied folder is no key.  etcd refuses one that is not empty.
        for length in range(len(parts) - 1, 0, -1):
            with suppress(RegistryError):  # the key itself is gone
                answer = await self._ask("DELETE", parts[:length], {"dir": "true"})
                if not answer.code:
                    continue
            break

    def _must_be_right(self, answer: _Answer, verb: str, parts: tuple[str, ...]) -> None:
        """Raise the RegistryError of an answer that is an error."""
        if not answer.code:
            return
        if answer.code == _IS_FOLDER:
            raise not_one_key(parts) if verb == "delete" else folder_in_the_way(parts)
        if answer.code == _BELOW_VALUE:
            raise below_a_value(parts)
        raise RegistryError(
            f"Cannot {verb} the registry key {join(parts)} in {self.address}: {answer.text} "
            f"({answer.code}); see to etcd."
        )

    async def _ask(
        self,
        method: str,
        parts: tuple[str, ...],
        query: Mapping[str, str] | None = None,
        *,
        value: str | None = None,
        patient: bool = False,
    ) -> _Answer:
        """Ask one endpoint after the other, all of them twice, until one answers."""
        problem = ""
        for number in range(1 if self._away else _ROUNDS):
            if number:
                await trio.sleep(_PAUSE_SECONDS)
            for endpoint in tuple(self._endpoints):
                try:
                    answer = await self._once(
                        endpoint, method, parts, query, value=value, patient=patient
                    )
                except _AgainError as error:
                    problem = str(error)
                    self._put_last(endpoint)
                else:
                    self._away = False
                    return answer
        raise self._unreachable(problem)

    def _put_last(self, endpoint: _Endpoint) -> None:
        self._endpoints.remove(endpoint)
        self._endpoints.append(endpoint)

    def _unreachable(self, problem: str) -> RegistryUnreachableError:
        self._away = True
        return RegistryUnreachableError(
            f"The registry {self.address} cannot be reached ({problem}); see to etcd there, or "
            "name another one with --registry."
        )

    async def _once(
        self,
        endpoint: _Endpoint,
        method: str,
        parts: tuple[str, ...],
        query: Mapping[str, str] | None,
        *,
        value: str | None,
        patient: bool = False,
    ) -> _Answer:
        """Ask one endpoint once; _AgainError when another one, or a later request, may answer."""
        path = "".join("/" + quote(part, safe="") for part in parts) or "/"
        try:
            with trio.fail_after(math.inf if patient else self._seconds):
                response = await self._client.request(
                    method,
                    f"{endpoint.url}/v2/keys{path}",
                    params=query,
                    data=None if value is None else {"value": value},
                    auth=endpoint.login,
                )
        except trio.TooSlowError:
            raise _AgainError(f"no answer within {self._seconds:g} s") from None
        except httpx2.ConnectTimeout:
            raise _AgainError(f"no connection within {_CONNECT_SECONDS:g} s") from None
        except httpx2.TransportError as error:
            raise _AgainError(str(error) or type(error).__name__) from None
        if not response.content:
            raise _AgainError("the connection was closed")
        if response.status_code == _DENIED:
            raise RegistryError(
                f"The registry {self.address} refuses access (HTTP {response.status_code}); "
                "write its user and password into the address, http://USER:PASSWORD@HOST:PORT."
            )
        try:
            said = json.loads(response.content)
            index = int(response.headers["x-etcd-index"])
            answer = _Answer(
                said.get("node", {}), index, said.get("errorCode", 0), said.get("message", "")
            )
        except (ValueError, KeyError, AttributeError, RecursionError):
            if response.status_code >= _SERVER_ERROR:
                raise _AgainError(f"HTTP {response.status_code}") from None
            raise RegistryError(
                f"What answers at {self.address} is no etcd with the v2 keys API; correct the "
                "address, or start etcd with --enable-v2."
            ) from None
        if response.status_code >= _SERVER_ERROR:
            raise _AgainError(f"{answer.text}, HTTP {response.status_code}")
        return answer


def _endpoint(url: str, address: str) -> _Endpoint:
    try:
        split = urlsplit(url)
        host, port = split.hostname, split.port or _DEFAULT_PORT
    except ValueError:
        host = None
    if not host or split.scheme not in {"http", "https"} or split.path.strip("/") or split.query:
        raise UsageError(
            f"The registry's address {redact(address)} is none of an etcd; write it as "
            "http://HOST:PORT, several with commas between them, or say a file registry's folder."
        )
    if ":" in host:
        host = f"[{host}]"
    login = None
    if split.username is not None:
        login = (unquote(split.username), unquote(split.password or ""))
    return _Endpoint(f"{split.scheme}://{host}:{port}", login)


def _one(key: str) -> tuple[str, ...]:
    """Return the parts of a key that is not the whole registry."""
    parts = parts_of(key)
    if not parts:
        raise whole_registry(key)
    return parts


def _nodes(node: Mapping[str, object]) -> list[dict[str, object]]:
    found = node.get("nodes")
    return found if isinstance(found, list) else []
