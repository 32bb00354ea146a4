"""A real terminal for tests: ``cesbr`` in a separate tmux server."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.shell.conftest import Cesbr

_SECONDS = 30
_LOOK_AGAIN = 0.03
_SIZE = ("-x", "120", "-y", "40")


class Terminal:
    """A tmux session that runs one program; tmux answers terminal queries of the program."""

    def __init__(self, socket: Path, end: Path) -> None:
        self._socket = socket
        self._end = end

    def tmux(self, *arguments: str) -> str:
        """Run one tmux command on this terminal."""
        command = ["tmux", "-S", str(self._socket), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def keys(self, *keys: str) -> None:
        """Press keys, given by their tmux names."""
        self.tmux("send-keys", *keys)

    def line(self, text: str) -> None:
        """Type a line and press Enter."""
        self.tmux("send-keys", "-l", text)
        self.keys("Enter")

    def resize(self, columns: int, lines: int) -> None:
        """Resize the terminal, and wait until the program can see the new size."""
        self.tmux("resize-window", "-x", str(columns), "-y", str(lines))
        tty = os.open(self.tmux("display", "-p", "#{pane_tty}").strip(), os.O_RDONLY | os.O_NOCTTY)
        deadline = time.monotonic() + _SECONDS
        while os.get_terminal_size(tty) != (columns, lines):
            assert time.monotonic() < deadline, "the terminal keeps its size"
            time.sleep(_LOOK_AGAIN)
        os.close(tty)

    def screen(self) -> str:
        """Return the contents of the screen, without trailing empty lines."""
        return self.tmux("capture-pane", "-p").rstrip()

    def lines(self) -> list[str]:
        """Return the lines that programs wrote, with wrapped lines joined."""
        return [line.rstrip() for line in self.tmux("capture-pane", "-p", "-J").splitlines()]

    def wait_for(self, pattern: str) -> str:
        """Wait until the screen matches `pattern` (multiline regular expression); return it."""
        deadline = time.monotonic() + _SECONDS
        while not re.search(pattern, screen := self.screen(), re.MULTILINE):
            if time.monotonic() > deadline:
                pytest.fail(f"{pattern!r} did not appear within {_SECONDS} s:\n{screen}")
            time.sleep(_LOOK_AGAIN)
        return screen

    def wait_for_prompt(self, place: str = "") -> str:
        """Wait until the last line is an empty prompt."""
        shown = f"cesbr:{re.escape(place)}>" if place else "cesbr>"
        return self.wait_for(rf"^{shown}\Z")

    def interrupt(self) -> None:
        """Press ^C; check that the prompt returns with a short note, and the exit code is 130."""
        self.keys("C-c")
        self.wait_for(r"^cesbr: Interrupted\.\ncesbr>\Z")
        self.line("echo code $?")
        self.wait_for(r"^code 130\ncesbr>\Z")
        self.keys("C-l")
        self.wait_for(r"\Acesbr>\Z")

    def exit_code(self) -> int:
        """Wait for the program to exit and return its exit code."""
        deadline = time.monotonic() + _SECONDS
        while not self._end.exists() or not self._end.read_text().strip():
            assert time.monotonic() < deadline, f"still running:\n{self.screen()}"
            time.sleep(_LOOK_AGAIN)
        return int(self._end.read_text())


@contextmanager
def terminal(cesbr: Cesbr, directory: Path, *arguments: str) -> Iterator[Terminal]:
    """Run ``cesbr`` in a terminal until the exit code is requested or the block ends."""
    if shutil.which("tmux") is None:
        reason = "no tmux on PATH"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    end = directory / "exit code"
    run = shlex.join([*cesbr.command, *arguments])
    # The shell stays when the program ends, so that the screen can still be read.
    script = f"trap : INT; {run}; echo $? > {shlex.quote(str(end))}; exec cat"
    made = Terminal(directory / "tmux", end)
    subprocess.run(
        [
            "tmux",
            "-S",
            str(directory / "tmux"),
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            *_SIZE,
            script,
        ],
        check=True,
        env={**cesbr.environ, "TERM": "xterm-256color", "SHELL": "/bin/sh"},
        cwd=cesbr.here,
    )
    try:
        yield made
    finally:
        made.tmux("kill-server")
