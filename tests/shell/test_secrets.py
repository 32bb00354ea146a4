"""Trace every command with strace, and search for the password and the keys."""

from __future__ import annotations

import base64
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cesbr.commands import MODULES

from cesbrfs.repo.format.crypto import Keys, open_master_key
from cesbrfs.repo.format.model import parse_key_file
from cesbrfs.repo.kdf import derive_keys
from tests.shell.conftest import KEY, Cesbr, Site
from tests.support.mounting import fuse_missing

pytestmark = [
    pytest.mark.skipif(fuse_missing() is not None, reason=str(fuse_missing())),
    pytest.mark.skipif(not shutil.which("strace"), reason="no strace; `make install` installs it"),
]

_CALLS = "execve,write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,openat"
_NEW = "the new password of a key"
_VOLUME = "/latest/redmine/volumes/files"
_SCRIPT = f"""
init
status
doctor
policies
backup
backups
use latest
cd redmine
pwd
ls -lR /
tree /
stat {_VOLUME}/hello.txt
cat {_VOLUME}/hello.txt | grep hello
less {_VOLUME}/hello.txt
find --name hello.txt
versions {_VOLUME}/hello.txt
log /
grep hello
diff latest~1 latest
du /
select {_VOLUME}
selected
plan
deselect {_VOLUME}
export {_VOLUME} -o files.tar
restore {_VOLUME} --target restored -y
undo --list
drill --sample 1 --scratch .
restore-registry redmine -y
protect latest
unprotect latest
note latest "a note"
copy latest --to copied --init
key add --new-password-file ../new-password -y
check
unlock
forget --keep-last 2 -y
metrics
schedule --at 21:30 --unit-dir units
config check
config init --output new.toml
completion bash
mount mnt
refresh mnt
umount mnt
ls /nothing
"""
"""All commands that need no terminal; only the last one fails."""
_INTERACTIVE = "browse"


@dataclass(frozen=True)
class Traced:
    """The output of commands and all their system calls; strings in the calls are in hex."""

    site: Site
    here: Path
    calls: str = field(repr=False)
    secrets: dict[str, bytes] = field(repr=False)

    def encoded(self) -> Iterator[tuple[str, bytes]]:
        """Yield the name and each representation of each secret."""
        for name, secret in self.secrets.items():
            for form in (
                secret,
                secret.hex().encode(),
                base64.b64encode(secret).rstrip(b"="),
                base64.urlsafe_b64encode(secret).rstrip(b"="),
            ):
                yield name, form

    def found_in(self, data: bytes) -> set[str]:
        """Return the names of the secrets in `data`."""
        return {name for name, form in self.encoded() if form in data}


def _keys(site: Site) -> dict[str, bytes]:
    password = KEY.encode()
    path = min((site.repository / "keys").iterdir(), key=lambda file: file.stat().st_mtime)
    key_file = parse_key_file(path.read_bytes())
    derived = derive_keys(password, key_file)
    master = open_master_key(derived, key_file)

    def parts(name: str, keys: Keys) -> dict[str, bytes]:
        found = {"encrypt": keys.encrypt, "mac_k": keys.mac_k, "mac_r": keys.mac_r}
        return {f"{name} {part}": value for part, value in found.items()}

    return {
        "password": password.strip(),
        "new password": _NEW.encode(),
        **parts("derived", derived),
        **parts("master", master),
    }


@pytest.fixture(scope="module")
def traced(
    tmp_path_factory: pytest.TempPathFactory, kept_site: Site, restic_old: Path
) -> Iterator[Traced]:
    """All commands on a copy of the backups, the repository's password in the environment."""
    top = tmp_path_factory.mktemp("traced")
    shutil.copytree(kept_site.root, top / "site", symlinks=True)
    site = Site(top / "site", top / "site/srv/backup")
    site.set("/config/backup/local_config/path", str(site.repository))
    here = top / "here"
    (top / "new-password").write_text(_NEW)
    for directory in ("home", "tmp", "mnt", "copied", "units"):
        (here / directory).mkdir(parents=True)
    trace = top / "trace"
    cesbr = Cesbr(
        here,
        {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": str(here / "home"),
            "TMPDIR": str(here / "tmp"),
            "LANG": "C.UTF-8",
            "PAGER": "cat",
            "CESBR_ROOT": str(site.root),
            "CESBR_RESTIC": str(restic_old),
            "RESTIC_PASSWORD": KEY,
        },
    )
    strace = ["strace", "--follow-forks", "--seccomp-bpf", "-qq", "-xx", "-v", "-y"]
    command = [*strace, "-s", "1000000", "-o", str(trace), "-e", f"trace={_CALLS}", *cesbr.command]
    with (here / "out").open("wb") as out, (here / "err").open("wb") as err:
        subprocess.run(
            [*command, "--debug"],
            env=cesbr.environ,
            cwd=here,
            input=_SCRIPT.encode(),
            stdout=out,
            stderr=err,
            check=False,
            timeout=200,
        )
    yield Traced(site, here, trace.read_text().replace("\\x", ""), _keys(site))
    subprocess.run(["fusermount3", "-uzq", here / "mnt"], check=False, capture_output=True)


def test_it_traces_every_command(traced: Traced) -> None:
    """All commands of the script ran, and fail here if a new command is missing from it."""
    every = {name for names in MODULES.values() for name in names}
    assert {line.split()[0] for line in _SCRIPT.split("\n") if line} == every - {_INTERACTIVE}
    error = (traced.here / "err").read_text()
    assert "Traceback" in error
    *_, last = error.splitlines()
    assert last.endswith("ls /nothing"), error


_OWN = ("home/.cache/cesbrfs", "home/.local/state/cesbr")
_WRITTEN_TO = re.compile(r"\(\d+<([^>]*)>")
_PASSED = ("pipe:", "UNIX-STREAM:", "/memfd:")
_EXECVE = re.compile(r'execve\("([0-9a-f]*)", \[([^]]*)\], \[([^]]*)\]')


def _strings(text: str) -> list[bytes]:
    return [bytes.fromhex(found) for found in re.findall('"([0-9a-f]*)"', text)]


def test_no_secret_is_in_arguments_or_environments(traced: Traced) -> None:
    """Only restic gets the password, in its environment, if it would change it in a file."""
    programs = set()
    for program, arguments, environment in _EXECVE.findall(traced.calls):
        name = os.path.basename(bytes.fromhex(program)).decode()
        given = _strings(arguments)
        programs.add(name)
        assert not traced.found_in(b"\0".join(given)), given
        by_test = given[1:3] == [b"-m", b"cesbr"]
        if name != "restic" and not by_test:
            assert not traced.found_in(b"\0".join(_strings(environment))), given
    assert programs >= {"restic", "fusermount3", "sh"}


def test_no_secret_is_written(traced: Traced) -> None:
    """Neither to files, nor to terminals or over the network: only to our own child processes."""
    secrets = [(name, form.hex()) for name, form in traced.encoded()]
    passed = set()
    for line in traced.calls.splitlines():
        found = {name for name, form in secrets if form in line}
        if found and "execve(" not in line:
            to = bytes.fromhex(_WRITTEN_TO.search(line)[1]).decode()  # type: ignore[index]  # a write
            assert to.startswith(_PASSED), (found, to)
            passed.add(to.partition(":")[0])
    assert passed == {"/memfd", "pipe"}, "the mount got the key, and restic a new one"


def test_no_secret_is_in_a_file(traced: Traced) -> None:
    """Output, logs, caches, history, selections and leftovers contain none; all are private."""
    private = 0
    for top, directories, names in os.walk(traced.here):
        for name in names:
            file = Path(top, name)
            if file.is_file():
                assert not traced.found_in(file.read_bytes()), file
        if any(top.startswith(str(traced.here / own)) for own in _OWN):
            for path in [Path(top, name) for name in directories + names]:
                assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path
                private += 1
    assert private > 10
    assert not os.listdir(traced.here / "tmp")
    for top, _, names in os.walk(traced.site.repository):
        assert not [name for name in names if traced.found_in(Path(top, name).read_bytes())]
