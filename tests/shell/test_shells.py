"""Tab completion in bash, zsh and fish, each interactive and in a terminal."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cesbr.commands import MODULES, find_command
from cesbr.completion import shells
from cesbr.completion.shells import CompletionAnswer, answer_to, in_bash

from cesbrfs.util.escape import unshow
from tests.shell.conftest import Cesbr, Site
from tests.shell.terminal import Terminal, terminal
from tests.support.proxy import Proxy

SHELLS = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
    "fish": ("fish", "--private"),
}
_SETUP = {
    "bash": "PS1='ready> '; . {file}; show() {{ printf '<%s>' \"$@\"; echo; }}",
    "zsh": "PS1='ready> '; unsetopt prompt_sp; autoload -Uz compinit; compinit -D; . {file};"
    " show() {{ printf '<%s>' \"$@\"; echo }}",
    "fish": "function fish_prompt; printf 'ready> '; end; set fish_autosuggestion_enabled 0;"
    " source {file}; function show; printf '<%s>' $argv; echo; end",
}
TYPED = {
    b"both ' and \" of them": "both", b"it's": '"it', b'double "quotes"': "'dou", b"$HOME": "\\$",
    b"back\\x41slash": r"'back\\x'", b"semi;colon & #hash": "semi", b"-l": "-",
    "größer 🚀".encode(): "grö", b"not utf-8 \xff\xfe": "not\\ u", b"pipe | and > and <": "pip",
    b"`x`": "\\`", b"a$(b)": "a\\$", b"new\nline": "new",
}  # fmt: skip
"""What is typed of each name before Tab, in quotes and without."""
_FILES = "redmine/volumes/files"


@dataclass(frozen=True)
class Started(Cesbr):
    """Another program in place of cesbr, with its environment."""

    program: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """The command line that starts it."""
        return list(self.program)


@contextmanager
def _interactive(cesbr: Cesbr, name: str, directory: Path) -> Iterator[Terminal]:
    """An interactive shell with completion for cesbr, which is on its PATH."""
    program = shutil.which(name)
    if program is None:
        reason = f"no {name} on PATH; `.ci/apt-packages servers` installs it"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    (directory / "bin").mkdir()
    wrapper = directory / "bin/cesbr"
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(cesbr.command)} "$@"\n')
    wrapper.chmod(0o755)
    file = directory / "completion file"
    said = cesbr("completion", name)
    assert said.code == 0, said.err
    file.write_bytes(said.stdout)
    # Without this directory, fish parses all manual pages of the machine in the background.
    data = directory / "data"
    (data / "fish/generated_completions").mkdir(parents=True)
    here = cesbr.having(
        XDG_DATA_HOME=str(data),
        PATH=f"{directory}/bin:{os.environ['PATH']}",
        LC_ALL="C.UTF-8",
        COLUMNS="",
        LINES="",
        CESBR_TAB_SECONDS="20",  # other tests keep the machine busy
    )
    started = Started(here.here, here.environ, program=(str(program), *SHELLS[name][1:]))
    with terminal(started, directory) as made:
        made.line(_SETUP[name].format(file=shlex.quote(str(file))))
        made.wait_for(r"^ready> \Z|^ready>\Z")
        made.line("show set up")
        made.wait_for(r"^<set><up>\n+ready>\s*\Z")
        yield made


def _tab(prompt: Terminal, typed: str, expected: str) -> str:
    """Type, and press Tab until the screen has `expected`; the first Tab may be too early."""
    prompt.keys("C-u", "C-l")
    prompt.wait_for(r"\Aready>\s*\Z")
    prompt.keys("-l", typed)
    for _ in range(10):
        prompt.keys("Tab")
        until = time.monotonic() + 6
        while time.monotonic() < until:
            screen = prompt.screen()
            if re.search(expected, screen, re.MULTILINE):
                return screen
            time.sleep(0.03)
    pytest.fail(f"{expected!r} did not appear:\n{prompt.screen()}")


def _words(prompt: Terminal) -> list[str]:
    """Return the words of the line as the shell parses them, and clear the line."""
    prompt.keys("C-a")
    prompt.keys("-l", "show ")
    prompt.keys("Enter")
    screen = prompt.wait_for(r"^<cesbr>.*>\n+ready>\s*\Z")
    (shown,) = re.findall(r"^<(cesbr>.*)>$", screen, re.MULTILINE)
    return str(shown).split("><")


@pytest.mark.parametrize("name", SHELLS)
def test_odd_names_complete_into_what_works(odd: Cesbr, tmp_path: Path, name: str) -> None:
    """The shell parses the completed word as exactly that name, whatever prefix is typed."""
    with _interactive(odd, name, tmp_path) as prompt:
        for wanted, typed in TYPED.items():
            quote = typed[0] if typed[0] in "\"'" else ""
            start = typed.strip("\"'")
            if name == "fish" and typed.startswith("\\`"):
                start = "`"
            if quote == "'":
                start = start.replace("\\\\", "\\\\" if name != "fish" else "\\\\\\\\")
            end = re.escape(wanted.decode("utf-8", "replace")[-1:])
            end = {b"new\nline": "line", b"not utf-8 \xff\xfe": "xfe"}.get(wanted, end)
            line = f"cesbr cat --backup latest {quote}{_FILES}/{start}"
            _tab(prompt, line, rf"cat --backup latest .*{_FILES}/\S.*{end}[\"']?\s*\Z")
            *before, word = _words(prompt)
            assert before == ["cesbr", "cat", "--backup", "latest"]
            assert unshow(word) == f"{_FILES}/".encode() + wanted
        _tab(prompt, f"cesbr cat --backup=latest {_FILES}/hell", r"hello\.txt\s*\Z")
        prompt.keys("Enter")
        prompt.wait_for(r"^hello$")


@pytest.mark.parametrize("name", SHELLS)
def test_commands_flags_and_live_values(kept: Cesbr, tmp_path: Path, name: str) -> None:
    """Commands, options, backup IDs in both forms, dogus, choices and local directories."""
    (kept.here / "some directory").mkdir()
    with _interactive(kept, name, tmp_path) as prompt:
        _tab(prompt, "cesbr polic", r"cesbr policies\s*\Z")
        _tab(prompt, "cesbr --json backups --qui", r"--quiet\s*\Z")
        _tab(prompt, "cesbr use lat", r"use latest\s*\Z")
        _tab(prompt, "cesbr ls --backup=lat", r"--backup=latest\s*\Z")
        assert _words(prompt) == ["cesbr", "ls", "--backup=latest"]
        _tab(prompt, "cesbr backup red", r"backup redmine\s*\Z")
        _tab(prompt, "cesbr restore --overwrite if-n", r"if-newer\s*\Z")
        _tab(
            prompt,
            "cesbr restore --target some",
            r"some\\? ?directory'?/?\s*\Z|'some directory/?'?\s*\Z",
        )
        assert _words(prompt)[-1].rstrip("/") == "some directory"
        _tab(prompt, "cesbr versions redm", r"versions redmine/\s*\Z")
        _tab(prompt, "cesbr versions redmine/vol", r"versions redmine/volumes/\s*\Z")


def _answer(cesbr: Cesbr, *words: str) -> list[str]:
    """Return the completions for fish; retry, because a busy machine may be too slow."""
    for _ in range(10):
        said = cesbr("__complete", "fish", *words)
        assert (said.code, said.err) == (0, "")
        if said.out:
            return said.out.splitlines()
    pytest.fail(f"no answer for {words}")


def test_every_command_and_its_flags_complete() -> None:
    """Commands with summaries, options with help; unknown commands with nothing."""
    found = answer_to([""]).candidates
    for names in MODULES.values():
        for name in names:
            assert (name, find_command(name).summary) in found
    ((flag, told),) = answer_to(["restore", "--in-"]).candidates
    assert flag == "--in-place"
    assert told.startswith("restore volumes")
    assert answer_to(["nonsense", ""]) == CompletionAnswer()
    assert answer_to(["help", "sched"]).candidates == [
        ("schedule", find_command("schedule").summary)
    ]
    assert answer_to(["--repo", ""]).kind == "folders"
    assert answer_to(["--password-file=x"]).kind == "files"
    assert in_bash("cesbr ls > fo", "fo").kind == "files"
    assert in_bash("cesbr restore --overwrite=ne", "ne").candidates == [("never", "")]


def test_nothing_is_initialised_and_no_key_asked_for(cesbr: Cesbr, new_site: Site) -> None:
    """No repository is created, no password command is run, no pipe is read."""
    own = cesbr.having(CESBR_ROOT=str(new_site.root), CESBR_TAB_SECONDS="20")
    for words in (("use", ""), ("ls", ""), ("ls", "--backup", "")):
        assert _is_note(_answer(own, *words), "no repository at")
    assert not new_site.repository.exists()
    marker = new_site.root / "asked"
    asking = own.having(RESTIC_PASSWORD_COMMAND=f"touch {marker}")
    assert _is_note(_answer(asking, "ls", ""), "from a command or a pipe")
    assert not marker.exists()
    pipe = new_site.root / "pipe"
    os.mkfifo(pipe)
    told = _answer(own, "ls", "--password-file", str(pipe), "")
    assert _is_note(told, "from a command or a pipe")


def _is_note(answer: list[str], text: str) -> bool:
    return answer[0] == "note" and len(answer) == 2 and text in answer[1]


def test_it_says_why_there_is_no_answer(own: Cesbr, site: Site, tmp_path: Path) -> None:
    """`bash` shows a note, and the typed text stays and can be completed."""
    site.repository.rename(site.root / "away")
    with _interactive(own, "bash", tmp_path) as prompt:
        line = "cesbr use "
        prompt.keys("-l", line)
        prompt.keys("Tab")
        shown = prompt.wait_for(r"^cesbr: There is no repository at (.*\n)+ready> cesbr use\Z")
        assert "initialised" not in shown
        (site.root / "away").rename(site.repository)
        _tab(prompt, "cesbr use lat", r"cesbr use latest\s*\Z")


def test_it_ends_within_a_second(far: Cesbr, proxy: Proxy) -> None:
    """If the storage does not respond, nothing is completed and no process remains."""
    proxy.hold(b"/snapshots/")
    idle = min(_seconds(far, "--version") for _ in range(3))
    took = min(_seconds(far, "__complete", "fish", "use", "") for _ in range(3))
    assert 0.8 < took < 1.2 + idle  # a margin for a busy machine
    assert _is_note(_answer(far, "use", ""), "no response within 0.9 s")


def test_commands_are_told_without_summaries_when_those_take_too_long() -> None:
    """Command names are completed without summaries if loading those exceeds the timeout."""
    script = (
        "import time; import cesbr.completion.shells as t; t.find_command = lambda name:"
        " time.sleep(60); t.complete(['fish', 'polic'])"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, b"words\npolicies\n")


def _seconds(cesbr: Cesbr, *arguments: str) -> float:
    began = time.monotonic()
    said = cesbr(*arguments)
    assert said.code == 0
    return time.monotonic() - began


def test_the_package_holds_the_files() -> None:
    """`cesbr completion` prints the packaged files, and each shell accepts them."""
    directory = Path(sys.modules["cesbr"].__path__[0]) / "completion"
    for name in SHELLS:
        if shutil.which(name):
            subprocess.run([name, "-n", directory / f"cesbr.{name}"], check=True)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("3", 3.0), ("", 0.9), ("soon", 0.9), ("0", 0.9), ("-1", 0.9), ("nan", 0.9)],
)
def test_how_long_tab_may_take_can_be_said(
    given: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invalid timeout is ignored, because completion cannot report errors."""
    monkeypatch.setenv("CESBR_TAB_SECONDS", given)
    assert shells._seconds() == seconds
