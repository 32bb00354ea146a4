"""Remote repositories on each kind of server, behind a proxy that injects latency and faults.

with far_rest(rclone, directory) as far:
    far.put(repo.directory)
    mount(far.access(repo.key), ...)
    far.proxy.inject(Fault.RESET, after=50_000)
    far.kill(); far.start()
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from cesbrfs.repo.location import Access
from cesbrfs.util.secret import Secret
from tests.support import rest, seaweed, sshd
from tests.support.certificates import Certificates
from tests.support.proxy import Proxy, proxying

KINDS: Final = ("S3", "REST", "SFTP")

_REPOSITORY: Final = "repository"


class Far(ABC):
    """A server and the proxy in front of it."""

    name: str

    def __init__(self, proxy: Proxy) -> None:
        self.proxy: Final = proxy

    def access(self, key: Secret, patience: float) -> Access:
        """Return access to the repository through the proxy."""
        return Access(self.url, key, self.options, self.environment, patience)

    @property
    @abstractmethod
    def url(self) -> str:
        """The address of the repository, with the port of the proxy."""

    @property
    def options(self) -> Mapping[str, str]:
        """The extended options (-o) for this storage."""
        return {}

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables for this storage."""
        return {}

    @abstractmethod
    def put(self, repository: Path) -> None:
        """Copy the repository in this directory to the server."""

    @abstractmethod
    def kill(self) -> None:
        """Kill the server and its connections."""

    @abstractmethod
    def start(self) -> None:
        """Restart the server on the same port."""

    @abstractmethod
    def revoke(self) -> None:
        """Make the server reject the credentials from now on."""


class _S3(Far):
    name = "S3"

    def __init__(self, server: seaweed.SeaweedFS, proxy: Proxy) -> None:
        super().__init__(proxy)
        self._server = server

    @property
    def url(self) -> str:
        return f"s3:http://127.0.0.1:{self.proxy.port}/{seaweed.BUCKET}/{_REPOSITORY}"

    @property
    def environment(self) -> Mapping[str, str]:
        return self._server.environment

    def put(self, repository: Path) -> None:
        self._server.upload(repository, seaweed.BUCKET, _REPOSITORY)

    def kill(self) -> None:
        self._server.kill()

    def start(self) -> None:
        self._server.start()

    def revoke(self) -> None:
        self._server.revoke()


class _Rest(Far):
    name = "REST"

    def __init__(self, server: rest.RestServer, proxy: Proxy) -> None:
        super().__init__(proxy)
        self._server = server

    @property
    def url(self) -> str:
        return f"rest:http://127.0.0.1:{self.proxy.port}/{_REPOSITORY}/"

    @property
    def environment(self) -> Mapping[str, str]:
        return self._server.environment

    def put(self, repository: Path) -> None:
        shutil.copytree(repository, self._server.root / _REPOSITORY)

    def kill(self) -> None:
        self._server.kill()

    def start(self) -> None:
        self._server.start()

    def revoke(self) -> None:
        self._server.kill()
        self._server.password = "another"
        self._server.start()


class _Sftp(Far):
    name = "SFTP"

    def __init__(self, server: sshd.Sshd, proxy: Proxy) -> None:
        super().__init__(proxy)
        self._server = server
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self._server.url(self._server.directory / _REPOSITORY)

    @property
    def options(self) -> Mapping[str, str]:
        return {"sftp.command": self._server.command(port=self.proxy.port)}

    def put(self, repository: Path) -> None:
        shutil.copytree(repository, self._server.directory / _REPOSITORY)

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            sshd.kill(process)

    def start(self) -> None:
        self._process = self._server.start()

    def revoke(self) -> None:
        self.kill()
        (self._server.directory / "user.pub").write_bytes(b"")
        self.start()


@contextlib.contextmanager
def far_s3(program: Path, directory: Path, certificates: Certificates) -> Iterator[Far]:
    """Run SeaweedFS behind a proxy."""
    with seaweed.serving(program, directory, certificates) as server:  # noqa: SIM117 - order of exit
        with proxying(("127.0.0.1", server.port)) as proxy:
            yield _S3(server, proxy)


@contextlib.contextmanager
def far_rest(program: Path, directory: Path) -> Iterator[Far]:
    """Run rclone behind a proxy."""
    with rest.serving(program, directory) as server, proxying(("127.0.0.1", server.port)) as proxy:
        yield _Rest(server, proxy)


@contextlib.contextmanager
def far_sftp(directory: Path) -> Iterator[Far]:
    """Run sshd behind a proxy."""
    server = sshd.prepare(directory)
    with proxying(("127.0.0.1", server.port)) as proxy:
        far = _Sftp(server, proxy)
        far.start()
        try:
            yield far
        finally:
            far.kill()


def far_of(
    request: pytest.FixtureRequest, directory: Path
) -> contextlib.AbstractContextManager[Far]:
    """Return the server that a fixture with the parameters `KINDS` requests."""
    if request.param == "S3":
        program: Path = request.getfixturevalue("seaweed_program")
        return far_s3(program, directory, request.getfixturevalue("certificates"))
    if request.param == "REST":
        return far_rest(request.getfixturevalue("rclone"), directory)
    request.getfixturevalue("sshd")  # skips the test if sshd is missing
    return far_sftp(directory)
