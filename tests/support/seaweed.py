"""Run a real S3 server on loopback: SeaweedFS, with and without TLS.

with serving(program, directory, certificates) as server:
server.upload(repository, "bucket", "prefix")
Access(f"{server.url}/bucket/prefix", key, environment=server.environment)
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

from cesbrfs.repo.storage.s3.sigv4 import Credentials, signed_headers
from cesbrfs.util.secret import Secret
from tests.support.certificates import Certificates
from tests.support.processes import free_ports, opener, start

KEY_ID: Final = "the-key-id"
SECRET: Final = "the/secret+key"
BUCKET: Final = "backups"
OTHER_BUCKET: Final = "others"
_REVOKED_SECONDS: Final = 10.0
_OTHER: Final = ("another-key-id", "another-secret")


class SeaweedFS:
    """A server; it keeps its ports and data when it is killed and restarted."""

    def __init__(self, program: Path, directory: Path, certificates: Certificates) -> None:
        self._program: Final = program
        self._directory: Final = directory
        self._ports: Final = free_ports(9)
        self._process: subprocess.Popen[bytes] | None = None
        self.certificates: Final = certificates
        self.port: Final = self._ports[6]
        self.url: Final = f"s3:http://127.0.0.1:{self.port}"
        self.tls_url: Final = f"s3:https://127.0.0.1:{self._ports[7]}"
        self.options: Mapping[str, str] = {}
        self.secret = SECRET
        """The secret that is valid from the next start on."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables with credentials for full access, and the CA certificate."""
        return {
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "RESTIC_CACERT": str(self.certificates.authority),
        }

    @property
    def of_another(self) -> dict[str, str]:
        """Environment variables of a user with read access to `OTHER_BUCKET` only."""
        key_id, secret = _OTHER
        return self.environment | {"AWS_ACCESS_KEY_ID": key_id, "AWS_SECRET_ACCESS_KEY": secret}

    @property
    def pid(self) -> int:
        """PID of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it responds."""
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / "data").mkdir(exist_ok=True)
        self._write_identities()
        master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, https, s3_grpc = (
            self._ports
        )
        self._process = start(
            [
                self._program, "-logtostderr=true", "server", "-dir=data", "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1", "-master.telemetry=false", "-volume.max=64",
                "-master.volumeSizeLimitMB=256", "-volume.preStopSeconds=1",
                f"-master.port={master}", f"-master.port.grpc={master_grpc}",
                f"-volume.port={volume}", f"-volume.port.grpc={volume_grpc}",
                f"-filer.port={filer}", f"-filer.port.grpc={filer_grpc}",
                "-s3", "-s3.config=s3.json", f"-s3.port={s3}", f"-s3.port.grpc={s3_grpc}",
                f"-s3.port.https={https}", f"-s3.cert.file={self.certificates.server}",
                f"-s3.key.file={self.certificates.server_key}",
                "-s3.port.iceberg=0", "-s3.port.lance=0",
                # A single master needs no election. With the default of 10 s a restart takes 18 s.
                "-master.electionTimeout=500ms", "-master.heartbeatInterval=50ms",
            ],
            self._directory / "log",
            self._is_ready,
        )  # fmt: skip

    def revoke(self) -> None:
        """Change the secret without a restart."""
        self.secret = "another"
        self._write_identities()
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)
        until = time.monotonic() + _REVOKED_SECONDS
        while self._takes_first_secret():
            assert time.monotonic() < until
            time.sleep(0.02)

    def _write_identities(self) -> None:
        (self._directory / "s3.json").write_text(
            json.dumps({"identities": _identities(self.secret)})
        )

    def _takes_first_secret(self) -> bool:
        credentials = Credentials(KEY_ID, Secret(SECRET.encode()))
        host, path = f"127.0.0.1:{self.port}", f"/{BUCKET}/ready"
        now = datetime.now(UTC)
        headers = signed_headers("GET", host, path, "", credentials, region="us-east-1", now=now)
        try:
            with opener.open(urllib.request.Request(f"http://{host}{path}", headers=headers)):
                return True
        except urllib.error.HTTPError as error:
            with error:
                return error.code != 403

    def kill(self) -> None:
        """Kill the server; its data stays on disk."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def upload(self, repository: Path, bucket: str, prefix: str) -> None:
        """Upload a repository without S3, so that tests do not depend on our own client."""
        for directory, _, files in os.walk(repository):
            for name in files:
                file = Path(directory, name)
                self.put(bucket, f"{prefix}/{file.relative_to(repository)}", file.read_bytes())

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Upload an object; the bucket is created if missing."""
        self._filer("PUT", f"{bucket}/{key}", data)

    def remove(self, bucket: str, key: str) -> None:
        """Delete an object, or all objects with a prefix."""
        self._filer("DELETE", f"{bucket}/{key}?recursive=true")

    def names(self, bucket: str) -> set[str]:
        """Return the top-level names of a bucket; empty if the bucket does not exist."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._ports[4]}/buckets/{bucket}/",
            headers={"Accept": "application/json"},
        )
        try:
            with opener.open(request) as answer:
                entries = json.load(answer)["Entries"] or []
        except urllib.error.HTTPError as error:
            with error:
                return set()
        return {entry["FullPath"].rpartition("/")[2] for entry in entries}

    def _filer(self, method: str, path: str, data: bytes | None = None) -> None:
        address, _, query = path.partition("?")
        url = f"http://127.0.0.1:{self._ports[4]}/buckets/{quote(address)}?{query}"
        with opener.open(urllib.request.Request(url, data, method=method)):
            pass

    def _is_ready(self) -> bool:
        """Return whether S3 responds and the file system behind it accepts files."""
        try:
            self.put(BUCKET, "ready", b"ready")
            self.put(OTHER_BUCKET, "ready", b"ready")
            with opener.open(f"http://127.0.0.1:{self.port}/{BUCKET}/ready"):
                return False  # identities are not loaded yet
        except urllib.error.HTTPError as error:
            with error:
                return error.code == 403
        except OSError:
            return False


def _identities(secret: str) -> list[dict[str, object]]:
    def identity(name: str, key_id: str, secret: str, *actions: str) -> dict[str, object]:
        pair = {"accessKey": key_id, "secretKey": secret}
        return {"name": name, "credentials": [pair], "actions": actions}

    everything = ("Admin", "Read", "Write", "List", "Tagging")
    return [
        identity("backup", KEY_ID, secret, *everything),
        identity("other", *_OTHER, f"Read:{OTHER_BUCKET}", f"List:{OTHER_BUCKET}"),
    ]


@contextlib.contextmanager
def serving(program: Path, directory: Path, certificates: Certificates) -> Iterator[SeaweedFS]:
    """Run a server, and kill it on exit, as a regular shutdown takes many seconds."""
    server = SeaweedFS(program, directory, certificates)
    try:
        server.start()
        yield server
    finally:
        server.kill()
