"""Commands that search and compare: find, versions, log and diff."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.shell.conftest import ODD_SHOWN, Cesbr, Inside, Site
from tests.shell.terminal import terminal

VOLUME = "redmine/volumes/files"


def _ids(inside: Inside) -> list[str]:
    backups = inside("backups", "--json").json
    assert isinstance(backups, list)
    return [str(backup["id"]) for backup in backups]


def _listed(found: object) -> list[dict[str, object]]:
    assert isinstance(found, list)
    return found


def test_find_at_the_root_searches_all_backups(inside: Inside) -> None:
    """A line per version of each path, with the first and the last backup that contain it."""
    first, second = _ids(inside)
    lines = inside("find", "--name", "hello.txt").out.splitlines()
    assert [line.split()[:3] for line in lines] == [["1", first, first], ["1", second, second]]
    (line,) = inside("find", "--name", "binary").out.splitlines()
    assert line.split()[:3] == ["2", first, second]
    assert line.endswith(f"  {VOLUME}/sub/binary")
    (told,) = _listed(inside("find", "--name", "binary", "--json").json)
    assert told["path"] == f"{VOLUME}/sub/binary"
    assert (told["first"], told["last"], told["count"]) == (first, second, 2)
    assert (told["type"], told["size"], told["mode"]) == ("file", 60_000, "0644")


def test_find_in_one_backup_tells_paths_that_work(inside: Inside) -> None:
    """Inside a backup, with `--backup` and with `--each`, each line is a usable path."""
    first, second = _ids(inside)
    paths = [f"/{backup}/{VOLUME}/hello.txt" for backup in (first, second)]
    assert inside("find", "--name", "hello*", "--each").out.splitlines() == paths
    assert inside("find", "/latest", "--name", "hello*").out.splitlines() == paths[1:]
    assert inside("find", "--backup", first, "--name", "hello*").out.splitlines() == paths[:1]
    both = inside("find", VOLUME, "--backup", first, "--backup", second, "--iname", "HELLO*")
    assert len(both.out.splitlines()) == 2
    inside("cd", f"/latest/{VOLUME}")
    assert inside("find", "sub").out.splitlines() == [f"/{second}/{VOLUME}/sub/binary"]
    assert len(inside("find", "--all", "--name", "hello*").out.splitlines()) == 2
    odd = inside("find", "--name", "odd*").out
    assert odd == f"/{second}/{VOLUME}/{ODD_SHOWN}\n"
    assert inside("stat", odd.strip()).code == 0


def test_find_deleted(own: Cesbr, site: Site) -> None:
    """Only what older backups have and the newest one does not, with its last version."""
    assert own("find", "--deleted").out == ""
    (site.files / "hello.txt").write_text("the last version")
    assert own("backup").code == 0
    last = own("use", "latest", "--json").json
    assert isinstance(last, dict)
    (site.files / "hello.txt").unlink()
    (site.files / "new").write_text("new")
    (site.files / "sub/binary").rename(site.files / "moved")
    assert own("backup").code == 0
    assert own("backup", "redmine").code == 0
    found = _listed(own("find", "--deleted", "--json").json)
    assert [one["path"] for one in found] == [f"{VOLUME}/hello.txt", f"{VOLUME}/sub/binary"]
    assert (found[0]["last"], found[0]["size"]) == (last["id"], 16)
    inside = own("find", f"/latest/{VOLUME}", "--deleted", "--name", "hello*", "--json").json
    assert inside == found[:1]
    assert own("find", f"{VOLUME}/hello.txt", "--deleted", "--json").json == found[:1]
    assert own("find", f"{VOLUME}/new", "--deleted", "--json").json == []
    assert own("find", "--deleted", "--name", "hello*", "--select").code == 0
    selected = _listed(own("selected", "--json").json)
    assert [one["backup"] for one in selected] == [last["id"]]
    assert own("find", "--deleted", "--backup", "latest").code == 2


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--type", "l"), ["link"]),
        (("--type", "symlink"), ["link"]),
        (("--size", "+50k"), ["binary"]),
        (("--size", "60000"), ["binary"]),
        (("--size", "+1M"), []),
        (("--type", "f", "--older", "2023-11-20"), ["hello.txt"]),
        (("--regex", "sub/b.n"), ["binary"]),
        (("--path", "*/files/sub/*"), ["binary"]),
        (("--newer", "tomorrow"), None),
        (("--size", "much"), None),
        (("--type", "x"), None),
        (("--regex", "["), None),
    ],
)
def test_find_criteria(inside: Inside, arguments: tuple[str, ...], names: list[str] | None) -> None:
    """Each criterion narrows the result; an invalid one is a usage error."""
    said = inside("find", f"/latest/{VOLUME}", *arguments)
    if names is None:
        assert said.code == 2
        assert said.out == ""
    else:
        assert [os.path.basename(path) for path in said.out.splitlines()] == names


def test_versions_of_a_file(own: Cesbr, site: Site) -> None:
    """Distinct versions, with the newest and the one on the instance marked."""
    path = f"{VOLUME}/hello.txt"
    (site.files / "hello.txt").write_text("hello\n")
    said = own("versions", path, "--json")
    older, newer = _listed(said.json)
    assert [version["size"] for version in (older, newer)] == [6, 12]
    assert [version["newest"] for version in (older, newer)] == [False, True]
    assert [version["live"] for version in (older, newer)] == [True, False]
    assert older["backups"] == [older["first"]] == [older["last"]]
    assert older["id"] != newer["id"]
    lines = own("versions", f"/latest/{path}").out.splitlines()
    assert lines[0].split() == ["#", "First", "Last", "Size", "Modified"]
    assert lines[1].endswith("live")
    assert lines[2].endswith("newest")
    assert own("versions", "redmine/nope").code == 1


def test_log_of_a_directory_and_of_a_file(inside: Inside) -> None:
    """The changes in each backup, for a directory and for a file."""
    first, second = _ids(inside)
    appeared, changed = _listed(inside("log", VOLUME, "--json").json)
    assert (appeared["backup"], appeared["event"]) == (first, "appeared")
    assert (changed["backup"], changed["event"]) == (second, "changed")
    (change,) = _listed(changed["changes"])
    assert (change["path"], change["change"]) == (f"{VOLUME}/hello.txt", "M")
    assert f"  M  {VOLUME}/hello.txt\n" in inside("log", "redmine").out
    lines = inside("log", f"{VOLUME}/hello.txt").out.splitlines()
    assert [line.split()[0] for line in lines] == [first, second]
    assert [line.split()[-1] for line in lines] == ["appeared", "changed"]


def test_diff_of_two_backups(inside: Inside) -> None:
    """Marks and paths; with `--content` the changed lines; no difference exits with 0."""
    first, second = _ids(inside)
    said = inside("diff", first, second, VOLUME)
    assert said.out == f"M  {VOLUME}/hello.txt\n"
    assert said.code == 0
    assert said.err == "1 changed.\n"
    shown = inside("diff", first, "latest", f"{VOLUME}/hello.txt", "--content").out
    assert shown.splitlines()[1:] == [
        f"--- a/{VOLUME}/hello.txt",
        f"+++ b/{VOLUME}/hello.txt",
        "@@ -1 +1 @@",
        "-hello",
        "+hello again",
    ]
    (told,) = _listed(inside("diff", first, second, VOLUME, "--json").json)
    assert told["change"] == "M"
    same = inside("diff", first, first)
    assert (same.code, same.out, same.err) == (0, "", "No differences.\n")
    assert inside("diff", first, second, "nope").code == 1
    assert inside("diff", "live", first).code == 2


def test_diff_with_the_instance(own: Cesbr, site: Site) -> None:
    """Files are compared by content; data without a counterpart on the instance is listed."""
    (site.files / "hello.txt").write_text("hello now\n")
    (site.files / "sub/binary").write_bytes(b"\0")
    (site.files / "new").mkdir()
    (site.files / "a 'quoted' name").unlink()
    said = own("diff", "latest", "live", VOLUME, "--content")
    assert said.code == 0
    assert said.out.splitlines() == [
        f"-  {VOLUME}/a 'quoted' name",
        f"--- a/{VOLUME}/a 'quoted' name",
        "+++ /dev/null",
        "@@ -1 +0,0 @@",
        "-quoted",
        f"M  {VOLUME}/hello.txt",
        f"--- a/{VOLUME}/hello.txt",
        f"+++ b/{VOLUME}/hello.txt",
        "@@ -1 +1 @@",
        "-hello again",
        "+hello now",
        f"+  {VOLUME}/new/",
        f"M  {VOLUME}/sub/binary",
        "   (not text)",
    ]
    whole = own("diff", "latest", "live")
    assert f"M  {VOLUME}/hello.txt\n" in whole.out
    assert "redmine/dogu.json" in whole.err


def test_du_tells_sizes_and_what_they_add(inside: Inside) -> None:
    """A line per backup at the root, per directory below; `--depth` limits the levels."""
    first, second = _ids(inside)
    lines = inside("du").out.splitlines()
    assert lines[0].split() == ["Size", "Adds", "Files", "Path"]
    assert [line.split()[-1] for line in lines[1:]] == [f"/{first}", f"/{second}"]
    directory, sub = _listed(inside("du", "--backup", "latest", VOLUME, "--json").json)
    assert (sub["path"], sub["size"], sub["files"]) == (f"/{second}/{VOLUME}/sub", 60_000, 1)
    assert sub["added"] == 0  # it is also in the other backup
    assert isinstance(directory["added"], int)
    assert 0 < directory["added"] < 60_000
    (alone,) = _listed(inside("du", f"/latest/{VOLUME}/hello.txt", "--json").json)
    assert (alone["size"], alone["files"]) == (12, 1)
    assert len(_listed(inside("du", "/latest", "--depth", "0", "--json").json)) == 1
    assert inside("du", "--depth", "-1").code == 2
    assert inside("du", "/latest/nope").code == 1


def test_arrays_come_an_element_a_line(inside: Inside) -> None:
    """`find` and `diff` stream their JSON; without a result they print an empty array."""
    lines = inside("find", "--name", "hello*", "--json").out.splitlines()
    assert [line[0] for line in lines] == ["[", "{"]
    assert inside("find", "--name", "nope", "--json").out == "[]\n"
    assert inside("diff", "latest", "latest", "--json").out == "[]\n"


def test_wildcards_in_find(inside: Inside) -> None:
    """Wildcards match backups, names inside backups, and both; files can be given, too."""
    first, second = _ids(inside)

    def found(*arguments: str) -> list[str]:
        said = inside("find", *arguments)
        assert said.code == 0, said.err
        return [line.split("  ")[-1] for line in said.out.splitlines()]

    assert found("red*/vol*/files/s[t-v]b") == [f"{VOLUME}/sub/binary"]
    assert found(f"{VOLUME}/*", "--name", "[hb]*") == [f"{VOLUME}/hello.txt"] * 2 + [
        f"{VOLUME}/sub/binary"
    ]
    assert found(f"/*/{VOLUME}", "--name", "b*") == [f"{VOLUME}/sub/binary"]
    assert found("*/volumes/files/sub") == [f"{VOLUME}/sub/binary"]
    assert found(f"/{first[:-1]}?/redmine/v*", "--name", "h*") == [f"/{first}/{VOLUME}/hello.txt"]
    assert found("/latest/redmine/vol*", "--name", "h*") == [f"/{second}/{VOLUME}/hello.txt"]
    inside("cd", f"/latest/{VOLUME}")
    assert found("s*") == [f"/{second}/{VOLUME}/sub/binary"]


def test_wildcards_in_versions_and_log(inside: Inside) -> None:
    """With several paths, the result of each has a heading; JSON contains the path."""
    said = inside("versions", f"{VOLUME}/[hl]*")
    assert said.out.startswith(f"{VOLUME}/hello.txt:\n#")
    assert f"\n\n{VOLUME}/link:\n#" in said.out
    assert inside("versions", f"/*/{VOLUME}/h*").out.count("20") >= 4
    told = _listed(inside("versions", f"{VOLUME}/[hl]*", "--json").json)
    assert [each["path"] for each in told] == [f"{VOLUME}/hello.txt"] * 2 + [f"{VOLUME}/link"]
    one = inside("versions", f"{VOLUME}/he*")
    assert one.out == inside("versions", f"{VOLUME}/hello.txt").out
    steps = inside("log", "red*/volumes/files/[hs]*")
    assert steps.out.startswith(f"{VOLUME}/hello.txt:\n")
    assert f"\n{VOLUME}/sub:\n" in steps.out
    assert _listed(inside("log", f"{VOLUME}/h*", "--json").json)[0]["path"] == f"{VOLUME}/hello.txt"


def test_wildcards_in_diff(own: Cesbr, site: Site) -> None:
    """A path that matches a wildcard may exist on one side only."""
    (site.files / "help").write_text("new\n")
    (site.files / "hello.txt").unlink()
    (site.files / "sub/binary").write_bytes(b"0")
    said = own("diff", "latest", "live", "red*/volumes/files/he*")
    assert said.out.splitlines() == [f"-  {VOLUME}/hello.txt", f"+  {VOLUME}/help"]
    assert own("diff", "latest", "live", f"{VOLUME}/s*").out == f"M  {VOLUME}/sub/binary\n"
    assert own("diff", "latest", "live", f"{VOLUME}/l*").err == "No differences.\n"


def test_wildcards_in_the_other_commands(inside: Inside) -> None:
    """`cd` and tree require exactly one match, du measures all matches."""
    assert inside("cd", "/latest/red*/v*").code == 0
    assert inside("pwd").out.endswith("/redmine/volumes\n")
    assert inside("cd", "/latest/redmine/*").code == 2
    assert inside("pwd").out.endswith("/redmine/volumes\n")
    inside("cd", "/latest")
    assert inside("tree", "redm*/v*/f*/s*").out.splitlines()[1] == "└── binary"
    assert inside("tree", "redmine/*").code == 2
    assert len(_listed(inside("du", f"{VOLUME}/[hs]*", "--json").json)) == 2


@pytest.mark.parametrize(
    "command",
    [
        ("find",), ("versions",), ("log",), ("diff", "latest", "live"), ("du",), ("cd",), ("tree",),
        ("ls",), ("stat",), ("cat",), ("select",), ("plan",),
    ],
)  # fmt: skip
def test_wildcards_that_match_nothing(inside: Inside, command: tuple[str, ...]) -> None:
    """Each command prints the same message."""
    inside("use", "latest")
    said = inside(*command, "redmine/z*")
    assert (said.code, said.out, said.err) == (1, "", "cesbr: Nothing matches redmine/z*.\n")


def test_names_with_wildcard_characters_go_first(odd: Cesbr) -> None:
    """`star*` matches a file of exactly that name first; escaped, it matches only that file."""
    for command in ("versions", "log"):
        for name in ("star*", "star\\x2a"):
            told = _listed(odd(command, "--json", f"{VOLUME}/{name}").json)
            assert [each["path"] for each in told] == [f"{VOLUME}/star*"]
    assert odd("find", "--json", f"/latest/{VOLUME}/?x").out.count('"path"') == 1
    assert odd("versions", f"{VOLUME}/sta\\x2a").code == 1


def test_diff_of_what_only_the_instance_has(own: Cesbr, site: Site) -> None:
    """A path created after the backup is new; one that exists nowhere is an error."""
    (site.files / "new/deep").mkdir(parents=True)
    (site.files / "new/deep/file").write_text("new\n")
    (site.files / "new/other").write_text("new\n")
    said = own("diff", "latest", "live", f"{VOLUME}/new/deep", "--content")
    assert said.out.splitlines()[:4] == [
        f"+  {VOLUME}/new/deep/",
        f"+  {VOLUME}/new/deep/file",
        "--- /dev/null",
        f"+++ b/{VOLUME}/new/deep/file",
    ]
    assert said.err == "2 added.\n"
    said = own("diff", "latest", "live", f"{VOLUME}/nope")
    assert (said.code, said.out) == (1, "")
    assert said.err.endswith(f"has no '{VOLUME}/nope'.\n")


def test_a_diff_on_a_terminal(own: Cesbr, site: Site, tmp_path: Path) -> None:
    """It has the colours of git, and control characters are escaped."""
    (site.files / "hello.txt").write_bytes(b"hello again\r\n\x1b[2Jgone\xc2\x9b\n-- end")
    command = ("diff", "latest", "live", f"{VOLUME}/hello.txt", "--content")
    lines = [
        f"--- a/{VOLUME}/hello.txt",
        f"+++ b/{VOLUME}/hello.txt",
        "@@ -1 +1,3 @@",
        "-hello again",
        "+hello again^M",
        "+^[[2Jgone\\x9b",
        "+-- end",
        "\\ No newline at end of file",
    ]
    for number, environ in enumerate(({}, {"NO_COLOR": "1"})):
        directory = tmp_path / str(number)
        directory.mkdir()
        with terminal(own.having(**environ), directory, *command) as screen:
            assert screen.exit_code() == 0
            assert "\n".join(lines) in screen.screen()
            painted = screen.tmux("capture-pane", "-p", "-e")
            assert ("\x1b[31m-hello again" in painted) == (not environ)
            assert ("\x1b[32m+hello again^M" in painted) == (not environ)
            assert ("\x1b[" in painted) == (not environ)
    assert own(*command).stdout.count(b"again\r\n+\x1b[2Jgone") == 1
