"""Parse repository addresses by restic's rules.

==========================================  =====================================================
``/path``, ``local:/path``                  a local directory
``s3:https://host[:p]/bucket[/prefix]``     a bucket; ``s3:host/…`` and ``s3://host/…`` mean https
``rest:https://[user:pw@]host[:p]/path/``   a server with restic's REST protocol
``rest:http+unix:///socket:/path/``         a REST server on a Unix socket
``rclone:remote:path``                      an rclone remote
``sftp:user@host:path``, ``sftp://…``       an SFTP server; see `sftp.location`
==========================================  =====================================================
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

from cesbrfs.errors import UsageError
from cesbrfs.repo.location import local_directory
from cesbrfs.util.secret import Secret, redact

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]{1,61}[A-Za-z0-9]")
"""Bucket names that restic accepts."""


@dataclass(frozen=True, slots=True)
class LocalAddress:
    """A local directory, absolute or relative."""

    directory: str


@dataclass(frozen=True, slots=True)
class S3Address:
    """A bucket and a `prefix`, which may be "". `host` may include a port."""

    scheme: str
    host: str
    bucket: str
    prefix: str


@dataclass(frozen=True, slots=True)
class RestAddress:
    """The `url` of a REST server, with a trailing slash and without credentials.

    `socket` is the path of the server's Unix socket; "" for a server on the network.
    """

    url: str
    user: str
    password: Secret = field(repr=False)
    socket: str = ""


@dataclass(frozen=True, slots=True)
class RcloneAddress:
    """The argument for rclone, ``remote:path``."""

    remote: str


def parse_local(url: str) -> LocalAddress:
    """Parse a path, with or without ``local:``; raises UsageError if it is empty."""
    directory = local_directory(url)
    if not directory:
        raise UsageError("The repository's address is empty. Pass --repo URL.")
    return LocalAddress(directory)


def parse_s3(url: str) -> S3Address:
    """Parse an address that begins with ``s3:``; raises UsageError."""
    rest = url.partition(":")[2]
    scheme = "https"
    if re.match("https?://", rest):
        parts = _split(rest, url)
        scheme, host, path = parts.scheme, _host(parts), unquote(parts.path).removeprefix("/")
    else:
        host, _, path = rest.removeprefix("//").partition("/")
    bucket, _, prefix = path.partition("/")
    if not host or not bucket:
        raise UsageError(
            f"Invalid address {redact(url)}: host or bucket is missing. Write"
            " s3:https://host/bucket/prefix."
        )
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(
            f"Invalid address {redact(url)}: {bucket!r} is not a valid bucket name. Use 3 to 63"
            " letters, digits, dots and dashes."
        )
    return S3Address(scheme, host, bucket, _clean(prefix) if prefix else "")


def parse_rest(url: str) -> RestAddress:
    """Parse an address that begins with ``rest:``; raises UsageError."""
    rest = url.partition(":")[2]
    if rest.startswith("http+unix:"):
        return _rest_behind_socket(rest, url)
    if not re.match("https?://", rest):
        raise UsageError(
            f"Invalid address {redact(url)}: http:// or https:// is missing. Write"
            " rest:https://host/path/."
        )
    parts = _split(rest, url)
    path = parts.path if parts.path.endswith("/") else f"{parts.path}/"
    query = f"?{parts.query}" if parts.query else ""
    if query or not parts.hostname:
        raise UsageError(
            f"Invalid address {redact(url)}: host is missing, or it has a query. Write"
            " rest:https://host/path/."
        )
    return RestAddress(
        f"{parts.scheme}://{_host(parts)}{path}",
        unquote(parts.username or ""),
        Secret(unquote(parts.password or "").encode()),
    )


def _rest_behind_socket(rest: str, url: str) -> RestAddress:
    parts = _split(rest, url)
    socket, _, path = unquote(parts.path).partition(":")
    if parts.netloc or parts.query or not socket.startswith("/") or not path.startswith("/"):
        raise UsageError(
            f"Invalid address {redact(url)}: socket or path is missing. Write"
            " rest:http+unix:///run/server.socket:/path/."
        )
    path = quote(path if path.endswith("/") else f"{path}/")
    return RestAddress(f"http://localhost{path}", "", Secret(b""), socket)


def parse_rclone(url: str) -> RcloneAddress:
    """Parse an address that begins with ``rclone:``; raises UsageError."""
    rest = url.partition(":")[2]
    if not rest:
        raise UsageError(f"Invalid address {url}: no rclone remote. Write rclone:remote:path.")
    return RcloneAddress(rest)


def _split(text: str, url: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises ValueError unless it is a number
    except ValueError:
        raise UsageError(f"Invalid address {redact(url)}. Correct its host and port.") from None
    return parts


def _host(parts: SplitResult) -> str:
    """Return the host and the port, without user info and without a default port."""
    host = parts.netloc.rpartition("@")[2]
    usual = {"http": ":80", "https": ":443"}[parts.scheme]
    return host.removesuffix(usual)


def _clean(path: str) -> str:
    """Shorten a path as Go's path.Clean does."""
    return posixpath.normpath(re.sub("^/+", "/", path))
