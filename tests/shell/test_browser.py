"""The full-screen browser: what it reads, and in a real terminal."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import trio
from cesbr.browser import reader
from cesbr.browser.messages import (
    Cancel,
    Described,
    Deselect,
    DiffLive,
    Failed,
    ListDirectory,
    Listed,
    ListVersions,
    Parts,
    Plan,
    Preview,
    Request,
    Requests,
    Result,
    Select,
    Selection,
    Text,
    TextLine,
)
from cesbr.browser.queries import preview_lines
from cesbr.session import Context

from tests.shell.browsing import answers
from tests.shell.conftest import ODD, ODD_SHOWN, Cesbr, Inside, Site
from tests.shell.terminal import Terminal, terminal
from tests.support.proxy import Proxy

FILES = (b"redmine", b"volumes", b"files")


def read(inside: Inside, requests: Requests, results: int = 1) -> list[Result]:
    """Send requests to a reader; return its first results."""
    return answers(inside.portal, inside.session, requests, results)


def text(inside: Inside, request: Request) -> str:
    """Return the lines that answer one request."""
    (result,) = read(inside, [request])
    assert isinstance(result, Text), result
    return "\n".join(line.text for line in result.lines)


def newest(inside: Inside) -> bytes:
    """Return the directory of the newest backup."""
    listed = read(inside, [ListDirectory(())])[0]
    assert isinstance(listed, Listed)
    return listed.rows[0].name


def test_what_the_reader_answers(inside: Inside, kept_site: Site) -> None:
    """Lists, descriptions, previews, versions, differences and plans."""
    listed, described = read(inside, [ListDirectory(())], 2)
    assert isinstance(listed, Listed)
    assert isinstance(described, Described)
    backup, older = (row.name for row in listed.rows)
    assert described.backups[backup].status == "complete, latest"
    assert described.backups[older].status == "complete"
    here: Parts = (backup, *FILES)
    (files,) = read(inside, [ListDirectory(here)])
    assert isinstance(files, Listed)
    names = [row.name for row in files.rows]
    assert names[0] == b"sub"
    assert names[1:] == sorted([b"a 'quoted' name", b"hello.txt", b"link", ODD])
    assert "hello again" in text(inside, Preview((*here, b"hello.txt")))
    assert "-rw-r-----" in text(inside, Preview((*here, b"hello.txt")))
    assert "00000000  " in text(inside, Preview((*here, b"sub", b"binary")))
    assert "-> hello.txt" in text(inside, Preview((*here, b"link")))
    assert "1 entry\nbinary" in text(inside, Preview((*here, b"sub")))
    assert '"status"' in text(inside, Preview((backup, b"backup.json")))
    versions = text(inside, ListVersions((*here, b"hello.txt"))).splitlines()
    assert "6 B" in versions[2]
    assert re.search(r"12 B .*newest, live", versions[3])
    difference = text(inside, DiffLive((older, *FILES, b"hello.txt")))
    assert "-hello\n+hello again" in difference
    assert "No differences." in text(inside, DiffLive(here))
    assert "Not compared: backup.json: it describes" in text(
        inside, DiffLive((backup, b"backup.json"))
    )
    selected, plan = read(inside, [Select((*here, b"sub"))])[0], Plan(in_place=True)
    assert selected == Selection(((*here, b"sub"),))
    assert "redmine/volumes/files/sub" in text(inside, plan)
    assert str(kept_site.root) in text(inside, plan)
    assert read(inside, [Deselect((*here, b"sub"))])[0] == Selection(())


def test_errors_are_results(inside: Inside) -> None:
    """One sentence each; the reader answers the next request."""
    failing: list[tuple[Request, str]] = [
        (ListDirectory((b"nope",)), "There is no /nope."),
        (Preview((newest(inside), b"nope")), "There is no /"),
        (ListVersions((newest(inside),)), "Only files in a backup have versions."),
        (ListVersions((newest(inside), *FILES)), "Only files have versions."),
        (DiffLive((b"_snapshots", b"x")), "A snapshot of no backup"),
        (Plan(), "Nothing to restore."),
    ]
    for request, message in failing:
        (result,) = read(inside, [request])
        assert isinstance(result, Failed), result
        assert result.request == request
        assert result.message.startswith(message)


def test_only_the_last_request_is_answered(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before it are cancelled, also while they hang; changes of the selection never are."""
    here: Parts = (newest(inside), *FILES)

    async def hang_on_links(context: Context, parts: Parts) -> list[TextLine]:
        if parts[-1] == b"link":
            await trio.sleep_forever()
        return await preview_lines(context, parts)

    monkeypatch.setattr(reader, "preview_lines", hang_on_links)
    last = Preview((*here, b"hello.txt"))
    passed: Requests = [Preview((*here, b"link")), Preview((*here, b"link")), Cancel("details")]
    got = read(inside, [Select(here), *passed, last, Deselect(here)], 3)
    assert [result.request for result in got if isinstance(result, Text)] == [last]
    changes = [result for result in got if isinstance(result, Selection)]
    assert changes == [Selection((here,)), Selection(())]


def test_without_a_terminal(inside: Inside) -> None:
    """One sentence, and what to use instead."""
    said = inside("browse")
    assert said.code == 2
    assert said.err == "cesbr: 'browse' needs a terminal. Use 'cesbr ls' to list directories.\n"
    assert inside("browse", "--json").error["error"] == (
        "'browse' has no JSON output. Use 'cesbr ls --json'."
    )


def test_a_session(own: Cesbr, tmp_path: Path) -> None:
    """Open a backup, look at versions and differences, select, resize, restore."""
    with terminal(own, tmp_path, "browse") as browser:
        browser.wait_for(r"complete, latest  all +│")
        browser.keys("Enter")
        browser.wait_for(r"^  _instance/ ")
        browser.keys("/redm")
        browser.wait_for(r"^Filter: redm_")
        browser.keys("Enter", "Enter")
        browser.wait_for(r"^  volumes/")
        browser.keys("Enter")
        browser.wait_for(r"^  files/")
        browser.keys("Enter")
        screen = browser.wait_for(r"^  hello\.txt .*12 B")
        assert f"  {ODD_SHOWN} " in screen
        browser.keys("Down", "Down", "v")
        browser.wait_for(r"│ 1  \S+ +6 B")
        browser.keys("d")
        browser.wait_for(r"│ No differences\.")
        browser.keys("Space", "p")
        browser.wait_for(r"^\* hello\.txt ")
        browser.resize(60, 20)
        browser.wait_for(r"^─{60}$")
        browser.resize(25, 5)
        browser.wait_for(r"\AToo small: needs 30x8\Z")
        browser.resize(100, 30)
        browser.wait_for(r"1 path selected$")
        browser.keys("r")
        browser.wait_for(r"^ Enter restore")
        browser.keys("Enter")
        screen = browser.wait_for(r"^Restore this\? \[y/N\]")
        assert "Running 'cesbr restore'." in screen
        browser.line("y")
        assert browser.exit_code() == 0
        assert "Restored 1 file, 12 B" in browser.screen()
    (target,) = own.here.glob("restored-*")
    assert (target / os.fsdecode(b"/".join(FILES)) / "hello.txt").read_text() == "hello again\n"


def _mouse(browser: Terminal, column: int, line: int, button: int = 0) -> None:
    for end in "Mm":
        browser.keys("-l", f"\x1b[<{button};{column};{line}{end}")


def test_storage_that_hangs(far: Cesbr, proxy: Proxy, tmp_path: Path) -> None:
    """Keys and mouse work while nothing can be read, the rest appears later, and q quits."""
    own = far.having(XDG_CACHE_HOME=str(tmp_path / "cache"))
    files = os.fsdecode(b"/".join(FILES))
    with terminal(own, tmp_path, "browse", "--backup", "latest", files) as browser:
        browser.wait_for(r"│ binary")
        proxy.hold()
        browser.keys("Down", "Down")
        browser.wait_for(r"│ reading…")
        browser.keys("?")
        browser.wait_for(r"^ Keys")
        browser.keys("q", "/", "hello")
        browser.wait_for(r"^Filter: hello_")
        browser.keys("Escape")
        _mouse(browser, 10, 5)
        browser.wait_for(r"│ reading…")
        _mouse(browser, 10, 4)
        proxy.heal()
        browser.wait_for(r"│ hello again")
        proxy.hold()
        browser.keys("v")
        browser.wait_for(r"│ reading…")
        browser.keys("q")
        assert browser.exit_code() == 0


def test_signals_restore_the_terminal(kept: Cesbr, tmp_path: Path) -> None:
    """SIGTERM leaves the full screen."""
    with terminal(kept, tmp_path, "browse", "/latest") as browser:
        browser.wait_for(r"q quit")
        shell = int(browser.tmux("display", "-p", "#{pane_pid}"))
        children = Path(f"/proc/{shell}/task/{shell}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        assert browser.exit_code() == 128 + signal.SIGTERM
        assert not browser.screen()
