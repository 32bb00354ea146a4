"""The prompt in a real terminal."""

from __future__ import annotations

import lzma
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shell.conftest import ODD_SHOWN, Cesbr, Site
from tests.shell.terminal import Terminal, terminal
from tests.shell.waiting import wait_until
from tests.support.proxy import Proxy
from tests.support.rest import RestServer

FILES = "redmine/volumes/files"


@pytest.fixture
def prompt(kept: Cesbr, tmp_path: Path) -> Iterator[Terminal]:
    """The prompt on the backups that are shared by read-only tests."""
    with terminal(kept, tmp_path) as made:
        made.wait_for_prompt()
        yield made


def test_prompt_shows_where_one_is(prompt: Terminal) -> None:
    """It follows use and cd; ^D exits with 0."""
    prompt.line("use latest")
    screen = prompt.wait_for(r"^cesbr:/\S+>\Z")
    backup = screen.splitlines()[-1].removeprefix("cesbr:/").removesuffix(">")
    assert f"Backup {backup} of" in screen
    prompt.line(f"cd {FILES}")
    prompt.wait_for_prompt(f"/{backup}/{FILES}")
    prompt.line("ls")
    listing = prompt.wait_for(r"hello\.txt .*sub/")
    assert ODD_SHOWN in listing
    prompt.line("cd ..")
    prompt.wait_for_prompt(f"/{backup}/redmine/volumes")
    prompt.keys("C-d")
    assert prompt.exit_code() == 0


def test_ctrl_c_at_the_prompt_gives_a_new_one(prompt: Terminal) -> None:
    """The typed text is discarded, and the shell continues."""
    prompt.keys("frobni", "C-c")
    prompt.wait_for(r"^\^C\ncesbr>\Z")
    prompt.line("pwd")
    prompt.wait_for(r"^/\ncesbr>\Z")


def test_a_failed_command_returns_to_the_prompt(prompt: Terminal) -> None:
    """Errors are one line; the prompt returns, and the shell exits with 0."""
    prompt.line("stauts")
    prompt.wait_for(r"^cesbr: .*did you mean 'status'\?\ncesbr>\Z")
    prompt.line("ls --nope")
    prompt.wait_for(r"^cesbr: Unrecognized option '--nope'\. See 'ls --help'\.\ncesbr>\Z")
    prompt.line("alias create")
    prompt.wait_for(
        r"^cesbr: Missing arguments: name, command.*\. See 'alias create --help'\.\ncesbr>\Z"
    )
    prompt.line("ls /nope")
    prompt.wait_for(r"^cesbr: There is no /nope\.\ncesbr>\Z")
    prompt.line("exit")
    assert prompt.exit_code() == 0


def test_the_start_says_what_is_configured(kept: Cesbr, kept_site: Site, tmp_path: Path) -> None:
    """The first start also prints what to do next; later ones only the repository."""
    for name, hints in (("first", True), ("second", False)):
        (tmp_path / name).mkdir()
        with terminal(kept, tmp_path / name) as prompt:
            screen = prompt.wait_for_prompt()
            assert "'help' lists the commands" in screen
            assert f"The repository is {kept_site.repository}." in screen.replace("\n", "")
            assert ("  use latest  " in screen) == hints
            prompt.line("pwd")
            prompt.wait_for(r"^/\ncesbr>\Z")
            prompt.line("quit")
            assert prompt.exit_code() == 0
    assert (tmp_path / "state/cesbr/history").exists()


def test_the_start_without_configuration(cesbr: Cesbr, tmp_path: Path) -> None:
    """It prints what is missing and where to find help, then the prompt."""
    with terminal(cesbr.having(CESBR_ROOT=str(cesbr.here)), tmp_path) as prompt:
        screen = prompt.wait_for_prompt()
        assert "No repository is configured" in screen
        assert "cesbr --repo ADDRESS" in screen


def test_history_is_private(prompt: Terminal, tmp_path: Path) -> None:
    """It is saved with mode 0600, without lines that begin with a blank."""
    prompt.line("pwd")
    prompt.wait_for(r"^/\ncesbr>\Z")
    prompt.line(" echo secret")
    prompt.wait_for(r"^secret\ncesbr>\Z")
    prompt.line("history")
    assert "echo secret" not in prompt.wait_for(r"^ +1 +pwd\n(.*\n)*cesbr>\Z").split("secret\n")[-1]
    prompt.line("quit")
    assert prompt.exit_code() == 0
    directory = tmp_path / "state/cesbr"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "history").stat().st_mode) == 0o600
    assert b"secret" not in lzma.decompress((directory / "history").read_bytes())


def test_aliases_pipes_and_exit_codes(prompt: Terminal, kept: Cesbr) -> None:
    """Aliases, redirection, pipes and the exit code of the last command work."""
    prompt.line(f"alias create files ls /latest/{FILES}")
    prompt.wait_for(r"^Alias 'files' created\ncesbr>\Z")
    prompt.line("files -1 | grep hello")
    prompt.wait_for(r"^hello\.txt\ncesbr>\Z")
    prompt.line("files > list")
    prompt.line("echo code $?")
    prompt.wait_for(r"^code 0\ncesbr>\Z")
    assert "hello.txt\n" in (kept.here / "list").read_text()
    prompt.line("ls --nope")
    prompt.wait_for(r"--nope.*\ncesbr>\Z")
    prompt.line("echo code $?")
    prompt.wait_for(r"^code 2\ncesbr>\Z")


def test_narrow_terminals_and_resizing(prompt: Terminal) -> None:
    """A long path in the prompt is shortened; listings adapt to the terminal width."""
    prompt.resize(30, 30)
    prompt.line(f"cd /latest/{FILES}")
    prompt.wait_for(r"^cesbr:…/files>\Z")
    prompt.line("ls")
    listed = prompt.wait_for(r"> ls\n(.*\n)+cesbr:…/files>\Z").split("> ls\n")[-1]
    assert len(listed.splitlines()) > 3
    prompt.resize(60, 30)
    prompt.line("pwd")
    prompt.wait_for(r"^cesbr:/[0-9TZ]{16}-[0-9a-f]{6}/…/files>\Z")
    prompt.line("ls")
    prompt.wait_for(r"> ls\n.*hello\.txt .*sub/\ncesbr:.*/files>\Z")
    prompt.line("find --all --name binary")
    prompt.wait_for(rf"^# +Size  Path\n2 +58\.6 KiB  {FILES}/sub/binary$")


def test_tab_completes_paths_and_ids(prompt: Terminal) -> None:
    """Directories complete with a slash, file names with a blank."""
    prompt.keys("-l", "ls latest/red")
    prompt.keys("Tab")
    prompt.wait_for(r"^cesbr> ls latest/redmine/\Z")
    prompt.keys("-l", "dog")
    prompt.keys("Tab")
    prompt.wait_for(r"^cesbr> ls latest/redmine/dogu\.json")
    prompt.keys("C-c")
    prompt.wait_for_prompt()
    prompt.keys("-l", "use la")
    prompt.keys("Tab")
    prompt.wait_for(r"^cesbr> use latest")
    prompt.keys("Enter")
    prompt.wait_for(r"^cesbr:/\S+>\Z")
    prompt.keys("-l", "diff latest l")
    prompt.keys("Tab")
    prompt.wait_for(r"^ +live +the instance as it is$")
    prompt.keys("C-c")
    prompt.wait_for(r">\Z")
    prompt.keys("-l", f"cat {FILES}/")
    prompt.keys("Tab")
    prompt.wait_for(r"^ +hello\.txt +12 B$")


def test_help_explains_without_cmd2s_clutter(prompt: Terminal) -> None:
    """It lists our commands by category, without the unused ones of cmd2."""
    prompt.resize(120, 100)
    prompt.line("help")
    screen = prompt.wait_for(r"^The prompt")
    for word in ("Browse", "alias", "echo", "stat", "restore-registry", "umount"):
        assert word in screen
    assert "macro" not in screen
    prompt.line("macro list")
    prompt.wait_for("Unknown command 'macro'")


def test_restore_asks(prompt: Terminal, kept: Cesbr) -> None:
    """The plan is shown and a yes is required; without an answer or after ^C nothing is written."""
    command = f"restore /latest/{FILES}/hello.txt --target back"
    for answer in (["n", "Enter"], ["Enter"], ["C-c"]):
        prompt.line(command)
        prompt.wait_for(r"^Restore this\? \[y/N\]\Z")
        prompt.keys(*answer)
        prompt.wait_for_prompt()
        prompt.keys("C-l")
        prompt.wait_for(r"\Acesbr>\Z")
    assert not (kept.here / "back").exists()
    prompt.line(command)
    prompt.wait_for(r"^Restore this\? \[y/N\]\Z")
    prompt.line("y")
    prompt.wait_for(r"^Restored 1 file, 12 B")
    assert (kept.here / f"back/{FILES}/hello.txt").read_text() == "hello again\n"


def test_ctrl_c_stops_a_command_and_leaves_no_lock(
    far: Cesbr, proxy: Proxy, rest_server: RestServer, tmp_path: Path
) -> None:
    """^C during restic returns to a working prompt."""
    locks = rest_server.root / "far/locks"
    proxy.hold(b"/index/")
    with terminal(far, tmp_path) as prompt:
        prompt.wait_for_prompt()
        for command in ("check --read-data", "backup redmine"):
            prompt.line(command)
            prompt.wait_for(rf"^cesbr> {command}")
            wait_until(lambda: list(locks.iterdir()), "restic's lock")
            prompt.keys("C-c")
            prompt.wait_for(r"^cesbr: Interrupted\.\ncesbr>\Z")
            assert list(locks.iterdir()) == []
            prompt.keys("C-l")
            prompt.wait_for(r"\Acesbr>\Z")
        prompt.line("pwd")
        prompt.wait_for(r"^/\ncesbr>\Z")
        prompt.keys("C-d")
        assert prompt.exit_code() == 0


def test_one_shot_asks_on_a_terminal(kept: Cesbr, tmp_path: Path) -> None:
    """A one-shot restore also asks, and ^C at the question exits with 130."""
    with terminal(kept, tmp_path, "restore", f"/latest/{FILES}/hello.txt") as asked:
        asked.wait_for(r"^Restore this\? \[y/N\]\Z")
        asked.keys("C-c")
        assert asked.exit_code() == 130
        assert "Traceback" not in asked.screen()
    assert list(kept.here.iterdir()) == []
