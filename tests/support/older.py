"""Emulate an older REST server, whose listings contain only names (API version 1).

with older(server.port) as front:
    Access(f"rest:http://127.0.0.1:{front.port}/repository/", key, environment=server.environment)
    assert front.asked == ["GET /repository/keys/", ...]
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Final

from tests.support.http_server import serving

_SECOND: Final = "application/vnd.x.restic.rest.v2"
_CARRIED: Final = ("Content-Range",)


@dataclass
class Older:
    """The port and the received requests.

    Listings also contain the names in `gone`, like files that were deleted after the listing.
    """

    port: int = 0
    asked: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)


@contextlib.contextmanager
def older(to: int) -> Iterator[Older]:
    """Run it in front of the server on port `to` of loopback."""
    front = Older()

    class Handler(BaseHTTPRequestHandler):
        def forward(self) -> None:
            front.asked.append(f"{self.command} {self.path}")
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", to)) as behind:
                behind.request(self.command, self.path, headers=dict(self.headers))
                answer = behind.getresponse()
                body = answer.read()
            if answer.getheader("Content-Type", "") == _SECOND and answer.status == HTTPStatus.OK:
                names = [file["name"] for file in json.loads(body)]
                body = json.dumps(names + front.gone).encode()
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_response(answer.status)
            self.send_header("Content-Length", length or str(len(body)))
            for name in _CARRIED:
                if (value := answer.getheader(name)) is not None:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_HEAD = forward  # noqa: N815 - the base class' names

        def log_message(self, *_: object) -> None:
            """Do not log requests."""

    with serving(Handler) as front.port:
        yield front
