"""`python -m tests.sample.record DIRECTORY`: record sessions of cesbr as text and SVG.

The session finds a deleted file, lists and compares its versions, selects it with others, shows a
restore plan, restores them, and resumes an interrupted restore. The output is recorded from a real
terminal (tmux). The repository is on a simulated network that is slow enough to press ^C.

A second recording shows screens of the browser.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.sample.instance import Instance, build, change
from tests.sample.screen import picture, plain
from tests.support.project import PROJECT
from tests.support.proxy import proxying
from tests.support.rest import serving

_COLUMNS, _ROWS = 108, 400
_BROWSER_ROWS: Final = 16
_SECONDS: Final = 60
_RATE: Final = 8 << 20
"""Bytes per second of the network; all the films take some seconds to restore."""
_FILMS: Final = 6
_FILM_BYTES: Final = 8 << 20
_DIRECTORY: Final = "redmine/volumes/files/2026/launch"
_PROMPT: Final = r"^cesbr(:\S*)?> \s*\Z"
_BROWSER_TITLE: Final = "cesbr browse: the backups, the versions of a file, the plan of a restore"
_TITLE: Final = "cesbr: find a deleted file, compare its versions, restore, interrupt, resume"


@dataclass
class Screen:
    """A terminal running cesbr; `kept` are lines that were scrolled out or cleared."""

    socket: Path

    def tmux(self, *arguments: str) -> str:
        """Run a tmux command for this terminal."""
        command = ["tmux", "-S", str(self.socket), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def lines(self) -> list[str]:
        """Return the screen with colours, without trailing empty lines."""
        return self.tmux("capture-pane", "-e", "-p", "-J").rstrip("\n ").split("\n")

    def wait_for(self, pattern: str) -> list[str]:
        """Wait until the screen matches `pattern`."""
        deadline = time.monotonic() + _SECONDS
        while True:
            lines = self.lines()
            text = "\n".join(map(plain, lines))
            if re.search(pattern, text + " ", re.MULTILINE):
                return lines
            if time.monotonic() > deadline:
                message = f"{pattern!r} did not appear:\n{text}"
                raise TimeoutError(message)
            time.sleep(0.05)

    def whole(self) -> list[str]:
        """Return all lines of a full screen, each with all of its colours."""
        before, lines = "", []
        for line in self.tmux("capture-pane", "-e", "-p", "-N").split("\n")[:_BROWSER_ROWS]:
            lines.append(before + line)
            # tmux prints only what changes, also from line to line.
            before = "".join(re.findall(r"\x1b\[[\d;]*m", before + line))
        return lines

    def press(self, *keys: str, until: str) -> None:
        """Press keys, and wait until the screen matches a pattern."""
        self.tmux("send-keys", *keys)
        self.wait_for(until)

    def type(self, line: str) -> None:
        """Type a command and wait for the next prompt."""
        self.enter(line)
        self.wait_for(_PROMPT)

    def enter(self, line: str) -> None:
        """Type a line and press Enter."""
        self.tmux("send-keys", "-l", line)
        time.sleep(0.2)  # the prompt has displayed it
        self.tmux("send-keys", "Enter")
        time.sleep(0.2)


def _environment(home: Path) -> dict[str, str]:
    """Return an environment without the settings of the caller."""
    taken = ("RESTIC_", "CESBR_", "AWS_", "XDG_", "LS_COLORS", "NO_COLOR")
    found = {name: value for name, value in os.environ.items() if not name.startswith(taken)}
    program = home / "bin"
    program.mkdir(parents=True)
    (program / "cesbr").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m cesbr "$@"\n')
    (program / "cesbr").chmod(0o755)
    return found | {
        "HOME": str(home),
        "PATH": f"{program}:{found['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "TERM": "xterm-256color",
        "LC_ALL": "C.UTF-8",
        "SHELL": "/bin/sh",
    }


def _days(instance: Instance, environ: dict[str, str]) -> list[str]:
    """Simulate three days with a backup each; return the backup IDs."""
    launch = instance.volume("redmine", "files") / "2026/launch"
    launch.mkdir()
    plan = launch / "plan.md"
    for number in range(1, _FILMS + 1):
        (launch / f"film {number}.mp4").write_bytes(random.Random(number).randbytes(_FILM_BYTES))
    plan.write_text("# Launch\n\n- invite: 40 guests\n- room: blue\n- speaker: to be found\n")
    said = []
    for day in range(3):
        if day:
            change(instance.root, day=day)
        if day == 1:
            text = plan.read_text().replace("40 guests", "55 guests")
            plan.write_text(text.replace("to be found", "Ada") + "- music: yes\n")
        if day == 2:
            shutil.rmtree(launch)  # a user deletes files
        dogus = ["redmine"] * bool(day)
        subprocess.run(["cesbr", "backup", "--quiet", *dogus], env=environ, check=True)
        done = subprocess.run(
            ["cesbr", "--json", "backups"], env=environ, check=True, capture_output=True
        )
        said = [str(backup["id"]) for backup in json.loads(done.stdout)]
    return said


@contextmanager
def _terminal(
    work: Path, environ: dict[str, str], command: str = "cesbr", rows: int = _ROWS
) -> Iterator[Screen]:
    screen = Screen(work / "tmux")
    here = work / "here"
    here.mkdir(exist_ok=True)
    size = ("-x", str(_COLUMNS), "-y", str(rows))
    subprocess.run(
        ["tmux", "-S", screen.socket, "-f", "/dev/null", "new-session", "-d", *size, command],
        env=environ,
        cwd=here,
        check=True,
    )
    try:
        yield screen
    finally:
        screen.tmux("kill-server")


def session(screen: Screen, ids: list[str]) -> list[str]:
    """Run the session; return its lines."""
    first, second, _ = ids
    screen.wait_for(_PROMPT)
    screen.type("backups")
    screen.type("find --name 'plan.*'")
    screen.type(f"versions {_DIRECTORY}/plan.md")
    screen.type(f"diff {first} {second} {_DIRECTORY} --content")
    screen.type(f"select /{second}/{_DIRECTORY}")
    screen.type("selected")
    screen.type("plan --target back")
    screen.enter("restore --target back")
    screen.wait_for(r"\[y/N\]")
    screen.enter("y")
    under_way = screen.wait_for(r"Restoring.* [3-5] of 7 files")
    screen.tmux("send-keys", "C-c")
    screen.wait_for(_PROMPT)
    screen.enter("restore --resume --target back")
    screen.wait_for(r"\[y/N\] *\Z")
    screen.enter("y")
    screen.wait_for(_PROMPT)
    lines = screen.lines()[:-1]
    # The progress line is cleared at the end of the command; put it back.
    place = len(under_way) - 1
    return [*lines[:place], under_way[place], *lines[place:]]


def browse(screen: Screen, ids: list[str]) -> list[str]:
    """Use the browser; return the lines of some of its screens."""
    _, second, _ = ids
    screen.wait_for("complete, latest")
    shown = screen.whole()
    screen.press("Down", until=f"│ {second}")
    screen.press("Enter", until="^  redmine/")
    screen.press("Enter", until="^  volumes/")
    screen.press("Enter", until="^  files/")
    screen.press("/files", "Enter", until="Filter: files")
    screen.press("Enter", until="^  report.txt")
    screen.press("End", until="day 1: the report grows")
    screen.press("v", until="live")
    screen.press("Space", until=r"1 path selected")
    shown += ["", *screen.whole()]
    screen.press("r", until="Enter restore")
    return [*shown, "", *screen.whole()]


def _save(directory: Path, name: str, lines: list[str], title: str) -> None:
    """Write a recording as text and as a picture."""
    (directory / f"{name}.txt").write_text("".join(f"{plain(line)}\n" for line in lines))
    (directory / f"{name}.svg").write_text(picture(lines, title))
    print(f"recorded {len(lines)} lines of {name} into {directory}")


def main() -> None:
    """Record to a directory: session.txt, session.svg, browse.txt and browse.svg."""
    parser = argparse.ArgumentParser(prog="python -m tests.sample.record", description=__doc__)
    parser.add_argument("directory", type=Path, help="where the files go, such as docs")
    directory: Path = parser.parse_args().directory
    rclone = shutil.which("rclone")
    if rclone is None or shutil.which("tmux") is None:
        parser.error("rclone and tmux are needed; `make servers` installs them")
    with tempfile.TemporaryDirectory(prefix="cesbr-record.") as made:
        work = Path(made)
        environ = _environment(work / "home")
        instance = build(work / "instance", repository=work / "server/root")
        environ["CESBR_ROOT"] = str(instance.root)
        ids = _days(instance, environ)
        with (
            serving(Path(rclone), work / "server") as server,
            proxying(("127.0.0.1", server.port), round_trip=0.01, rate=_RATE) as proxy,
        ):
            environ |= server.environment
            environ["CESBR_REPOSITORY"] = f"rest:http://127.0.0.1:{proxy.port}/"
            with _terminal(work, environ) as screen:
                lines = [line.replace(f"{made}/here", "/srv") for line in session(screen, ids)]
            with _terminal(work, environ, "cesbr browse", _BROWSER_ROWS) as screen:
                screens = [line.replace(f"{made}/here", "/srv") for line in browse(screen, ids)]
    _save(directory, "session", lines, _TITLE)
    _save(directory, "browse", screens, _BROWSER_TITLE)


if __name__ == "__main__":
    main()
