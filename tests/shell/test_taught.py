"""Syntax of restic, find and git: short options, other names, ``latest~1``, wildcards."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from cesbr.cli.arguments import command_parser, global_parser
from cesbr.commands import MODULES, find_command

from cesbrfs.catalog.directory_names import steps_back
from tests.shell.conftest import KEY, Cesbr, Inside, Site

_MAIN = "redmine/volumes/files/hello.txt"


@pytest.mark.parametrize(
    ("name", "back"),
    [
        ("latest", 0), ("latest~", 1), ("latest~0", 0), ("latest~12", 12), ("latest~x", None),
        ("latest~-1", None), ("latest~99999", None), ("latest1", None), ("Latest~1", None),
    ],
)  # fmt: skip
def test_steps_back(name: str, back: int | None) -> None:
    """``latest~N`` is parsed as in git."""
    assert steps_back(name) == back


def _ids(run: Inside | Cesbr) -> list[str]:
    backups = run("backups", "--json").json
    assert isinstance(backups, list)
    return [backup["id"] for backup in backups]


def test_the_backup_before_the_latest(inside: Inside) -> None:
    """Wherever a backup is given: as an argument, with --backup, at the start of a path."""
    old, new = _ids(inside)
    used = inside("use", "latest~1", "--json").json
    assert isinstance(used, dict)
    assert used["id"] == old
    inside("cd", "/")
    for arguments in (
        ("--backup", "latest~1", _MAIN),
        (f"/latest~1/{_MAIN}",),
        (f"latest~/{_MAIN}",),
    ):
        assert inside("cat", *arguments).out == "hello\n"
    assert inside("cat", f"/latest~0/{_MAIN}").out == "hello again\n"
    changed = inside("diff", "latest~1", "latest")
    assert (changed.code, f"M  {_MAIN}" in changed.out) == (0, True)
    assert inside("diff", f"/latest~1/{_MAIN}", f"/latest/{_MAIN}").out == f"M  {_MAIN}\n"
    found = inside("find", "/latest~1", "--name", "hello.txt").out
    assert found == f"/{old}/{_MAIN}\n"
    assert inside("find", "--backup", "latest~1", "--name", "hello.txt").out == found
    for command in ("versions", "log"):
        assert inside(command, f"/latest~1/{_MAIN}").code == 0
    assert inside("forget", "latest~1", "--dry-run", "--json").out.count(f'"{old}"') == 1
    assert inside("ls", "/latest~").out == inside("ls", f"/{old}").out
    assert inside("ls", "/latest~0").out == inside("ls", f"/{new}").out


def test_there_are_not_so_many(inside: Inside) -> None:
    """If there are too few complete backups, every command prints that."""
    for arguments in (("use", "latest~2"), ("ls", "/latest~2/redmine"), ("cat", "latest~7/x")):
        said = inside(*arguments)
        assert said.code == 1
        assert "there are fewer complete backups" in said.err


def test_partial_backups_do_not_count(own: Cesbr) -> None:
    """latest~1 is complete; with a path, only backups that contain it count."""
    old, new = _ids(own)
    assert own("--quiet", "backup", "redmine").code == 0
    third = _ids(own)[-1]
    used = own("use", "latest~1", "--json").json
    assert isinstance(used, dict)
    assert used["id"] == old
    said = own("stat", "--backup", "latest~1", "redmine", "--json")
    assert f"/{new}/redmine" in said.out
    assert third in own("stat", "--backup", "latest", "redmine", "--json").out


def test_short_options(kept: Cesbr, kept_site: Site, tmp_path: Path) -> None:
    """-r, -p, -q, -v and -t of restic, before and after the command."""
    (tmp_path / "wrong").write_text("wrong")
    bare = kept.having(CESBR_ROOT=str(tmp_path), RESTIC_PASSWORD=KEY)
    where = ("-r", str(kept_site.repository))
    listed = kept("ls").out
    assert listed
    assert bare(*where, "ls").out == bare("ls", "/", "--repo", where[1]).out == listed
    assert bare("backups", *where).code == 0
    for words in ((*where, "-p", "wrong", "backups"), ("backups", *where, "-p", "wrong")):
        assert replace(bare, here=tmp_path)(*words).code == 12
    assert "DEBUG" not in kept("-v", "backups").err
    assert kept("-q", "backups").code == kept("-v", "ls").code == 0
    target = tmp_path / "target"
    assert kept("restore", f"/latest/{_MAIN}", "-t", str(target), "-y").code == 0
    assert (target / _MAIN).exists()


def test_own_letters_win() -> None:
    """`ls -r` still reverses the order; short options of commands take precedence."""
    for names in MODULES.values():
        for name in names:
            parser = command_parser(find_command(name))
            taken = parser._option_string_actions
            assert taken["--repo"].dest == "repository"
            assert taken["--quiet"].dest == "quiet"
    assert command_parser(find_command("ls"))._option_string_actions["-r"].dest == "reverse"
    assert global_parser()._option_string_actions["-r"].dest == "repository"


def test_find_as_find_has_it(inside: Inside) -> None:
    """`find PATH -name GLOB -type f -size +1`."""
    for long, short in (
        (("--name", "*.txt"), ("-name", "*.txt")),
        (("--iname", "HELLO*", "--type", "f"), ("-iname", "HELLO*", "-type", "f")),
        (("--size", "+1k"), ("-size", "+1k")),
    ):
        found = inside("find", "/", *short)
        assert found.out == inside("find", "/", *long).out
        assert found.out


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("snapshots", "backups"), ("list", "backups"), ("get", "restore"), ("stauts", "status")],
)
def test_other_names(kept: Cesbr, typed: str, meant: str) -> None:
    """The error for a command of another program suggests our name for it."""
    said = kept(typed)
    assert (said.code, said.err) == (
        2, f"cesbr: Unknown command {typed!r}; did you mean {meant!r}?\n"
    )  # fmt: skip


@pytest.mark.parametrize("typed", ["prune", "repair", "rewrite"])
def test_commands_of_restic_alone(kept: Cesbr, typed: str) -> None:
    """The error says what to do instead, in one line."""
    said = kept(typed)
    assert said.code == 2
    assert re.fullmatch(f"cesbr: Unknown command '{typed}': .*restic {typed}.*\\.\n", said.err)


@pytest.mark.parametrize("typed", ["get", "forge", "forgt", "forgot", "unlok", "lock", "prune"])
def test_nothing_that_removes_is_proposed(kept: Cesbr, typed: str) -> None:
    """Commands and options that remove data are never suggested."""
    said = kept(typed)
    assert said.code == 2
    assert not re.search("mean '(forget|unlock)", said.err)
    for option in ("--prun", "--yess", "--forse"):
        assert not re.search("mean '--(prune|yes|force)", kept("forget", option).err)


def test_the_option_of_another_program(kept: Cesbr) -> None:
    """For `--repository` the error suggests `--repo`."""
    for given in (("--repository", "/x", "ls"), ("ls", "--repository", "/x")):
        said = kept(*given)
        assert (said.code, "did you mean '--repo'?" in said.err) == (2, True)


def test_a_wildcard_without_quotes(kept: Cesbr) -> None:
    """The shell expanded it in the current directory; the error explains how to quote it."""
    for name in ("one.txt", "two.txt", "three.txt"):
        (kept.here / name).touch()
    for command in ("find --name *.txt", "versions *.txt", "ls *.txt", "cat *.txt"):
        words = command.replace("*.txt", "one.txt three.txt two.txt").split()
        said = kept(*words)
        assert said.code in (1, 2)
        assert "quote wildcards, as in '*.txt'" in said.err, (command, said.err)
    assert "quote" not in kept("ls", "four", "five").err


@pytest.mark.parametrize("command", ["ls", "stat", "du"])
def test_what_exists_is_shown(inside: Inside, command: str) -> None:
    """`ls MISSING EXISTING` lists one, reports the other, and exits with 3."""
    alone = inside(command, "/latest/redmine/dogu.json")
    said = inside(command, "/latest/nothing", "/latest/redmine/dogu.json", "/latest/neither")
    assert said.code == 3
    assert said.out == alone.out
    assert "nothing" in said.err
    assert "neither" in said.err
    none = inside(command, "/latest/nothing", "/latest/neither")
    assert (none.code, none.out) == (1, "")
    assert "nothing" in none.err
    assert "neither" in none.err
    both = inside(command, "/latest/nothing", "/latest/redmine/dogu.json", "--json")
    assert (both.code, len(list(both.json or []))) == (3, 1)  # type: ignore[call-overload]  # an array


def test_a_root_that_is_not_there(kept: Cesbr, tmp_path: Path) -> None:
    """Every command reports a mistyped --root."""
    (tmp_path / "file").touch()
    for root, why in (
        (tmp_path / "typo", "no such directory"),
        (tmp_path / "file", "not a directory"),
    ):
        for command in ("backups", "backup", "status"):
            said = kept("--root", str(root), command)
            assert said.code == 2
            assert f"Invalid instance root {root}" in said.err
            assert why in said.err
            assert "Correct --root" in said.err


def test_nothing_found_prints_nothing(own: Cesbr, tmp_path: Path) -> None:
    """On a terminal an empty table has no heading."""
    from tests.shell.terminal import terminal

    with terminal(own, tmp_path) as prompt:
        prompt.wait_for_prompt()
        prompt.keys("C-l")
        prompt.wait_for(r"\Acesbr>\Z")
        prompt.line("find --name nothing")
        prompt.wait_for(r"\Acesbr> find --name nothing\ncesbr>\Z")
        prompt.line("find --name hello.txt")
        prompt.wait_for(r"^# .* Path\n.*\n(.*\n)*cesbr>\Z")


def test_times_for_people(own: Cesbr) -> None:
    """Text uses local times to the second; JSON uses RFC 3339."""
    said = own.having(TZ="America/New_York")("use", "2001-02-03 04:05")
    assert said.code == 1
    assert re.search(r"backup at 2001-02-03 04:05:59 \(", said.err)
    shown = own.having(TZ="America/New_York")("stat", f"/latest/{_MAIN}").out
    assert "2023-11-14 17:13:20.123456789 -0500" in shown
