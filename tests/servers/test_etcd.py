"""Backups of an instance whose registry is a real etcd, which may be killed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from cesbrfs.backup import BackupResult, Step, plan_backup, run_backup
from cesbrfs.catalog.backups import group
from cesbrfs.catalog.status import Status, make_report
from cesbrfs.ces.etcd import EtcdRegistry
from cesbrfs.ces.instance import Instance
from cesbrfs.errors import RegistryUnreachableError
from cesbrfs.repo.location import Access
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import open_storage
from cesbrfs.restic import Restic
from tests.support.etcd import Etcd, serving
from tests.support.restic_repo import create

DOGUS = ("cas", "redmine")


@pytest.fixture
def server(etcd_program: Path, tmp_path: Path) -> Iterator[Etcd]:
    """Return a separate etcd that contains two dogus."""
    values = {"/config/_global/fqdn": "ces.example.org", "/config/backup/active": "true"}
    for name in DOGUS:
        document = {"Name": f"official/{name}", "Volumes": [{"Name": "data"}]}
        values |= {
            f"/config/{name}/key": f"value of {name}",
            f"/dogu_v2/{name}/current": "1-1",
            f"/dogu_v2/{name}/1-1": json.dumps(document),
        }
    with serving(etcd_program, tmp_path / "etcd") as found:
        found.fill(values)
        yield found


@pytest.fixture
def instance(server: Etcd, tmp_path: Path) -> Instance:
    """Return the instance of that etcd, with files in its volumes."""
    found = Instance(tmp_path / "root", EtcdRegistry(server.url))
    for name in DOGUS:
        directory = found.volumes_directory(name) / "data"
        directory.mkdir(parents=True)
        (directory / "file").write_text(f"content of {name}")
    return found


@pytest.fixture
async def restic(restic_old: Path, tmp_path: Path) -> Restic:
    """Return restic with an empty repository."""
    repo = create(restic_old, tmp_path / "repository")
    return await Restic.open(repo.access, binary=str(restic_old))


@pytest.fixture
async def repository(restic: Restic) -> AsyncIterator[Repository]:
    """Return the same repository, open for reading."""
    access: Access = restic.access
    found = await Repository.open(open_storage(access), access.key)
    yield found
    await found.aclose()


async def statuses(repository: Repository) -> dict[str, Status]:
    """Return the catalog's status of each backup in the repository."""
    found = group(await repository.snapshots()).by_name.values()
    return {backup.id: (await make_report(repository, backup)).status for backup in found}


async def test_etcd_dies_while_a_backup_runs(
    server: Etcd, instance: Instance, restic: Restic, repository: Repository
) -> None:
    """Data read before is saved, the rest is reported; a second backup is complete."""

    async def run(*, killing: bool) -> BackupResult:
        def kill(step: Step) -> None:
            # The event precedes the read: two items run in parallel, and results may be late.
            if killing and step.kind == "registry" and step.dogu:
                server.kill()

        return await run_backup(
            await plan_backup(instance),
            instance=instance,
            restic=restic,
            repository=repository,
            on_progress=kill,
        )

    with trio.fail_after(60):
        first = await run(killing=True)
    assert (first.status, first.exit_code) == ("incomplete", 3)
    saved = {(point.kind, point.dogu) for point in first.points if point.snapshot}
    assert {("registry", None), ("volumes", "cas"), ("volumes", "redmine")} <= saved
    lost = {point.dogu: point for point in first.points if point.failed}
    assert "redmine" in lost
    for point in lost.values():
        assert (point.kind, point.snapshot) == ("registry", None)
        assert "Cannot connect" in point.failed[0].error
    assert await statuses(repository) == {first.id: Status.INCOMPLETE}

    await trio.to_thread.run_sync(server.start)
    second = await run(killing=False)
    assert (second.status, second.failed) == ("complete", ())
    assert await statuses(repository) == {
        first.id: Status.INCOMPLETE,
        second.id: Status.COMPLETE,
    }


@pytest.mark.parametrize("answers", [0, 3, 9])
async def test_etcd_dies_while_a_backup_is_planned(
    server: Etcd, instance: Instance, monkeypatch: pytest.MonkeyPatch, answers: int
) -> None:
    """Planning fails with a connection error rather than use half of the registry."""
    assert isinstance(instance.registry, EtcdRegistry)
    once, left = instance.registry._send, answers

    async def count(*arguments: object, **options: object) -> object:
        nonlocal left
        if left == 0:
            server.kill()
        left -= 1
        return await once(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(instance.registry, "_send", count)
    with trio.fail_after(20), pytest.raises(RegistryUnreachableError):
        await plan_backup(instance)
    assert left < 0
