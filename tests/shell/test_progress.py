"""Progress of a command: the line, the events, and when they are shown."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from cesbr.ui.output import Output
from cesbr.ui.progress import Progress, duration

from tests.shell.conftest import Cesbr, Site
from tests.shell.terminal import terminal
from tests.shell.waiting import hang_the_index, wait_until
from tests.support.proxy import Proxy

_LONG = 1.3


class Clock:
    """A clock that advances only when set."""

    now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def _restoring() -> tuple[Progress, Clock]:
    clock = Clock()
    progress = Progress("Restoring", clock)
    for second in range(5):
        clock.now = 100.0 + second
        progress.update(
            files=second, total_files=10, bytes=second << 20, total_bytes=20 << 20, note="a/b"
        )
    return progress, clock


def test_the_line_shows_bytes_files_rate_and_time_left() -> None:
    """1 MiB a second with 16 MiB to go is 16 s."""
    progress, _ = _restoring()
    assert (
        progress.line(100)
        == "Restoring  20%  4 of 10 files  4.0 MiB of 20.0 MiB  1.0 MiB/s  0:16 left  a/b"
    )


def test_a_narrow_terminal_gets_what_matters() -> None:
    """The line never exceeds the terminal width; the label is dropped last."""
    progress, _ = _restoring()
    for columns in range(1, 100):
        assert len(progress.line(columns)) <= columns
    assert progress.line(26).startswith("Restoring  20%  0:16 left")
    assert progress.line(9) == "Restoring"


def test_the_rate_is_that_of_the_last_while() -> None:
    """The rate covers the last ten seconds only: it is 0 after ten seconds without a byte."""
    progress, clock = _restoring()
    for second in range(20):
        clock.now = 105.0 + second
        progress.update(bytes=4 << 20, total_bytes=20 << 20)
    assert progress.rate == 0
    assert progress.seconds_left is None


def test_counting_anew_forgets_the_rate() -> None:
    """When a counter restarts at 0, its rate restarts as well."""
    progress, clock = _restoring()
    progress.update(bytes=0)
    clock.now += 4
    progress.update(bytes=4)
    assert progress.rate == 1.0


def test_nothing_known_shows_the_time() -> None:
    """A command without counters shows the elapsed time."""
    clock = Clock()
    progress = Progress("Checking", clock)
    clock.now += 75
    assert progress.line(80) == "Checking  1:15"
    progress.update(note="字" * 50)
    assert progress.line(20) == "Checking  1:15  字字"
    assert duration(3723) == "1:02:03"


@pytest.mark.parametrize(
    ("quiet", "results", "seconds", "shown"),
    [
        (False, False, 2, b"\r\x1b[KChecking  0:02\r\x1b[K"),
        (True, False, 2, b""),
        (False, False, 0.5, b""),
        (False, True, 2, b""),
    ],
)
def test_who_sees_it(
    monkeypatch: pytest.MonkeyPatch, *, quiet: bool, results: bool, seconds: float, shown: bytes
) -> None:
    """No progress with --quiet, in the first second, or while a pager is open."""
    screen, terminal_end = os.openpty()
    reader, writer = os.pipe()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(terminal_end, "w") as stream, os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stderr", stream)
        out = Output(pipe, quiet=quiet)
        with out.progress("Checking", results=results) as progress:
            progress._began -= seconds
            with out.lent():  # to a pager
                out.tick()
            out.tick()
        out.clear_progress()
        out.tick()  # nothing is running any more
        stream.write("end")
        stream.flush()
        seen = b""
        while not seen.endswith(b"end"):  # a terminal returns what has arrived
            seen += os.read(screen, 100)
        assert seen == shown + b"end"
        monkeypatch.undo()
    os.close(screen)
    os.close(reader)


def test_a_terminal_shows_it_after_a_second(own: Cesbr, site: Site, tmp_path: Path) -> None:
    """The last line of a long command shows the elapsed time; ^C removes that line."""
    hang_the_index(site)
    with terminal(own, tmp_path) as prompt:
        prompt.wait_for_prompt()
        prompt.line("check")
        prompt.wait_for(r"^Checking  0:0[1-9].*\Z")
        prompt.keys("C-c")
        screen = prompt.wait_for(r"^cesbr: Interrupted\.\ncesbr>\Z")
        assert "Checking" not in screen


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (("check",), "Checking"),
        (("find", "--name", "x"), "Searching"),
        (("versions", "redmine/dogu.json"), "Searching the backups"),
        (("diff", "latest", "live"), "Comparing"),
        (("du", "/latest/redmine"), "Measuring"),
    ],
)
def test_programs_get_an_event_a_line(
    far: Cesbr, proxy: Proxy, tmp_path: Path, command: tuple[str, ...], what: str
) -> None:
    """With --json stderr has one JSON object per line: progress events, then the error."""
    proxy.hold(b"/index/")
    cold = far.having(XDG_CACHE_HOME=str(tmp_path / "cache"))
    with cold.start("--json", *command) as running:
        assert running.stderr is not None
        event = json.loads(running.stderr.readline())
        running.send_signal(signal.SIGINT)
        rest = [json.loads(line) for line in running.stderr]
        assert running.stdout is not None
        assert running.stdout.read() == b""
    assert (event["event"], event["what"]) == ("progress", what)
    assert event["seconds"] >= 1
    assert rest[-1] == {"error": "Interrupted.", "code": 130}


def test_without_a_terminal_nothing_is_shown(own: Cesbr, site: Site) -> None:
    """A log file never contains progress."""
    hang_the_index(site)
    with own.start("check") as running:
        wait_until(lambda: site.locks, "restic's lock")
        since = time.monotonic()
        wait_until(lambda: time.monotonic() - since > _LONG, "a while that would be worth a word")
        running.send_signal(signal.SIGINT)
        assert running.stderr is not None
        said = running.stderr.read()
        assert said.endswith(b"cesbr: Interrupted.\n")
        assert b"Checking" not in said
        assert b"\r" not in said
