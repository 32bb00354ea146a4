"""Run child processes with a timeout, forwarding their output line by line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from cesbrfs.errors import ScriptError

_TERMINATE_GRACE_SECONDS: Final = 5.0
"""Time to exit after SIGTERM before SIGKILL is sent."""
_PIPE_GRACE_SECONDS: Final = 1.0
"""Time to drain the output after the exit; a grandchild may keep the pipe open."""
_READ_BYTES: Final = 64 << 10
_MAX_LINE_BYTES: Final = 64 << 10


async def run_program(
    command: Sequence[str],
    *,
    on_line: Callable[[str], None],
    seconds: float,
    env: Mapping[str, str],
    stdin: bytes = b"",
    stdout: int | None = None,
) -> int:
    """Run `command` and return its exit code (negative: the signal that killed it).

    `on_line` is called with each line of stdout and stderr; if `stdout` is a file descriptor, only
    with lines of stderr. `stdin` is the complete standard input. After `seconds`, and on
    cancellation, the whole process group is terminated. Raises ScriptError if the command cannot be
    started or times out.
    """
    try:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.STDOUT if stdout is None else subprocess.PIPE,
            env=env,
            start_new_session=True,  # a separate process group, which can be killed as a whole
        )
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ScriptError(f"Cannot start {command[0]}: {reason}.") from error
    lines = process.stdout if stdout is None else process.stderr
    assert lines is not None, "the process was started with a pipe"
    drained = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read_lines, lines, on_line, drained)
        if process.stdin is not None:
            nursery.start_soon(_write_stdin, process.stdin, stdin)
        try:
            with trio.move_on_after(seconds) as limit:
                await process.wait()
        finally:
            if process.returncode is None:
                with trio.CancelScope(shield=True):
                    await _terminate(process)
        with trio.move_on_after(_PIPE_GRACE_SECONDS):
            await drained.wait()
        nursery.cancel_scope.cancel()
    if limit.cancelled_caught:
        raise ScriptError(
            f"{command[0]} was terminated: no exit within {seconds:g} s (script_timeout)."
        )
    assert process.returncode is not None
    return process.returncode


async def _read_lines(
    stream: trio.abc.ReceiveStream, on_line: Callable[[str], None], drained: trio.Event
) -> None:
    """Call `on_line` with each line of `stream`; split lines beyond the maximum length."""
    partial = b""
    async with stream:
        while chunk := await stream.receive_some(_READ_BYTES):
            *lines, partial = (partial + chunk).split(b"\n")
            if len(partial) >= _MAX_LINE_BYTES:
                lines, partial = [*lines, partial], b""
            for line in lines:
                on_line(line.decode(errors="replace"))
    if partial:
        on_line(partial.decode(errors="replace"))
    drained.set()


async def _write_stdin(stream: trio.abc.SendStream, data: bytes) -> None:
    """Write `data` to `stream`; the process may exit without reading all of it."""
    async with stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(data)


async def _terminate(process: trio.Process) -> None:
    """Terminate the process group with SIGTERM, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with trio.move_on_after(_TERMINATE_GRACE_SECONDS):
            await process.wait()
            break
    with contextlib.suppress(ProcessLookupError):  # the rest of the group
        os.killpg(process.pid, signal.SIGKILL)
