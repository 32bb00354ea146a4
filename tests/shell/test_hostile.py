"""A repository whose every text contains escape sequences and line breaks, on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cesbr.browser import reader
from cesbr.browser.draw import draw
from cesbr.browser.messages import Cancel, ListDirectory, Requests
from cesbr.browser.model import Browser
from cesbr.commands import MODULES

from tests.hostile.cases import EVIL, KEY, fill_with_escapes
from tests.shell.browsing import answers
from tests.shell.conftest import Cesbr
from tests.shell.terminal import terminal
from tests.support.checked_shell import CONTROL, CheckedShell
from tests.support.memory_repo import MemoryRepo

SHOWN = r"\x1b]0;owned\a\x1b[2J\xc2\x9b1m\r\nFORGED \xe2\x80\xaeright\xe2\x80\xa8\x7f"
_FIRST, _SECOND = f"one{EVIL}", f"two{EVIL}"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository, in a directory of an instance without dogus."""
    root = tmp_path_factory.mktemp("hostile")
    repo = MemoryRepo(password=KEY)
    fill_with_escapes(repo)
    repo.write_to(root / "repository")
    (root / "key").write_bytes(KEY)
    (root / "instance").mkdir()
    return root


@pytest.fixture
def shell(
    hostile: Path, restic_old: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[CheckedShell]:
    """Commands on the hostile repository."""
    monkeypatch.setenv("COLUMNS", "80")
    made = CheckedShell(hostile, hostile / "repository", restic_old)
    yield made
    made.close()


_DOGU = f"/{_SECOND}/dogu{EVIL}"
_FILES = f"{_DOGU}/volumes/files{EVIL}"
_EVERY: dict[str, list[tuple[str, ...]]] = {
    "drill": [("--list",), (EVIL,), ("--backup", EVIL), ("--sample", EVIL), ("--full",)],
    "backups": [()],
    "use": [(_FIRST,), (f"one{SHOWN}",), ("t",), (EVIL,), ("tw0",)],
    "cd": [(_FILES,), (f"{_FILES}/plain",), (f"{_FILES}/file",), ("/",)],
    "pwd": [()],
    "ls": [("/",), ("-l", _FILES), ("-Rl",), (f"{_FILES}/lost{EVIL}",), (EVIL,), ("-l", "/*/*")],
    "tree": [("/",), (_FILES,)],
    "stat": [(f"{_FILES}/file{EVIL}",), (f"{_FILES}/link{EVIL}",), (f"{_FILES}/*",)],
    "browse": [(), (_FILES,), (EVIL,)],
    "cat": [(_FILES,), (f"{_FILES}/link{EVIL}",), (f"{_FILES}/short{EVIL}",), (f"{_FILES}/odd*",)],
    "less": [(_FILES,), (f"{_FILES}/plain", f"{_FILES}/short{EVIL}")],
    "find": [(), ("--each",), ("--name", "plain"), ("--backup", EVIL), (f"nothing{EVIL}",)],
    "versions": [(f"dogu{EVIL}/volumes/files{EVIL}/plain",), (EVIL,), (f"{_FILES}/*",)],
    "grep": [("plain",), ("-l", ".", "--all"), (EVIL, _FILES), ("x", EVIL)],
    "export": [(_FILES, "-o", "/nowhere/a.tar"), (EVIL, "-o", "/nowhere/a.tar")],
    "log": [("/",), (f"dogu{EVIL}/volumes/files{EVIL}",), (EVIL,)],
    "diff": [(_FIRST, _SECOND), (_FIRST, _SECOND, "--content"), (_FIRST, "live"), ("one", "thr")],
    "du": [("/",), (_FILES,)],
    "select": [(_FILES,), (EVIL,)],
    "selected": [()],
    "deselect": [(EVIL,), (f"{_FILES}x",)],
    "plan": [(_FILES,), ("--backup", _FIRST), (_FILES, "--in-place"), (EVIL,)],
    "restore": [(_FILES, "-n"), ("--backup", "one", "-y"), (_FILES, "--in-place", "-y")],
    "undo": [("--list",), (EVIL,), (EVIL, "--remove", "-y"), ("-n",)],
    "restore-registry": [("--backup", "two", "-n"), (EVIL, "--backup", "two", "-n")],
    "backup": [("-n",), (EVIL,)],
    "init": [()],
    "check": [()],
    "unlock": [()],
    "status": [(), ("--max-age", EVIL)],
    "metrics": [(), ("--output", f"/nowhere/{EVIL}")],
    "forget": [("-n", "--keep-last", "1"), ("-n", "one"), (EVIL, "-y")],
    "protect": [(EVIL,), ("one",)],
    "unprotect": [("one",)],
    "copy": [("--all", "--to", f"/nowhere/{EVIL}"), (EVIL, "--to", "/nowhere")],
    "key": [("list",), ("remove", EVIL, "-y"), ("add", "--new-password-file", f"/nowhere/{EVIL}")],
    "note": [("one", "x"), ("one",), (EVIL, "x")],
    "policies": [()],
    "schedule": [("--at", EVIL)],
    "mount": [(f"/nowhere/{EVIL}",)],
    "umount": [(f"/nowhere/{EVIL}",)],
    "refresh": [(f"/nowhere/{EVIL}",)],
    "doctor": [(), ("--sheet",)],
    "config": [("check",), ("init", "--output", f"/proc/{EVIL}")],
    "completion": [("bash",)],
}
"""Arguments by command: what it shows, and errors that quote names."""


def test_every_command_is_tried() -> None:
    """Fails if a new command is missing from this list."""
    assert set(_EVERY) == {name for names in MODULES.values() for name in names}


@pytest.mark.parametrize("more", [(), ("--json",), ("--debug",)], ids=["text", "json", "debug"])
@pytest.mark.parametrize("name", _EVERY)
def test_no_command_lets_control_characters_through(
    shell: CheckedShell,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    more: tuple[str, ...],
) -> None:
    """Results, notes, errors and tracebacks are escaped, so that no name can start a new line."""
    monkeypatch.chdir(tmp_path)
    for given in _EVERY[name]:
        for quiet in (False, True):
            code, out, err = shell(name, *given, *more, quiet=quiet)
            told = out + err
            assert not CONTROL.search(told), (given, told)
            assert not re.search("^FORGED", told, re.MULTILINE), (given, told)
            if code and name != "completion":
                assert told, "a failure says something"


def test_what_is_shown_can_be_typed(shell: CheckedShell) -> None:
    """Names are escaped in results and errors, and commands accept the escaped form."""
    assert f"one{SHOWN}" in shell("use", f"one{SHOWN}")[1]
    assert shell("use", f"one{SHOWN[:9]}")[0] == 0
    shell("cd", "/")
    told = shell("ls", "-l", _FILES)[1]
    assert f"file{SHOWN}" in told
    assert f"to{SHOWN}" in told


def test_the_browser(shell: CheckedShell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it reads, nothing that it draws controls the terminal."""
    monkeypatch.setattr(reader, "PAUSE_SECONDS", 0)
    evil = EVIL.encode()
    shell("use", _SECOND)
    volume = (*shell.session.place, b"dogu" + evil, b"volumes", b"files" + evil)

    def send(browser: Browser, requests: Requests) -> None:
        for request in requests:
            if not isinstance(request, Cancel):
                wanted = 2 if request == ListDirectory(()) else 1
                for result in answers(shell.portal, shell.session, [request], wanted):
                    send(browser, browser.receive(result))

    for place in ((), volume[:1], volume):
        browser = Browser(place)
        browser.resize(120, 40)
        send(browser, browser.start())
        rows = len(browser.list.shown)
        assert rows
        for key in [*("v", "d", "p", "down") * rows, "space", "r"]:
            send(browser, browser.press(key))
            drawn = "\n".join("".join(text for _, text in line) for line in draw(browser))
            assert "reading…" not in drawn
            assert not CONTROL.search(drawn)
            assert not re.search("(^|│) *FORGED", drawn, re.MULTILINE)
    shell("deselect", "--all")


def test_the_prompt_and_tab(hostile: Path, cesbr: Cesbr, tmp_path: Path) -> None:
    """The prompt, completions and errors are escaped; a completed backup ID works."""
    own = cesbr.having(
        CESBR_REPOSITORY=str(hostile / "repository"),
        CESBR_PASSWORD_FILE=str(hostile / "key"),
        CESBR_ROOT=str(hostile / "instance"),
        NO_COLOR="1",
    )
    with terminal(own, tmp_path) as prompt:
        prompt.wait_for_prompt()
        prompt.line("backups")
        prompt.wait_for(r"two\\x1b")
        prompt.keys("C-l")
        prompt.wait_for(r"\Acesbr>\Z")
        prompt.tmux("send-keys", "-l", "use one")
        prompt.keys("Tab")
        prompt.wait_for(r"use one\\x1b\]0;owned\\a")
        prompt.keys("Enter")
        prompt.wait_for(r"^Backup one\\x1b")
        shown = prompt.wait_for(r">\Z")
    assert "FORGED" in shown
    assert not re.search("^FORGED", shown, re.MULTILINE)
