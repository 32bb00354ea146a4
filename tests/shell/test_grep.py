"""The command grep: searching in contents."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.shell.conftest import Cesbr, Inside, Said, Site

VOLUME = "redmine/volumes/files"


def _ids(inside: Inside) -> list[str]:
    backups = inside("backups", "--json").json
    assert isinstance(backups, list)
    return [str(backup["id"]) for backup in backups]


def _rows(said: Said) -> list[dict[str, object]]:
    return [json.loads(line) for line in said.out.splitlines()]


def test_all_backups_are_searched_at_the_root(inside: Inside) -> None:
    """A line per match, with the number of backups that have the content, and a usable path."""
    first, second = _ids(inside)
    said = inside("grep", "hello|quoted", VOLUME)
    assert said.code == 0
    assert said.out.splitlines() == [
        f"2  /{second}/{VOLUME}/a 'quoted' name:quoted",
        f"1  /{first}/{VOLUME}/hello.txt:hello",
        f"1  /{second}/{VOLUME}/hello.txt:hello again",
    ]
    only = inside("grep", "-l", "again", "--since", "2000", "--until", "today")
    assert only.out == f"1  /{second}/{VOLUME}/hello.txt\n"
    nothing = inside("grep", "hello", "--until", "2001")
    assert (nothing.code, nothing.out) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (("hel*o",), ["hello.txt:hello again"]),
        (("-F", "hel*o"), []),
        (("-i", "-n", "HELLO"), ["hello.txt:1:hello again"]),
        (("-w", "hell"), []),
        (("-c", "-v", "-w", "hello"), ["a 'quoted' name:1", "odd*:1", "sub/binary:*"]),
        (("-l", "--name", "*.txt", "o"), ["hello.txt"]),
        (("-m", "0", "o"), []),
        (("--size", "+50k", "."), ["Binary file sub/binary matches"]),
    ],
)
def test_options_of_grep(inside: Inside, arguments: tuple[str, ...], lines: list[str]) -> None:
    """The options mean what they mean to grep; the exit code says whether a line was found."""
    _, second = _ids(inside)
    said = inside("grep", *arguments, f"/latest/{VOLUME}")
    found = said.out.replace(f"/{second}/{VOLUME}/", "").splitlines()
    assert len(found) == len(lines), found
    for have, want in zip(found, lines, strict=True):
        begin, star, _ = want.partition("*")
        assert have.startswith(begin) if star else have == want
    assert said.code == (0 if lines else 1)


def test_json_is_an_object_a_line(inside: Inside) -> None:
    """Each line is an object with the path, the backups, the line number and the text."""
    first, second = _ids(inside)
    rows = _rows(inside("grep", "hello", "--json"))
    assert [(row["backup"], row["count"], row["line"], row["text"]) for row in rows] == [
        (first, 1, 1, "hello"),
        (second, 1, 1, "hello again"),
    ]
    assert rows[0]["path"] == f"{VOLUME}/hello.txt"


@pytest.mark.parametrize("arguments", [("(",), ("-F", "-E", "x"), ("-m", "-1", "x"), ("a\nb",)])
def test_what_cannot_be_searched_for(inside: Inside, arguments: tuple[str, ...]) -> None:
    """An invalid pattern or number is a usage error."""
    assert inside("grep", *arguments).code == 2


def test_context_and_long_lines(cesbr: Cesbr, empty_site: Site) -> None:
    """Groups of lines are separated; long lines are cut around the match."""
    text = [f"line {number}" for number in range(1, 31)]
    (empty_site.files / "log").write_text("\r\n".join(text))
    (empty_site.files / "long").write_text("x" * 5_000_000 + "needle" + "y" * 5_000_000)
    own = cesbr.having(CESBR_ROOT=str(empty_site.root))
    assert own("backup").code == 0
    said = own("grep", "-n", "-C", "1", "line [37]$", "--name", "log", "/latest")
    assert said.code == 1  # the lines end with a carriage return
    said = own("grep", "-n", "-C", "1", r"line (3|7)\b", "--name", "log", "/latest")
    shown = [line.rpartition("/log")[2] for line in said.out.splitlines()]
    groups = ["-2-line 2", ":3:line 3", "-4-line 4"], ["-6-line 6", ":7:line 7", "-8-line 8"]
    assert shown == [*groups[0], "--", *groups[1]]
    said = own("grep", "needle", "--name", "long", "/latest")
    assert 1000 < len(said.out) < 5000
    assert "…xx" in said.out
    assert "xneedley" in said.out
    assert said.out.endswith("y…\n")


def test_results_are_cached(own: Cesbr, site: Site) -> None:
    """A second run finds the same without the packs, which hold the contents; a new one cannot."""
    first = own("grep", "hello")
    assert first.code == 0
    for pack in (site.repository / "data").rglob("*"):
        if pack.is_file() and pack.stat().st_size > 50_000:
            pack.unlink()
    for pack in (site.repository / "data").rglob("*"):
        if pack.is_file():
            pack.rename(pack.with_suffix(".gone"))
    second = own("grep", "hello")
    assert (second.code, second.out) == (0, first.out)
    other = own("grep", "hell")
    assert other.code == 3
    assert f"{VOLUME}/hello.txt" in other.err


def test_a_slow_expression_can_be_interrupted(cesbr: Cesbr, empty_site: Site) -> None:
    """^C ends a search whose regular expression would take years."""
    (empty_site.files / "evil").write_text("a" * 64 + "b\n")
    own = cesbr.having(CESBR_ROOT=str(empty_site.root))
    assert own("backup").code == 0
    process = own.start("--debug", "grep", "(a*)*c|(a|aa)+$", "/latest")
    assert process.stderr is not None
    status = Path(f"/proc/{process.pid}/stat")
    while _cpu_seconds(status) < 3:  # it has begun to search
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said


def _cpu_seconds(status: Path) -> float:
    fields = status.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
