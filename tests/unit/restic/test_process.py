"""Run, interrupt and kill programs, using real processes that misbehave."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

from cesbrfs.errors import ResticError
from cesbrfs.restic.process import Completed, Ending, LineVerdict, run
from tests.support.rights import children

ENV = {"PATH": os.environ["PATH"]}


async def sh(script: str, **more: object) -> Completed:
    return await run(["sh", "-c", script], env=ENV, **more)  # type: ignore[arg-type]


async def test_output_and_exit_code_are_returned() -> None:
    """The complete output and the exit code are returned, and no process remains."""
    ended = await sh("echo out; printf unended; echo err >&2; exit 3")
    assert ended == Completed(3, b"out\nunended", b"err", Ending.ITSELF)
    assert children() == []


async def test_large_output_on_both_pipes_does_not_block() -> None:
    """Both pipes are read concurrently, and split into lines."""
    lines = 0

    def count(line: bytes) -> LineVerdict:
        nonlocal lines
        assert line == b"x" * 999
        lines += 1
        return LineVerdict(keep=False)

    script = "import sys\nfor i in range(2000): print('x'*999); print('x'*999, file=sys.stderr)"
    ended = await run([sys.executable, "-c", script], env=ENV, on_stdout=count, on_stderr=count)
    assert lines == 4000
    assert ended == Completed(0, b"", b"")


async def test_a_program_that_is_not_there_is_told() -> None:
    """The message contains the program and the reason."""
    with pytest.raises(ResticError, match=r"Cannot start /no/such/restic: No such file"):
        await run(["/no/such/restic"], env=ENV)


async def test_the_deadline_interrupts() -> None:
    """A program that exceeds the timeout gets SIGINT, and its last output is read."""
    ended = await sh("trap 'echo caught; exit 130' INT; while :; do sleep 0.05; done", deadline=0.3)
    assert ended == Completed(130, b"caught", b"", Ending.DEADLINE)
    assert children() == []


async def test_one_that_ignores_sigint_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a grace period its process group gets SIGTERM, then SIGKILL."""
    monkeypatch.setattr("cesbrfs.restic.process._TERMINATE_GRACE", 0.2)
    ended = await sh("trap '' INT TERM; while :; do sleep 0.05; done", deadline=0.2, grace=0.2)
    assert (ended.exit_code, ended.ending) == (-9, Ending.DEADLINE)
    assert children() == []


async def test_silence_ends_it() -> None:
    """Without progress it times out; repeated lines are not progress."""
    script = (
        "import time\ntry:\n  while True: print('same', flush=True); time.sleep(0.02)\n"
        "except KeyboardInterrupt: exit(130)"
    )
    ended = await run([sys.executable, "-c", script], env=ENV, silence=0.6)
    assert (ended.exit_code, ended.ending) == (130, Ending.SILENCE)


async def test_lines_that_change_are_progress() -> None:
    """A program that makes progress may run many times the timeout."""
    script = "i=0; while [ $i -lt 20 ]; do i=$((i+1)); echo $i; sleep 0.1; done"
    assert (await sh(script, silence=1.0)).ending is Ending.ITSELF


async def test_reading_is_progress() -> None:
    """A silent program that reads is not killed: `check` is silent during large trees."""
    script = (
        "import time\nend = time.monotonic() + 2.2\nfile = open('/dev/zero', 'rb', buffering=0)\n"
        "while time.monotonic() < end: file.read(8192); time.sleep(0.02)"
    )
    ended = await run([sys.executable, "-c", script], env=ENV, silence=1.0)
    assert ended == Completed(0, b"", b"")


async def test_a_hopeless_line_ends_it() -> None:
    """A handler can abort it after a line of output."""
    script = "trap 'exit 130' INT; echo denied >&2; while :; do sleep 0.05; done"
    ended = await sh(script, on_stderr=lambda line: LineVerdict(give_up=line == b"denied"))
    assert ended == Completed(130, b"", b"denied", Ending.HOPELESS)


async def test_a_handlers_exception_ends_it_and_is_raised() -> None:
    """An exception in a handler is raised unchanged, and no process remains."""

    def broken(_line: bytes) -> LineVerdict:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await sh("while :; do echo x; sleep 0.05; done", on_stdout=broken)
    assert children() == []


async def test_cancelling_interrupts_and_reads_the_pipes_to_their_end() -> None:
    """Output during cleanup is read: a closed pipe would kill the program.

    After the interrupt it writes far more than the capacity of a pipe, then creates a file to show
    that it finished.
    """
    lines = 0
    seen = trio.Event()

    def listen(_line: bytes) -> LineVerdict:
        nonlocal lines
        lines += 1
        seen.set()
        return LineVerdict(keep=False)

    script = (
        "import os, signal, sys, time\n"
        "def stop(*_):\n"
        "  for i in range(5000): os.write(1, b'x' * 99 + b'\\n')\n"
        "  os.write(1, b'end\\n')\n"
        "  sys.exit(130)\n"
        "signal.signal(signal.SIGINT, stop)\n"
        # Not print, which is not reentrant: the signal may arrive during another print.
        "os.write(1, b'begin\\n')\n"
        "while True: time.sleep(0.01)"
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: run([sys.executable, "-c", script], env=ENV, on_stdout=listen, linger=0.0)
        )
        await seen.wait()
        nursery.cancel_scope.cancel()
    assert lines == 5002
    assert children() == []


async def test_a_cancelled_call_may_linger(tmp_path: Path) -> None:
    """A program that must not be interrupted finishes, although the caller is cancelled."""
    begun = trio.Event()

    def listen(_line: bytes) -> LineVerdict:
        begun.set()
        return LineVerdict()

    script = f"trap 'exit 130' INT; echo begun; sleep 0.3; touch {tmp_path}/end"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: sh(script, on_stdout=listen, linger=20.0))
        await begun.wait()
        nursery.cancel_scope.cancel()
    assert (tmp_path / "end").exists()
    assert children() == []
