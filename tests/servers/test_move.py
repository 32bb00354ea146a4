"""Move the sample instance: back it up and restore files and registry to an empty instance.

Uses the file registry and a real etcd, including an etcd that is killed during the work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from cesbrfs.backup import Step, plan_backup, run_backup
from cesbrfs.catalog.status import Status
from cesbrfs.ces.etcd import EtcdRegistry
from cesbrfs.ces.instance import Instance
from cesbrfs.ces.registry import FileRegistry, Registry
from cesbrfs.errors import RegistryUnreachableError
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import open_storage
from cesbrfs.restic import Restic
from cesbrfs.restore import InPlace, Overwrite, execute, make_plan, select
from cesbrfs.restore.registry import RegistryReport, plan_registry, write_registry
from cesbrfs.vfs.tree import BackupTree
from tests.sample.instance import Instance as Sample
from tests.sample.registry import write
from tests.support.compare import differences, records
from tests.support.etcd import Etcd, serving
from tests.support.restic_repo import create


@dataclass(frozen=True, slots=True)
class Place:
    """A sample instance, its backup repository, and access for restic and the reader."""

    sample: Sample
    restic: Restic
    repository: Repository


@pytest.fixture
async def place(
    tmp_path: Path, restic_new: Path, make_instance: Callable[[Path], Sample]
) -> AsyncIterator[Place]:
    """A complete sample instance with an empty repository; old restics lose bytes of links."""
    sample = make_instance(tmp_path / "old")
    create(restic_new, sample.repository, password=sample.key)
    restic = await Restic.open(sample.access, binary=str(restic_new))
    repository = await Repository.open(open_storage(sample.access), sample.access.key)
    yield Place(sample, restic, repository)
    await repository.aclose()


async def held(registry: Registry) -> dict[str, str]:
    """Return all keys that a backup stores: installed packages, not runtime state."""
    instance = Instance(Path("/nowhere"), registry)
    values = dict((await instance.instance_registry()).values)
    for dogu in await instance.dogus():
        values |= (await instance.dogu_registry(dogu.name)).values
    return values


async def move_files(view: BackupTree, backup: str, root: Path) -> None:
    """Restore everything that has a location on an instance."""
    everything = select([await view.resolve(f"/{backup}")])
    planned = await make_plan(view, everything, InPlace(root), Overwrite.ALWAYS)
    report = await execute(view, planned)
    assert (report.failed, report.exit_code) == ([], 0)


def assert_files_alike(old: Sample, root: Path) -> None:
    """Check that every backed-up volume and the configuration are unchanged."""
    places = ["etc/ces", "etc/cesapp"]
    for dogu in old.dogus:
        volumes = [volume.name for volume in dogu.volumes if volume.saved]
        places += [
            f"var/lib/ces/{dogu.name}/volumes/{name}"
            for name in (*volumes, *(["_private"] if dogu.volumes else []))
        ]
    assert len(places) > 20
    for found in places:
        differ = differences(records(str(old.root / found)), records(str(root / found)))
        # Sockets are created by their servers.
        assert [line for line in differ if not line.endswith("/socket'")] == []


@pytest.mark.parametrize("kind", ["files", "etcd"])
async def test_an_instance_is_moved(
    kind: str, place: Place, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A backup restored to an empty instance is identical to the original."""
    old: Registry = FileRegistry(place.sample.registry)
    new: Registry = FileRegistry(tmp_path / "new/var/lib/cesbr/registry")
    server: Etcd | None = None
    if kind == "etcd":
        server = request.getfixturevalue("etcd")
        assert isinstance(server, Etcd)
        server.pour(place.sample.registry)
        old = new = EtcdRegistry(server.url)
    before = await held(old)
    assert len(before) > 100
    source = Instance(place.sample.root, old)
    result = await run_backup(
        await plan_backup(source),
        instance=source,
        restic=place.restic,
        repository=place.repository,
    )
    assert result.status == "complete"
    if server is not None:
        server.wipe()
    assert await held(new) == {}
    (tmp_path / "new").mkdir(exist_ok=True)
    target = Instance(tmp_path / "new", new)
    view = BackupTree(place.repository)
    await move_files(view, result.id, target.root)
    planned = await plan_registry(view, await view.find_backup("latest"), target)
    report = RegistryReport(planned)
    await write_registry(new, report)
    assert (report.written, report.exit_code) == (len(before), 0)
    assert await held(new) == before
    assert_files_alike(place.sample, target.root)
    moved = {dogu.name: dogu.version for dogu in await target.dogus()}
    assert moved == {dogu.name: dogu.version for dogu in place.sample.dogus}


@pytest.fixture
async def one_backup(place: Place) -> str:
    """The ID of a backup of two dogus' keys and of the global keys."""
    for dogu in place.sample.dogus:
        if dogu.name not in {"plantuml", "postfix"}:  # each item needs a restic process
            for tree in ("dogu", "dogu_v2"):
                (place.sample.registry / tree / dogu.name / "current").unlink(missing_ok=True)
    source = Instance(place.sample.root, FileRegistry(place.sample.registry))
    result = await run_backup(
        await plan_backup(source), instance=source, restic=place.restic, repository=place.repository
    )
    return result.id


async def test_etcd_is_killed_in_the_middle_of_a_restore(
    place: Place, one_backup: str, etcd_program: Path, tmp_path: Path
) -> None:
    """Written keys are counted, the rest reported; a repeat writes only the rest."""
    view = BackupTree(place.repository)
    backup = await view.find_backup(one_backup)
    with serving(etcd_program, tmp_path / "etcd") as server:
        target = Instance(tmp_path / "new", EtcdRegistry(server.url))
        planned = await plan_registry(view, backup, target)
        report = RegistryReport(planned)

        def kill() -> None:
            if report.settled == 5:
                server.kill()

        await write_registry(target.registry, report, kill)
        assert (report.written, report.exit_code) == (5, 3)
        assert [f.key for f in report.failed] == [change.key for change in planned.changes[5:]]
        first, *rest = report.failed
        assert server.url in first.error
        assert all("Not tried" in failure.error for failure in rest)
        with pytest.raises(RegistryUnreachableError):
            await plan_registry(view, backup, target)
        server.start()
        assert await target.dogus() == []  # a partly written dogu does not count as installed
        again = await plan_registry(view, backup, target)
        assert (len(again.changes), again.same) == (len(planned.changes) - 5, 5)
        report = RegistryReport(again)
        await write_registry(target.registry, report)
        assert report.exit_code == 0
        assert await held(target.registry) == await held(FileRegistry(place.sample.registry))


async def test_etcd_is_killed_in_the_middle_of_a_backup(
    place: Place, etcd_program: Path, tmp_path: Path
) -> None:
    """Unreadable keys are reported and the backup is incomplete; a repeat is complete."""
    directory = tmp_path / "few"
    for key, value in {
        "/config/_global/fqdn": "ces.example.org",
        "/config/redmine/a": "1",
        "/dogu/redmine/current": "6.1.3-2",
        "/dogu/redmine/6.1.3-2": '{"Name": "official/redmine", "Volumes": [{"Name": "files"}]}',
    }.items():
        write(directory, key, value)
    view = BackupTree(place.repository)
    with serving(etcd_program, tmp_path / "etcd") as server:
        server.pour(directory)
        source = Instance(place.sample.root, EtcdRegistry(server.url))

        def kill(step: Step) -> None:
            if step.kind == "configuration" and step.result is not None:
                server.kill()

        planned = await plan_backup(source)
        first = await run_backup(
            planned,
            instance=source,
            restic=place.restic,
            repository=place.repository,
            on_progress=kill,
        )
        assert first.exit_code == 3
        assert {failure.path for failure in first.failed} == {b"registry.json"}
        assert all(server.url in failure.error for failure in first.failed)
        kinds = {(p.kind, p.dogu): p.snapshot for p in first.points}
        assert kinds["registry", "redmine"] is None
        assert kinds["volumes", "redmine"] is not None
        told = await view.reports.of(await view.find_backup(first.id))
        assert told.status is Status.INCOMPLETE
        server.start()
        second = await run_backup(
            await plan_backup(source),
            instance=source,
            restic=place.restic,
            repository=place.repository,
        )
        assert second.status == "complete"
        latest = await view.find_backup("latest")
        assert latest.id == second.id
