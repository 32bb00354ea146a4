"""init, backup and restore as users run them, with the repository on real servers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.shell.conftest import BINARY, KEY, Cesbr, Site
from tests.support.rest import PASSWORD, RestServer
from tests.support.restic_repo import create
from tests.support.seaweed import BUCKET, KEY_ID, SECRET, SeaweedFS


@dataclass(frozen=True)
class Configured:
    """``cesbr`` on an instance whose repository is on a server, its address, and a secret.

    `replace` copies a local repository over the one on the server.
    """

    cesbr: Cesbr
    address: str
    secret: str
    replace: Callable[[Path], object]


def _replacing(place: Path) -> Callable[[Path], object]:
    def replace(directory: Path) -> None:
        shutil.rmtree(place)
        shutil.copytree(directory, place)

    return replace


@pytest.fixture(params=["s3", "rest", "rest-server", "rclone"])
def configured(
    request: pytest.FixtureRequest, new_site: Site, cesbr: Cesbr, tmp_path: Path
) -> Configured:
    """Each kind of server."""
    kind: str = request.param
    own = cesbr.having(CESBR_ROOT=str(new_site.root))
    if kind == "s3":  # all settings are in the registry, as in CES
        s3: SeaweedFS = request.getfixturevalue("seaweed")
        address = f"{s3.tls_url}/{BUCKET}/{tmp_path.name}"
        bucket = "/config/backup/s3_bucket_config"
        new_site.set("/config/backup/backup_type", "S3")
        new_site.set(f"{bucket}/address", address.removeprefix("s3:"))
        new_site.set(f"{bucket}/access_key_id", KEY_ID)
        new_site.set(f"{bucket}/secret_access_key", SECRET)
        own = own.having(RESTIC_CACERT=str(s3.certificates.authority))

        def replace(directory: Path) -> None:
            s3.remove(BUCKET, tmp_path.name)
            s3.upload(directory, BUCKET, tmp_path.name)

        return Configured(own, address, SECRET, replace)
    if kind.startswith("rest"):
        name = "rest_tls_server" if kind == "rest" else "own_rest_server"
        server: RestServer = request.getfixturevalue(name)
        address = f"{server.url}/{tmp_path.name}/"
        newer = str(request.getfixturevalue("restic_new"))
        own = own.having(CESBR_REPOSITORY=address, CESBR_RESTIC=newer, **server.environment)
        return Configured(own, address, PASSWORD, _replacing(server.root / tmp_path.name))
    request.getfixturevalue("rclone")
    address = f"rclone:{tmp_path / 'remote'}"
    settings = tmp_path / "config.toml"
    settings.write_text(
        f'repository = "{address}"\n[options]\n"rclone.args" = "serve restic --stdio -q"\n'
    )
    own = own.having(CESBR_CONFIG=str(settings))
    return Configured(own, address, "no secret", _replacing(tmp_path / "remote"))


def test_backup_and_restore(configured: Configured, restic_old: Path, tmp_path: Path) -> None:
    """The first command creates a missing repository; restored data is identical."""
    cesbr, address = configured.cesbr, configured.address
    said = cesbr("--no-init", "backups")
    assert said.code == 10
    assert address in said.err
    first = cesbr("backups")
    assert first.code == 0, first.err
    assert "Initialised the repository" in first.err
    assert address in first.err
    # From here on use a repository whose key is fast to derive.
    configured.replace(create(restic_old, tmp_path / "cheap", password=KEY).directory)
    made = cesbr("backup", "--json")
    assert made.code == 0, made.err
    target = tmp_path / "target"
    said = cesbr("restore", "/latest/redmine", "--target", str(target), "--yes")
    assert said.code == 0, said.err
    files = target / "redmine/volumes/files"
    assert (files / "hello.txt").read_text() == "hello\n"
    assert (files / "sub/binary").read_bytes() == BINARY
    wrong = cesbr.having(CESBR_PASSWORD_FILE=str(_written(tmp_path / "key", "another")))("backups")
    assert wrong.code == 12
    status = cesbr("status", "--json")
    assert status.code == 0
    for told in (first, made, said, wrong, status):
        assert configured.secret not in told.out + told.err


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_bucket_that_is_not_there(cesbr: Cesbr, new_site: Site, seaweed: SeaweedFS) -> None:
    """Only init creates a bucket, because the address may be wrong."""
    own = cesbr.having(
        CESBR_ROOT=str(new_site.root),
        CESBR_REPOSITORY=f"{seaweed.url}/shell-made-this/place",
        **seaweed.environment,
    )
    for command in ("backups", "backup"):
        said = own(command)
        assert said.code == 10
        assert "shell-made-this/place does not exist" in said.err
    assert not seaweed.names("shell-made-this")
