"""A small instance with its repository, state and cache below one directory, to be copied."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cesbrfs.repo.location import Access
from cesbrfs.util.secret import Secret
from tests.damage.reading import Reading, read_everything
from tests.kill.child import Ended, Planned, cesbr
from tests.sample.registry import write
from tests.support.restic_repo import create

KEY: Final = "the key"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The directory `top`, which always has this path: the registry contains it."""

    work: Path
    restic: Path

    @property
    def top(self) -> Path:
        """Everything that commands may change."""
        return self.work / "top"

    @property
    def root(self) -> Path:
        """The instance."""
        return self.top / "site"

    @property
    def repository(self) -> Path:
        """The repository."""
        return self.root / "srv/backup"

    @property
    def files(self) -> Path:
        """The volume that is backed up."""
        return self.root / "var/lib/ces/redmine/volumes/files"

    @property
    def registry(self) -> Path:
        """The registry."""
        return self.root / "var/lib/cesbr/registry"

    @property
    def cache(self) -> Path:
        """The cache of cesbrfs."""
        return self.top / "cache/cesbrfs"

    @property
    def access(self) -> Access:
        """Address and key of the repository."""
        return Access(str(self.repository), Secret(KEY.encode()))

    @property
    def environment(self) -> dict[str, str]:
        """The environment of ``cesbr``."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.top / "home"),
            "XDG_STATE_HOME": str(self.top / "state"),
            "XDG_CACHE_HOME": str(self.top / "cache"),
            "XDG_CONFIG_HOME": str(self.top / "home/.config"),
            "CESBR_ROOT": str(self.root),
            "CESBR_RESTIC": str(self.restic),
            "TZ": "UTC",
        }

    def cesbr(self, *arguments: str, planned: Planned | None = None) -> Ended:
        """Run one command."""
        place = self.work / "child"
        newest = self.work / "newest"
        named = {"top": str(self.top), "newest": newest.read_text() if newest.exists() else ""}
        arguments = tuple(argument.format_map(named) for argument in arguments)
        return cesbr(arguments, self.environment, place, planned, str(self.top))

    def must(self, *arguments: str) -> Ended:
        """Run one command that must succeed."""
        ended = self.cesbr(*arguments)
        assert ended.code == 0, f"{arguments}: {ended}"
        return ended

    def build(self) -> None:
        """Create the instance, and back it up twice."""
        (self.files / "sub/empty").mkdir(parents=True)
        (self.files / "text").write_text("first\n")
        (self.files / "sub/random").write_bytes(random.Random(1).randbytes(50_000))
        (self.files / "sub/link").symlink_to("../text")
        (self.root / "etc/ces").mkdir(parents=True)
        (self.root / "etc/ces/type").write_text("vm")
        (self.top / "home").mkdir()
        dogu = {"Name": "official/redmine", "Version": "1-1", "Volumes": [{"Name": "files"}]}
        for key, value in (
            ("/config/backup/backup_type", "local"),
            ("/config/backup/local_config/path", str(self.repository)),
            ("/config/backup/encryption_key", KEY),
            ("/config/redmine/title", "first"),
            ("/dogu/redmine/current", "1-1"),
            ("/dogu/redmine/1-1", json.dumps(dogu)),
        ):
            write(self.registry, key, value)
        create(self.restic, self.repository, password=KEY)
        self.must("backup")
        (self.files / "text").write_text("second, longer\n")
        (self.files / "sub/new").write_text("new\n")
        write(self.registry, "/config/redmine/title", "second")
        self.must("backup")
        names = sorted(self.read().statuses)
        (self.work / "newest").write_text(names[-1].decode())

    def save(self, name: str) -> None:
        """Save a copy of everything as `name`."""
        _copy(self.top, self.work / name)

    def load(self, name: str) -> None:
        """Restore the copy `name`."""
        shutil.rmtree(self.top, ignore_errors=True)
        _copy(self.work / name, self.top)

    def read(self, *, cache: Path | None = None, remote: bool = False) -> Reading:
        """Read all backups."""
        return read_everything(self.access, remote=remote, cache=cache)

    def copied_cache(self) -> Path:
        """Return a copy of the cache, which a check may change."""
        copy = self.work / "cache-copy"
        shutil.rmtree(copy, ignore_errors=True)
        if self.cache.exists():
            _copy(self.cache, copy)
        return copy


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", source, target], check=True)


def digests(reading: Reading) -> dict[str, str]:
    """Return a digest of everything that each complete backup contains, by ID."""
    found: dict[str, str] = {}
    for name, status in reading.statuses.items():
        if status == "complete":
            lines = sorted(
                repr((path.removeprefix(name), record.mode, record.content, record.target))
                for path, record in reading.records.items()
                if path.startswith(name + b"/")
            )
            found[name.decode()] = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return found


def contents(top: Path, hidden: Sequence[str] = (".",)) -> dict[str, str]:
    """Return the content of each file below `top`, except those with a `hidden` prefix."""
    found: dict[str, str] = {}
    for directory, _, names in os.walk(top):
        for name in names:
            path = Path(directory, name)
            if not name.startswith(tuple(hidden)) and path.is_file():
                found[str(path.relative_to(top))] = path.read_bytes().decode("latin-1")
    return found
