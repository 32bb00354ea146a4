"""A repository in a bucket on Amazon S3 or a compatible server."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Final, Self, TypeVar
from xml.etree import ElementTree as ET

from cesbrfs.errors import (
    NO_BUCKET,
    BucketMissingError,
    CesbrError,
    FileMissingError,
    RepositoryDeniedError,
    RepositoryUnreachableError,
    UsageError,
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
from cesbrfs.repo.storage.location import S3Address, parse_s3
from cesbrfs.repo.storage.options import connections_of, option_is_true
from cesbrfs.repo.storage.s3.credentials import CredentialsProvider
from cesbrfs.repo.storage.s3.sigv4 import Credentials, encoded, query_of, signed_headers

_T = TypeVar("_T")

_AMAZON: Final = re.compile(r"s3(?:[.-](?:dualstack\.)?([a-z0-9-]+))?\.amazonaws\.com(?:\.cn)?")
_BY_NAME: Final = re.compile(
    r".*\.amazonaws\.com(\.cn)?|storage\.googleapis\.com|.*\.aliyuncs\.com"
)
"""Hosts that support the bucket as part of the host name."""
_DEFAULT_REGION: Final = "us-east-1"
_REGION: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A region that a server may name. It becomes a part of the host name and of a header."""

_WRONG_CREDENTIALS: Final = frozenset({
    "AuthorizationHeaderMalformed", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken",
    "SignatureDoesNotMatch", "TokenRefreshRequired",
})  # fmt: skip
_AWAY: Final = frozenset({
    "InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable", "SlowDown",
    "Throttling", "ThrottlingException", "TooManyRequests",
})  # fmt: skip


class S3Storage:
    """Reads a repository's files from a bucket."""

    def __init__(
        self,
        access: Access,
        address: S3Address,
        *,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        """Read from `address` with the credentials and options of `access`."""
        self.display_url = access.display_url
        self._signer: Final = CredentialsProvider(access)
        self._address: Final = address
        given = access.options.get("s3.region") or access.environment.get("AWS_DEFAULT_REGION")
        amazon = _AMAZON.fullmatch(address.host)
        self._region_is_given: Final = bool(given)
        self._region = given or (amazon and amazon[1]) or _DEFAULT_REGION
        self._in_host: Final = _is_in_host(access, address)
        self._old_listing: Final = option_is_true(access, "s3.list-objects-v1")
        self._client: Final = HttpClient(
            access,
            f"{address.scheme}://{address.host}/",
            connections=connections_of(access, "s3.connections", CONNECTIONS),
            timeout=timeout,
        )

    @classmethod
    def from_access(cls, access: Access, *, timeout: float = TIMEOUT_SECONDS) -> Self:
        """Create the storage for `access`; raises UsageError for an invalid address or option."""
        return cls(access, parse_s3(access.url), timeout=timeout)

    @property
    def clock_difference(self) -> float | None:
        """Seconds by which the server's clock is ahead of this machine's; None if unknown."""
        return self._client.clock_difference

    async def list(self, kind: FileType) -> Sequence[FileInfo]:
        """List the files of one kind."""
        directory = posixpath.join(self._address.prefix, kind.value) + "/"
        depth = directory.count("/") + (kind is FileType.PACK)
        query = [("prefix", directory)]
        if not self._old_listing:
            query.append(("list-type", "2"))
        files: list[FileInfo] = []
        more: list[tuple[str, str]] = []
        while True:
            answer = await self._page([*query, *more], directory)
            page = self._parsed(answer.body)
            last = ""
            for entry in page.iterfind("{*}Contents"):
                last = entry.findtext("{*}Key", "")
                name = last.rpartition("/")[2]
                if last.count("/") == depth and is_file_name(name):
                    size = number_in(entry.findtext("{*}Size", ""))
                    if size is None:
                        raise self._no_s3()
                    files.append(FileInfo(name, size))
            if page.findtext("{*}IsTruncated") != "true":
                return files
            following = page.findtext("{*}NextContinuationToken")
            if self._old_listing:
                following = page.findtext("{*}NextMarker") or last
            name = "marker" if self._old_listing else "continuation-token"
            if not following or more == [(name, following)]:
                raise RepositoryUnreachableError(
                    f"The server of {self.display_url} returned a truncated listing of {directory}"
                    " without a continuation token. With an old server, set the option"
                    " s3.list-objects-v1 to true."
                )
            more = [(name, following)]

    async def other_entry(self) -> str | None:
        """Return the name of an object below the prefix; an empty repository has none."""
        directory = f"{self._address.prefix}/" if self._address.prefix else ""
        query = [("max-keys", "100"), ("prefix", directory)]
        if not self._old_listing:
            query.append(("list-type", "2"))
        page = self._parsed((await self._page(query, directory)).body)
        keys = [entry.findtext("{*}Key", "") for entry in page.iterfind("{*}Contents")]
        return next((key.removeprefix(directory) for key in keys if not key.endswith("/")), None)

    def _parsed(self, body: bytes) -> ET.Element:
        page = _parsed_xml(body)
        if page is None:
            raise self._no_s3()
        return page

    def _no_s3(self) -> CesbrError:
        return RepositoryUnreachableError(
            f"Unexpected response from the server of {self.display_url}: not S3. Check the address."
        )

    async def read(
        self, kind: FileType, name: str = "", offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read a part of a file, or all of it."""
        if kind is FileType.PACK:
            name = f"{name[:2]}/{name}"
        key = posixpath.join(self._address.prefix, kind.value, name).removesuffix("/")

        async def ask() -> bytes:
            url, headers = self._request(key, "", await self._signer.current())
            return await self._client.part(
                url, headers, self._refusal, key, offset, length, size_max=SIZE_MAX[kind]
            )

        return await self._in_its_region(ask)

    async def _page(self, query: Sequence[tuple[str, str]], what: str) -> Answer:
        """Return one page of a listing."""

        async def ask() -> Answer:
            url, headers = self._request("", query_of(query), await self._signer.current())
            return await self._client.whole(url, headers, self._refusal, what)

        return await self._in_its_region(ask)

    async def _in_its_region(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Return the result of `ask`; call it again if the server reports another region."""
        try:
            return await ask()
        except _OtherRegionError as other:
            self._region = other.region
            return await ask()

    def _request(
        self, key: str, query: str, credentials: Credentials | None
    ) -> tuple[str, dict[str, str]]:
        """Return the URL of a `key` ("" for the bucket itself) and the signed headers."""
        host, path = self._address.host, encoded(f"/{key}", safe="/")
        if _AMAZON.fullmatch(host) and host == "s3.amazonaws.com":
            host = f"s3.dualstack.{self._region}.amazonaws.com"
        if self._in_host:
            host = f"{self._address.bucket}.{host}"
        else:
            path = f"/{encoded(self._address.bucket)}{path}"
        url = f"{self._address.scheme}://{host}{path}{'?' if query else ''}{query}"
        if credentials is None:
            return url, {}
        return url, signed_headers(
            "GET",
            host,
            path,
            query,
            credentials,
            region=self._region,
            now=datetime.now(UTC),
        )

    def _refusal(self, answer: Answer, what: str) -> CesbrError:  # noqa: PLR0911 - a table
        """Return the error for an unsuccessful response."""
        code, message, region = _error_fields(answer)
        reason = f"{code or answer.status}{': ' if message else ''}{message.rstrip('.')}"
        region = answer.headers.get("x-amz-bucket-region", "") or region
        other = region != self._region and not self._region_is_given
        if other and _REGION.fullmatch(region):
            return _OtherRegionError(region)
        if code == "NoSuchBucket":
            return BucketMissingError(NO_BUCKET.format(display_url=self.display_url))
        if answer.status == 404:  # noqa: PLR2004 - HTTP's own number
            return FileMissingError(f"{what} does not exist in {self.display_url}.")
        if code == "RequestTimeTooSkewed":
            return RepositoryDeniedError(
                f"Clock skew with the server of {self.display_url}: {reason}. Correct the clock of"
                " this machine."
            )
        if code in _WRONG_CREDENTIALS or answer.status == 401:  # noqa: PLR2004 - as above
            return RepositoryDeniedError(
                f"The credentials for {self.display_url} are wrong ({reason}). Check"
                " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the registry's access_key_id and"
                " secret_access_key."
            )
        if answer.status == 403:  # noqa: PLR2004 - as above
            return RepositoryDeniedError(
                f"Permission denied by the server of {self.display_url}: {what} ({reason}). Give"
                " the user permission to read and list the bucket."
            )
        if code in _AWAY:
            return RepositoryUnreachableError(
                f"The server of {self.display_url} cannot serve {what} now ({reason}). Try again."
            )
        return other_refusal(answer, self.display_url, what, reason)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()


class _OtherRegionError(CesbrError):
    """The bucket is not in the assumed region."""

    def __init__(self, region: str) -> None:
        super().__init__(f"The bucket is in the region {region}.")
        self.region = region


def _parsed_xml(body: bytes) -> ET.Element | None:
    """Return the root element of a document; None if it is no XML, or in an unknown encoding."""
    try:
        return ET.fromstring(body)  # noqa: S314 - expat bounds entities
    except (ET.ParseError, LookupError, ValueError):  # the latter two are about the encoding
        return None


def _error_fields(answer: Answer) -> tuple[str, str, str]:
    """Return code, message and region of an error response; "" for missing elements."""
    error = _parsed_xml(answer.body)
    if error is None:
        return "", "", ""
    code, message, region = (
        error.findtext(f"{{*}}{name}", "") for name in ("Code", "Message", "Region")
    )
    return code, message[:200], region


def _is_in_host(access: Access, address: S3Address) -> bool:
    """Return whether the bucket is part of the host name (dns) or of the path."""
    lookup = access.options.get("s3.bucket-lookup", "auto")
    if lookup not in ("auto", "dns", "path"):
        raise UsageError(
            f"Invalid value {lookup!r} of the option s3.bucket-lookup. Use auto, dns or path."
        )
    if lookup == "auto":
        dotted = address.scheme == "https" and "." in address.bucket  # no certificate matches
        return _BY_NAME.fullmatch(address.host) is not None and not dotted
    return lookup == "dns"
