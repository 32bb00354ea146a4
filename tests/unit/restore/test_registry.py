"""Restore registry data to a file registry and a real etcd: plan, write, conflicts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio

from cesbrfs.catalog.backups import Backup
from cesbrfs.catalog.manifest import FailedPath, Manifest, Point, write_manifest
from cesbrfs.ces.backup_config import backup_config
from cesbrfs.ces.instance import Instance
from cesbrfs.ces.redaction import MASK, is_secret, masked, masked_line
from cesbrfs.ces.registry import Registry
from cesbrfs.errors import BlueprintError, DamagedError, NotFoundError
from cesbrfs.restore.blueprint import blueprint_id, require_same_blueprint
from cesbrfs.restore.registry import (
    KeyFailure,
    RegistryPlan,
    RegistryReport,
    plan_registry,
    write_registry,
)
from cesbrfs.vfs.tree import BackupTree
from tests.support.memory_repo import MemoryRepo

REDMINE = {
    "/config/redmine/logging/root": "WARN",
    "/config/redmine/sa-postgresql/password": "secret of redmine",
    "/dogu/redmine/6.1-1": "{}",
    "/dogu/redmine/current": "6.1-1",
}
INSTANCE = {
    "/blueprint": json.dumps({"blueprintId": "one"}),
    "/config/_global/fqdn": "ces.example.org",
    "/config/backup/active": "true",
}


def save(repo: MemoryRepo, owner: str | None, document: object, *, backup: str = "A") -> str:
    """Save a registry.json as cesbr does."""
    tags = [backup, "kind=registry", *([f"dogu={owner}"] if owner else [])]
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    tree = repo.tree(repo.file("registry.json", content))
    return repo.snapshot(tree, ["/registry.json"], tags=tags)


@pytest.fixture
def repo() -> MemoryRepo:
    """A repository with backup A, of redmine and of the instance."""
    repo = MemoryRepo()
    save(repo, "redmine", REDMINE)
    save(repo, None, INSTANCE)
    return repo


@pytest.fixture
def instance(registry: Registry, tmp_path: Path) -> Instance:
    """An instance with an empty registry, in files and in etcd."""
    return Instance(tmp_path / "root", registry)


async def opened(repo: MemoryRepo) -> tuple[BackupTree, Backup]:
    """Open the only backup."""
    view = BackupTree(await repo.open())
    return view, await view.find_backup("A")


async def restored(instance: Instance, planned: RegistryPlan) -> RegistryReport:
    """Execute the plan."""
    report = RegistryReport(planned)
    await write_registry(instance.registry, report)
    return report


async def required(view: BackupTree, backup: Backup, instance: Instance) -> None:
    """Require the same blueprint through the registry key."""
    config = await backup_config(instance.registry)
    await require_same_blueprint(view, backup, instance, config)


def actions(planned: RegistryPlan) -> dict[str, str]:
    return {change.key: change.action for change in planned.changes}


async def test_all_goes_into_an_empty_registry(repo: MemoryRepo, instance: Instance) -> None:
    """Everything is added; a second plan has no differences."""
    view, backup = await opened(repo)
    report = await restored(instance, await plan_registry(view, backup, instance))
    assert (report.written, report.exit_code) == (7, 0)
    live = (await instance.dogu_registry("redmine")).values
    live |= (await instance.instance_registry()).values
    assert live == REDMINE | INSTANCE
    again = await plan_registry(view, backup, instance)
    assert (again.changes, again.same, again.kept, again.refused) == ((), 7, (), ())


async def test_the_plan_says_what_differs(repo: MemoryRepo, instance: Instance) -> None:
    """New, changed, equal and additional keys of the selected dogus are listed separately."""
    view, backup = await opened(repo)
    await instance.registry.set("/config/redmine/logging/root", "DEBUG")
    await instance.registry.set("/config/redmine/extra", "mine")
    await instance.registry.set("/dogu/redmine/6.1-1", "{}")
    planned = await plan_registry(view, backup, instance, ["redmine"])
    assert actions(planned) == {
        "/config/redmine/logging/root": "change",
        "/config/redmine/sa-postgresql/password": "add",
        "/dogu/redmine/current": "add",
    }
    assert (planned.same, planned.kept) == (1, ("/config/redmine/extra",))
    shown = json.dumps(planned.as_json())
    assert "secret of redmine" not in shown
    assert '"old": "DEBUG", "new": "WARN"' in shown
    assert "secret of redmine" not in repr(planned)
    deleting = await plan_registry(view, backup, instance, ["redmine"], delete=True)
    assert actions(deleting)["/config/redmine/extra"] == "remove"
    report = await restored(instance, deleting)
    assert (report.written, report.removed, report.exit_code) == (3, 1, 0)
    assert (await instance.dogu_registry("redmine")).values == REDMINE


async def test_some_keys_alone(repo: MemoryRepo, instance: Instance) -> None:
    """Keys and directories of keys can be selected; a missing one is an error."""
    view, backup = await opened(repo)
    planned = await plan_registry(view, backup, instance, keys=["/config/redmine/", "/blueprint"])
    assert list(actions(planned)) == [
        "/blueprint",
        "/config/redmine/logging/root",
        "/config/redmine/sa-postgresql/password",
    ]
    one = await plan_registry(view, backup, instance, [None], ["/config/backup/active"])
    assert list(actions(one)) == ["/config/backup/active"]
    for owners, key in (([], "/config/redmine/log"), ([None], "/config/redmine/logging")):
        with pytest.raises(NotFoundError, match=key):
            await plan_registry(view, backup, instance, owners, [key])
    with pytest.raises(NotFoundError, match="redmin; did you mean 'redmine'"):
        await plan_registry(view, backup, instance, ["redmin"])
    with pytest.raises(NotFoundError, match=r"no registry data of jenkins\. Run 'cesbr ls A'"):
        await plan_registry(view, backup, instance, ["jenkins"])


async def test_what_changes_meanwhile_is_not_written(repo: MemoryRepo, instance: Instance) -> None:
    """Keys modified after planning are skipped and reported."""
    view, backup = await opened(repo)
    await instance.registry.set("/config/redmine/gone", "soon")
    await instance.registry.set("/config/redmine/logging/root", "DEBUG")
    planned = await plan_registry(view, backup, instance, ["redmine"], delete=True)
    await instance.registry.set("/config/redmine/logging/root", "ERROR")
    await instance.registry.set("/dogu/redmine/current", "7.0-1")
    await instance.registry.set("/dogu/redmine/6.1-1", "{}")  # the planned value
    await instance.registry.delete("/config/redmine/gone")  # the planned value
    report = await restored(instance, planned)
    assert report.conflicts == ["/config/redmine/logging/root", "/dogu/redmine/current"]
    assert (report.written, report.removed, report.exit_code) == (2, 1, 3)
    assert await instance.registry.get("/config/redmine/logging/root") == "ERROR"
    assert await instance.registry.get("/dogu/redmine/current") == "7.0-1"


async def test_a_dogu_counts_as_installed_last(repo: MemoryRepo, instance: Instance) -> None:
    """The key that marks a dogu as installed is written last and deleted first."""
    view, backup = await opened(repo)
    planned = await plan_registry(view, backup, instance, ["redmine"])
    assert [change.key for change in planned.changes][-2:] == [
        "/dogu/redmine/6.1-1",
        "/dogu/redmine/current",
    ]
    await restored(instance, planned)
    empty = MemoryRepo()
    save(empty, "redmine", {"/config/redmine/other": "x"})
    view, backup = await opened(empty)
    removing = await plan_registry(view, backup, instance, ["redmine"], delete=True)
    assert [change.key for change in removing.changes][:2] == [
        "/config/redmine/other",
        "/dogu/redmine/current",
    ]
    await restored(instance, removing)
    assert (await instance.dogu_registry("redmine")).values == {"/config/redmine/other": "x"}


async def test_a_key_in_the_way_is_told(repo: MemoryRepo, instance: Instance) -> None:
    """If a directory becomes a value or vice versa, --delete removes the obstacle."""
    view, backup = await opened(repo)
    await instance.registry.set("/config/redmine/logging", "a value")
    await instance.registry.set("/dogu/redmine/current/odd", "a directory")
    report = await restored(instance, await plan_registry(view, backup, instance, ["redmine"]))
    assert {failure.key for failure in report.failed} == {
        "/config/redmine/logging/root",
        "/dogu/redmine/current",
    }
    assert (report.written, report.exit_code) == (2, 3)
    making_room = await plan_registry(view, backup, instance, ["redmine"], delete=True)
    report = await restored(instance, making_room)
    assert (report.failed, report.exit_code) == ([], 0)
    assert (await instance.dogu_registry("redmine")).values == REDMINE


async def test_what_the_backup_could_not_read_is_not_removed(
    repo: MemoryRepo, instance: Instance
) -> None:
    """--delete keeps keys that failed in the backup, as they may have existed."""
    snapshot = save(repo, "cas", {"/config/cas/a": "1"})
    failed = [FailedPath("/config/cas/broken", "unreadable")]
    points = [Point("registry", "cas", snapshot, 10, failed)]
    data = write_manifest(Manifest(1, "A", "2026-11-22T20:30:00Z", "ces", points))
    tree = repo.tree(repo.file("manifest.json", data))
    repo.snapshot(tree, ["/manifest.json"], tags=["A", "kind=manifest"])
    view, backup = await opened(repo)
    await instance.registry.set("/config/cas/broken/key", "precious")
    await instance.registry.set("/config/cas/extra", "x")
    planned = await plan_registry(view, backup, instance, ["cas"], delete=True)
    assert actions(planned) == {"/config/cas/a": "add", "/config/cas/extra": "remove"}
    assert planned.kept == ("/config/cas/broken/key",)


async def test_what_does_not_belong_is_refused(instance: Instance) -> None:
    """A registry.json restores only keys of its owner, and only string values."""
    repo = MemoryRepo()
    odd = {"config/redmine/a": "1", "/config/backup/encryption_key": "mine", "/config/redmine/n": 1}
    save(repo, "redmine", odd)
    view, backup = await opened(repo)
    planned = await plan_registry(view, backup, instance, ["redmine"])
    assert actions(planned) == {"/config/redmine/a": "add"}
    assert {r.key for r in planned.refused} == {
        "/config/backup/encryption_key",
        "/config/redmine/n",
    }
    report = await restored(instance, planned)
    assert (report.written, report.exit_code) == (1, 3)
    save(repo, "cas", b"[]")
    view, backup = await opened(repo)
    with pytest.raises(DamagedError, match="not a JSON object"):
        await plan_registry(view, backup, instance, ["cas"])


async def test_cancelled_it_can_be_done_again(repo: MemoryRepo, instance: Instance) -> None:
    """Keys written before ^C are kept and reported; a second run writes the rest."""
    view, backup = await opened(repo)
    report = RegistryReport(await plan_registry(view, backup, instance))
    with trio.CancelScope() as scope:

        def stop() -> None:
            if report.settled == 3:
                scope.cancel()

        await write_registry(instance.registry, report, stop)
    assert scope.cancelled_caught
    assert report.written == 3
    rest = await plan_registry(view, backup, instance)
    assert (len(rest.changes), rest.same) == (4, 3)
    assert (await restored(instance, rest)).exit_code == 0


@pytest.mark.parametrize(
    ("saved", "live", "denied"),
    [
        ("one", "one", False),
        ("one", "two", True),
        ("one", None, True),
        (None, None, False),
        (None, "one", True),
    ],
)
async def test_other_blueprints_are_denied(
    saved: str | None, live: str | None, denied: bool, instance: Instance
) -> None:
    """If the key is true, only backups of the same blueprint are restored."""
    repo = MemoryRepo()
    document = {"/config/_global/x": "1"}
    if saved:
        document["/blueprint/current"] = json.dumps({"BlueprintID": saved, "time": 1})
    save(repo, None, document)
    view, backup = await opened(repo)
    if live:
        await instance.registry.set("/blueprint/current", json.dumps({"blueprintId": live}))
    await required(view, backup, instance)
    await instance.registry.set("/config/backup/deny_cross_blueprint_restores", "true")
    if not denied:
        await required(view, backup, instance)
        return
    with pytest.raises(BlueprintError, match="deny_cross_blueprint_restores is true"):
        await required(view, backup, instance)


async def test_a_backup_that_does_not_tell_is_denied(instance: Instance) -> None:
    """A backup of one dogu contains no blueprint."""
    repo = MemoryRepo()
    save(repo, "redmine", REDMINE)
    view, backup = await opened(repo)
    await instance.registry.set("/config/backup/deny_cross_blueprint_restores", "true")
    with pytest.raises(BlueprintError, match="is not known"):
        await required(view, backup, instance)


def test_ids_of_blueprints() -> None:
    """Only an unambiguous ID is used."""
    assert blueprint_id({"/blueprint": '{"blueprintId": "x"}', "/blueprint/y": "[1]"}) == "x"
    assert blueprint_id({"/a": '{"blueprintId": "x"}', "/b": '{"blueprintid": "y"}'}) is None
    assert blueprint_id({"/a": "{", "/b": "x", "/c": '{"blueprintId": 1}'}) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("/config/backup/encryption_key", "x"),
        ("/config/backup/s3_bucket_config/secret_access_key", "x"),
        ("/config/backup/s3_bucket_config/access_key_id", "x"),
        ("/config/redmine/sa-ldap/username", "x"),
        ("/config/cas/ldap/Password", "x"),
        ("/config/_global/certificate/server.key", "x"),
        ("/config/x/anything", "-----BEGIN RSA PRIVATE KEY-----\nabc"),
        ("/config/x/anything", "QUJD" * 86),
        ("/config/x/anything", '{"encryption":{"type":"AES_GCM"},"value":"x"}'),
    ],
)
def test_secrets_are_masked(key: str, value: str) -> None:
    """Values with secret-sounding keys, or that look secret, are masked, also in one line."""
    assert is_secret(key, value)
    assert masked(key, value) == masked_line(key, value) == MASK


def test_what_is_no_secret_is_shown() -> None:
    """Other values are shown, escaped and truncated, without passwords in URLs."""
    assert not is_secret("/config/redmine/public.pem", "-----BEGIN RSA PUBLIC KEY-----")
    assert not is_secret("/config/_global/key_provider", "oaesp")
    assert masked("/config/x/y", None) is None
    assert masked_line("/config/x/y", "two\nlines") == "two\\nlines"
    assert len(masked_line("/config/x/y", "ab " * 100)) == 60
    address = "rest:https://me:hidden@host/"
    assert "hidden" not in masked_line("/config/backup/address", address)


async def test_refused_keys_count_as_failed(repo: MemoryRepo, instance: Instance) -> None:
    """Rejected keys are counted as failed from the start."""
    view, backup = await opened(repo)
    planned = await plan_registry(view, backup, instance)
    refused = KeyFailure("/x", "why")
    report = RegistryReport(
        RegistryPlan(planned.backup, planned.address, planned.changes, 0, refused=(refused,))
    )
    assert (report.failed, report.settled, report.exit_code) == ([refused], 0, 3)
