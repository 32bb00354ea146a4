"""Fixtures: a small instance, repositories of it, and ``cesbr`` started as a user starts it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cesbr.cli.arguments import command_parser
from cesbr.commands import find_command
from cesbr.portal import Portal
from cesbr.runner import close, run_command
from cesbr.session import Session
from cesbr.ui.output import Output

from cesbrfs.config.settings import Flags
from tests.sample.registry import write
from tests.support.project import PROJECT
from tests.support.proxy import Proxy, proxying
from tests.support.rest import RestServer
from tests.support.restic_repo import ResticRepo, cheapen

KEY = " the key, with spaces around it "
BINARY = random.Random(7).randbytes(
    60_000
)  # more than all metadata, so that its pack is the largest
ODD = b"odd \xff\n'\"name"
ODD_SHOWN = "odd \\xff\\n'\"name"
NAMES = (
    b"both ' and \" of them", b"it's", b'double "quotes"', b"new\nline", b"tab\there", b"$HOME",
    b"back\\slash", b"back\\x41slash", b"pipe | and > and <", b"semi;colon & #hash", b"~", b"-l",
    b"not utf-8 \xff\xfe", "größer 🚀".encode(), b"star*", b" in front", b"behind ", b"\\", b"!x",
    b"`x`", b"a$(b)", b"@x", b"?x",
)  # fmt: skip
"""Of files that are hard to write."""
_SECONDS = 60
_ID_DIGITS = 64


@dataclass(frozen=True)
class Said:
    """The output and exit code of one run of ``cesbr``."""

    code: int
    stdout: bytes
    err: str

    @property
    def out(self) -> str:
        """All of stdout as text."""
        return self.stdout.decode()

    @property
    def json(self) -> object:
        """Parse stdout as JSON."""
        return json.loads(self.stdout)

    @property
    def error(self) -> dict[str, object]:
        """The error on stderr, with ``--json``."""
        found: dict[str, object] = json.loads(self.err.splitlines()[-1])
        return found


@dataclass(frozen=True)
class Cesbr:
    """Run ``cesbr`` with an environment; `here` is the working directory."""

    here: Path
    environ: Mapping[str, str] = field(repr=False)

    def having(self, **variables: str) -> Cesbr:
        """Return a copy with additional environment variables."""
        return replace(self, environ={**self.environ, **variables})

    @property
    def command(self) -> list[str]:
        """The command line that starts it."""
        return [sys.executable, "-m", "cesbr"]

    def __call__(self, *arguments: str | bytes, script: str | None = None) -> Said:
        """Run one command, or a script on stdin, and wait for it to exit."""
        done = subprocess.run(
            [*self.command, *arguments],
            env=self.environ,
            cwd=self.here,
            input=b"" if script is None else script.encode("utf-8", "surrogateescape"),
            capture_output=True,
            check=False,
            timeout=_SECONDS,
        )
        return Said(done.returncode, done.stdout, done.stderr.decode())

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one command."""
        return subprocess.Popen(
            [*self.command, *arguments],
            env=self.environ,
            cwd=self.here,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


@dataclass(frozen=True)
class Site:
    """An instance with one dogu, and the location of its backups."""

    root: Path
    repository: Path

    @property
    def files(self) -> Path:
        """The volume that is backed up."""
        return self.root / "var/lib/ces/redmine/volumes/files"

    @property
    def locks(self) -> list[str]:
        """The names of the lock files in the repository, except for temporary files."""
        return [name for name in os.listdir(self.repository / "locks") if len(name) == _ID_DIGITS]

    def set(self, key: str, value: str) -> None:
        """Set a key of the registry."""
        write(self.root / "var/lib/cesbr/registry", key, value)


def _build(root: Path) -> Site:
    site = Site(root, root / "srv/backup")
    (site.files / "sub").mkdir(parents=True)
    (site.files / "hello.txt").write_text("hello\n")
    (site.files / "sub/binary").write_bytes(BINARY)
    (site.files / "a 'quoted' name").write_text("quoted\n")
    Path(os.fsdecode(bytes(site.files) + b"/" + ODD)).write_text("odd\n")
    (site.files / "link").symlink_to("hello.txt")
    (site.files / "hello.txt").chmod(0o640)
    os.utime(site.files / "hello.txt", ns=(1, 1_700_000_000_123_456_789))
    (root / "etc/ces").mkdir(parents=True)
    (root / "etc/ces/type").write_text("vm")
    dogu = {"Name": "official/redmine", "Version": "1-1", "Volumes": [{"Name": "files"}]}
    site.set("/config/backup/backup_type", "local")
    site.set("/config/backup/local_config/path", str(site.repository))
    site.set("/config/backup/encryption_key", KEY)
    site.set("/dogu/redmine/current", "1-1")
    site.set("/dogu/redmine/1-1", json.dumps(dogu))
    return site


def copy(site: Site, root: Path) -> Site:
    shutil.copytree(site.root, root, symlinks=True)
    copy = Site(root, root / "srv/backup")
    copy.set("/config/backup/local_config/path", str(copy.repository))
    return copy


def _environment(root: Path) -> dict[str, str]:
    state = str(root.parent / "state")
    return {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "CESBR_ROOT": str(root),
        "XDG_STATE_HOME": state,
    }


@pytest.fixture(scope="session")
def empty_template(tmp_path_factory: pytest.TempPathFactory, restic_old: Path) -> Site:
    """An instance with an empty repository. Tests copy it and never modify it."""
    root = tmp_path_factory.mktemp("empty") / "site"
    site = _build(root)
    said = Cesbr(root, _environment(root) | {"CESBR_RESTIC": str(restic_old)})("init")
    assert said.code == 0, said.err
    cheapen(ResticRepo(restic_old, site.repository, KEY))
    return site


@pytest.fixture(scope="session")
def kept_site(
    tmp_path_factory: pytest.TempPathFactory, empty_template: Site, restic_old: Path
) -> Site:
    """An instance with two backups, shared by tests that only read."""
    root = tmp_path_factory.mktemp("kept") / "site"
    return back_up_twice(copy(empty_template, root), restic_old)


def back_up_twice(site: Site, restic: Path) -> Site:
    """Back up the whole instance, change a file, and back up again."""
    cesbr = Cesbr(site.root, _environment(site.root) | {"CESBR_RESTIC": str(restic)})
    for text in ("hello\n", "hello again\n"):
        (site.files / "hello.txt").write_text(text)
        os.utime(site.files / "hello.txt", ns=(1, 1_700_000_000_123_456_789))
        said = cesbr("backup")
        assert said.code == 0, said.err
    return site


class Inside:
    """Runs commands in this process, in one session, so that the repository is opened only once."""

    def __init__(self, root: Path) -> None:
        self.portal = Portal()
        self.session = Session(Flags(root=str(root)), environ=_environment(root))

    def __call__(self, name: str, *arguments: str | bytes) -> Said:
        """Run one command and wait for it to finish."""
        command = find_command(name)
        given = [os.fsdecode(argument) for argument in arguments]
        stdout, stderr = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
        with contextlib.redirect_stderr(stderr):
            parsed = command_parser(command).parse_intermixed_args(given)
            out = Output(stdout, as_json="json" in parsed)
            code = run_command(command, parsed, self.session, self.portal, out)
        buffer = stdout.buffer
        assert isinstance(buffer, io.BytesIO)
        return Said(code, buffer.getvalue(), stderr.getvalue())

    def close(self) -> None:
        """End the session."""
        close(self.session, self.portal)


@pytest.fixture(scope="session")
def shared(kept_site: Site) -> Iterator[Inside]:
    """One session on the backups that are shared by read-only tests."""
    made = Inside(kept_site.root)
    yield made
    made.close()


@pytest.fixture
def inside(shared: Inside) -> Inside:
    """Commands in this process, starting in the root directory."""
    shared.session.place = ()
    return shared


@pytest.fixture
def new_site(tmp_path: Path) -> Site:
    """An instance that has no repository yet."""
    return _build(tmp_path / "site")


@pytest.fixture
def empty_site(tmp_path: Path, empty_template: Site) -> Site:
    """An instance with an empty repository, for this test only."""
    return copy(empty_template, tmp_path / "site")


@pytest.fixture
def site(tmp_path: Path, kept_site: Site) -> Site:
    """An instance with two backups, for this test only."""
    return copy(kept_site, tmp_path / "site")


@pytest.fixture
def cesbr(tmp_path: Path, restic_old: Path) -> Cesbr:
    """``cesbr`` in an empty directory, with nothing configured but the path of restic."""
    here = tmp_path / "here"
    here.mkdir()
    environ = _environment(here) | {"CESBR_RESTIC": str(restic_old)}
    del environ["CESBR_ROOT"]
    return Cesbr(here, environ)


@pytest.fixture
def kept(cesbr: Cesbr, kept_site: Site) -> Cesbr:
    """``cesbr`` on the backups that are shared by read-only tests."""
    return cesbr.having(CESBR_ROOT=str(kept_site.root))


@pytest.fixture
def own(cesbr: Cesbr, site: Site) -> Cesbr:
    """``cesbr`` on backups that the test may change."""
    return cesbr.having(CESBR_ROOT=str(site.root))


@pytest.fixture
def proxy(rest_server: RestServer, site: Site) -> Iterator[Proxy]:
    """A proxy in front of the server that stores the backups."""
    shutil.copytree(site.repository, rest_server.root / "far", dirs_exist_ok=True)
    with proxying(("127.0.0.1", rest_server.port)) as made:
        yield made


@pytest.fixture
def far(own: Cesbr, site: Site, rest_server: RestServer, proxy: Proxy) -> Cesbr:
    """``cesbr`` on backups behind that proxy."""
    shutil.rmtree(site.repository)
    url = f"rest:http://127.0.0.1:{proxy.port}/far/"
    return own.having(CESBR_REPOSITORY=url, **rest_server.environment)


@pytest.fixture
def odd(cesbr: Cesbr, empty_site: Site) -> Cesbr:
    """A backup with unusual file names; each file contains its own number."""
    for number, name in enumerate(NAMES):
        path = bytes(empty_site.files) + b"/" + name
        Path(os.fsdecode(path)).write_text(f"this is number {number}\n")
    own = cesbr.having(CESBR_ROOT=str(empty_site.root))
    said = own("backup")
    assert said.code == 0, said.err
    return own
