"""Installed dogus, their volumes, the configuration and the registry data of an instance."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cesbrfs.ces.instance import Instance
from cesbrfs.ces.registry import FileRegistry, Registry
from cesbrfs.errors import CesbrError
from tests.sample.dogus import DOGUS, REMOVED
from tests.sample.instance import Instance as Sample


@pytest.fixture
def instance(tmp_path: Path, registry: Registry) -> Instance:
    """Return an empty instance."""
    return Instance(tmp_path / "root", registry)


async def install(registry: Registry, name: str, *volumes: dict[str, object]) -> None:
    await registry.set(f"/dogu_v2/{name}/current", "1-1")
    document = json.dumps({"Name": f"official/{name}", "Volumes": volumes})
    await registry.set(f"/dogu_v2/{name}/1-1", document)


async def copy_into(registry: Registry, directory: Path) -> None:
    for key, value in (await FileRegistry(directory).read("/")).items():
        await registry.set(key, value)


async def test_the_sample_instance(
    tmp_path: Path, make_instance: Callable[[Path], Sample], registry: Registry
) -> None:
    """All installed dogus (v1 and v2) are found, with the volumes that need backup."""
    sample = make_instance(tmp_path / "ces")
    await copy_into(registry, sample.registry)
    instance = Instance(sample.root, registry)
    found = {dogu.name: dogu for dogu in await instance.dogus()}
    assert list(found) == sorted(dogu.name for dogu in DOGUS)
    assert REMOVED.name not in found
    for dogu in DOGUS:
        seen = found[dogu.name]
        assert (seen.version, seen.problem) == (dogu.version, "")
        taken = {v.name for v in seen.volumes if v.needs_backup}
        private = {"_private"} if dogu.volumes else set()
        assert taken == {v.name for v in dogu.volumes if v.saved} | private
        assert not any(v.reason for v in seen.volumes if v.needs_backup)
        assert all(v.reason for v in seen.volumes if not v.needs_backup)
        assert all(
            v.path == sample.root / f"var/lib/ces/{dogu.name}/volumes" / v.name
            for v in seen.volumes
        )
    assert [f.path for f in await instance.configuration() if not f.reason] == [
        sample.root / "etc/ces",
        sample.root / "etc/cesapp",
    ]
    assert await instance.fqdn() == "ces.example.org"
    assert await instance.orphaned_volumes(found) == []


async def test_registry_data_of_the_sample(
    tmp_path: Path, make_instance: Callable[[Path], Sample], registry: Registry
) -> None:
    """Keys belong to a dogu or to the instance; state and services are excluded."""
    sample = make_instance(tmp_path / "ces")
    await copy_into(registry, sample.registry)
    instance = Instance(sample.root, registry)
    own = (await instance.dogu_registry("redmine")).values
    assert {key.split("/")[1] for key in own} == {"config", "dogu", "dogu_v2"}
    assert {key.split("/")[2] for key in own} == {"redmine"}
    ours = (await instance.instance_registry()).values
    assert {"/blueprint", "/config/_global/fqdn", "/config/_host/logging/level"} <= ours.keys()
    assert ours["/config/backup/encryption_key"] == sample.key
    known = set(ours)
    for dogu in DOGUS:
        known |= (await instance.dogu_registry(dogu.name)).values.keys()
    rest = (await registry.read("/")).keys() - known
    assert {key.split("/")[1] for key in rest} == {"state", "services", "dogu", "dogu_v2"} - {
        "dogu_v2" if REMOVED.only_v1 else ""
    }
    assert all(REMOVED.name in key for key in rest if key.startswith("/dogu"))


async def test_registry_json_is_flat_sorted_and_readable(
    instance: Instance, registry: Registry
) -> None:
    """The file is a JSON object with sorted keys, unescaped UTF-8 and a final newline."""
    await registry.set("/config/redmine/b", "Zeile\n\N{ROCKET}")
    await registry.set("/config/redmine/a/x", "")
    data = (await instance.dogu_registry("redmine")).to_json()
    assert data.decode() == (
        '{\n  "/config/redmine/a/x": "",\n  "/config/redmine/b": "Zeile\\n\N{ROCKET}"\n}\n'
    )


async def test_one_bad_key_does_not_hide_the_others(tmp_path: Path) -> None:
    """An unreadable value is reported with its key; all other values are returned."""
    registry = FileRegistry(tmp_path / "registry")
    instance = Instance(tmp_path / "root", registry)
    await registry.set("/config/redmine/a", "1")
    await registry.set("/config/redmine/sub/good", "2")
    (registry.path / "config/redmine/sub/bad").write_bytes(b"\xff")
    await registry.set("/dogu/redmine/current", "3")
    data = await instance.dogu_registry("redmine")
    assert data.values == {
        "/config/redmine/a": "1",
        "/config/redmine/sub/good": "2",
        "/dogu/redmine/current": "3",
    }
    ((key, error),) = data.failed
    assert key == "/config/redmine/sub/bad"
    assert "UTF-8" in error


async def test_unlistable_keys_are_reported(tmp_path: Path) -> None:
    """A directory of keys that cannot be listed is reported once, by its key."""
    registry = FileRegistry(tmp_path / "registry")
    instance = Instance(tmp_path / "root", registry)
    await registry.set("/dogu/redmine/current", "1")
    (registry.path / "config/redmine").mkdir(parents=True)
    (registry.path / os.fsdecode(b"config/redmine/\xff")).touch()
    data = await instance.dogu_registry("redmine")
    assert list(data.values) == ["/dogu/redmine/current"]
    assert [key for key, _ in data.failed] == ["/config/redmine"]


async def test_hidden_directories_are_included(instance: Instance, registry: Registry) -> None:
    """Directories that etcd does not list are read by name in both registries."""
    await registry.set("/config/_global/fqdn", "ces.local")
    await registry.set("/config/_host/x", "1")
    await registry.set("/config/redmine/x", "1")
    assert list((await instance.instance_registry()).values) == [
        "/config/_global/fqdn",
        "/config/_host/x",
    ]


async def test_v2_takes_precedence_over_v1(instance: Instance, registry: Registry) -> None:
    """The version is read from v2; a dogu.json missing in v2 is read from v1."""
    await registry.set("/dogu/redmine/current", "1-1")
    await registry.set("/dogu/redmine/1-1", '{"Name": "official/redmine", "Version": "old"}')
    await registry.set("/dogu/redmine/2-1", '{"Name": "official/redmine", "Version": "v1"}')
    (dogu,) = await instance.dogus()
    assert (dogu.version, dogu.dogu and dogu.dogu.version) == ("1-1", "old")
    await registry.set("/dogu_v2/redmine/current", "2-1\n")
    (dogu,) = await instance.dogus()
    assert (dogu.version, dogu.dogu and dogu.dogu.version) == ("2-1", "v1")
    await registry.set("/dogu_v2/redmine/2-1", '{"Name": "official/redmine", "Version": "v2"}')
    (dogu,) = await instance.dogus()
    assert dogu.dogu
    assert dogu.dogu.version == "v2"


async def test_removed_dogus_are_not_installed(instance: Instance, registry: Registry) -> None:
    """An uninstalled dogu keeps its dogu.json, but has no ``current`` key."""
    await registry.set("/dogu_v2/cockpit/1-1", '{"Name": "official/cockpit"}')
    await registry.set("/dogu/cockpit/1-1", '{"Name": "official/cockpit"}')
    assert await instance.dogus() == []


async def test_reasons_of_excluded_and_unusable_volumes(
    instance: Instance, registry: Registry, tmp_path: Path
) -> None:
    """A missing directory, a link and a file are reported; exclusions have a reason."""
    await install(
        registry,
        "redmine",
        {"Name": "good"},
        {"Name": "missing"},
        {"Name": "linked"},
        {"Name": "file"},
        {"Name": "tmp", "NeedsBackup": False},
    )
    directory = instance.volumes_directory("redmine")
    for name in ("good", "tmp", "undeclared", "_private"):
        (directory / name).mkdir(parents=True)
    (directory / "linked").symlink_to(tmp_path)
    (directory / "file").touch()
    (dogu,) = await instance.dogus()
    found = {v.name: (v.needs_backup, v.reason) for v in dogu.volumes}
    assert found["good"] == (True, "")
    assert found["_private"] == (True, "")
    assert found["missing"] == (True, "no such directory")
    assert found["linked"][0]
    assert "symbolic link" in found["linked"][1]
    assert found["file"] == (True, "not a directory")
    assert found["tmp"] == (False, "NeedsBackup is false in dogu.json")
    assert found["undeclared"] == (False, "not declared in dogu.json")


@pytest.mark.parametrize("text", [None, "{", '{"Name": "n/redmine", "Volumes": 1}'])
async def test_without_a_valid_dogu_json_all_volumes_need_backup(
    instance: Instance, registry: Registry, text: str | None
) -> None:
    """No volume is excluded because the dogu.json is missing or invalid."""
    await registry.set("/dogu_v2/redmine/current", "1-1")
    if text is not None:
        await registry.set("/dogu_v2/redmine/1-1", text)
    for name in (b"data", b"_private", b"odd \xff"):
        (instance.volumes_directory("redmine") / os.fsdecode(name)).mkdir(parents=True)
    (dogu,) = await instance.dogus()
    assert "dogu.json" in dogu.problem
    assert (dogu.text, dogu.dogu) == (text, None)
    assert [v.needs_backup and not v.reason for v in dogu.volumes] == [True] * 3


async def test_an_unreadable_dogu_does_not_affect_others(tmp_path: Path) -> None:
    """Unreadable registry keys are reported in the `problem` of their dogu."""
    registry = FileRegistry(tmp_path / "registry")
    instance = Instance(tmp_path / "root", registry)
    await install(registry, "cas")
    (registry.path / "dogu_v2/redmine").mkdir(parents=True)
    (registry.path / "dogu_v2/redmine/current").write_bytes(b"\xff")
    cas, redmine = await instance.dogus()
    assert (cas.name, cas.problem) == ("cas", "")
    assert "/dogu_v2/redmine/current" in redmine.problem


async def test_missing_configuration_is_excluded(instance: Instance) -> None:
    """Only existing directories need backup; a symbolic link is reported."""
    (instance.root / "etc").mkdir(parents=True)
    (instance.root / "etc/ces").symlink_to("elsewhere")
    ces, cesapp = await instance.configuration()
    assert ces.needs_backup
    assert "symbolic link" in ces.reason
    assert (cesapp.needs_backup, cesapp.reason) == (False, "no such directory")


async def test_orphaned_volumes_that_cannot_be_listed(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are not none."""

    def fail(directory: Path) -> list[str]:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(directory))

    monkeypatch.setattr(os, "listdir", fail)
    with pytest.raises(CesbrError, match=r"Cannot list the volumes .*Input/output error"):
        await instance.orphaned_volumes([])


async def test_orphaned_volumes(instance: Instance, registry: Registry) -> None:
    """Volume directories of uninstalled dogus are found."""
    await install(registry, "redmine")
    for name in ("redmine", "gone"):
        instance.volumes_directory(name).mkdir(parents=True)
    assert await instance.orphaned_volumes(["redmine"]) == [instance.volumes_directory("gone")]


async def test_the_root_is_absolute(tmp_path: Path, registry: Registry) -> None:
    """Paths are absolute and without ``..``, as in the backups of restic."""
    instance = Instance(tmp_path / "a/../b", registry)
    assert instance.root == tmp_path / "b"
