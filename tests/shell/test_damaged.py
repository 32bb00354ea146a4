"""Unreadable data makes a result partial: exit code 3 and a message, even with ``--quiet``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.shell.conftest import Cesbr, Site

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


def test_commands_over_all_backups_name_a_damaged_snapshot(own: Cesbr, site: Site) -> None:
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
    )
    for command in commands:
        for quiet in ((), ("--quiet",)):
            said = own(*command, *quiet)
            assert (said.code, named in said.err) == (3, True), command
    said = own("cat", f"/{backup}/redmine/dogu.json", "--quiet")
    assert (said.code, named in said.err) == (0, True)
    error = own("backups", "--json").error
    assert named in str(error["error"])
    line = f"cat /{backup}/redmine/dogu.json\n"
    assert own(script=2 * line).err.count(f"Snapshot {named}") == 1


def test_no_policy_removes_backups_while_a_snapshot_cannot_be_read(own: Cesbr, site: Site) -> None:
    """The unreadable backup might be the newest complete one. Removal by ID still works."""
    assert [own("backup").code for _ in range(2)] == [0, 0]
    newest = _newest(own)
    named = _damage(site.repository / "snapshots" / _snapshot(own, newest, "metadata"))
    before = sorted((site.repository / "snapshots").iterdir())
    said = own("forget", "--keep-last", "1", "--yes", "--quiet")
    assert said.code == 1
    assert f"Nothing was removed. Snapshot {named}" in said.err
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
