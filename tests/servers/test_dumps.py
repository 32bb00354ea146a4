"""Database dumps of a dogu in another dogu's database, piped from real commands into restic."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from cesbrfs.backup import BackupResult, DumpRunner, PointResult, Step, plan_backup, run_backup
from cesbrfs.catalog.status import Status
from cesbrfs.ces.instance import Instance
from cesbrfs.ces.registry import FileRegistry
from cesbrfs.repo.location import Access
from cesbrfs.repo.repository import Repository
from cesbrfs.repo.storage import open_storage
from cesbrfs.restic import Restic
from cesbrfs.vfs.tree import BackupTree
from tests.sample.registry import encrypted, private_pem
from tests.shell.waiting import wait_until
from tests.support.restic_repo import create


@pytest.fixture
async def instance(tmp_path: Path) -> Instance:
    """An instance where redmine has a database in postgresql, and cas has none."""
    registry = FileRegistry(tmp_path / "registry")
    exposed = [{"Name": "backup-consumer", "Command": "/backup-consumer.sh --all"}]
    for name, more in (
        ("redmine", {"Dependencies": [{"type": "dogu", "name": "postgresql"}]}),
        ("postgresql", {"ExposedCommands": exposed}),
        ("cas", {}),
    ):
        await registry.set(f"/dogu_v2/{name}/current", "1-1")
        await registry.set(f"/dogu_v2/{name}/1-1", json.dumps({"Name": f"official/{name}"} | more))
    await registry.set("/config/redmine/sa-postgresql/username", "redmine_x7")
    await registry.set("/config/redmine/sa-postgresql/database", "tables of redmine")
    return Instance(tmp_path / "root", registry)


@pytest.fixture
async def restic(tmp_path: Path, restic_binary: Path) -> Restic:
    """Each version of restic with an empty repository."""
    repo = create(restic_binary, tmp_path / "repository")
    return await Restic.open(repo.access, binary=str(restic_binary))


def runner(directory: Path, body: str, seconds: float = 60.0) -> DumpRunner:
    """A runner script, called with the dogu and the command."""
    script = directory / "runner.sh"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    return DumpRunner((str(script), "{dogu}:{consumer}", "{command}"), seconds)


def runs(pid_file: Path) -> bool:
    """Return whether the process with the ID in `pid_file` is running."""
    return Path("/proc", pid_file.read_text().strip()).exists()


async def opened(access: Access) -> Repository:
    return await Repository.open(open_storage(access), access.key)


async def back_up(
    instance: Instance,
    restic: Restic,
    how: DumpRunner,
    on_progress: Callable[[Step], None] | None = None,
) -> BackupResult:
    """Back up redmine."""
    plan = await plan_backup(instance, ["redmine"], how)
    repository = await opened(restic.access)
    try:
        return await run_backup(
            plan,
            instance=instance,
            restic=restic,
            repository=repository,
            on_progress=on_progress,
        )
    finally:
        await repository.aclose()


def dump_of(result: BackupResult) -> PointResult:
    (dump,) = [point for point in result.points if point.kind == "dump"]
    return dump


async def test_what_is_dumped(instance: Instance, tmp_path: Path) -> None:
    """A dump belongs to the consumer of the database; without a runner there is none."""
    how = runner(tmp_path, "")
    for dogus, owners in ((None, ["redmine"]), (["redmine"], ["redmine"]), (["cas"], [])):
        plan = await plan_backup(instance, dogus, how)
        found = [step for step in plan.steps if step.kind == "dump"]
        assert [step.dogu for step in found] == owners
        for step in found:
            assert step.dump
            assert step.dump.words[1:] == ("postgresql:redmine", "/backup-consumer.sh", "--all")
    assert all(step.kind != "dump" for step in (await plan_backup(instance)).steps)
    await instance.registry.set("/config/cas/sa-postgresql/username", "cas")
    plan = await plan_backup(instance, ["cas"], how)
    assert [s.document for s in plan.steps if s.kind == "dump"] == ["postgresql.dump"]


async def test_the_dogu_json_of_a_provider_that_cannot_be_read(
    instance: Instance, tmp_path: Path
) -> None:
    """A backup of the consumer alone is incomplete, instead of having no dump silently."""
    key = "/dogu_v2/postgresql/current"
    version = await instance.registry.get(key) or await instance.registry.get(
        key := "/dogu/postgresql/current"
    )
    await instance.registry.set(f"{key.removesuffix('current')}{version}", "{")
    plan = await plan_backup(instance, ["redmine"], runner(tmp_path, ""))
    (step,) = [step for step in plan.steps if step.kind == "dump"]
    ((path, error),) = [(failed.path, failed.error) for failed in step.failed]
    assert (step.dogu, step.document, path) == ("redmine", None, b"dumps/postgresql.dump")
    assert "Invalid dogu.json" in error
    plan = await plan_backup(instance, ["cas"], runner(tmp_path, ""))
    assert all(step.kind != "dump" for step in plan.steps)


async def test_a_dump_is_streamed_into_the_backup(
    instance: Instance, restic: Restic, tmp_path: Path
) -> None:
    """The command gets the service account, and its output is shown below dumps/."""
    how = runner(tmp_path, 'echo "$@"; cat; head -c 3000000 /dev/zero')
    result = await back_up(instance, restic, how)
    assert result.status == "complete"
    repository = await opened(restic.access)
    view = BackupTree(repository)
    found = await view.resolve(f"/{result.id}/redmine/dumps/postgresql.dump")
    content = await view.content(found.entry)
    assert not hasattr(content, "content")
    data = await content.read(0, found.entry.node.size)
    assert data == (
        b"postgresql:redmine /backup-consumer.sh --all\n"
        b"database: tables of redmine\nusername: redmine_x7\n" + bytes(3_000_000)
    )
    backup = await view.find_backup(result.id)
    assert (await view.layout(backup)).whole == []
    await repository.aclose()


async def test_an_encrypted_account_is_opened(
    instance: Instance, restic_old: Path, tmp_path: Path
) -> None:
    """The command gets decrypted values; without the private key there is no dump."""
    repo = create(restic_old, tmp_path / "repository")
    restic = await Restic.open(repo.access, binary=str(restic_old))
    account = "/config/redmine/sa-postgresql/username"
    await instance.registry.set(account, encrypted("redmine", "opened"))
    how = runner(tmp_path, f"tee {tmp_path}/got")
    (failed,) = (await back_up(instance, restic, how)).failed
    assert failed.path == b"dumps/postgresql.dump"
    assert "Cannot use the private key" in failed.error
    private = instance.volumes_directory("redmine") / "_private/private.pem"
    private.parent.mkdir(parents=True)
    private.write_bytes(private_pem("redmine"))
    assert (await back_up(instance, restic, how)).status == "complete"
    got = (tmp_path / "got").read_text()
    assert got == "database: tables of redmine\nusername: opened\n"


async def test_a_dump_that_fails_is_not_there(
    instance: Instance, restic: Restic, tmp_path: Path
) -> None:
    """A truncated dump leaves no snapshot; the backup reports it and is incomplete."""
    how = runner(tmp_path, "head -c 3000000 /dev/urandom; echo no such database >&2; exit 4")
    with trio.fail_after(20):  # restic must exit without being killed
        result = await back_up(instance, restic, how)
    assert result.exit_code == 3
    ((path, error),) = [(f.path, f.error) for f in result.failed]
    assert path == b"dumps/postgresql.dump"
    assert error == "the dump by postgresql ended with exit code 4: no such database"
    assert dump_of(result).snapshot is None
    repository = await opened(restic.access)
    view = BackupTree(repository)
    backup = await view.find_backup(result.id)
    assert (await view.reports.of(backup)).status is Status.INCOMPLETE
    assert b"dumps" not in await view.children((await view.resolve(f"/{result.id}/redmine")).entry)
    await repository.aclose()
    assert os.listdir(tmp_path / "repository/locks") == []


@pytest.mark.parametrize(
    ("body", "error"),
    [("true", "is empty"), ("sleep 1000", "no exit within 0.5 s"), ("kill -9 $$", "exit code -9")],
)
async def test_no_dump_is_never_taken_for_one(
    instance: Instance, restic_old: Path, tmp_path: Path, body: str, error: str
) -> None:
    """A dump that is empty or times out is a failure."""
    repo = create(restic_old, tmp_path / "repository")
    restic = await Restic.open(repo.access, binary=str(restic_old))
    result = await back_up(instance, restic, runner(tmp_path, body, 0.5))
    (failed,) = result.failed
    assert error in failed.error
    assert result.status == "incomplete"


async def test_a_runner_that_is_not_there(
    instance: Instance, restic_old: Path, tmp_path: Path
) -> None:
    """The error names the program, and everything else is backed up."""
    repo = create(restic_old, tmp_path / "repository")
    restic = await Restic.open(repo.access, binary=str(restic_old))
    result = await back_up(instance, restic, DumpRunner(("/no/docker", "{command}"), 5))
    (failed,) = result.failed
    assert failed.error == "Cannot start /no/docker: No such file or directory."
    assert sum(point.snapshot is not None for point in result.points) == 2


async def test_a_cancelled_dump_leaves_nothing(
    instance: Instance, restic: Restic, tmp_path: Path
) -> None:
    """^C during a dump ends the command and restic at once, without a snapshot."""
    how = runner(tmp_path, f"echo $$ > {tmp_path}/pid; head -c 3000000 /dev/zero; sleep 1000")
    with trio.fail_after(20), trio.CancelScope() as scope:

        def stop(step: Step) -> None:
            if step.kind == "dump" and step.event is not None and (tmp_path / "pid").exists():
                scope.cancel()

        await back_up(instance, restic, how, stop)
    assert scope.cancelled_caught
    repository = await opened(restic.access)
    kinds = [tag for s in await repository.snapshots() for tag in s.tags if "kind=" in tag]
    assert "kind=dump" not in kinds
    await repository.aclose()
    assert os.listdir(tmp_path / "repository/locks") == []
    wait_until(lambda: not runs(tmp_path / "pid"), "the command's end")
