"""ls, tree, cat and less: format and order."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from cesbr.commands.navigate import DescribedBackup, _backups_text
from cesbr.ui.file_content import looks_binary
from cesbr.ui.listing import Colours, Style, largest_first, newest_first
from cesbr.ui.pager import find_pager

from cesbrfs.catalog.backups import Backup
from cesbrfs.errors import UsageError
from cesbrfs.repo.format.model import Node, Snapshot
from cesbrfs.vfs.entries import Entry
from tests.shell.conftest import BINARY, KEY, ODD_SHOWN, Cesbr, Inside
from tests.shell.terminal import terminal

FILES = "/latest/redmine/volumes/files"


def _entry(name: str, kind: str = "file", **fields: int) -> tuple[str, Entry]:
    mode = {"dir": stat.S_IFDIR | 0o755, "symlink": stat.S_IFLNK | 0o777}.get(kind, 0o100644)
    node = Node(name=name.encode(), type=kind, **{"mode": mode, **fields})  # type: ignore[arg-type]
    return name, Entry(name.encode(), node)


def test_order() -> None:
    """By name, time and size, and each reversed; equal entries are sorted by name."""
    entries = [
        _entry("a", size=5, mtime_ns=1),
        _entry("b", size=9, mtime_ns=3),
        _entry("c", size=5, mtime_ns=2),
    ]

    def order(**style: object) -> str:
        ordered = Style(**style).order(entries)  # type: ignore[arg-type]
        return "".join(name for name, _ in ordered)

    assert order() == "abc"
    assert order(backwards=True) == "cba"
    assert order(key=newest_first) == "bca"
    assert order(key=largest_first) == "bac"
    assert order(key=largest_first, backwards=True) == "cab"


def test_colours_take_no_cells() -> None:
    """Columns are aligned as without colours; directories have a slash."""
    entries = [_entry("sub", "dir"), _entry("a"), _entry("run", mode=0o100755), _entry("x.gz")]
    plain = Style(columns=14).text(entries)
    assert plain == "sub/  run\na     x.gz\n"
    coloured = Style(
        columns=14, colours=Colours.of({"TERM": "xterm", "LS_COLORS": "*.gz=31:x"}, terminal=True)
    )
    assert coloured.text(entries) == (
        "\x1b[01;34msub\x1b[0m/  \x1b[01;32mrun\x1b[0m\na     \x1b[31mx.gz\x1b[0m\n"
    )


@pytest.mark.parametrize(
    ("environ", "terminal_there", "on"),
    [
        ({"TERM": "xterm"}, True, True),
        ({"TERM": "xterm"}, False, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ({"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({}, True, False),
    ],
)
def test_who_gets_colours(environ: Mapping[str, str], *, terminal_there: bool, on: bool) -> None:
    """Colours on capable terminals, unless NO_COLOR is set."""
    assert Colours.of(environ, terminal=terminal_there).on == on


def test_long_listings_align() -> None:
    """Sizes are right-aligned; `-h` prints units; a device shows its numbers."""
    entries = [_entry("a", size=5), _entry("b", size=123_456), _entry("dev", "chardev", rdev=0x103)]
    lines = Style(long=True).text(entries).splitlines()
    assert len({line.index("1970-01-01") for line in lines}) == 1
    assert [line[: line.index("1970")].split()[3:] for line in lines] == [
        ["5"],
        ["123456"],
        ["1,", "3"],
    ]
    assert "120.6 KiB" in Style(long=True, human=True).text(entries)


def test_a_huge_directory_is_listed_at_once() -> None:
    """Computing the columns of 100,000 names is fast."""
    entries = [_entry(f"file {'x' * (number % 30)}{number}") for number in range(100_000)]
    text = Style(columns=120).text(entries)
    assert max(map(len, text.splitlines())) <= 120
    assert len(text.splitlines()) <= 50_000


def test_ls_orders_and_hides(inside: Inside) -> None:
    """The common options of ls apply to the listing."""
    assert inside("ls", "-S", FILES).out.splitlines()[0] != "sub"
    by_name = inside("ls", FILES).out.splitlines()
    assert inside("ls", "-r", FILES).out.splitlines() == by_name[::-1]
    assert inside("ls", "-t", FILES).out.splitlines()[-1] == "hello.txt"
    assert inside("ls", "-1", FILES).out == inside("ls", FILES).out
    assert "12 B" in inside("ls", "-lh", FILES).out
    assert inside("ls", "-S", "-t", FILES).out == inside("ls", "-t", FILES).out


def test_ls_recursive(inside: Inside) -> None:
    """Each directory has a heading; JSON contains the path of every entry."""
    said = inside("ls", "-R", FILES).out
    assert said.startswith(f"{FILES}:\n")
    assert said.endswith(f"\n\n{FILES}/sub:\nbinary\n")
    listed = inside("ls", "-R", "--json", FILES).json
    assert isinstance(listed, list)
    assert listed[-1]["path"].endswith("/redmine/volumes/files/sub/binary")


def test_wildcards(inside: Inside) -> None:
    """ls, stat and cat accept wildcards, in a backup and relative to the current directory."""
    assert inside("ls", f"{FILES}/h*.t?t").out.endswith("/files/hello.txt\n")
    assert inside("ls", "--backup", "latest", "redmine/volumes/files/*.txt").out == (
        "redmine/volumes/files/hello.txt\n"
    )
    assert inside("cd", FILES).code == 0
    assert inside("ls", "h*", "l*").out == "hello.txt\nlink\n"
    assert inside("cat", "*.txt").out == "hello again\n"
    assert inside("stat", "[hl]*").out.count("Path:") == 2
    assert inside("ls", "z*").code == 1
    assert inside("ls", "--backup", "latest", "../*").code == 2


def test_tree(inside: Inside) -> None:
    """Draws lines to entries and counts them; `-L` and `-d` limit the output."""
    lines = inside("tree", FILES).out.splitlines()
    assert lines[0] == FILES
    assert lines[1] == "├── a 'quoted' name"
    assert "├── link -> hello.txt" in lines
    assert f"├── {ODD_SHOWN}" in lines
    assert lines[-4:] == ["└── sub", "    └── binary", "", "1 directory, 5 files"]
    assert inside("tree", "-L", "1", FILES).out.splitlines()[-3:] == [
        "└── sub",
        "",
        "1 directory, 4 files",
    ]
    assert inside("tree", "-d", FILES).out == f"{FILES}\n└── sub\n\n1 directory\n"
    assert inside("tree", "-L", "0", FILES).code == 2
    told = inside("tree", "--json", FILES).json
    assert isinstance(told, list)
    assert told[-1]["contents"][0]["name"] == "binary"


def test_cd_dash_goes_back(inside: Inside) -> None:
    """`cd -` changes to the previous directory and prints it; a second one returns."""
    inside("cd", FILES)
    inside("cd", "/")
    here = inside("cd", "-").out
    assert here.endswith("/redmine/volumes/files\n")
    assert inside("pwd").out == here
    assert inside("cd", "-").out == "/\n"


@pytest.mark.parametrize(
    ("data", "binary"),
    [
        (b"", False),
        (b"text\twith\r\nlines \x1b[1mand colour\n", False),
        ("größer €".encode(), False),
        (("x" * 8191 + "€").encode(), False),
        (b"a\0b", True),
        (b"\x7fELF", True),
        (b"latin \xff", True),
        (BINARY, True),
    ],
)
def test_what_looks_binary(data: bytes, *, binary: bool) -> None:
    """Text is UTF-8 without unusual control characters."""
    assert looks_binary(data) == binary


def _described(backup: str, size: int) -> DescribedBackup:
    return DescribedBackup(backup, "", "complete", ["redmine", "jenkins"], size, 75.0)


@pytest.mark.parametrize(
    ("columns", "headings"),
    [(40, "ID Age Status"), (60, "ID Age Status Dogus"), (80, "ID Age Status Size Dogus"),
     (120, "ID Time Age Took Status Size Dogus")],
)  # fmt: skip
def test_backups_fit_the_terminal(columns: int, headings: str) -> None:
    """A narrow terminal shows fewer columns; a wide one shows the growth in a separate line."""
    names = [f"2026112{number}T213000Z-abcdef" for number in range(4)]
    backups = [
        Backup(name, name.encode(), (Snapshot(id="0" * 64, time_ns=number << 40, tree=None),), None)
        for number, name in enumerate(names)
    ]
    described = [
        _described(name, size << 20) for name, size in zip(names, (1, 2, 3, 8), strict=True)
    ]
    lines = _backups_text(backups, described, columns).splitlines()
    assert lines[0].split() == headings.split()
    assert max(map(len, lines)) <= columns
    assert ("1:15" in lines[1]) == (columns == 120)
    assert lines[-1].startswith("Size: 1.0 MiB ▁▂▃█ 8.0 MiB") == (columns == 120)


def test_the_pager_is_the_users(tmp_path: Path) -> None:
    """$PAGER with its arguments, else less or more; an error if none is installed."""
    assert find_pager({"PAGER": "less -X", "PATH": os.environ["PATH"]}) == ["less", "-X"]
    (tmp_path / "more").touch(mode=0o755)
    assert find_pager({"PATH": str(tmp_path)}) == ["more"]
    with pytest.raises(UsageError, match="most"):
        find_pager({"PAGER": "most", "PATH": str(tmp_path)})
    with pytest.raises(UsageError, match="Install less"):
        find_pager({"PATH": "/nonexistent"})


def test_cat_and_less_on_a_terminal(kept: Cesbr, tmp_path: Path) -> None:
    """`cat` prints only text to a terminal; a pager handles ^C, and does not get the key."""
    pager = tmp_path / "pager"
    pager.write_text(
        "#!/bin/sh\ntrap 'echo kept going' INT\ncat\nenv > environment\necho END\n"
        "read answer < /dev/tty\nread answer < /dev/tty\n"
    )
    pager.chmod(0o755)
    own = kept.having(PAGER=str(pager), RESTIC_PASSWORD=KEY)
    with terminal(own, tmp_path) as prompt:
        prompt.wait_for_prompt()
        prompt.line(f"cat {FILES}/sub/binary")
        prompt.wait_for(r"^cesbr: .*/binary is binary, which could confuse the terminal")
        prompt.line(f"cat --force {FILES}/hello.txt")
        prompt.wait_for(r"^hello again\ncesbr>\Z")
        prompt.keys("C-l")
        prompt.line(f"less {FILES}/hello.txt")
        prompt.wait_for(r"^hello again\nEND\Z")
        prompt.keys("C-c")
        prompt.wait_for("kept going")
        prompt.keys("Enter", "Enter")
        prompt.wait_for(r"^cesbr>\Z")
        prompt.line("pwd")
        prompt.wait_for(r"^/\ncesbr>\Z")
        prompt.line("pwd | cat - /proc/self/environ > piped")
        prompt.wait_for(r"piped\ncesbr>\Z")
    for environment in ("environment", "piped"):
        inherited = (kept.here / environment).read_text()
        assert "PAGER=" in inherited
        assert KEY not in inherited


def test_less_off_a_terminal_is_cat(inside: Inside) -> None:
    """If stdout is not a terminal, less writes the files."""
    assert inside("less", f"{FILES}/hello.txt").out == "hello again\n"
