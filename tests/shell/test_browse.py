"""One-shot commands that list and show files."""

from __future__ import annotations

import base64
import os
import subprocess

import pytest

from tests.shell.conftest import BINARY, ODD, ODD_SHOWN, Cesbr, Inside


def _backups(inside: Inside) -> list[dict[str, object]]:
    found = inside("backups", "--json").json
    assert isinstance(found, list)
    return found


def test_backups_tells_what_there_is(inside: Inside) -> None:
    """The table has a line per backup, newest last; JSON has the documented fields."""
    backups = _backups(inside)
    assert [sorted(backup) for backup in backups] == [
        [
            "dogus", "drills", "duration", "future", "host", "id", "note", "protected", "safety",
            "size", "status", "time", "whole",
        ],
    ] * 2  # fmt: skip
    assert [backup["status"] for backup in backups] == ["complete", "complete"]
    assert backups[0]["dogus"] == ["redmine"]
    assert backups[0]["time"] < backups[1]["time"]  # type: ignore[operator]  # both are texts
    size = backups[1]["size"]
    assert isinstance(size, int)
    assert size > len(BINARY)
    table = inside("backups").out.splitlines()
    assert table[0].split() == ["ID", "Time", "Age", "Took", "Status", "Size", "Dogus"]
    assert [line.split()[0] for line in table[1:]] == [backup["id"] for backup in backups]
    assert [line.split()[-1] for line in table[1:]] == ["all", "all"]


def test_flags_stand_before_or_after_the_command(kept: Cesbr) -> None:
    """`--json` and `--repo` have the same effect before and after the command."""
    before, after = kept("--json", "ls"), kept("ls", "--json")
    assert before.code == after.code == 0
    assert before.stdout == after.stdout
    assert kept("--repo", "/nowhere/else", "--no-init", "ls").code == 10
    assert kept("ls", "--no-init", "/", "--repo", "/nowhere/else").code == 10


def test_ls_lists_one_name_a_line(inside: Inside) -> None:
    """If stdout is not a terminal, ls prints one name per line, escaped where necessary."""
    listed = inside("ls", "/latest/redmine/volumes/files")
    assert sorted(listed.out.splitlines()) == sorted(
        ["a 'quoted' name", "hello.txt", "link", ODD_SHOWN, "sub"]
    )


def test_ls_long_shows_attributes(inside: Inside) -> None:
    """`-l` shows mode, owner, size, time and the target of a link."""
    lines = inside("ls", "-l", "/latest/redmine/volumes/files").out.splitlines()
    hello = next(line for line in lines if line.endswith("hello.txt") and "->" not in line)
    assert hello.startswith("-rw-r-----")
    assert " 12 " in hello
    assert "2023-11-1" in hello
    assert any(line.endswith("link -> hello.txt") for line in lines)


def test_ls_json_has_the_promised_fields(inside: Inside) -> None:
    """Types named as in restic, octal modes, UTC nanoseconds, and raw bytes of odd names."""
    listed = inside("ls", "--json", "--backup", "latest", "redmine/volumes/files").json
    assert isinstance(listed, list)
    by_name = {entry["name"]: entry for entry in listed}
    hello = by_name["hello.txt"]
    assert hello["type"] == "file"
    assert hello["size"] == len("hello again\n")
    assert hello["mode"] == "0640"
    assert (hello["uid"], hello["gid"]) == (os.getuid(), os.getgid())
    assert hello["mtime"] == "2023-11-14T22:13:20.123456789Z"
    assert by_name["link"]["type"] == "symlink"
    assert by_name["link"]["target"] == "hello.txt"
    assert by_name["sub"]["type"] == "dir"
    assert base64.b64decode(by_name[ODD_SHOWN]["name_b64"]) == ODD


def test_ls_of_files_and_several_directories(inside: Inside) -> None:
    """Names are printed as given, files first; `-d` lists a directory itself."""
    first = _backups(inside)[0]["id"]
    said = inside("ls", "--backup", str(first), "redmine/dogu.json", "redmine", "_instance")
    assert said.code == 0
    assert said.out.startswith("redmine/dogu.json\n\nredmine:\n")
    assert "\n_instance:\n" in said.out
    assert inside("ls", "-d", f"/{first}/redmine").out == f"/{first}/redmine\n"


@pytest.mark.parametrize("name", [ODD_SHOWN.encode(), ODD], ids=["escaped", "as it is"])
def test_cat_finds_odd_names(inside: Inside, name: bytes) -> None:
    """A name that is not valid UTF-8 can be given as raw bytes or in escaped form."""
    assert inside("cat", b"/latest/redmine/volumes/files/" + name).stdout == b"odd\n"


def test_cat_writes_bytes_exactly(inside: Inside) -> None:
    """The output is identical to the original bytes of all given files."""
    files = "redmine/volumes/files"
    said = inside("cat", "--backup", "latest", f"/{files}/sub/binary", f"{files}/hello.txt")
    assert said.stdout == BINARY + b"hello again\n"


def test_cat_goes_on_past_a_missing_file(inside: Inside) -> None:
    """A missing file is reported, and the remaining files are printed."""
    said = inside("cat", "/latest/nope", "/latest/redmine/volumes/files/hello.txt")
    assert said.code == 1
    assert said.stdout == b"hello again\n"
    assert "nope" in said.err


@pytest.mark.parametrize(
    ("path", "code"), [("/latest/redmine", 1), ("/latest/redmine/volumes/files/link", 2)]
)
def test_cat_refuses_what_has_no_content(inside: Inside, path: str, code: int) -> None:
    """`cat` of a directory or a link fails, unlike cat of an empty file."""
    said = inside("cat", path)
    assert (said.code, said.stdout) == (code, b"")


def test_stat_tells_all_that_is_known(inside: Inside) -> None:
    """Text and JSON contain the type, the times, the blobs and the snapshot."""
    path = "/latest/redmine/volumes/files/hello.txt"
    found = inside("stat", "--json", path).json
    assert isinstance(found, list)
    told = found[0]
    assert told["type"] == "file"
    assert told["blobs"] == 1
    assert len(told["snapshot"]) == 64
    assert told["mtime"] == "2023-11-14T22:13:20.123456789Z"
    assert {"atime", "ctime", "inode", "links", "user", "group", "xattrs"} <= told.keys()
    text = inside("stat", path).out
    assert told["snapshot"] in text
    assert "0640 (-rw-r-----)" in text


def test_earlier_backups_stay_what_they_were(inside: Inside) -> None:
    """`--backup` with the ID of the first backup, or its prefix, shows the old contents."""
    first, second = (str(backup["id"]) for backup in _backups(inside))
    path = "redmine/volumes/files/hello.txt"
    assert inside("cat", "--backup", first, path).out == "hello\n"
    assert inside("cat", f"/{second}/{path}").out == "hello again\n"
    assert inside("cat", "--backup", first[:-1], path).out == "hello\n"


def test_paths_stay_inside_the_backup(inside: Inside) -> None:
    """With `--backup`, `..` does not lead to another backup."""
    assert inside("ls", "--backup", "latest", "../").code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("ls", "/no/such/path"),
        ("use", "no-such-backup"),
        ("cd", "/latest/redmine/dogu.json"),
        ("stat", "/latest/nope"),
    ],
)
def test_what_is_not_there_is_an_error(inside: Inside, arguments: tuple[str, ...]) -> None:
    """A missing path prints one sentence on stderr, or JSON, and exits with 1."""
    said = inside(*arguments)
    assert said.code == 1
    assert said.stdout == b""
    assert said.err.startswith("cesbr: ")
    assert len(said.err.splitlines()) == 1
    as_json = inside(*arguments, "--json")
    assert as_json.error == {"error": said.err.removeprefix("cesbr: ").strip(), "code": 1}


def test_a_reader_that_had_enough_is_no_noise(kept: Cesbr) -> None:
    """`cesbr cat … | head` ends without a message, with the exit code of SIGPIPE."""
    backup = "/latest/backup.json"
    with kept.start("cat", *[backup] * 200) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.read(1)
        running.stdout.close()
        error = running.stderr.read()
    assert running.returncode == 141
    assert error == b""


def test_a_closed_pipe_is_no_json_error(kept: Cesbr) -> None:
    """With `--json`, the reader of stderr gets no empty message."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*kept.command, "--json", "backups"],
        env=kept.environ,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_is_told(kept: Cesbr) -> None:
    """A write error on stdout is reported once."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*kept.command, "backups"],
            env=kept.environ,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == b"cesbr: No space left on device.\n"


def test_use_cd_and_pwd_check_what_they_are_told(inside: Inside) -> None:
    """`use` and cd check that their argument exists; pwd prints the current directory."""
    newest = _backups(inside)[-1]
    assert inside("use", "latest", "--json").json == {
        key: newest[key] for key in ("id", "time", "status", "protected", "note")
    }
    assert inside("pwd").out == f"/{newest['id']}\n"
    assert inside("cd", "redmine").code == 0
    assert inside("pwd", "--json").json == {"path": f"/{newest['id']}/redmine"}
    assert inside("cd").code == 0
    assert inside("pwd").out == "/\n"
