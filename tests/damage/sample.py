"""Build the small repository that the campaign damages, with the real restic.

one, two     backups of cesbr: a snapshot for each volume and document, and a manifest
night        a backup of another tool: one snapshot of the whole instance
(no tag)     a snapshot whose blobs are in other packs a second time
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cesbrfs.repo.location import Access
from tests.support.restic_repo import ResticRepo, add_key, create

_LARGE_BYTES: Final = 5 << 19
"""Size of the file that restic divides into several blobs (of at least 512 KiB)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A repository of one format, and the restic that wrote it."""

    version: int
    repo: ResticRepo

    @property
    def directory(self) -> Path:
        """The directory of the repository."""
        return self.repo.directory

    @property
    def access(self) -> Access:
        """Address and password of the repository."""
        return self.repo.access


def build(restic: Path, directory: Path, version: int) -> Sample:
    """Write files of an instance in `directory`, and a repository with four backups of them.

    A repository of format 1 has one key file, one of format 2 has two.
    """
    directory.mkdir(parents=True)
    repo = create(restic, directory / "repo", version=version)
    ces = directory / "root/var/lib/ces"
    _fill(ces)
    for name in ("one", "two"):
        _back_up_like_cesbr(repo, ces, name)
        _change(ces, name)
    repo.backup(directory / "root", tags=["night"])
    _back_up_again(repo, ces / "cas")
    if version > 1:
        add_key(repo)
    return Sample(version, repo)


def _fill(ces: Path) -> None:
    data = random.Random(1)
    files = ces / "redmine/volumes/files"
    services = ces / "cas/volumes/services"
    database = ces / "ldap/volumes/db"
    for directory in (files / "2026/02", files / "empty", services, database):
        directory.mkdir(parents=True)
    for number in range(6):
        (files / f"2026/02/{number}").write_bytes(data.randbytes(200 << number))
        (services / f"{number}.json").write_text(json.dumps({"id": number}) * 40)
    (files / "large").write_bytes(data.randbytes(_LARGE_BYTES))
    (files / "nothing").touch()
    (files / "2026/text").write_text("all work and no play\n" * 2_000)
    (files / "link").symlink_to("2026/text")
    os.link(files / "2026/text", files / "twin")
    os.setxattr(files / "2026/text", "user.note", b"a value")
    os.setxattr(files / "2026", "user.note", b"of a directory")
    os.mkfifo(files / "pipe")
    (database / "data.mdb").write_bytes(data.randbytes(30_000))
    configuration = ces.parents[2] / "etc/ces"
    configuration.mkdir(parents=True)
    (configuration / "type").write_text("vm")


def _change(ces: Path, name: str) -> None:
    (ces / "redmine/volumes/files/2026" / f"after {name}").write_bytes(os.urandom(500))
    (ces / "cas/volumes/services/0.json").write_text(json.dumps({"id": name}) * 50)


def _back_up_like_cesbr(repo: ResticRepo, ces: Path, name: str) -> None:
    points: list[dict[str, Any]] = []

    def backed_up(
        kind: str, dogu: str | None, *paths: Path, stdin: tuple[str, bytes] | None = None
    ) -> None:
        tags = [name, f"kind={kind}", *([f"dogu={dogu}"] if dogu else [])]
        snapshot = repo.backup(*paths, tags=tags, stdin=stdin)
        points.append({"kind": kind, "dogu": dogu, "snapshot": snapshot, "bytes": None})

    for dogu in ("redmine", "cas"):
        backed_up("volumes", dogu, ces / dogu / "volumes")
    backed_up("configuration", None, ces.parents[2] / "etc/ces")
    document = json.dumps({"Name": "official/redmine", "Version": name}).encode()
    backed_up("metadata", "redmine", stdin=("dogu.json", document))
    manifest = {"format": 1, "id": name, "time": "2026-11-22T21:30:00Z", "host": "ces"}
    content = json.dumps({**manifest, "points": points}).encode()
    repo.backup(tags=[name, "kind=manifest"], stdin=("manifest.json", content))


def _back_up_again(repo: ResticRepo, directory: Path) -> None:
    """Back up without the index, so that all blobs are stored a second time."""
    index, aside = repo.directory / "index", repo.directory / "aside"
    index.rename(aside)
    index.mkdir()
    repo.run("backup", "--quiet", "--force", directory)
    for file in aside.iterdir():
        file.rename(index / file.name)
    aside.rmdir()
