"""Backups of an instance made by real restics, read back by our own reader."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from cesbrfs.backup import BackupPlan, BackupResult, Step, plan_backup, run_backup
from cesbrfs.catalog.backups import Backup, group
from cesbrfs.catalog.status import Status, make_report, read_manifest
from cesbrfs.ces.backup_lock import LOCK_FILE
from cesbrfs.ces.instance import Instance
from cesbrfs.ces.registry import FileRegistry
from cesbrfs.errors import (
    BackupRunningError,
    RepositoryMissingError,
    ResticError,
    UsageError,
    WrongKeyError,
)
from cesbrfs.repo.format.model import Snapshot
from cesbrfs.repo.location import Access
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import open_storage
from cesbrfs.restic import Restic, Summary, Version
from cesbrfs.restore.executor import execute
from cesbrfs.restore.planner import make_plan
from cesbrfs.restore.selection import select
from cesbrfs.restore.targets import ToDirectory
from cesbrfs.util.secret import Secret
from cesbrfs.vfs.tree import BackupTree
from tests.sample.instance import Instance as Sample
from tests.support.project import PROJECT
from tests.support.restic_repo import ResticRepo, create


@dataclass(slots=True)
class Site:
    """A small instance, its repository, and access to it for restic and for the reader."""

    instance: Instance
    registry: FileRegistry
    restic: Restic
    repository: Repository

    async def run(
        self, *dogus: str, on_progress: Callable[[Step], None] | None = None
    ) -> BackupResult:
        """Back up these dogus, or the whole instance."""
        return await self.run_plan(await plan_backup(self.instance, dogus or None), on_progress)

    async def run_plan(
        self, plan: BackupPlan, on_progress: Callable[[Step], None] | None = None
    ) -> BackupResult:
        """Back up according to an existing plan."""
        return await run_backup(
            plan,
            instance=self.instance,
            restic=self.restic,
            repository=self.repository,
            on_progress=on_progress,
        )

    async def backup(self) -> Backup:
        """Return the only backup in the repository."""
        (backup,) = group(await self.repository.snapshots()).by_name.values()
        return backup

    async def status(self) -> Status:
        """Return the catalog's status of the only backup."""
        return (await make_report(self.repository, await self.backup())).status

    async def document(self, snapshot: str | None, name: str) -> bytes:
        """Return the only file of a snapshot that was made from memory."""
        (found,) = [s for s in await self.repository.snapshots() if s.id == snapshot]
        nodes = (await self.repository.trees.root(found)).nodes
        assert list(nodes) == [name.encode()]
        content = await self.repository.open_file(nodes[name.encode()])
        return await content.read(0, content.size)


async def add_dogu(site: Site, name: str, *volumes: str, on_disk: bool = True) -> None:
    """Install a dogu whose volumes all need a backup."""
    await site.registry.set(f"/config/{name}/key", f"value of {name}")
    await site.registry.set(f"/dogu_v2/{name}/current", "1-1")
    document = {"Name": f"official/{name}", "Volumes": [{"Name": v} for v in volumes]}
    await site.registry.set(f"/dogu_v2/{name}/1-1", json.dumps(document))
    for volume in volumes if on_disk else ():
        directory = site.instance.volumes_directory(name) / volume
        directory.mkdir(parents=True)
        (directory / "file").write_text(f"content of {name}")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, restic_old: Path) -> ResticRepo:
    """Return an empty repository to copy, for both versions of restic."""
    return create(restic_old, tmp_path_factory.mktemp("template") / "repository")


async def make_site(directory: Path, binary: Path, template: ResticRepo) -> Site:
    """Return an empty instance and an empty repository."""
    access = Access(str(directory / "repository"), template.access.key)
    shutil.copytree(template.directory, access.url)
    restic = await Restic.open(access, binary=str(binary))
    repository = await Repository.open(open_storage(access), access.key)
    registry = FileRegistry(directory / "registry")
    return Site(Instance(directory / "root", registry), registry, restic, repository)


@pytest.fixture
async def both(tmp_path: Path, restic_binary: Path, template: ResticRepo) -> Site:
    """Return an empty site, for each version of restic."""
    return await make_site(tmp_path, restic_binary, template)


@pytest.fixture
async def site(tmp_path: Path, restic_old: Path, template: ResticRepo) -> Site:
    """Return an empty site for tests that do not depend on the version of restic."""
    return await make_site(tmp_path, restic_old, template)


def wrap(site: Site, directory: Path, script: str) -> None:
    """Replace restic by `script`, in which RESTIC is the real program."""
    wrapper = directory / "restic-wrapper"
    real = shlex.quote(str(site.restic.binary))
    wrapper.write_text(f"#!/bin/sh\n{script.replace('RESTIC', real)}\n")
    wrapper.chmod(0o755)
    site.restic = Restic(wrapper, site.restic.version, site.restic.access)


def tag_of(snapshot: Snapshot, key: str) -> str | None:
    return next((t.partition("=")[2] for t in snapshot.tags if t.startswith(f"{key}=")), None)


async def test_what_is_not_there_is_not_missing(site: Site) -> None:
    """Without configuration directories on the instance, backups count as complete."""
    await add_dogu(site, "redmine", "files")
    result = await site.run()
    assert [(p.kind, p.snapshot) for p in result.points if not p.snapshot] == [
        ("configuration", None)
    ]
    assert result.status == "complete"
    assert await site.status() is Status.COMPLETE


async def test_a_backup_is_complete_and_says_what_it_holds(
    both: Site, tmp_path: Path, make_instance: Callable[[Path], Sample]
) -> None:
    """Every item has a tagged snapshot with the right content; the manifest lists them."""
    sample = make_instance(tmp_path / "ces")
    both.registry = FileRegistry(sample.registry)
    both.instance = Instance(sample.root, both.registry)
    for dogu in sample.dogus:
        if dogu.name not in {"redmine", "plantuml"}:  # each item needs a restic process
            await both.registry.delete(f"/dogu/{dogu.name}/current")
            await both.registry.delete(f"/dogu_v2/{dogu.name}/current")
    result = await both.run()
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{6}", result.id)
    assert (result.status, result.exit_code, result.failed) == ("complete", 0, ())
    assert [(p.kind, p.dogu) for p in result.points] == [
        ("configuration", None),
        ("registry", None),
        ("metadata", "plantuml"),
        ("registry", "plantuml"),
        ("metadata", "redmine"),
        ("registry", "redmine"),
        ("volumes", "redmine"),
    ]
    backup = await both.backup()
    assert backup.id == result.id
    assert await both.status() is Status.COMPLETE
    found = {s.id: s for s in backup.snapshots}
    assert len(found) == len(result.points)
    for point in result.points:
        snapshot = found[point.snapshot or ""]
        of = () if point.dogu is None else (f"dogu={point.dogu}",)
        assert snapshot.tags == (result.id, f"kind={point.kind}", *of)
        assert snapshot.hostname == "ces.example.org"
        assert point.files > 0
        assert point.bytes > 0
    by_point = {(p.kind, p.dogu): p for p in result.points}
    volumes = sample.root / "var/lib/ces/redmine/volumes"
    expected = {str(volumes / n) for n in ("files", "plugins", "localConfig", "_private")}
    assert set(found[by_point["volumes", "redmine"].snapshot or ""].paths) == expected
    assert set(found[by_point["configuration", None].snapshot or ""].paths) == {
        str(sample.root / "etc/ces"),
        str(sample.root / "etc/cesapp"),
    }
    current = await both.registry.get("/dogu_v2/redmine/current")
    metadata = await both.document(by_point["metadata", "redmine"].snapshot, "dogu.json")
    assert metadata.decode() == await both.registry.get(f"/dogu_v2/redmine/{current}")
    for owner, data in (
        (None, await both.instance.instance_registry()),
        ("redmine", await both.instance.dogu_registry("redmine")),
    ):
        written = await both.document(by_point["registry", owner].snapshot, "registry.json")
        assert written == data.to_json()
        assert json.loads(written) == data.values
    assert backup.manifest
    manifest = await read_manifest(both.repository, backup.manifest)
    assert (manifest.id, manifest.host) == (result.id, "ces.example.org")
    assert [(p.kind, p.dogu, p.snapshot, p.bytes) for p in manifest.points] == [
        (p.kind, p.dogu, p.snapshot, p.bytes) for p in result.points
    ]
    assert json.loads(json.dumps(result.as_json()))["status"] == "complete"


async def test_one_dogu_alone(both: Site) -> None:
    """Only the selected dogu is backed up, and the backup is complete."""
    for name in ("redmine", "cas"):
        await add_dogu(both, name, "data")
    result = await both.run("cas", "cas")
    assert [(p.kind, p.dogu) for p in result.points] == [
        ("metadata", "cas"),
        ("registry", "cas"),
        ("volumes", "cas"),
    ]
    assert await both.status() is Status.COMPLETE
    assert (await both.backup()).snapshots[0].hostname == os.uname().nodename


async def test_unreadable_files_are_told_and_the_rest_is_saved(both: Site, tmp_path: Path) -> None:
    """An unreadable file is reported by path, makes the backup incomplete, and is the only gap."""
    await add_dogu(both, "redmine", "data")
    bad = both.instance.volumes_directory("redmine") / os.fsdecode(b"data/not allowed \xff")
    bad.write_text("secret")
    bad.chmod(0)
    if os.geteuid() == 0:  # root ignores file modes unless it drops these capabilities
        drop = "-dac_override,-dac_read_search"
        wrap(both, tmp_path, f'exec setpriv --inh-caps={drop} --bounding-set={drop} RESTIC "$@"')
    result = await both.run("redmine")
    assert (result.status, result.exit_code) == ("incomplete", 3)
    ((path, error),) = [(f.path, f.error) for f in result.failed]
    assert path == os.fsencode(bad)
    assert "permission denied" in error.lower()
    assert all(point.snapshot for point in result.points)
    assert await both.status() is Status.INCOMPLETE
    volumes = next(p for p in result.points if p.kind == "volumes")
    assert volumes.files == 1
    manifest_snapshot = (await both.backup()).manifest
    assert manifest_snapshot
    manifest = await read_manifest(both.repository, manifest_snapshot)
    (failed,) = [f for p in manifest.points for f in p.failed]
    assert failed.path.endswith("data/not allowed \\xff")
    assert failed.path_b64
    json.dumps(result.as_json()).encode()


async def test_missing_volumes_are_told(site: Site) -> None:
    """A missing volume is a failure, and so is an item without any volume."""
    await add_dogu(site, "redmine", "data")
    await add_dogu(site, "gone", "first", "second", on_disk=False)
    directory = site.instance.volumes_directory("redmine")
    document = {"Name": "official/redmine", "Volumes": [{"Name": "data"}, {"Name": "lost"}]}
    await site.registry.set("/dogu_v2/redmine/1-1", json.dumps(document))
    result = await site.run("redmine", "gone")
    lost = site.instance.volumes_directory("gone")
    assert [(f.path, f.error) for f in result.failed] == [
        (os.fsencode(path), "no such directory")
        for path in (directory / "lost", lost / "first", lost / "second")
    ]
    by_point = {(p.kind, p.dogu): p for p in result.points}
    assert by_point["volumes", "redmine"].snapshot
    assert by_point["volumes", "gone"].snapshot is None
    assert by_point["metadata", "gone"].snapshot
    assert await site.status() is Status.INCOMPLETE


async def test_a_volume_that_vanishes_on_the_way_is_told(both: Site) -> None:
    """A directory removed after planning is reported, whatever restic prints."""
    await add_dogu(both, "redmine", "data", "late")
    plan = await plan_backup(both.instance, ["redmine"])
    late = both.instance.volumes_directory("redmine") / "late"
    (late / "file").unlink()
    late.rmdir()
    result = await both.run_plan(plan)
    assert [f.path for f in result.failed] == [os.fsencode(late)]
    assert [p.snapshot is not None for p in result.points] == [True] * 3


async def test_a_volume_that_goes_while_restic_reads_is_told(site: Site) -> None:
    """A directory removed during the backup may be saved in part: the backup is incomplete."""
    await add_dogu(site, "redmine", "data", "late")
    late = site.instance.volumes_directory("redmine") / "late"

    def remove(step: Step) -> None:
        if step.kind == "volumes" and isinstance(step.event, Summary):
            shutil.rmtree(late)

    result = await site.run("redmine", on_progress=remove)
    assert [(f.path, f.error) for f in result.failed] == [
        (os.fsencode(late), "it vanished while the backup ran")
    ]


async def test_a_failing_point_does_not_stop_the_rest(site: Site, tmp_path: Path) -> None:
    """If restic fails for one item, the others and the manifest are still made."""
    await add_dogu(site, "redmine", "data")
    wrap(
        site,
        tmp_path,
        'case "$*" in *kind=registry*) echo "Fatal: out of luck" >&2; exit 1;; esac\n'
        'exec RESTIC "$@"',
    )
    result = await site.run("redmine")
    assert [(p.kind, p.snapshot is not None) for p in result.points] == [
        ("metadata", True),
        ("registry", False),
        ("volumes", True),
    ]
    ((path, error),) = [(f.path, f.error) for f in result.failed]
    assert path == b"registry.json"
    assert "out of luck" in error
    assert await site.status() is Status.INCOMPLETE


async def test_without_its_manifest_a_backup_is_incomplete(site: Site, tmp_path: Path) -> None:
    """If the manifest cannot be written, result and catalog report it as incomplete."""
    await add_dogu(site, "redmine")
    wrap(
        site,
        tmp_path,
        'case "$*" in *kind=manifest*) echo "Fatal: out of luck" >&2; exit 1;; esac\n'
        'exec RESTIC "$@"',
    )
    result = await site.run("redmine")
    assert [f.path for f in result.failed] == [b"manifest.json"]
    assert result.exit_code == 3
    assert await site.status() is Status.INCOMPLETE


async def test_a_backup_of_nothing_is_an_error(site: Site, tmp_path: Path) -> None:
    """If no item could be saved, the first reason is raised and no manifest is made."""
    await add_dogu(site, "redmine")
    wrap(site, tmp_path, 'echo "Fatal: out of luck" >&2; exit 1')
    with pytest.raises(ResticError, match=r"Nothing was backed up.*dogu\.json.*out of luck"):
        await site.run("redmine")
    assert await site.repository.snapshots() == []


async def test_a_snapshot_that_is_not_listed_is_told(site: Site, tmp_path: Path) -> None:
    """A snapshot that restic reports but does not list is a failure of that item."""
    await add_dogu(site, "redmine")
    forged = '{"message_type":"summary","snapshot_id":"0badc0de"}'
    wrap(site, tmp_path, f"case \"$*\" in *kind=registry*) echo '{forged}'; exit 0;; esac\n"
         'exec RESTIC "$@"')  # fmt: skip
    result = await site.run("redmine")
    assert [(f.path, f.error) for f in result.failed] == [
        (b"registry.json", "the repository does not list its snapshot 0badc0de")
    ]
    assert await site.status() is Status.INCOMPLETE


async def test_damage_in_the_registry_costs_only_itself(site: Site) -> None:
    """A damaged dogu.json and an unreadable key are reported; everything else is saved."""
    await add_dogu(site, "redmine", "data")
    await site.registry.set("/dogu_v2/redmine/1-1", "{ damaged")
    (site.registry.path / "config/redmine/bad").write_bytes(b"\xff")
    (site.registry.path / "config/_global").mkdir()
    (site.registry.path / "config/_global/fqdn").write_bytes(b"\xff")
    result = await site.run("redmine")
    host = b"/config/_global/fqdn"
    assert [f.path for f in result.failed] == [b"dogu.json", host, b"/config/redmine/bad"]
    assert f"one of the host {os.uname().nodename}: " in result.failed[1].error
    by_kind = {p.kind: p for p in result.points}
    assert await site.document(by_kind["metadata"].snapshot, "dogu.json") == b"{ damaged"
    saved = json.loads(await site.document(by_kind["registry"].snapshot, "registry.json"))
    assert set(saved) == {
        "/config/redmine/key",
        "/dogu_v2/redmine/1-1",
        "/dogu_v2/redmine/current",
    }
    volumes = next(s for s in (await site.backup()).snapshots if tag_of(s, "kind") == "volumes")
    assert volumes.paths == (str(site.instance.volumes_directory("redmine") / "data"),)
    assert volumes.hostname == os.uname().nodename


async def test_keys_that_vanish_are_told(site: Site) -> None:
    """A registry that is not mounted any more is not an empty one."""
    await add_dogu(site, "redmine", "data")
    plan = await plan_backup(site.instance, ["redmine"])
    shutil.rmtree(site.registry.path)
    result = await site.run_plan(plan)
    assert [f.path for f in result.failed] == [b"registry.json"]
    assert "vanished" in result.failed[0].error


@pytest.mark.parametrize("trouble", [WrongKeyError, RepositoryMissingError])
async def test_an_unusable_repository_stops_at_once(
    both: Site, tmp_path: Path, trouble: type[Exception]
) -> None:
    """With a wrong key or a missing repository the error of the first item is raised."""
    await add_dogu(both, "redmine", "data")
    key = Secret(b"another") if trouble is WrongKeyError else both.restic.access.key
    place = "repository" if trouble is WrongKeyError else "nowhere"
    both.restic = Restic(
        both.restic.binary, both.restic.version, Access(str(tmp_path / place), key)
    )
    steps: list[Step] = []
    with pytest.raises(trouble):
        await both.run("redmine", on_progress=steps.append)
    assert {step.number for step in steps} <= {1, 2}  # the number of parallel backups
    assert not (tmp_path / "nowhere").exists()


async def test_stopped_on_the_way_it_is_incomplete(site: Site) -> None:
    """A cancelled backup leaves its snapshots but no lock and no manifest: it is incomplete."""
    await add_dogu(site, "redmine", "data")
    with trio.CancelScope() as scope:

        def stop(step: Step) -> None:
            if step.result:  # the other one has only started
                scope.cancel()

        await site.run("redmine", on_progress=stop)
    assert scope.cancelled_caught
    backup = await site.backup()
    assert 1 <= len(backup.snapshots) < 3
    assert backup.manifest is None
    assert await site.status() is Status.INCOMPLETE
    assert not list((Path(site.restic.access.url) / "locks").iterdir())
    await site.run("redmine")


async def test_progress_is_told(site: Site) -> None:
    """A small point of data starts alone, then all others, volumes first, the manifest last."""
    await add_dogu(site, "redmine", "data")
    steps: list[Step] = []
    result = await site.run("redmine", on_progress=steps.append)
    begun = [step for step in steps if step.event is None and step.result is None]
    assert [step.number for step in begun] == [1, 3, 2, 4]
    results = [step for step in steps if step.result]
    assert steps.index(results[0]) < steps.index(begun[1])
    assert steps.index(begun[2]) < steps.index(results[1])
    assert {step.number for step in steps[steps.index(begun[3]) :]} == {4}
    for number, kind in enumerate(("metadata", "registry", "volumes", "manifest"), 1):
        first, *between, last = [step for step in steps if step.number == number]
        assert (first.kind, first.total, first.event, first.result) == (kind, 4, None, None)
        assert between
        assert all(step.event is not None for step in between)
        assert last.result is not None
    ended = [step.result.kind for step in steps if step.result][:-1]
    assert sorted(ended) == sorted(point.kind for point in result.points)


_HOLDER = """
import sys
from pathlib import Path
from cesbrfs.ces.backup_lock import backup_lock
with backup_lock(Path(sys.argv[1]), "20261122T213000Z-7f3a9c", "2026-11-22T21:30:00.0Z"):
    print("held", flush=True)
    sys.stdin.read()
"""


@asynccontextmanager
async def holding(command: list[str]) -> AsyncIterator[int]:
    """Run a process that holds the lock; kill it at the end."""
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=PROJECT
    )
    assert process.stdin
    assert process.stdout
    async with process.stdin, process.stdout:
        try:
            assert (await process.stdout.receive_some()).startswith(b"held")
            yield process.pid
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def test_a_second_backup_says_who_runs(site: Site) -> None:
    """The error of a second backup names the running process; a killed one does not block."""
    await add_dogu(site, "redmine")
    command = [sys.executable, "-c", _HOLDER, str(site.instance.root)]
    async with holding(command) as pid:
        with pytest.raises(BackupRunningError) as raised:
            await site.run("redmine")
        assert raised.value.exit_code == 11
        for told in ("20261122T213000Z-7f3a9c", "2026-11-22 21:30", f"PID {pid}, "):
            assert told in raised.value.message
        assert await site.repository.snapshots() == []
    lock = site.instance.root / LOCK_FILE
    assert lock.exists()
    assert lock.stat().st_mode & 0o777 == 0o600
    assert lock.parent.stat().st_mode & 0o777 == 0o700
    assert (await site.run("redmine")).status == "complete"


async def test_the_lock_is_this_processs_too(site: Site) -> None:
    """A second backup in the same process is refused as well."""
    await add_dogu(site, "redmine")
    refused: list[BackupRunningError] = []

    async def second() -> None:
        try:
            await site.run("redmine")
        except BackupRunningError as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:

        def begin(step: Step) -> None:
            if step.number == 1 and step.event is None and step.result is None:
                nursery.start_soon(second)

        assert (await site.run("redmine", on_progress=begin)).status == "complete"
    assert len(refused) == 1
    assert f"PID {os.getpid()}, " in refused[0].message


async def test_the_plan_says_what_is_left_out(site: Site) -> None:
    """A plan lists all steps, missing data and excluded data, and changes nothing."""
    await add_dogu(site, "redmine", "data", on_disk=False)
    directory = site.instance.volumes_directory("redmine")
    (directory / "stray").mkdir(parents=True)
    site.instance.volumes_directory("removed").mkdir(parents=True)
    (site.instance.root / "etc/ces").mkdir(parents=True)
    plan = await plan_backup(site.instance)
    assert [(s.kind, s.dogu, s.paths, s.document) for s in plan.steps] == [
        ("configuration", None, (site.instance.root / "etc/ces",), None),
        ("metadata", "redmine", (), "dogu.json"),
        ("registry", "redmine", (), "registry.json"),
        ("volumes", "redmine", (), None),
    ]
    shown = json.loads(json.dumps(plan.as_json()))
    assert shown["left_out"] == [
        {
            "path": str(site.instance.volumes_directory("removed")),
            "reason": "no dogu of this name is installed",
        }
    ]
    assert shown["steps"][0]["left_out"] == [
        {"path": str(site.instance.root / "etc/cesapp"), "reason": "no such directory"}
    ]
    assert shown["steps"][3]["failed"] == [
        {"path": str(directory / "data"), "error": "no such directory"}
    ]
    assert shown["steps"][3]["left_out"] == [
        {"path": str(directory / "stray"), "reason": "not declared in dogu.json"}
    ]
    assert "value of" not in repr(plan)
    assert await site.repository.snapshots() == []
    assert not (site.instance.root / LOCK_FILE).exists()


async def test_unknown_dogus_are_a_usage_error(site: Site) -> None:
    """The error lists the installed dogus."""
    for name in ("redmine", "cas"):
        await add_dogu(site, name)
    with pytest.raises(UsageError, match=r"'jenkins' is installed.*are: cas, redmine\."):
        await plan_backup(site.instance, ["redmine", "jenkins"])


async def test_an_empty_instance_is_a_usage_error(site: Site) -> None:
    """An empty root directory is probably the wrong one."""
    with pytest.raises(UsageError, match=r"nothing to back up: .*root has no configuration"):
        await plan_backup(site.instance)


async def test_volumes_without_one_dogu_are_told(site: Site) -> None:
    """If there are volumes but no dogu in the registry, the backup is incomplete."""
    (site.instance.root / "etc/ces").mkdir(parents=True)
    (site.instance.volumes_directory("redmine") / "data").mkdir(parents=True)
    plan = await plan_backup(site.instance)
    (failed,) = plan.steps[-1].failed
    assert failed.path == os.fsencode(site.instance.volumes_directory("redmine"))
    assert "names no installed dogu" in failed.error


async def test_names_that_restic_would_split_are_told(site: Site) -> None:
    """`restic` splits tags at commas; a comma in a dogu's name would create a false backup ID."""
    await add_dogu(site, "a,b", "data")
    plan = await plan_backup(site.instance, ["a,b"])
    (step,) = plan.steps
    assert (step.paths, step.document) == ((), None)
    assert [f.path for f in step.failed] == [b"/dogu/a,b"]


async def test_the_first_snapshot_is_made_alone(site: Site, tmp_path: Path) -> None:
    """Two restics that create the cache directory at the same time can fail."""
    await add_dogu(site, "redmine", "files")
    notes = tmp_path / "notes"
    wrap(
        site,
        tmp_path,
        f'echo begin >>{notes}\nRESTIC "$@"\ncode=$?\necho end >>{notes}\nexit $code',
    )
    assert not (await site.run()).failed
    told = await trio.Path(notes).read_text()
    assert told.split()[:3] == ["begin", "end", "begin"]
    assert told.count("begin") > 3


async def test_a_link_to_bytes_that_are_not_utf8(both: Site) -> None:
    """It is restored unchanged or reported: restic before 0.16 stores another target."""
    await add_dogu(both, "redmine", "files")
    volume = both.instance.volumes_directory("redmine") / "files"
    (volume / "deep").mkdir()
    target = b"odd\xfe"
    link = os.fsencode(volume / "deep") + b"/li\xffnk"
    os.symlink(target, link)
    os.symlink("\ufffd", volume / "good")
    result = await both.run("redmine")
    if both.restic.version < Version(0, 16):
        (failure,) = result.failed
        assert failure.path == link
        assert "0.16" in failure.error
        assert await both.status() is Status.INCOMPLETE
        return
    assert result.status == "complete"
    view = BackupTree(both.repository)
    path = (result.id.encode(), b"redmine", b"volumes", b"files", b"deep", b"li\xffnk")
    assert (await view.at(path)).node.target == target


async def test_a_restored_link_that_may_lead_elsewhere(both: Site, tmp_path: Path) -> None:
    """A target with U+FFFD is reported, because restic before 0.16 writes it for other bytes."""
    await add_dogu(both, "redmine", "files")
    volume = both.instance.volumes_directory("redmine") / "files"
    os.symlink(b"odd\xfe", volume / "link")
    result = await both.run("redmine")
    view = BackupTree(both.repository)
    selection = select([await view.resolve(f"/{result.id}/redmine/volumes/files/link")])
    restored = await execute(view, await make_plan(view, selection, ToDirectory(tmp_path / "out")))
    mangled = both.restic.version < Version(0, 16)
    assert any("U+FFFD" in warning for warning in restored.warnings) == mangled
