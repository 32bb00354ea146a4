"""A repository on a server with restic's REST protocol: rest-server or rclone."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Final, Self

import msgspec

from cesbrfs.errors import (
    CesbrError,
    FileMissingError,
    RepositoryDeniedError,
    RepositoryUnreachableError,
    StorageError,
)
from cesbrfs.repo.location import Access
from cesbrfs.repo.storage.base import SIZE_MAX, FileInfo, FileType, is_file_name
from cesbrfs.repo.storage.http.client import (
    CONNECTIONS,
    TIMEOUT_SECONDS,
    Answer,
    HttpClient,
    number_in,
    other_refusal,
)
from cesbrfs.repo.storage.location import parse_rest
from cesbrfs.repo.storage.options import connections_of
from cesbrfs.util.tasks import gather

_V2: Final = "application/vnd.x.restic.rest.v2"
_NOT_FOUND: Final = 404


class RestStorage:
    """Reads a repository's files from a REST server."""

    def __init__(
        self,
        access: Access,
        url: str,
        *,
        user: str = "",
        password: bytes = b"",
        connections: str = "rest.connections",
        timeout: float = TIMEOUT_SECONDS,
        socket: str = "",
    ) -> None:
        """Read below `url`, which must end with a slash.

        `connections` is the name of the option with the number of connections. `socket` is the path
        of the server's Unix socket; "" for a server on the network.
        """
        self.display_url = access.display_url
        self._url: Final = url
        self._headers: Final[Mapping[str, str]] = _authorization(user, password)
        self._has_user: Final = bool(user or password)
        self._client: Final = HttpClient(
            access,
            url,
            connections=connections_of(access, connections, CONNECTIONS),
            timeout=timeout,
            socket=socket,
        )

    @classmethod
    def from_access(cls, access: Access, *, timeout: float = TIMEOUT_SECONDS) -> Self:
        """Create the storage for `access`; raises UsageError for an invalid address or option."""
        address = parse_rest(access.url)
        user, password = address.user, address.password.value
        if not user and not password:
            user = access.environment.get("RESTIC_REST_USERNAME", "")
            password = access.environment.get("RESTIC_REST_PASSWORD", "").encode(
                errors="surrogateescape"
            )
        return cls(
            access,
            address.url,
            user=user,
            password=password,
            timeout=timeout,
            socket=address.socket,
        )

    @property
    def clock_difference(self) -> float | None:
        """Seconds by which the server's clock is ahead of this machine's; None if unknown."""
        return self._client.clock_difference

    async def list(self, kind: FileType) -> Sequence[FileInfo]:
        """List the files of one kind."""
        url = f"{self._url}{kind.value}/"
        try:
            answer = await self._client.whole(
                url, {**self._headers, "accept": _V2}, self._refusal, f"{kind.value}/"
            )
        except FileMissingError as error:
            # rclone lists a missing directory as empty; its 404 means another failure.
            if isinstance(error, _RcloneMissingError):
                raise
            return []
        try:
            if answer.headers.get("content-type", "").partition(";")[0] == _V2:
                files = msgspec.json.decode(answer.body, type=list[_File])
                return [FileInfo(x.name, x.size) for x in files if is_file_name(x.name)]
            names = msgspec.json.decode(answer.body, type=list[str])
        except (ValueError, RecursionError) as error:  # ValueError includes those of msgspec
            raise RepositoryUnreachableError(
                f"Unexpected response from the server of {self.display_url}: not restic's REST"
                " protocol. Check the address."
            ) from error
        return await self._with_sizes(kind, [name for name in names if is_file_name(name)])

    async def _with_sizes(self, kind: FileType, names: Sequence[str]) -> Sequence[FileInfo]:
        """Request the size of each file: listings of protocol version 1 do not contain sizes."""

        async def ask(name: str) -> FileInfo | None:
            url = f"{self._url}{kind.value}/{name}"
            try:
                answer = await self._client.whole(
                    url, self._headers, self._refusal, name, method="HEAD"
                )
            except FileMissingError:
                return None  # removed after it was listed
            length = answer.headers.get("content-length", "")
            size = number_in(length)
            if size is None:
                raise StorageError(
                    f"The server of {self.display_url} did not report the size of {name}."
                )
            return FileInfo(name, size)

        files = await gather([partial(ask, name) for name in names], CONNECTIONS)
        return [file for file in files if file is not None]

    async def read(
        self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read a part of a file, or all of it."""
        what = f"{kind.value}/{name}".removesuffix("/")
        return await self._client.part(
            f"{self._url}{what}",
            self._headers,
            self._refusal,
            what,
            offset,
            length,
            size_max=SIZE_MAX[kind],
        )

    def _refusal(self, answer: Answer, what: str) -> CesbrError:
        """Return the error for an unsuccessful response."""
        status = answer.status
        if status == _NOT_FOUND:
            rclone = answer.headers.get("server", "").startswith("rclone/")
            kind = _RcloneMissingError if rclone else FileMissingError
            return kind(f"{what} does not exist in {self.display_url}.")
        if status == 401:  # noqa: PLR2004 - HTTP's own number
            wrong = "are wrong" if self._has_user else "are missing"
            return RepositoryDeniedError(
                f"The credentials for {self.display_url} {wrong}. Set RESTIC_REST_USERNAME and"
                " RESTIC_REST_PASSWORD, or write user:password@ before the host."
            )
        if status == 403:  # noqa: PLR2004 - as above
            return RepositoryDeniedError(
                f"Permission denied by the server of {self.display_url}: {what}. Check the path"
                " and the user's permissions."
            )
        text = answer.body.decode(errors="replace").strip().partition("\n")[0][:200]
        return other_refusal(
            answer, self.display_url, what, f"{status}{': ' if text else ''}{text}"
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


class _File(msgspec.Struct):
    """A file in a listing of protocol version 2."""

    name: str
    size: Annotated[int, msgspec.Meta(ge=0)]


class _RcloneMissingError(FileMissingError):
    """rclone responded with 404, which it also does for other failures."""


def _authorization(user: str, password: bytes) -> dict[str, str]:
    if not user and not password:
        return {}
    pair = user.encode(errors="surrogateescape") + b":" + password
    return {"authorization": f"Basic {base64.b64encode(pair).decode()}"}
