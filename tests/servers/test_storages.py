"""Conformance of every registered storage: the same files, the same answers and errors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest

from cesbrfs.repo.location import Access
from cesbrfs.repo.storage import open_storage
from cesbrfs.repo.storage.registry import STORAGES
from tests.support.filled import FILES, KEY, ODD, check_all, fill
from tests.support.rest import RestServer
from tests.support.seaweed import BUCKET, SeaweedFS
from tests.support.sshd import Sshd

Setup = Callable[[pytest.FixtureRequest, Path], Access]


def _local(_request: pytest.FixtureRequest, path: Path) -> Access:
    fill(path)
    return Access(str(path / ODD), KEY)


def _s3(request: pytest.FixtureRequest, path: Path) -> Access:
    server: SeaweedFS = request.getfixturevalue("seaweed")
    for name, data in FILES.items():
        server.put(BUCKET, f"{path.name}/{ODD}/{name}", data)
    url = f"{server.url}/{BUCKET}/{path.name}/{quote(ODD)}"
    return Access(url, KEY, {}, server.environment)


def _rest(request: pytest.FixtureRequest, path: Path) -> Access:
    server: RestServer = request.getfixturevalue("rest_server")
    fill(server.root / path.name)
    return Access(f"{server.url}/{path.name}/{quote(ODD)}", KEY, {}, server.environment)


def _sftp(request: pytest.FixtureRequest, path: Path) -> Access:
    server: Sshd = request.getfixturevalue("sshd")
    fill(path)
    return Access(f"sftp:localhost:{path / ODD}", KEY, {"sftp.command": server.command()})


def _rclone(request: pytest.FixtureRequest, path: Path) -> Access:
    request.getfixturevalue("rclone")
    fill(path)
    return Access(f"rclone:{path / ODD}", KEY)


SETUPS: Final[dict[str, Setup]] = {
    "local": _local,
    "s3": _s3,
    "rest": _rest,
    "sftp": _sftp,
    "rclone": _rclone,
}
"""How to fill each kind of storage; `STORAGES` decides which kinds are tested."""


@pytest.mark.parametrize("kind", sorted(STORAGES))
async def test_lists_reads_and_reports_errors(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    """Listings, whole and partial reads, short files and missing files are the same everywhere."""
    assert kind in SETUPS, f"add a setup for {kind!r} to SETUPS"
    storage = open_storage(SETUPS[kind](request, tmp_path))
    try:
        await check_all(storage)
    finally:
        await storage.aclose()


def test_every_storage_has_a_setup() -> None:
    """Every registered storage has a setup here, and every setup has a storage."""
    assert set(SETUPS) == set(STORAGES)


@pytest.mark.parametrize("kind", sorted(STORAGES))
def test_every_storage_class_loads(kind: str) -> None:
    """The path in the registry names a class with the uniform constructor."""
    assert callable(STORAGES[kind].load().from_access)
