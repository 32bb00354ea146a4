"""AWS Signature Version 4 for S3. Pure.

Source: Amazon's "Authenticating Requests: Using the Authorization Header (AWS Signature
Version 4)", whose published examples are the test vectors.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import quote

from cesbrfs.util.secret import Secret

EMPTY_HASH: Final = hashlib.sha256(b"").hexdigest()
"""SHA-256 of an empty request body."""

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key; `token` is set only for temporary credentials."""

    key_id: str
    secret: Secret
    token: Secret = Secret(b"")


def encoded(text: str, *, safe: str = "") -> str:
    """Percent-encode as AWS does: everything but letters, digits, ``-._~`` and `safe`."""
    return quote(text, safe=f"-._~{safe}")


def query_of(parameters: Iterable[tuple[str, str]]) -> str:
    """Return the query string of a URL, sorted and encoded for signing."""
    pairs = sorted((encoded(name), encoded(value)) for name, value in parameters)
    return "&".join(f"{name}={value}" for name, value in pairs)


def authorization(  # noqa: PLR0917 - the parts of a request, in the order they are signed
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    body_hash: str,
    credentials: Credentials,
    *,
    region: str,
    service: str,
) -> str:
    """Return the value of the ``Authorization`` header.

    `path` and `query` are encoded as they are sent. All `headers` are signed; they must include
    ``host`` and ``x-amz-date``.
    """
    signed = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    names = ";".join(sorted(signed))
    lines = [f"{name}:{signed[name]}\n" for name in sorted(signed)]
    request = "\n".join((method, path, query, "".join(lines), names, body_hash))
    time = signed["x-amz-date"]
    scope = f"{time[:8]}/{region}/{service}/aws4_request"
    hashed = hashlib.sha256(request.encode()).hexdigest()
    key = b"AWS4" + credentials.secret.value
    for part in scope.split("/"):
        key = _mac(key, part)
    signature = _mac(key, f"{_ALGORITHM}\n{time}\n{scope}\n{hashed}").hex()
    return (
        f"{_ALGORITHM} Credential={credentials.key_id}/{scope},SignedHeaders={names},"
        f"Signature={signature}"
    )


def signed_headers(
    method: str,
    host: str,
    path: str,
    query: str,
    credentials: Credentials,
    *,
    region: str,
    now: datetime,
) -> dict[str, str]:
    """Return the headers of a signed request to S3 without a body; `now` is in UTC."""
    headers = {
        "host": host,
        "x-amz-content-sha256": EMPTY_HASH,
        "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}",
    }
    if credentials.token:
        headers["x-amz-security-token"] = credentials.token.value.decode()
    headers["authorization"] = authorization(
        method, path, query, headers, EMPTY_HASH, credentials, region=region, service="s3"
    )
    return headers


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
