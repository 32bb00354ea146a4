"""Test the catalog on real repositories, with and without tags."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from cesbrfs.catalog.backups import group
from cesbrfs.catalog.layout import Layout, lay_out
from cesbrfs.catalog.manifest import Manifest, Point, write_manifest
from cesbrfs.catalog.status import Status, make_report
from cesbrfs.repo.format.model import Node
from cesbrfs.repo.format.timestamps import parse_time
from cesbrfs.repo.repository import Repository
from tests.support.restic_repo import PASSWORD, ResticRepo, create


@dataclass(frozen=True, slots=True)
class Host:
    """A host with a small CES below `root`, and a repository of its backups."""

    root: Path
    repo: ResticRepo

    @property
    def ces(self) -> Path:
        """The directory of the dogus."""
        return self.root / "var/lib/ces"


FILES = {
    "var/lib/ces/redmine/volumes/files/f.txt": b"redmine's file",
    "var/lib/ces/redmine/volumes/plugins/p.rb": b"redmine's plugin",
    "var/lib/ces/ldap/volumes/db/data.mdb": b"ldap's data",
    "etc/ces/node_master": b"localhost",
    "etc/other/x": b"not of the instance",
    "export/redmine/dogu.json": b'{"Name": "official/redmine", "Version": "6.1.3-2"}',
    "export/redmine/registry.json": b'{"/config/redmine/logging/root": "WARN"}',
    "export/registry.json": b'{"/config/_global/fqdn": "ces.local"}',
}


@pytest.fixture(scope="module", params=["old", "new"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Return a host for one restic; each test makes its own backups."""
    binary: Path = request.getfixturevalue(f"restic_{request.param}")
    directory = tmp_path_factory.mktemp("host")
    for path, content in FILES.items():
        (directory / "root" / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / "root" / path).write_bytes(content)
    return Host(directory / "root", create(binary, directory / "repo"))


@dataclass(frozen=True, slots=True)
class Read:
    """A backup as read by our reader."""

    repository: Repository
    layout: Layout
    status: Status

    @property
    def places(self) -> set[str]:
        """All placements, by path below the backup."""
        return {b"/".join(path).decode() for path in self.layout.placed}

    @property
    def whole(self) -> list[str]:
        """The IDs of the snapshots that are shown unchanged."""
        return sorted(snapshot.id for snapshot in self.layout.whole)

    async def content(self, path: str) -> bytes:
        """Read a file by its path below the backup."""
        parts = [part.encode() for part in path.split("/")]
        for length in range(len(parts), 0, -1):
            placement = self.layout.placed.get(tuple(parts[:length]))
            if placement is None:
                continue
            node: Node = placement.node
            for name in parts[length:]:
                assert node.subtree is not None
                tree = (
                    await self.repository.trees.get(node.subtree)
                    if node.name
                    else await self.repository.trees.root(placement.snapshot)
                )
                node = tree.nodes[name]
            opened = await self.repository.open_file(node)
            return await opened.read(0, opened.size)
        raise AssertionError(f"nothing is placed at {path}")


async def read(host: Host, backup_id: str) -> Read:
    """Read one backup with a separate reader."""
    repository = await host.repo.open()
    backup = group(await repository.snapshots()).find(backup_id)
    told = await make_report(repository, backup)
    return Read(repository, await lay_out(repository, backup), told.status)


async def test_bare_ids_and_absolute_paths(host: Host) -> None:
    """One snapshot per item, tagged with the backup ID only."""
    for path in ("var/lib/ces/redmine/volumes", "var/lib/ces/ldap/volumes/db", "etc/ces",
                 "export/redmine/dogu.json", "export/redmine/registry.json",
                 "export/registry.json"):  # fmt: skip
        host.repo.backup(host.root / path, tags=["absolute"])
    found = await read(host, "absolute")
    assert found.status is Status.UNVERIFIED
    assert found.whole == []
    assert found.places == {
        "redmine/volumes/files",
        "redmine/volumes/plugins",
        "redmine/dogu.json",
        "redmine/registry.json",
        "ldap/volumes/db",
        "_instance/configuration/etc/ces",
        "_instance/registry.json",
    }
    assert await found.content("redmine/volumes/files/f.txt") == b"redmine's file"
    assert await found.content("ldap/volumes/db/data.mdb") == b"ldap's data"
    assert await found.content("_instance/configuration/etc/ces/node_master") == b"localhost"
    assert b"6.1.3-2" in await found.content("redmine/dogu.json")


async def test_all_in_one_snapshot(host: Host) -> None:
    """Dogus in one snapshot are placed separately; the rest is shown unchanged."""
    snapshot = host.repo.backup(host.ces, host.root / "etc", tags=["one"])
    found = await read(host, "one")
    assert found.whole == [snapshot]
    assert found.places == {
        "redmine/volumes/files",
        "redmine/volumes/plugins",
        "ldap/volumes/db",
        "_instance/configuration/etc/ces",
    }


@pytest.mark.parametrize(
    ("cwd", "path"),
    [
        ("var/lib/ces/redmine/volumes", "files"),
        ("var/lib/ces/redmine/volumes/files", "."),
        ("var/lib/ces/redmine/volumes/plugins", "../files"),
        ("var/lib/ces", "redmine/volumes/files"),
        ("var", "./lib/ces/redmine/volumes/files/"),
        ("etc", "../var/lib/ces/redmine/volumes/files"),
    ],
)
async def test_relative_paths(host: Host, cwd: str, path: str) -> None:
    """The volume has its path and content, however its directory was specified."""
    backup_id = f"relative {cwd} {path}"
    host.repo.backup(path, cwd=host.root / cwd, tags=[backup_id])
    found = await read(host, backup_id)
    assert (found.places, found.whole) == ({"redmine/volumes/files"}, [])
    assert await found.content("redmine/volumes/files/f.txt") == b"redmine's file"


async def test_several_relative_paths(host: Host) -> None:
    """Two directories of two dogus in one snapshot."""
    paths = ("redmine/volumes/files", "ldap/volumes/db")
    host.repo.backup(*paths, cwd=host.ces, tags=["relatives"])
    found = await read(host, "relatives")
    assert (found.places, found.whole) == ({"redmine/volumes/files", "ldap/volumes/db"}, [])
    assert await found.content("ldap/volumes/db/data.mdb") == b"ldap's data"


async def test_base_names_that_restic_had_to_change(host: Host) -> None:
    """Ambiguous parts are not placed; the snapshot is shown unchanged."""
    other = host.ces / "redmine/files"
    other.mkdir(exist_ok=True)
    (other / "no volume").touch()
    snapshot = host.repo.backup("files", "../files", cwd=host.ces / "redmine/volumes", tags=["x"])
    found = await read(host, "x")
    assert (found.places, found.whole) == (set(), [snapshot])
    assert set((await found.repository.trees.root(found.layout.whole[0])).nodes) == {
        b"files",
        b"files-1",
    }


async def test_dumps_through_stdin(host: Host) -> None:
    """A document is placed by its content; an unknown dump is shown unchanged."""
    dogu_json = FILES["export/redmine/dogu.json"]
    host.repo.backup(stdin=("dogu.json", dogu_json), tags=["stdin"])
    host.repo.backup(stdin=("registry.json", b'{"/config/ldap/x": ""}'), tags=["stdin"])
    dump = host.repo.backup(stdin=("dump.sql", b"-- nothing"), tags=["stdin"])
    found = await read(host, "stdin")
    assert found.places == {"redmine/dogu.json", "ldap/registry.json"}
    assert found.whole == [dump]
    assert await found.content("redmine/dogu.json") == dogu_json


async def test_several_tags_and_none(host: Host) -> None:
    """A snapshot is in each backup it is tagged with; an untagged one is listed separately."""
    shared = host.repo.backup(host.ces, tags=["first", "second", "nightly=yes"])
    loose = [
        host.repo.backup(host.ces, time="2020-01-01 00:00:00"),
        host.repo.backup(host.ces, tags=["nightly=yes"], time="2020-01-02 00:00:00"),
    ]
    for backup_id in ("first", "second"):
        found = await read(host, backup_id)
        assert "redmine/volumes/files" in found.places
        assert {p.snapshot.id for p in found.layout.placed.values()} == {shared}
    backups = group(await (await host.repo.open()).snapshots())
    assert [snapshot.id for snapshot in backups.loose] == loose


async def test_our_own_tags_and_how_far_a_backup_is_whole(host: Host) -> None:
    """Complete once it has its manifest, even after ``restic tag``, but not after a loss."""
    backup_id = "20261122T213000Z-7f3a9c"

    def point(kind: str, dogu: str | None, path: str) -> Point:
        tags = [backup_id, f"kind={kind}", *([f"dogu={dogu}"] if dogu else [])]
        return Point(kind, dogu, host.repo.backup(host.root / path, tags=tags), 1)

    points = [
        point("volumes", "redmine", "var/lib/ces/redmine/volumes"),
        point("metadata", "redmine", "export/redmine/dogu.json"),
        point("registry", None, "export/registry.json"),
        point("configuration", None, "etc/ces"),
    ]
    assert (await read(host, backup_id)).status is Status.INCOMPLETE
    manifest = Manifest(1, backup_id, "2026-11-22T21:30:00.000000000Z", "ces", points)
    tags = [backup_id, "kind=manifest"]
    host.repo.backup(stdin=("manifest.json", write_manifest(manifest)), tags=tags)
    found = await read(host, backup_id)
    assert found.status is Status.COMPLETE
    assert found.whole == []
    assert found.places == {
        "redmine/volumes/files",
        "redmine/volumes/plugins",
        "redmine/dogu.json",
        "_instance/registry.json",
        "_instance/configuration/etc/ces",
    }
    assert json.loads(await found.content("_instance/registry.json")) == json.loads(
        FILES["export/registry.json"]
    )

    host.repo.run("tag", "--add", "kept=forever", *(p.snapshot or "" for p in points))
    assert (await read(host, backup_id)).status is Status.COMPLETE
    (changed,) = [s for s in host.repo.snapshots() if s.get("original") == points[1].snapshot]
    host.repo.run("forget", changed["id"])
    found = await read(host, backup_id)
    assert found.status is Status.INCOMPLETE
    assert "redmine/dogu.json" not in found.places
    assert "redmine/volumes/files" in found.places


@pytest.mark.parametrize("forget", [True, False], ids=["forgotten", "kept"])
async def test_what_restic_rewrites(restic_new: Path, tmp_path: Path, *, forget: bool) -> None:
    """The successor is shown, the original in _snapshots; backup ID, time and host stay."""
    files = tmp_path / "var/lib/ces/redmine/volumes/files"
    files.mkdir(parents=True)
    (files / "secret").write_text("secret")
    (files / "report").write_text("report")
    repo = create(restic_new, tmp_path / "repo")
    flags = ["--forget"] if forget else []
    for number in range(4):  # the order of the IDs is random
        time = f"2026-11-2{number} 10:00:00"
        original = repo.backup("--host", "h", files, tags=[f"ID{number}"], time=time)
        repo.run("rewrite", "--exclude", "secret", *flags, original)
    host = Host(tmp_path, repo)
    snapshots = await (await repo.open()).snapshots()
    assert sorted(group(snapshots).by_name) == [b"ID0", b"ID1", b"ID2", b"ID3"]
    for number in range(4):
        backup = group(snapshots).find(f"ID{number}")
        assert (backup.host, backup.time_ns) == ("h", parse_time(f"2026-11-2{number}T10:00:00Z"))
        found = await read(host, backup.id)
        assert await found.content("redmine/volumes/files/report") == b"report"
        (placement,) = found.layout.placed.values()
        nodes = (await found.repository.trees.get(placement.node.subtree or b"")).nodes
        assert list(nodes) == [b"report"]
        assert len(found.whole) == (0 if forget else 1)


@pytest.mark.parametrize("forget", [True, False], ids=["forgotten", "kept"])
@pytest.mark.parametrize("with_tree", [True, False], ids=["tree", "bytes"])
async def test_what_restic_repairs(
    restic_new: Path, tmp_path: Path, *, with_tree: bool, forget: bool
) -> None:
    """A backup that lost content is incomplete; one that was only copied or tagged is not."""
    files = tmp_path / "var/lib/ces/redmine/volumes/files"
    files.mkdir(parents=True)
    (files / "report").write_bytes(random.Random(1).randbytes(50_000))
    repo = create(restic_new, tmp_path / "repo")
    tags = ["A", "kind=volumes", "dogu=redmine"]
    snapshot = repo.backup(files, tags=tags)
    point = Point("volumes", "redmine", snapshot, 50_000)
    if with_tree:
        (told,) = repo.snapshots()
        point.tree = told["tree"]
    data = write_manifest(Manifest(1, "A", "2026-11-22T21:30:00Z", "ces", [point]))
    repo.backup(stdin=("manifest.json", data), tags=["A", "kind=manifest"])
    host = Host(tmp_path, repo)
    repo.run("tag", "--add", "kept=forever", snapshot)
    assert (await read(host, "A")).status is Status.COMPLETE

    copied = create(restic_new, tmp_path / "copy")
    copied.run(
        "copy", "--from-repo", repo.directory, environment={"RESTIC_FROM_PASSWORD": PASSWORD}
    )
    assert (await read(Host(tmp_path, copied), "A")).status is Status.COMPLETE

    packs = sorted((repo.directory / "data").rglob("*"), key=lambda path: path.stat().st_size)
    packs[-1].unlink()
    repo.run("repair", "index")
    repo.run("repair", "snapshots", *(["--forget"] if forget else []))
    found = await read(host, "A")
    assert found.status is Status.INCOMPLETE
    assert group(await found.repository.snapshots()).by_name.keys() == {b"A"}
    assert await found.content("redmine/volumes/files/report") == b""


@pytest.mark.parametrize("binary", ["old", "new"])
async def test_documents_of_several_nights_under_one_tag(
    request: pytest.FixtureRequest, tmp_path: Path, binary: str
) -> None:
    """Each night's dogu.json is in the backup of that night, though all have one path."""
    repo = create(request.getfixturevalue(f"restic_{binary}"), tmp_path / "repo")
    root = tmp_path / "ces"
    for night in (1, 2):
        for minute, dogu in ((10, "redmine"), (20, "scm")):
            volume = root / dogu / "volumes/files"
            volume.mkdir(parents=True, exist_ok=True)
            (volume / "night").write_text(f"{night}")
            document = json.dumps({"Name": f"official/{dogu}", "Version": f"{night}"}).encode()
            at = f"2026-11-0{night} 10:{minute}:"
            repo.backup(stdin=("dogu.json", document), tags=["nightly"], time=f"{at}00")
            repo.backup(volume, tags=["nightly"], time=f"{at}30")
    backups = group(await (await repo.open()).snapshots()).by_name.values()
    assert len(backups) == 2
    for night, backup in enumerate(backups, 1):
        found = await read(Host(tmp_path, repo), backup.id)
        for dogu in ("redmine", "scm"):
            assert await found.content(f"{dogu}/volumes/files/night") == b"%d" % night
            assert json.loads(await found.content(f"{dogu}/dogu.json"))["Version"] == f"{night}"
        assert found.whole == []
