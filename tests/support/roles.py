"""Emulate the AWS credential services on loopback, as documented by AWS.

``/latest`` is the instance metadata service of EC2 (IMDSv2), ``/container`` the service for
containers. The real services exist only on AWS.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Final

from tests.support.http_server import serving

PROOF: Final = "a-token-of-the-container"
_TOKEN: Final = "a-token-of-the-session"
_ROLES: Final = "/latest/meta-data/iam/security-credentials/"


@dataclass
class Roles:
    """Returns `key_id` and `secret`, which expire after `seconds` (None: never)."""

    key_id: str
    secret: str
    seconds: float | None = 3600.0
    serving: bool = True
    port: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """URL of the instance metadata service."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def container(self) -> dict[str, str]:
        """Environment variables of a container with a role."""
        return {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{self.url}/container",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN": PROOF,
        }

    def credentials(self) -> str:
        """Return the response of both services."""
        found = {"Code": "Success", "AccessKeyId": self.key_id, "SecretAccessKey": self.secret}
        if self.seconds is not None:
            end = datetime.now(UTC) + timedelta(seconds=self.seconds)
            found["Expiration"] = end.isoformat().replace("+00:00", "Z")
        return json.dumps({**found, "Token": ""})


@contextlib.contextmanager
def giving(key_id: str, secret: str) -> Iterator[Roles]:
    """Run the service."""
    roles = Roles(key_id, secret)

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            seconds = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
            known = self.path == "/latest/api/token" and seconds.isdigit()
            self._answer(200 if known else 400, _TOKEN)

        def do_GET(self) -> None:
            proof = self.headers.get("Authorization")
            if self.path == "/container":
                self._answer(200 if proof == PROOF else 401, roles.credentials())
            elif self.headers.get("X-aws-ec2-metadata-token") != _TOKEN:
                self._answer(401, "")
            elif self.path == _ROLES:
                self._answer(200, "the-role\n")
            else:
                known = self.path == f"{_ROLES}the-role"
                self._answer(200 if known else 404, roles.credentials())

        def _answer(self, status: int, text: str) -> None:
            roles.asked.append(f"{self.command} {self.path}")
            self.send_response(status if roles.serving else 503)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Do not log requests."""

    with serving(Handler) as roles.port:
        yield roles
