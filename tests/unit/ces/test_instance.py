"""The instance: which dogus are installed, what of them needs backup, what the registry holds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cesbrfs.ces.instance import Instance
from cesbrfs.ces.registry import FileRegistry, Registry
from tests.sample.dogus import DOGUS, REMOVED
from tests.sample.instance import Instance as Sample


@pytest.fixture
def instance(tmp_path: Path, registry: Registry) -> Instance:
    """Return an instance without anything."""
    return Instance(tmp_path / "root", registry)


async def install(registry: Registry, name: str, *volumes: dict[str, object]) -> None:
    await registry.set(f"/dogu_v2/{name}/current", "1-1")
    document = json.dumps({"Name": f"official/{name}", "Volumes": volumes})
    await registry.set(f"/dogu_v2/{name}/1-1", document)


async def copy_into(registry: Registry, folder: Path) -> None:
    for key, value in (await FileRegistry(folder).read("/")).items():
        await registry.set(key, value)


async def test_the_sample_instance(
    tmp_path: Path, make_instance: Callable[[Path], Sample], registry: Registry
) -> None:
    """Every installed dogu of both forms is found, with exactly the volumes that need backup."""
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
    assert await instance.strays(found) == []


async def test_registry_data_of_the_sample(
    tmp_path: Path, make_instance: Callable[[Path], Sample], registry: Registry
) -> None:
    """A dogu has its own keys, the instance the rest; what only runs is nobody's."""
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
    """The file is one JSON object with sorted keys, its text as it is, a line end at the end."""
    await registry.set("/config/redmine/b", "Zeile\n\N{ROCKET}")
    await registry.set("/config/redmine/a/x", "")
    data = (await instance.dogu_registry("redmine")).to_json()
    assert data.decode() == (
        '{\n  "/config/redmine/a/x": "",\n  "/config/redmine/b": "Zeile\\n\N{ROCKET}"\n}\n'
    )


async def test_one_bad_key_does_not_hide_the_others(tmp_path: Path) -> None:
    """A value that cannot be read is told by its key; all others are there."""
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


async def test_keys_that_cannot_be_listed_are_told(tmp_path: Path) -> None:
    """A folder of keys that cannot be walked is one failure, named by its key."""
    registry = FileRegistry(tmp_path / "registry")
    instance = Instance(tmp_path / "root", registry)
    await registry.set("/dogu/redmine/current", "1")
    (registry.path / "config/redmine").mkdir(parents=True)
    (registry.path / os.fsdecode(b"config/redmine/\xff")).touch()
    data = await instance.dogu_registry("redmine")
    assert list(data.values) == ["/dogu/redmine/current"]
    assert [key for key, _ in data.failed] == ["/config/redmine"]


async def test_hidden_folders_are_asked_for_by_name(instance: Instance, registry: Registry) -> None:
    """The folders that etcd never lists are in the instance's data, wherever it is kept."""
    await registry.set("/config/_global/fqdn", "ces.local")
    await registry.set("/config/_host/x", "1")
    await registry.set("/config/redmine/x", "1")
    assert list((await instance.instance_registry()).values) == [
        "/config/_global/fqdn",
        "/config/_host/x",
    ]


async def test_the_new_form_goes_before_the_old_one(instance: Instance, registry: Registry) -> None:
    """v2 decides the version; a description that v2 lacks is taken from v1."""
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
    """Uninstalling leaves the descriptions: only ``current`` counts."""
    await registry.set("/dogu_v2/cockpit/1-1", '{"Name": "official/cockpit"}')
    await registry.set("/dogu/cockpit/1-1", '{"Name": "official/cockpit"}')
    assert await instance.dogus() == []


async def test_volumes_that_cannot_be_backed_up_say_why(
    instance: Instance, registry: Registry, tmp_path: Path
) -> None:
    """Missing, a link, a file: each needed volume says it; unneeded ones say why they are not."""
    await install(
        registry,
        "redmine",
        {"Name": "good"},
        {"Name": "missing"},
        {"Name": "linked"},
        {"Name": "file"},
        {"Name": "tmp", "NeedsBackup": False},
    )
    folder = instance.volumes_folder("redmine")
    for name in ("good", "tmp", "undeclared", "_private"):
        (folder / name).mkdir(parents=True)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "file").touch()
    (dogu,) = await instance.dogus()
    found = {v.name: (v.needs_backup, v.reason) for v in dogu.volumes}
    assert found["good"] == (True, "")
    assert found["_private"] == (True, "")
    assert found["missing"] == (True, "it does not exist")
    assert found["linked"][0]
    assert "symbolic link" in found["linked"][1]
    assert found["file"] == (True, "it is not a folder")
    assert found["tmp"] == (False, "it needs no backup (NeedsBackup)")
    assert found["undeclared"] == (False, "the dogu.json does not declare it")


@pytest.mark.parametrize("text", [None, "{", '{"Name": "n/redmine", "Volumes": 1}'])
async def test_without_a_description_everything_needs_backup(
    instance: Instance, registry: Registry, text: str | None
) -> None:
    """A dogu whose dogu.json is missing or damaged loses no volume because of that."""
    await registry.set("/dogu_v2/redmine/current", "1-1")
    if text is not None:
        await registry.set("/dogu_v2/redmine/1-1", text)
    for name in (b"data", b"_private", b"odd \xff"):
        (instance.volumes_folder("redmine") / os.fsdecode(name)).mkdir(parents=True)
    (dogu,) = await instance.dogus()
    assert "dogu.json" in dogu.problem
    assert (dogu.text, dogu.dogu) == (text, None)
    assert [v.needs_backup and not v.reason for v in dogu.volumes] == [True] * 3


async def test_a_damaged_version_is_the_dogus_own_problem(tmp_path: Path) -> None:
    """One dogu whose registry keys cannot be read does not hide the others."""
    registry = FileRegistry(tmp_path / "registry")
    instance = Instance(tmp_path / "root", registry)
    await install(registry, "cas")
    (registry.path / "dogu_v2/redmine").mkdir(parents=True)
    (registry.path / "dogu_v2/redmine/current").write_bytes(b"\xff")
    cas, redmine = await instance.dogus()
    assert (cas.name, cas.problem) == ("cas", "")
    assert "/dogu_v2/redmine/current" in redmine.problem


async def test_configuration_that_is_not_there_is_left_out(instance: Instance) -> None:
    """Only what exists needs backup; a link in its place is told."""
    (instance.root / "etc").mkdir(parents=True)
    (instance.root / "etc/ces").symlink_to("elsewhere")
    ces, cesapp = await instance.configuration()
    assert ces.needs_backup
    assert "symbolic link" in ces.reason
    assert (cesapp.needs_backup, cesapp.reason) == (False, "it does not exist")


async def test_stray_volumes_are_found(instance: Instance, registry: Registry) -> None:
    """Volumes of dogus that are not installed are known by their folder."""
    await install(registry, "redmine")
    for name in ("redmine", "gone"):
        instance.volumes_folder(name).mkdir(parents=True)
    assert await instance.strays(["redmine"]) == [instance.volumes_folder("gone")]


async def test_the_root_is_made_plain(tmp_path: Path, registry: Registry) -> None:
    """Paths are absolute and hold no ``..``, as restic will have them."""
    instance = Instance(tmp_path / "a/../b", registry)
    assert instance.root == tmp_path / "b"
