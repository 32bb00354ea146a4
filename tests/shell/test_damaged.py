"""Unreadable data makes a result partial: exit code 3 and a message, even with ``--quiet``."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.shell.conftest import KEY, Cesbr, Site
from tests.support.restic_repo import create

PLACES = {"volumes": "redmine/volumes", "metadata": "redmine/dogu.json"}


def _damage(file: Path) -> str:
    file.chmod(0o600)
    file.write_bytes(b"")
    return file.name[:8]


def _newest(own: Cesbr) -> str:
    backups = own("backups", "--json").json
    assert isinstance(backups, list)
    return str(backups[-1]["id"])


def _snapshot(own: Cesbr, backup: str, kind: str) -> str:
    """Return the ID of the snapshot of one item of redmine."""
    points = json.loads(own("cat", f"/{backup}/backup.json").stdout)["points"]
    (snapshot,) = [p["snapshot"] for p in points if (p["kind"], p["dogu"]) == (kind, "redmine")]
    return str(snapshot)


def _damage_manifest(site: Site) -> None:
    """Damage the pack written last, which has the manifest of the newest backup."""
    _damage(max((site.repository / "data").glob("*/*"), key=lambda file: file.stat().st_mtime_ns))


@pytest.mark.parametrize("kind", PLACES)
def test_a_restore_names_the_dogu_whose_snapshot_is_damaged(
    own: Cesbr, site: Site, kind: str
) -> None:
    """Everything else is restored."""
    backup = _newest(own)
    named = _damage(site.repository / "snapshots" / _snapshot(own, backup, kind))
    for number, path in enumerate((".", "redmine")):
        target = site.root / f"back{number}"
        restore = ("restore", "--backup", backup, path, "--target", str(target), "--yes")
        said = own(*restore, "--quiet")
        assert said.code == 3
        assert PLACES[kind] in said.out + said.err
        assert named in said.out + said.err
        assert (target / "redmine/registry.json").exists()
    planned = own("plan", "--backup", backup, "redmine")
    assert f"{PLACES[kind]}: Its snapshot {named}" in planned.out


def test_commands_over_all_backups_name_a_damaged_snapshot(
    own: Cesbr, site: Site, restic_old: Path, tmp_path: Path
) -> None:
    """Commands on a single backup also report it, and still do their work."""
    backup = _newest(own)
    named = _damage(site.repository / "snapshots" / _snapshot(own, backup, "volumes"))
    commands = (
        ("backups",),
        ("ls", "/"),
        ("tree", "/", "-L", "1"),
        ("find", "--name", "*"),
        ("log", "redmine"),
        ("versions", "redmine/dogu.json"),
        ("policies",),
        ("forget", "--keep-last", "1", "--dry-run"),
        (
            "copy",
            "--all",
            "--to",
            str(create(restic_old, tmp_path / "other", password=KEY).directory),
        ),
    )
    for command in (*((*command, "--quiet") for command in commands), ("ls", "/")):
        said = own(*command)
        assert (said.code, named in said.err) == (3, True), command
    said = own("cat", f"/{backup}/redmine/dogu.json", "--quiet")
    assert (said.code, named in said.err) == (0, True)
    error = own("backups", "--json").error
    assert named in str(error["error"])
    line = f"cat /{backup}/redmine/dogu.json\n"
    assert own(script=2 * line).err.count(f"Snapshot {named}") == 1


def test_an_age_is_not_fine_if_something_cannot_be_read(own: Cesbr, site: Site) -> None:
    """An older backup is young enough, but the newest one may be incomplete."""
    assert own("status", "--max-age", "1h").code == 0
    newest = _newest(own)
    named = _damage(site.repository / "snapshots" / _snapshot(own, newest, "volumes"))
    said = own("status", "--max-age", "1h", "--json")
    assert (said.code, named in str(said.error["error"])) == (3, True)
    assert isinstance(said.json, dict)
    assert said.json["latest"]["id"] != newest
    assert not said.json["max_age"]["ok"]
    assert named in own("status").out


def test_a_listing_of_points_is_partial(own: Cesbr, site: Site) -> None:
    """Of the backup with the unreadable snapshot: an entry may be missing."""
    backups = own("backups", "--json").json
    assert isinstance(backups, list)
    older, newest = (str(backup["id"]) for backup in backups)
    named = _damage(site.repository / "snapshots" / _snapshot(own, newest, "metadata"))
    for command in (("ls", "redmine"), ("tree", "."), ("du", ".")):
        for backup, code in ((newest, 3), (older, 0)):
            said = own(command[0], f"/{backup}/{command[1]}", "--quiet")
            assert (said.code, named in said.err) == (code, True), (command, said.err)
    assert own("ls", f"/{newest}/redmine/volumes/files").code == 0


def test_the_last_complete_backup_is_not_removed_because_it_cannot_be_read(
    own: Cesbr, site: Site
) -> None:
    """Its manifest, or a snapshot of it: it may be complete."""
    backups = own("backups", "--json").json
    assert isinstance(backups, list)
    older, newest = (str(backup["id"]) for backup in backups)
    assert own("forget", older, "--yes").code == 0
    kept = set((site.repository / "snapshots").iterdir())
    file = site.repository / "snapshots" / _snapshot(own, newest, "volumes")
    data = file.read_bytes()
    named = _damage(file)
    said = own("forget", newest, "--yes")
    assert (said.code, named in said.err, "Pass --force" in said.err) == (2, True, True)
    file.write_bytes(data)
    _damage_manifest(site)
    said = own("forget", newest, "--yes")
    assert (said.code, "Pass --force" in said.err) == (2, True), said.err
    assert set((site.repository / "snapshots").iterdir()) == kept


def test_what_latest_chose_is_partial(own: Cesbr, site: Site) -> None:
    """The unreadable backup may be the newest, and its snapshot keeps its old tags."""
    older = _newest(own)
    assert own("backup").code == 0
    newest = _newest(own)
    named = _damage(site.repository / "snapshots" / _snapshot(own, newest, "volumes"))
    path = "redmine/dogu.json"
    for command, code in (
        (("cat", f"/latest/{path}"), 3),
        (("cat", "--backup", "latest", path), 3),
        (("restore", "--backup", "latest", path, "--target", "a", "--yes"), 3),
        (("restore", "--backup", older, path, "--target", "b", "--yes"), 0),
        (("export", "--backup", "latest", path, "--output", "c.tar"), 3),
        (("export", "--backup", older, path, "--output", "d.tar"), 0),
        (("restore-registry", "redmine", "--dry-run"), 3),
        (("protect", newest), 3),
        (("unprotect", newest), 3),
        (("note", older, "before the upgrade"), 3),
        (("forget", newest, "--yes"), 3),
    ):
        said = own(*command, "--quiet")
        assert (said.code, named in said.err) == (code, True), (command, said.err)
    for command in (
        ("restore-registry", "redmine", "--yes"),
        ("restore", "--backup", "latest", "redmine/volumes", "--in-place", "--yes"),
    ):
        said = own(*command, "--quiet")
        assert said.code == 1
        assert f"Nothing was restored. Snapshot {named}" in said.err
        assert f"pass --backup {older}" in said.err
    assert own.here.joinpath("a", path).read_bytes() == own.here.joinpath("b", path).read_bytes()


def test_a_newer_backup_whose_manifest_cannot_be_read(own: Cesbr, site: Site) -> None:
    """Whether it is complete is not known, so `latest` may be wrong."""
    older = _newest(own)
    assert own("backup").code == 0
    newest = _newest(own)
    _damage_manifest(site)
    why = f"Backup {newest} counts as incomplete, because its manifest cannot be checked: "
    path = "redmine/dogu.json"
    for command, code in (
        (("backups",), 3),
        (("cat", f"/latest/{path}"), 3),
        (("restore", "--backup", "latest", path, "--target", "a", "--yes"), 3),
        (("restore-registry", "redmine", "--dry-run"), 3),
        (("forget", "--keep-last", "1", "--dry-run"), 3),
        (("cat", f"/{older}/{path}"), 0),
        (("restore", "--backup", older, path, "--target", "b", "--yes"), 0),
    ):
        said = own(*command, "--quiet")
        assert (said.code, said.err.count(why)) == (code, bool(code)), (command, said.err)
    for refused in (
        ("restore-registry", "redmine", "--yes"),
        ("restore", "--backup", "latest", "redmine/volumes", "--in-place", "--yes"),
    ):
        said = own(*refused, "--quiet")
        assert said.code == 1
        assert said.err.count(why) == 1
        assert f"So {older} may not be the newest backup" in said.err
    assert own("restore-registry", "redmine", "--yes", "--backup", older).code == 0
    # A damaged backup that is older than the chosen one does not matter.
    assert own("backup").code == 0
    assert own("restore-registry", "redmine", "--yes").code in {0, 3}


@pytest.mark.parametrize("damaged", ["snapshot", "manifest"])
def test_no_policy_removes_backups_while_a_snapshot_cannot_be_read(
    own: Cesbr, site: Site, damaged: str
) -> None:
    """The unreadable backup might be the newest complete one. Removal by ID still works."""
    assert own("backup").code == 0
    named = ""
    if damaged == "manifest":
        _damage_manifest(site)
    assert own("backup").code == 0
    newest = _newest(own)
    if damaged == "snapshot":
        named = _damage(site.repository / "snapshots" / _snapshot(own, newest, "metadata"))
    before = sorted((site.repository / "snapshots").iterdir())
    said = own("forget", "--keep-last", "1", "--yes", "--quiet")
    assert said.code == 1
    assert "Nothing was removed. " in said.err
    assert (f"Snapshot {named}" if named else "counts as incomplete") in said.err
    assert sorted((site.repository / "snapshots").iterdir()) == before


def test_a_damaged_index_is_named(own: Cesbr, site: Site) -> None:
    """The data of a damaged index is missing, and the result is partial."""
    for file in (site.repository / "index").iterdir():
        named = _damage(file)
    said = own("find", "--name", "*", "--quiet")
    assert said.code == 3
    assert f"Index {named} cannot be read" in said.err


def test_no_backup_at_all_is_said(cesbr: Cesbr, empty_site: Site) -> None:
    """Every command that lists backups reports that there are none."""
    empty = cesbr.having(CESBR_ROOT=str(empty_site.root))
    for command in (("ls",), ("ls", "/"), ("find",), ("find", "--name", "x"), ("backups",)):
        said = empty(*command)
        assert (said.code, said.out) == (0, ""), command
        assert "There is no backup yet" in said.err, command
        assert empty(*command, "--json").json == []


def test_the_intact_parts_of_a_file_are_salvaged(own: Cesbr, site: Site) -> None:
    """With --salvage, they are in a file of another name, and the lost range is named."""
    (site.files / "large").write_bytes(random.Random(3).randbytes(6 << 20))
    assert own("backup", "redmine").code == 0
    packs = (site.repository / "data").glob("*/*")
    pack = max(packs, key=lambda file: file.stat().st_size)
    pack.chmod(0o600)
    with pack.open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"damaged")
    path = f"/{_newest(own)}/redmine/volumes/files"
    said = own("restore", path, "--target", "json", "--salvage", "--yes", "--json")
    assert said.code == 3
    result = said.json
    assert isinstance(result, dict)
    (salvaged,) = result["salvaged"]
    assert salvaged["path"] == "redmine/volumes/files/large"
    assert salvaged["saved_as"] == "redmine/volumes/files/large.damaged"
    assert salvaged["size"] == 6 << 20
    (lost,) = salvaged["lost"]
    assert [failure["path"] for failure in result["failed"]] == [salvaged["path"]]
    said = own("restore", path, "--target", "text", "--salvage", "--yes", "--quiet")
    assert said.code == 3
    last = lost["offset"] + lost["length"] - 1
    assert "salvaged: redmine/volumes/files/large.damaged: " in said.err
    assert f"of 6.0 MiB; lost bytes {lost['offset']}-{last}\n" in said.err
    restored = own.here / "text/redmine/volumes/files"
    content = (site.files / "large").read_bytes()
    content = content[: lost["offset"]] + bytes(lost["length"]) + content[last + 1 :]
    assert (restored / "large.damaged").read_bytes() == content
    assert not (restored / "large").exists()
    again = own("restore", "--resume", "--target", "text", "--yes")  # remembers the option
    assert again.code == 3
    assert "It exists already" in again.err
