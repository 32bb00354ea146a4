"""Create small real repositories with a restic binary.

``restic init`` takes seconds, and scrypt half a second each time a repository is opened. `create`
therefore runs it once per format and copies the result with a key file whose scrypt parameters are
minimal; restic and our reader accept it. `init` returns an unmodified repository of restic.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cesbrfs.repo.format import crypto
from cesbrfs.repo.format.model import KeyFile, parse_key_file
from cesbrfs.repo.kdf import derive_keys
from cesbrfs.repo.location import Access
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import open_storage
from cesbrfs.util.secret import Secret

PASSWORD: Final = "a throw-away key"
_CHEAP_N: Final = 2


@dataclass(frozen=True, slots=True)
class ResticRepo:
    """A repository in `directory`, and the restic `binary` to use."""

    binary: Path
    directory: Path
    password: str = PASSWORD

    @property
    def access(self) -> Access:
        """Address and password, for our reader and our restic driver."""
        return Access(str(self.directory), Secret(self.password.encode()))

    def using(self, binary: Path) -> ResticRepo:
        """Return the same repository with another restic binary."""
        return replace(self, binary=binary)

    def run(
        self,
        *arguments: str | Path,
        cwd: Path | None = None,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> bytes:
        """Run restic and return its standard output; raises if restic fails."""
        done = subprocess.run(
            [self.binary, "--no-cache", "-r", self.directory, *arguments],
            cwd=cwd,
            input=stdin,
            capture_output=True,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.directory.parent),
                "RESTIC_PASSWORD": self.password,
                **(environment or {}),
            },
        )
        assert done.returncode == 0, f"{done.args}: {done.stderr.decode(errors='replace')}"
        return done.stdout

    def backup(
        self,
        *paths: str | Path,
        tags: Iterable[str] = (),
        time: str | None = None,
        cwd: Path | None = None,
        stdin: tuple[str, bytes] | None = None,
    ) -> str:
        """Make a backup and return the full ID of the snapshot.

        `time` has the format of ``restic backup --time``; `stdin` is a file name and its content.
        """
        before = self.snapshot_ids()
        options = [part for tag in tags for part in ("--tag", tag)]
        if time:
            options += ["--time", time]
        if stdin:
            options += ["--stdin", "--stdin-filename", stdin[0]]
        self.run("backup", "--quiet", *options, *paths, cwd=cwd, stdin=stdin[1] if stdin else b"")
        (new,) = self.snapshot_ids() - before
        return new

    def snapshot_ids(self) -> set[str]:
        """Return the full IDs of all snapshots."""
        return set(os.listdir(self.directory / "snapshots"))

    def snapshots(self) -> list[dict[str, Any]]:
        """Return the parsed output of ``restic snapshots --json``."""
        found: list[dict[str, Any]] = json.loads(self.run("snapshots", "--json"))
        return found

    async def open(self) -> Repository:
        """Open the repository with our reader."""
        return await Repository.open(open_storage(self.access), self.access.key)


def init(
    binary: Path, directory: Path, *, version: int = 2, password: str = PASSWORD
) -> ResticRepo:
    """Create an empty repository of format `version` with ``restic init`` (three seconds)."""
    repo = ResticRepo(binary, directory, password)
    repo.run("init", "--repository-version", str(version))
    return repo


@dataclass(frozen=True, slots=True)
class _Made:
    """Result of ``restic init``: config, fields of the key file, master key as JSON."""

    config: bytes
    fields: dict[str, Any]
    master: bytes


_made: Final[dict[int, _Made]] = {}
"""By repository format."""


def create(
    binary: Path, directory: Path, *, version: int = 2, password: str = PASSWORD
) -> ResticRepo:
    """Create an empty repository of format `version` that opens in milliseconds."""
    if version not in _made:
        with tempfile.TemporaryDirectory() as place:
            _made[version] = _read(init(binary, Path(place) / "repo", version=version))
    made = _made[version]
    for name in ("keys", "snapshots", "index", "locks", *(f"data/{n:02x}" for n in range(256))):
        (directory / name).mkdir(parents=True)
    (directory / "config").write_bytes(made.config)
    repo = ResticRepo(binary, directory, password)
    _write_key(repo, made)
    return repo


def cheapen(repo: ResticRepo) -> None:
    """Replace the only key file by one with minimal scrypt parameters."""
    made = _read(repo)
    (old,) = (repo.directory / "keys").iterdir()
    _write_key(repo, made)
    old.unlink()


def cheapen_key(repo: ResticRepo) -> None:
    """Give the key file that the password opens minimal scrypt parameters, and a new ID."""
    for path in (repo.directory / "keys").iterdir():
        with contextlib.suppress(crypto.BadMacError):
            if json.loads(path.read_bytes())["N"] > _CHEAP_N:
                made = _read_from(repo, path)
                _write_key(repo, made)
                path.unlink()


def reseal(repo: ResticRepo, password: str) -> None:
    """Replace the only key file by one that `password` opens."""
    made = _read(repo)
    (old,) = (repo.directory / "keys").iterdir()
    _write_key(replace(repo, password=password), made)
    old.unlink()


def add_key(repo: ResticRepo) -> None:
    """Add a key file for the same password to a repository with one key file."""
    _write_key(repo, _read(repo))


def _write_key(repo: ResticRepo, made: _Made) -> None:
    key_file = _seal_cheaply(made, repo.password.encode())
    (repo.directory / "keys" / hashlib.sha256(key_file).hexdigest()).write_bytes(key_file)


def _read(repo: ResticRepo) -> _Made:
    (path,) = (repo.directory / "keys").iterdir()
    return _read_from(repo, path)


def _read_from(repo: ResticRepo, path: Path) -> _Made:
    key_file = parse_key_file(path.read_bytes())
    keys = derive_keys(repo.password.encode(), key_file)
    master = crypto.open_record(keys, key_file.data or b"")
    return _Made((repo.directory / "config").read_bytes(), json.loads(path.read_bytes()), master)


def _seal_cheaply(made: _Made, password: bytes) -> bytes:
    """Return a key file with the same master key and minimal scrypt parameters (1 ms)."""
    new = KeyFile(kdf="scrypt", N=_CHEAP_N, r=8, p=1, salt=os.urandom(64))
    sealed = crypto.seal_record(derive_keys(password, new), made.master, os.urandom(16))
    fields = made.fields | {
        "N": new.N,
        "r": new.r,
        "p": new.p,
        "salt": base64.b64encode(new.salt or b"").decode(),
        "data": base64.b64encode(sealed).decode(),
    }
    return json.dumps(fields).encode()
