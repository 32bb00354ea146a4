"""Run real REST servers on loopback: rclone and restic's rest-server.

    with serving(program, directory) as server:
        Access(f"{server.url}/repository/", key, environment=server.environment)

Repositories are directories in ``server.root``.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.support.certificates import Certificates
from tests.support.processes import free_ports, listens, start

USER: Final = "backup"
PASSWORD: Final = "p@ss/w:rd"


class RestServer:
    """A server; it keeps its port when it is killed and restarted."""

    def __init__(
        self,
        program: Path,
        directory: Path,
        certificates: Certificates | None,
        *,
        asks_client: bool,
    ) -> None:
        self._program: Final = program
        self._log: Final = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._asks_client: Final = asks_client
        self.certificates: Final = certificates
        self.root: Final = directory / "root"
        (self.port,) = free_ports(1)
        scheme = "https" if certificates else "http"
        self.url: Final = f"rest:{scheme}://127.0.0.1:{self.port}"
        self.options: Mapping[str, str] = {}
        self.password = PASSWORD
        """The password that is valid from the next start on."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with valid credentials and the CA certificate."""
        found = {"RESTIC_REST_USERNAME": USER, "RESTIC_REST_PASSWORD": PASSWORD}
        if self.certificates:
            found["RESTIC_CACERT"] = str(self.certificates.authority)
        if self.certificates and self._asks_client:
            found["RESTIC_TLS_CLIENT_CERT"] = str(self.certificates.client)
        return found

    @property
    def pid(self) -> int:
        """PID of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it responds."""
        self.root.mkdir(parents=True, exist_ok=True)
        rclone = self._program.name == "rclone"
        command, environment = self._as_rclone() if rclone else (self._as_own(), {})
        self._process = start(
            command, self._log, lambda: listens(self.port), environment=environment
        )

    def _as_rclone(self) -> tuple[list[str | Path], dict[str, str]]:
        """Return the command and its environment with the password."""
        command: list[str | Path] = [self._program, "serve", "restic"]
        command += ["--addr", f"127.0.0.1:{self.port}"]
        if self.certificates:
            command += ["--cert", self.certificates.server]
            command += ["--key", self.certificates.server_key]
        if self.certificates and self._asks_client:
            command += ["--client-ca", self.certificates.authority]
        return [*command, self.root], {"RCLONE_USER": USER, "RCLONE_PASS": self.password}

    def _as_own(self) -> list[str | Path]:
        """Return the command of rest-server; it does not request client certificates."""
        hashed = base64.b64encode(hashlib.sha1(self.password.encode()).digest())  # noqa: S324 - htpasswd format
        users = self._log.with_name("htpasswd")
        users.write_text(f"{USER}:{{SHA}}{hashed.decode()}\n")
        command: list[str | Path] = [self._program, "--listen", f"127.0.0.1:{self.port}"]
        command += ["--path", self.root, "--htpasswd-file", users]
        if self.certificates:
            command += ["--tls", "--tls-cert", self.certificates.server]
            command += ["--tls-key", self.certificates.server_key]
        return command

    def kill(self) -> None:
        """Kill the server; its data stays on disk."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


@contextlib.contextmanager
def serving(
    program: Path,
    directory: Path,
    certificates: Certificates | None = None,
    *,
    asks_client: bool = False,
) -> Iterator[RestServer]:
    """Run a server, with TLS if `certificates` are given; kill it on exit."""
    directory.mkdir(parents=True, exist_ok=True)
    server = RestServer(program, directory, certificates, asks_client=asks_client)
    try:
        server.start()
        yield server
    finally:
        server.kill()
