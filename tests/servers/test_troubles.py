"""Errors of a repository on a server: each cause has its own message in every program.

The mount and the shell's commands are started as users start them, against real servers, and
compared with a recent restic. With CESBR_TEST_TROUBLES=docs/faults.md the messages are written
to that file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pytest
import trio

from cesbrfs.errors import CesbrError, UsageError
from cesbrfs.readiness import by_restic
from cesbrfs.repo.location import Access
from cesbrfs.restic import Restic
from cesbrfs.util.secret import Secret
from tests.sample.registry import write
from tests.support.certificates import Certificates
from tests.support.processes import free_ports
from tests.support.project import PROJECT
from tests.support.rest import PASSWORD as REST_PASSWORD
from tests.support.rest import serving as serving_rest
from tests.support.restic_repo import PASSWORD, ResticRepo, create
from tests.support.seaweed import BUCKET, SECRET, SeaweedFS
from tests.support.sshd import Sshd, make_key

_PAGE: Final = os.environ.get("CESBR_TEST_TROUBLES")
_MARK: Final = "<!-- troubles -->\n"
_SECONDS: Final = 60
_USAGE: Final = 2
_MISSING: Final = 10
_WRONG_KEY: Final = 12

_TROUBLES: Final[Mapping[str, Mapping[str, tuple[int, str]]]] = {
    "S3": {
        "invalid address": (_USAGE, "Invalid (repository )?address"),
        "unknown host": (1, "Cannot resolve the host"),
        "connection refused": (1, "Connection refused"),
        "timeout": (1, "No response from|timed out"),
        "server not trusted": (1, "Certificate verification failed"),
        "wrong credentials": (1, "The credentials for .* are wrong"),
        "no permission": (1, "Permission denied"),
        "no bucket": (_MISSING, "The bucket of .* does not exist"),
        "no repository": (_MISSING, "There is no repository"),
        "wrong password": (_WRONG_KEY, "Wrong encryption key"),
    },
    "REST": {
        "invalid address": (_USAGE, "Invalid address"),
        "unknown host": (1, "Cannot resolve the host"),
        "connection refused": (1, "Connection refused"),
        "timeout": (1, "No response from|timed out"),
        "server not trusted": (1, "Certificate verification failed"),
        "wrong credentials": (1, "The credentials for .* are wrong"),
        "no repository": (_MISSING, "There is no repository"),
        "wrong password": (_WRONG_KEY, "Wrong encryption key"),
    },
    "SFTP": {
        "invalid address": (_USAGE, "Invalid repository address"),
        "unknown host": (1, "Cannot resolve the host"),
        "connection refused": (1, "Connection refused"),
        "timeout": (1, "No response from|timed out"),
        "server not trusted": (1, "Unknown host key"),
        "wrong credentials": (1, "Authentication failed"),
        "no permission": (1, "Permission denied"),
        "no repository": (_MISSING, "There is no repository"),
        "wrong password": (_WRONG_KEY, "Wrong encryption key"),
    },
}
"""The exit code, and what the sentence holds."""
_ANSWERED: Final = ("wrong credentials", "no permission", "no repository", "wrong password")
_REMEDY: Final = re.compile(r"(?:\.(?: [A-Z][^()]*)?|;.*)$")
_AS_NOBODY: Final = (
    "setpriv --reuid=65534 --regid=65534 --clear-groups /usr/lib/openssh/sftp-server"
)
"""OpenSSH's server as it runs for a user who may read nothing of ours."""


@dataclass(frozen=True)
class Case:
    """The settings of a repository; `command` is the SFTP command."""

    url: str
    environment: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    key: str = PASSWORD

    def at(self, old: str, new: str) -> Case:
        """Return a copy with another address or command."""
        assert old in self.url + self.command
        return replace(self, url=self.url.replace(old, new), command=self.command.replace(old, new))

    def having(self, **variables: str) -> Case:
        """Return a copy with additional environment variables."""
        return replace(self, environment={**self.environment, **variables})

    @property
    def access(self) -> Access:
        """Return the access that the library uses."""
        options = {"sftp.command": self.command} if self.command else {}
        return Access(self.url, Secret(self.key.encode()), options, self.environment)


@pytest.fixture(scope="module")
def repo(restic_old: Path, tmp_path_factory: pytest.TempPathFactory) -> ResticRepo:
    """A repository without backups, to be copied."""
    return create(restic_old, tmp_path_factory.mktemp("repository") / "troubles")


@pytest.fixture(scope="module")
def silent() -> Iterator[int]:
    """A port that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0), backlog=1_000) as listening:
        yield listening.getsockname()[1]


def _common(right: Case, port: int, silent: int) -> dict[str, Case]:
    """Return the cases that apply to all kinds of servers."""
    (nobody,) = free_ports(1)
    return {
        "unknown host": right.at("127.0.0.1", "host.invalid"),
        "connection refused": right.at(str(port), str(nobody)),
        "timeout": right.at(str(port), str(silent)),
        "no repository": right.at("/troubles", "/nothing"),
        "wrong password": replace(right, key="another"),
    }


@pytest.fixture(scope="module")
def s3_cases(seaweed: SeaweedFS, repo: ResticRepo, silent: int) -> dict[str, Case]:
    """SeaweedFS, with and without TLS."""
    seaweed.upload(repo.directory, BUCKET, "troubles")
    right = Case(f"{seaweed.url}/{BUCKET}/troubles", seaweed.environment)
    return {
        **_common(right, seaweed.port, silent),
        "invalid address": replace(right, url="s3:host"),
        "server not trusted": right.at(seaweed.url, seaweed.tls_url).having(RESTIC_CACERT=""),
        "wrong credentials": right.having(AWS_SECRET_ACCESS_KEY="wrong"),
        "no permission": right.having(**seaweed.of_another),
        "no bucket": right.at(BUCKET, "no-such-bucket"),
    }


@pytest.fixture(scope="module")
def rest_cases(
    rest_server_program: Path,
    certificates: Certificates,
    repo: ResticRepo,
    silent: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Case]]:
    """The REST server of restic, with TLS."""
    directory = tmp_path_factory.mktemp("rest")
    with serving_rest(rest_server_program, directory, certificates) as server:
        shutil.copytree(repo.directory, server.root / "troubles")
        right = Case(f"{server.url}/troubles/", server.environment)
        yield {
            **_common(right, server.port, silent),
            "invalid address": replace(right, url="rest:host"),
            "server not trusted": right.having(RESTIC_CACERT=""),
            "wrong credentials": right.having(RESTIC_REST_PASSWORD="wrong"),
        }


@pytest.fixture(scope="module")
def sftp_cases(
    sshd: Sshd, repo: ResticRepo, silent: int, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Case]:
    """The SFTP server of OpenSSH."""
    directory = tmp_path_factory.mktemp("ssh")
    make_key(directory / "stranger")
    stranger = (sshd.directory / "ssh_config").read_text()
    stranger = stranger.replace(f"{sshd.directory}/user\n", f"{directory}/stranger\n")
    (directory / "config").write_text(stranger)
    right = Case(sshd.url(repo.directory), command=sshd.command())
    unknown = sshd.command("-o UserKnownHostsFile=/dev/null")
    return {
        **_common(right, sshd.port, silent),
        "invalid address": Case("sftp:host"),
        "server not trusted": replace(right, command=unknown),
        "wrong credentials": right.at(
            str(sshd.directory / "ssh_config"), str(directory / "config")
        ),
        "no permission": replace(right, command=_AS_NOBODY),
    }


@dataclass
class Table:
    """The exit code and the state of each error, by kind of server."""

    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, trouble: str, kind: str, code: int, sentence: str) -> None:
        """Record the messages, without the parts that vary between runs."""
        told = re.sub(r"(s3|rest|sftp):\S*?(?=[.:,;)]*(\s|$))", "…", sentence)
        told = _REMEDY.sub("", told)
        told = re.sub(r"/\S*/(?=troubles)", "…/", told)
        told = re.sub(r":\d+|port \d+", "…", told).replace("|", "\\|")
        self.rows.setdefault(trouble, {})[kind] = f"{code}: {told}"

    def text(self) -> str:
        """Return the table in Markdown."""
        lines = [f"| problem | {' | '.join(_TROUBLES)} |", f"|---{'|---' * len(_TROUBLES)}|"]
        lines += [
            f"| {trouble} | {' | '.join(row.get(kind, '') for kind in _TROUBLES)} |"
            for trouble, row in self.rows.items()
        ]
        return "\n".join(lines)


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    """The table; it is written at the end if requested."""
    made = Table({trouble: {} for trouble in _TROUBLES["S3"]})
    yield made
    if _PAGE:
        page = Path(_PAGE)
        head, mark, rest = page.read_text().partition(_MARK)
        after = rest.partition("\n\n")[2]
        page.write_text(f"{head}{mark}{made.text()}\n\n{after}")


@pytest.fixture
def environment(tmp_path: Path, restic_old: Path) -> dict[str, str]:
    """An instance with one dogu, and a short timeout."""
    root = tmp_path / "root"
    volume = root / "var/lib/ces/redmine/volumes/files"
    volume.mkdir(parents=True)
    (volume / "file").write_text("text")
    dogu = {"Name": "official/redmine", "Version": "1-1", "Volumes": [{"Name": "files"}]}
    write(root / "var/lib/cesbr/registry", "/dogu/redmine/current", "1-1")
    write(root / "var/lib/cesbr/registry", "/dogu/redmine/1-1", json.dumps(dogu))
    return {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "CESBR_CONFIG": str(tmp_path / "config.toml"),
        "CESBR_ROOT": str(root),
        "CESBR_RESTIC": str(restic_old),
        "CESBR_PATIENCE": "1",
    }


@pytest.mark.parametrize(
    ("kind", "trouble"), [(kind, name) for kind, names in _TROUBLES.items() for name in names]
)
async def test_each_trouble_has_its_sentence(
    kind: str,
    trouble: str,
    request: pytest.FixtureRequest,
    environment: dict[str, str],
    table: Table,
    restic_new: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mount, reading commands, restic commands and `init` print it, without secrets.

    The errors of old and new restics are interpreted the same way.
    """
    if trouble in _ANSWERED:  # a busy machine may need more than a second for the connection
        environment["CESBR_PATIENCE"] = "20"
    if (kind, trouble) == ("SFTP", "no permission") and os.geteuid() != 0:
        pytest.skip("only root can start a server for another user")
    case: Case = request.getfixturevalue(f"{kind.lower()}_cases")[trouble]
    code, sentence = _TROUBLES[kind][trouble]
    options = f"'sftp.command' = '{case.command}'" if case.command else ""
    (tmp_path / "config.toml").write_text(f"[options]\n{options}\n")
    (tmp_path / "mnt").mkdir()
    environment |= {"CESBR_REPOSITORY": case.url, "RESTIC_PASSWORD": case.key, **case.environment}
    programs = [["cesbrfs", "mnt"], ["cesbr", "backups", "--no-init"]]
    if code != _MISSING:  # they would repair it
        programs += [["cesbr", "init"]]
    if trouble != "timeout":  # restic times out later
        programs += [["cesbr", "backup", "--no-init"]]
    said: list[str] = []

    async def run(*words: str) -> None:
        done = await trio.run_process(
            [sys.executable, "-m", *words],
            env=environment,
            cwd=tmp_path,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        said.append(done.stderr.decode())
        assert done.returncode == code, said
        assert re.search(sentence, said[-1]), said
        assert len(said[-1].splitlines()) == 1
        if words[0] == "cesbrfs":
            table.add(trouble, kind, code, said[-1].strip().removeprefix("cesbrfs: "))

    async def ask_the_new_one() -> None:
        error: CesbrError | None
        try:
            restic = await Restic.open(case.access, binary=str(restic_new))
            error = (await by_restic(restic)).error
        except UsageError as raised:
            error = raised
        assert error is not None
        assert error.exit_code == code
        assert re.search(sentence, error.message), error
        said.append(error.message)

    monkeypatch.setattr("cesbrfs.restic.driver.PROBE_DEADLINE", 2.0)
    with trio.fail_after(_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_the_new_one)
            for program in programs:
                nursery.start_soon(run, *program)
    assert not [x for x in (SECRET, REST_PASSWORD, case.key) if x in "".join(said)]
