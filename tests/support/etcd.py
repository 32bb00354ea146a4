"""Run a real etcd on loopback, with the v2 keys API that CES uses.

    with serving(program, directory) as server:
        EtcdRegistry(server.url)

``server.url`` and the data stay the same when the server is killed and restarted.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

_READY_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.05
_HOST: Final = "127.0.0.1"
_opener: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_port() -> int:
    """Return a free port on loopback."""
    with socket.create_server((_HOST, 0)) as found:
        port: int = found.getsockname()[1]
        return port


class Etcd:
    """An etcd server with its data in `directory`, with or without the v2 keys API."""

    def __init__(self, program: Path, directory: Path, *, v2: bool = True) -> None:
        self._program = program
        self._directory = directory
        self._v2 = v2
        self.port: Final = free_port()
        self._peer: Final = free_port()
        self.url: Final = f"http://{_HOST}:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it responds."""
        peer = f"http://{_HOST}:{self._peer}"
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program,
                    *("--name", "n", "--data-dir", self._directory / "data"),
                    *("--listen-client-urls", self.url, "--advertise-client-urls", self.url),
                    *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                    *("--initial-cluster", f"n={peer}"),
                    *(["--enable-v2"] if self._v2 else []),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ.get("PATH", "")},
            )
        until = time.monotonic() + _READY_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                said = (self._directory / "log").read_text(errors="replace")
                raise RuntimeError(f"etcd does not start: {said[-2000:]}")
            time.sleep(_LOOK_SECONDS)

    def kill(self) -> None:
        """Kill the server; its data stays on disk."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def fill(self, values: Mapping[str, str]) -> None:
        """Set keys to values."""
        for key, value in values.items():
            self._request("PUT", key, urllib.parse.urlencode({"value": value}).encode())

    def pour(self, directory: Path) -> None:
        """Copy all keys of the file registry in `directory`."""
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        self.fill({f"/{file.relative_to(directory)}": file.read_bytes().decode() for file in files})

    def value(self, key: str) -> str | None:
        """Return the value of a key."""
        node = self._request("GET", key)
        return None if node is None else str(node.get("value"))

    def wipe(self) -> None:
        """Delete all keys, except hidden ones in the root."""
        root = self._request("GET", "/")
        nodes = root.get("nodes", []) if root else []
        assert isinstance(nodes, list)
        for node in nodes:
            self._request("DELETE", f"{node['key']}?recursive=true", quoted=True)

    def _ready(self) -> bool:
        with contextlib.suppress(OSError), _opener.open(f"{self.url}/health") as answer:
            return bool(json.load(answer)["health"] == "true")
        return False

    def _request(
        self, method: str, key: str, data: bytes | None = None, *, quoted: bool = False
    ) -> dict[str, object] | None:
        """Send a request with urllib, so that tests do not depend on our own client."""
        path = key if quoted else urllib.parse.quote(key)
        request = urllib.request.Request(f"{self.url}/v2/keys{path}", data, method=method)  # noqa: S310 - plain HTTP
        try:
            with _opener.open(request) as answer:
                node: dict[str, object] = json.load(answer)["node"]
                return node
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
                raise


@contextlib.contextmanager
def serving(program: Path, directory: Path, *, v2: bool = True) -> Iterator[Etcd]:
    """Run an etcd, and kill it on exit."""
    server = Etcd(program, directory, v2=v2)
    try:
        server.start()
        yield server
    finally:
        server.kill()
