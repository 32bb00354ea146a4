"""Paths printed by one command work in the next, or the error shows how to write them."""

from __future__ import annotations

import pytest

from tests.shell.conftest import Cesbr, Inside, Site

VOLUME = "redmine/volumes/files"
FILE = f"{VOLUME}/hello.txt"


def _ids(run: Inside | Cesbr) -> list[str]:
    backups = run("backups", "--json").json
    assert isinstance(backups, list)
    return [str(backup["id"]) for backup in backups]


def _beginning(backup: str, others: list[str]) -> str:
    """Return the shortest unique prefix of an ID."""
    return next(
        backup[:length]
        for length in range(1, len(backup))
        if not any(other.startswith(backup[:length]) for other in others if other != backup)
    )


@pytest.mark.parametrize("command", ["ls", "cat", "stat", "plan", "du", "tree", "select", "cd"])
def test_a_path_inside_the_backups_is_completed_by_the_error(inside: Inside, command: str) -> None:
    """The error suggests the full path for one printed by find, versions and log."""
    directory = command in ("ls", "plan", "du", "tree", "cd")
    path = VOLUME if directory else FILE
    said = inside(command, path)
    assert said.code == 1
    assert f"Write /latest/{path}, or add --backup latest." in said.err
    assert inside(command, f"/latest/{path}").code == 0
    if command not in ("cd", "du", "tree"):
        assert inside(command, "--backup", "latest", path).code == 0


def test_find_of_a_bare_name_suggests_the_option(inside: Inside) -> None:
    """`find hello.txt` searches a path, as find(1) does."""
    said = inside("find", "hello.txt")
    assert said.code == 1
    assert "Search for the name with 'cesbr find --name'." in said.err


@pytest.mark.parametrize("below_root", [True, False])
def test_a_path_on_the_instance_is_translated(
    inside: Inside, kept_site: Site, *, below_root: bool
) -> None:
    """The error has the path in a backup."""
    root = str(kept_site.root) if below_root else ""
    said = inside("ls", f"{root}/var/lib/ces/{FILE}")
    assert said.code == 1
    assert f"is a path on the instance. Write /latest/{FILE} " in said.err
    said = inside("plan", "--backup", "latest", f"{root}/etc/ces/type")
    assert f"{root}/etc/ces/type is a path on" in said.err
    assert "Write _instance/configuration/etc/ces/type " in said.err
    assert "on the instance" not in inside("ls", f"{root}/var/lib/ces/nothing").err


def test_wildcards_inside_the_backups_are_completed_by_the_error(inside: Inside) -> None:
    """The suggestion works for wildcards, too."""
    said = inside("ls", f"{VOLUME}/hel*")
    assert said.code == 1
    assert f"/latest/{FILE}" in said.err


def test_a_path_from_the_root_of_the_backup_one_is_in(inside: Inside) -> None:
    """A path as log and diff print it works in a directory of that backup."""
    inside("cd", "/latest/redmine")
    place = inside.session.shown_place
    said = inside("cat", FILE)
    assert said.code == 1
    assert f"Write {place.removesuffix('/redmine')}/{FILE}." in said.err


def test_with_backup_an_absolute_path_may_begin_with_it(inside: Inside) -> None:
    """It may be copied from the mount or ls; that of another backup is a usage error."""
    first, second = _ids(inside)
    for path in (f"/{second}/{FILE}", f"/latest/{FILE}"):
        assert inside("cat", "--backup", second, path).out == "hello again\n"
    assert inside("cat", "--backup", "latest~1", f"/latest~1/{FILE}").out == "hello\n"
    assert inside("ls", "--backup", "latest", f"/latest/{VOLUME}/hello*").code == 0
    said = inside("cat", "--backup", first, f"/latest/{FILE}")
    assert said.code == 2
    assert "Remove --backup" in said.err


@pytest.mark.parametrize("command", ["ls", "cat", "stat", "find", "versions", "log", "plan"])
def test_the_unique_beginning_of_an_id_in_a_path(inside: Inside, command: str) -> None:
    """A unique prefix works as in `use` and --backup; an ambiguous one is an error."""
    ids = _ids(inside)
    begin = _beginning(ids[0], ids)
    assert inside(command, f"/{begin}/{FILE}").code == 0
    shared = ids[0][:4]
    said = inside(command, f"/{shared}/{FILE}")
    assert said.code == 1
    assert f"2 backups begin with '{shared}'" in said.err


def test_diff_takes_paths_that_begin_with_a_backup(inside: Inside) -> None:
    """On both sides, on one, as the path, at the prompt, and with a prefix of an ID."""
    ids = _ids(inside)
    first, second = ids
    expected = f"M  {FILE}\n"
    for arguments in (
        (f"/{first}/{VOLUME}", f"/latest/{VOLUME}"),
        (f"/{first}/{VOLUME}", "latest"),
        (first, f"/{second}/{VOLUME}"),
        (f"/{_beginning(first, ids)}/{VOLUME}", second),
        (first, second, f"/{second}/{VOLUME}"),
        (first, "latest", f"/latest/{VOLUME}"),
        (f"/{first}", "/latest", VOLUME),
        (first, second, f"/{VOLUME}"),
    ):
        said = inside("diff", *arguments)
        assert (said.code, said.out) == (0, expected), (arguments, said.err)
    said = inside("diff", "latest", "live", f"/latest/{VOLUME}")
    assert said.code == 0
    said = inside("diff", f"/{first}/{VOLUME}", f"/{second}/redmine")
    assert said.code == 2
    assert "one path" in said.err
    said = inside("diff", second, "live", f"/{first}/{VOLUME}")
    assert said.code == 2
    assert f"Pass only '{VOLUME}'" in said.err


@pytest.fixture
def lost(own: Cesbr, site: Site) -> Cesbr:
    """A third backup, from which a file was deleted that has a similar name to another."""
    (site.files / "hello.txt").rename(site.files / "hello2.txt")
    assert own("backup").code == 0
    return own


def test_a_deleted_file_is_pointed_at(lost: Cesbr) -> None:
    """The error names the newest backup with the file, and its suggestion works."""
    first, second, third = _ids(lost)
    gone = f"Backup {third} has no '{FILE}': it is gone since backup {third}."
    newest = f" The newest backup that has it is {second}: "
    for command in ("cat", "ls", "stat", "plan", "restore", "select"):
        said = lost(command, "--backup", "latest", FILE)
        assert said.code == 1, command
        assert f"{gone}{newest}pass --backup {second}." in said.err
    assert f"{gone}{newest}use /{second}/{FILE}." in lost("cat", f"/latest/{FILE}").err
    assert lost("cat", f"/{second}/{FILE}").code == 0
    said = lost("cat", f"/{first}/{VOLUME}/hello2.txt")
    assert f"Backup {first} does not have '{VOLUME}/hello2.txt' yet." in said.err
    said = lost("cat", f"/latest/{VOLUME}/hello.tx")
    assert "did you mean" in said.err
