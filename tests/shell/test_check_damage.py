"""`check` names the damaged backups, dogus and paths, and the backups that have them whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import trio

from cesbrfs import open_backups
from cesbrfs.repo.format.pack import BlobType
from cesbrfs.vfs.entries import SnapshotEntry
from tests.shell.conftest import KEY, ODD_SHOWN, Cesbr, Site
from tests.support.restic_repo import ResticRepo

FILES = "redmine/volumes/files"
HELLO, BINARY = f"{FILES}/hello.txt", f"{FILES}/sub/binary"


def _packs(site: Site) -> list[Path]:
    """Return all packs, the largest first, which has the content of the volume."""
    packs = (site.repository / "data").glob("*/*")
    return sorted(packs, key=lambda file: -file.stat().st_size)


def _flip(file: Path, offset: int) -> None:
    file.chmod(0o600)
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)


def _ids(own: Cesbr) -> list[str]:
    backups = own("backups", "--json").json
    assert isinstance(backups, list)
    return [backup["id"] for backup in backups]


def _check(own: Cesbr, *options: str) -> dict[str, Any]:
    """Check the damaged repository, and return the result."""
    said = own("check", "--json", *options)
    assert said.code == 1, said.err
    assert isinstance(said.json, dict)
    assert not said.json["ok"]
    return said.json


def _by_place(found: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    places = {(entry["backup"], entry["path"]): entry for entry in found["damaged"]}
    assert len(places) == len(found["damaged"]) == found["damaged_total"]
    return places


def test_a_missing_pack(own: Cesbr, site: Site) -> None:
    """The files with content in it are named; a version that another backup has is found."""
    first, second = _ids(own)
    pack = _packs(site)[0]
    pack.unlink()
    found = _check(own)
    places = _by_place(found)
    assert {path for backup, path in places if backup == first} - {HELLO} == {
        path for backup, path in places if backup == second
    }
    assert {HELLO, BINARY, f"{FILES}/{ODD_SHOWN}"} <= {path for _, path in places}
    hello = places[first, HELLO]
    assert hello["dogu"] == "redmine"
    assert hello["reason"] == f"pack {pack.name[:8]} is missing"
    assert hello["intact_in"] == [{"backup": second}]
    assert places[second, BINARY]["intact_in"] == []
    assert [backup["id"] for backup in found["backups"]] == [first, second]
    for backup in found["backups"]:
        assert (backup["damaged"], backup["whole"]) == (["redmine"], ["_instance"])
    text = own("check")
    assert text.code == 1
    lines = text.out.splitlines()
    at = lines.index(HELLO)
    assert lines[at + 1 : at + 3] == [
        f"  in {first}: pack {pack.name[:8]} is missing",
        f"  whole in {second}",
    ]
    at = lines.index(BINARY)
    assert lines[at + 1].startswith(f"  in 2 backups, {first} to {second}: ")
    assert lines[at + 2] == "  whole in no other backup"
    assert lines[-1] == "Whole: 0 other backups."


def test_bit_rot_is_found_by_reading(own: Cesbr, site: Site, restic_binary: Path) -> None:
    """Only the file whose blob is damaged is named, not others of its pack."""
    own = own.having(CESBR_RESTIC=str(restic_binary))
    ids = _ids(own)
    pack = _packs(site)[0]
    _flip(pack, 30_000)
    places = _by_place(_check(own, "--read-data"))
    assert set(places) == {(backup, BINARY) for backup in ids}
    assert places[ids[0], BINARY]["reason"] == f"pack {pack.name[:8]} is damaged"


def test_a_truncated_pack(own: Cesbr, site: Site) -> None:
    """The sizes of packs are compared without reading them."""
    pack = _packs(site)[0]
    pack.chmod(0o600)
    with pack.open("r+b") as file:
        file.truncate(30_000)
    entry = _by_place(_check(own))[_ids(own)[0], BINARY]
    assert entry["reason"] == f"pack {pack.name[:8]} is truncated"


def _tree_blob(repo: ResticRepo, path: str) -> tuple[Path, int]:
    """Return the pack and offset of the tree of a directory, or of the root for ``path/...``."""

    async def find() -> tuple[Path, int]:
        async with open_backups(str(repo.directory), repo.password) as view:
            entry = (await view.resolve(path.removesuffix("/..."))).entry
            assert isinstance(entry, SnapshotEntry)
            above = path.endswith("/...")
            tree = entry.snapshot.tree if above else entry.node.subtree
            assert tree is not None
            (location,) = (await view.repository.index()).places(BlobType.TREE, tree)
            name = location.pack.hex()
            return repo.directory / "data" / name[:2] / name, location.offset

    return trio.run(find)


def test_an_unreadable_directory(own: Cesbr, site: Site, restic_old: Path) -> None:
    """The directory is named, and the backup that has it whole."""
    second = _ids(own)[-1]
    (site.files / "sub/more").write_text("more\n")
    assert own("backup").code == 0
    third = _ids(own)[-1]
    repo = ResticRepo(restic_old, site.repository, KEY)
    pack, offset = _tree_blob(repo, f"/{third}/{FILES}/sub")
    _flip(pack, offset + 20)
    places = _by_place(_check(own))
    assert set(places) == {(third, f"{FILES}/sub")}
    entry = places[third, f"{FILES}/sub"]
    assert entry["reason"].startswith("its directory cannot be read: ")
    assert entry["intact_in"] == [{"backup": second}]


def test_a_missing_pack_of_trees(own: Cesbr, site: Site, restic_binary: Path) -> None:
    """The check ends, although restic 0.14 would retry for 15 minutes, and explains the damage."""
    own = own.having(CESBR_RESTIC=str(restic_binary))
    last = _ids(own)[-1]
    pack, _ = _tree_blob(ResticRepo(restic_binary, site.repository, KEY), f"/{last}/{FILES}")
    pack.unlink()
    found = _check(own)
    assert any(f"pack {pack.name}: does not exist" in error for error in found["errors"])
    places = _by_place(found)
    entries = [e for (backup, _), e in places.items() if backup == last and e["dogu"] == "redmine"]
    assert entries, places
    assert all(f"pack {pack.name[:8]} is missing" in entry["reason"] for entry in entries)
    assert site.locks == []


def test_lost_snapshots(own: Cesbr, site: Site) -> None:
    """A snapshot that is gone or cannot be read is named by what it contains."""
    first, second = _ids(own)
    points = {
        (backup, point["kind"]): site.repository / "snapshots" / point["snapshot"]
        for backup in (first, second)
        for point in json.loads(own("cat", f"/{backup}/backup.json").stdout)["points"]
        if point["dogu"] == "redmine"
    }
    gone, damaged = points[first, "volumes"], points[second, "metadata"]
    gone.unlink()
    places = _by_place(_check(own))
    assert set(places) == {(first, "redmine/volumes")}
    assert places[first, "redmine/volumes"] == {
        "backup": first,
        "dogu": "redmine",
        "path": "redmine/volumes",
        "reason": f"its snapshot {gone.name[:8]} is missing",
        "lost": True,
        "intact_in": [{"backup": second}],
    }
    _flip(damaged, 40)
    places = _by_place(_check(own))
    assert set(places) == {(first, "redmine/volumes"), (second, "redmine/dogu.json")}
    entry = places[second, "redmine/dogu.json"]
    assert entry["reason"] == f"its snapshot {damaged.name[:8]} cannot be read"
    assert entry["intact_in"] == [{"backup": first}]


def test_a_lost_root_is_named_by_what_it_contains(own: Cesbr, site: Site, restic_old: Path) -> None:
    """A snapshot whose directories above the data are damaged has no place in its backup."""
    first, second = _ids(own)
    repo = ResticRepo(restic_old, site.repository, KEY)
    pack, offset = _tree_blob(repo, f"/{second}/{FILES}/...")
    _flip(pack, offset + 20)
    places = _by_place(_check(own))
    assert set(places) == {(second, "redmine/volumes")}
    assert places[second, "redmine/volumes"]["intact_in"] == [{"backup": first}]


def test_a_damaged_index(own: Cesbr, site: Site, restic_binary: Path) -> None:
    """What only a damaged index file names is lost; what is cached of it does not count."""
    own = own.having(CESBR_RESTIC=str(restic_binary))
    for index in (site.repository / "index").iterdir():
        _flip(index, 40)
    found = _check(own)
    assert {entry["path"] for entry in found["damaged"]} >= {"redmine/volumes", "backup.json"}
    assert all("no index names" in entry["reason"] for entry in found["damaged"])


def test_copies_in_other_packs(own: Cesbr, site: Site, restic_new: Path) -> None:
    """Content that is stored twice is not lost with one of its packs."""
    own = own.having(CESBR_RESTIC=str(restic_new))
    before = set(_packs(site))
    for index in (site.repository / "index").iterdir():
        index.unlink()
    assert own("backup").code == 0  # stores everything again
    ResticRepo(restic_new, site.repository, KEY).run("repair", "index")
    lost, copy = (
        max(packs, key=lambda file: file.stat().st_size)
        for packs in (before, set(_packs(site)) - before)
    )
    lost.unlink()
    found = _check(own)
    binaries = [entry for entry in found["damaged"] if entry["path"] == BINARY]
    assert [entry["backup"] for entry in binaries] == _ids(own)
    for entry in binaries:
        assert not entry["lost"]
        assert entry["reason"] == f"pack {lost.name[:8]} is missing"
        assert entry["intact_in"] == [{"pack": copy.name}]
    assert own("cat", f"/{_ids(own)[0]}/{BINARY}").code == 0
